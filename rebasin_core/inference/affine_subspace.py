"""Affine subspaces of weight space, and networks whose parameters are coordinates in one."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import torch
from torch import nn
from typing_extensions import override

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


@final
@dataclass(frozen=True, slots=True)
class AffineSubspace:
    r"""The set $\{\theta = m + \sum_r z_r P_r\}$ of parameters, with the coordinates $z \in \mathbb R^R$.

    Attributes:
        mean: The origin $m$ by parameter name, each ``[*s]``.
        directions: The directions $P_r$ by parameter name, each ``[R, *s]``.
    """

    mean: Mapping[str, Tensor]
    directions: Mapping[str, Tensor]

    @classmethod
    def principal(cls, mean: Mapping[str, Tensor], factor: Mapping[str, Tensor], rank: int) -> AffineSubspace:
        r"""Return the subspace of the largest principal components of a covariance $F^\top F$.

        Args:
            mean: The origin by parameter name.
            factor: The factor $F$ by parameter name, each ``[K, *s]``.
            rank: Number R of components, at most K.

        Returns:
            The subspace. Its directions are orthogonal, and their lengths are the standard deviations of the
            components.
        """
        gram = sum((_rows(tensor) @ _rows(tensor).T for tensor in factor.values()), torch.zeros(()))
        # F^T u is an eigenvector of F^T F for an eigenvector u of the small matrix F F^T; its length is the square
        # root of the eigenvalue. The order of eigenvalues is ascending, and the signs are fixed for reproducibility.
        _, vectors = torch.linalg.eigh(torch.as_tensor(gram))
        leading = vectors.T.flip(0)[:rank]
        chosen = leading * leading.gather(1, leading.abs().argmax(1, keepdim=True)).sign()
        return cls(
            dict(mean),
            {n: (chosen.to(t) @ t.reshape(len(t), -1)).reshape(rank, *t.shape[1:]) for n, t in factor.items()},
        )

    @classmethod
    def random(cls, mean: Mapping[str, Tensor], rank: int, generator: torch.Generator) -> AffineSubspace:
        """Return a subspace with independent random directions of unit length.

        Args:
            mean: The origin by parameter name.
            rank: Number R of directions.
            generator: Random number generator on the device of the parameters.

        Returns:
            The subspace.
        """
        directions = {
            n: torch.randn((rank, *t.shape), generator=generator, device=t.device, dtype=t.dtype)
            for n, t in mean.items()
        }
        squares = sum((_rows(tensor).square().sum(1) for tensor in directions.values()), torch.zeros(()))
        norms = torch.as_tensor(squares).sqrt()
        return cls(
            dict(mean),
            {n: t / norms.to(t).reshape(-1, *[1] * (t.dim() - 1)) for n, t in directions.items()},
        )

    def at(self, coordinates: Tensor) -> dict[str, Tensor]:
        """Return the parameters at coordinates.

        Args:
            coordinates: ``[*lead, R]``.

        Returns:
            Parameters by name, each ``[*lead, *s]``.
        """
        return {name: at_coordinates(coordinates, self.mean[name], rows) for name, rows in self.directions.items()}


def at_coordinates(coordinates: Tensor, mean: Tensor, directions: Tensor) -> Tensor:
    """Return one parameter at coordinates in a subspace.

    Args:
        coordinates: ``[*lead, R]``.
        mean: ``[*s]``.
        directions: ``[R, *s]``.

    Returns:
        ``[*lead, *s]``.
    """
    offset: Tensor = torch.tensordot(coordinates.to(directions.dtype), directions, 1)
    return mean + offset


@final
class SubspaceNetwork(nn.Module):
    """A network with one parameter, ``coordinates``: its weights are the point at these coordinates in a subspace.

    Args:
        model: The network; not changed. A copy of it is used in evaluation mode.
        subspace: The subspace, over all parameters of the network.
        buffers: Buffers of the network, such as the normalization statistics at the origin.
        scale: Standard deviation of the coordinates that `reset_parameters` draws.
    """

    def __init__(
        self, model: nn.Module, subspace: AffineSubspace, buffers: Mapping[str, Tensor], *, scale: float = 1.0
    ) -> None:
        super().__init__()
        rank = len(next(iter(subspace.directions.values())))
        first = next(model.parameters())
        self.coordinates = nn.Parameter(torch.zeros(rank, device=first.device, dtype=first.dtype))
        self.scale = scale
        # Hidden from `nn.Module`: its parameters are none of this network.
        self._inner = (copy.deepcopy(model).eval(),)
        aliases = _aliases(model)
        self._parameter_names = [aliases[name] for name in subspace.mean]
        self._buffer_names = list(buffers)
        for number, (name, mean) in enumerate(subspace.mean.items()):
            self.register_buffer(f"mean_{number}", mean.detach().clone())
            self.register_buffer(f"directions_{number}", subspace.directions[name].detach().clone())
        for number, tensor in enumerate(buffers.values()):
            self.register_buffer(f"buffer_{number}", tensor.detach().clone())

    def reset_parameters(self) -> None:
        """Draw coordinates from a Gaussian distribution with mean zero."""
        nn.init.normal_(self.coordinates, std=self.scale)

    @override
    def extra_repr(self) -> str:
        """Return the text of the network, which identifies its operations."""
        return repr(self._inner[0])

    @override
    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Return the outputs of the network at the coordinates."""
        tensors = {name: self.get_buffer(f"buffer_{number}") for number, name in enumerate(self._buffer_names)}
        for number, names in enumerate(self._parameter_names):
            mean, directions = self.get_buffer(f"mean_{number}"), self.get_buffer(f"directions_{number}")
            tensors |= dict.fromkeys(names, at_coordinates(self.coordinates, mean, directions))
        return torch.func.functional_call(self._inner[0], tensors, inputs, named)


def _aliases(model: nn.Module) -> dict[str, list[str]]:
    """Return all names of each parameter, by its first name: tied weights have several."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {each[0]: each for each in names.values()}


def _rows(stacked: Tensor) -> Tensor:
    return stacked.reshape(len(stacked), math.prod(stacked.shape[1:])).double()
