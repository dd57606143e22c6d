"""The interface of merge methods."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias, final

import torch
from torch import Tensor

from rebasin_core.errors import InvalidInputError
from rebasin_core.merging.problem import MergeProblem, blocks_of
from rebasin_core.posteriors.averaging import finite_coefficients, normalized_weights, require_weights
from rebasin_core.strategy import Strategy
from rebasin_core.tensors.arguments import raise_wrong_type, require_sequence

if TYPE_CHECKING:
    from collections.abc import Sequence

Weighting: TypeAlias = Literal["relative", "coefficients", "equal"]
"""Meaning of the weights of a merge method.

- ``relative``: nonnegative, and normalized to sum 1;
- ``coefficients``: used as given, of any sign;
- ``equal``: the method has no weights, and only accepts equal ones.
"""


class MergeMethod(Strategy):
    """A method that merges networks, one tensor at a time.

    Networks must be aligned before: the entries of their tensors are merged position by position. Methods with a *base*
    merge differences from it, such as the changes by fine-tuning.

    Laws:
        - *Equal networks*: if all networks (and the base) are equal, they are the result.
        - *Weight zero*: a network of weight zero has no influence; without a base, a network that has all the weight is
          the result.
        - *Equivariance*: permuting all networks and the base in the same way permutes the result. It then does not
          matter whether networks are aligned with the first or with any permuted copy of it.
        - *Reproducibility*: the result depends on the name of the tensor, the inputs and the seed only, not on earlier
          calls; PyTorch's random state does not change.
        - *Integers*: integer tensors are those of the first network.
        - *Shape, dtype and device*: those of the first network; the result is a new tensor, and inputs do not change.
    """

    family: ClassVar[str] = "merge_method"

    min_networks: ClassVar[int] = 1
    """Smallest number of networks."""

    max_networks: ClassVar[int | None] = None
    """Largest number of networks; None if there is no limit."""

    @property
    @abstractmethod
    def uses_base(self) -> bool:
        """Whether the method needs the tensors of a base network."""

    @property
    def weighting(self) -> Weighting:
        """Meaning of the weights; ``relative`` unless a method overrides it."""
        return "relative"

    @final
    def require_inputs(self, count: int, *, has_base: bool) -> None:
        """Raise if the method cannot merge this number of networks, or a base is missing or superfluous.

        Args:
            count: Number of networks.
            has_base: Whether a base is given.

        Raises:
            InvalidInputError: If so.
        """
        most = self.max_networks
        if count < self.min_networks or (most is not None and count > most):
            bounds = f"{self.min_networks}" if most == self.min_networks else f"at least {self.min_networks}"
            message = f"expected {bounds} networks for the merge method {self.name!r}, got {count}"
            raise InvalidInputError(message)
        if self.uses_base != has_base:
            remedy = "pass it as `base`" if self.uses_base else "omit it, or choose a method that uses it"
            needed = "a base network" if self.uses_base else "no base network"
            got = "one" if has_base else "none"
            message = f"expected {needed} for the merge method {self.name!r}, got {got}; {remedy}"
            raise InvalidInputError(message)

    @final
    def require_coefficients(self, weights: Sequence[float], count: int) -> tuple[float, ...]:
        """Return the weights of networks as the method uses them; raise if they do not fit.

        Args:
            weights: One weight per network.
            count: Number K of networks.

        Returns:
            K weights: normalized to sum 1, or unchanged (``coefficients``).

        Raises:
            InvalidInputError: If there are not K weights, or they do not fit `weighting`.
        """
        require_weights(weights)
        given = torch.tensor(list(weights), dtype=torch.float64)
        if self.weighting == "coefficients":
            return tuple(finite_coefficients(given, count).tolist())
        normalized = normalized_weights(given, count)
        if self.weighting == "equal" and not bool((normalized == normalized[0]).all()):
            message = f"expected equal weights for the merge method {self.name!r}, got {given.tolist()}; omit them"
            raise InvalidInputError(message)
        return tuple(normalized.tolist())

    @final
    @torch.no_grad()
    def merge(
        self,
        name: str,
        tensors: Sequence[Tensor],
        weights: Sequence[float],
        *,
        base: Tensor | None = None,
        seed: int = 0,
    ) -> Tensor:
        """Merge the tensors that aligned networks have under one name.

        Args:
            name: Name of the tensor; random numbers depend on it, and errors state it.
            tensors: Tensors of the K networks, ``[*s]`` each. Floating-point dtypes and devices may differ. Complex
                tensors are merged as their real and imaginary parts.
            weights: K weights, with the meaning of `weighting`.
            base: Tensor ``[*s]`` of the base, for methods that use one.
            seed: Seed of random numbers.

        Returns:
            The merged tensor ``[*s]``, computed in float64 and returned with dtype and device of the first network; for
            integers, a copy of the first tensor.

        Raises:
            InvalidInputError: If the number of networks, a shape, a dtype or the weights do not fit, or the result has
                NaN, infinite values or values beyond the range of the dtype.
        """
        given = _checked_tensors(name, tensors)
        self.require_inputs(len(given), has_base=base is not None)
        used = self.require_coefficients(weights, len(given))
        _require_same_kind(name, given if base is None else (*given, *_checked_tensors(name, [base])))
        first = given[0]
        if first.is_complex():
            real_base = None if base is None else _as_real(base.detach())
            real = self.merge(name, [_as_real(tensor) for tensor in given], weights, base=real_base, seed=seed)
            return torch.view_as_complex(real)
        if not first.is_floating_point():
            return first.clone()
        problem = MergeProblem(name, given, used, None if base is None else base.detach(), seed)
        merged = self._merge(problem)
        if _is_finite(merged):
            return merged
        if problem.are_equal():  # such as masks with minus infinity
            return first.clone()
        message = (
            f"`{name}`: merging by {self.name!r} gives NaN, infinite values or values beyond the range of {first.dtype}"
            f" ({torch.finfo(first.dtype).max:.4g}); remove such values from the inputs, reduce weights or scale, or "
            "convert the first network to a wider dtype"
        )
        raise InvalidInputError(message)

    @abstractmethod
    def _merge(self, problem: MergeProblem) -> Tensor:
        """Merge validated tensors.

        Args:
            problem: Floating-point tensors of one shape, with weights and, if `uses_base`, the base.

        Returns:
            A new tensor with shape, dtype and device of the first.
        """


def _checked_tensors(name: str, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return detached tensors; raise if one is of another type."""
    require_sequence(tensors, "tensors as a list, one per network")
    for tensor in tensors:
        if not isinstance(tensor, Tensor):
            raise_wrong_type(tensor, f"a tensor for `{name}`")
    return tuple(tensor.detach() for tensor in tensors)


def _require_same_kind(name: str, tensors: Sequence[Tensor]) -> None:
    """Raise if shapes differ, or if some tensors are floating-point and others are not."""
    first = tensors[0]
    for tensor in tensors:
        if tensor.shape != first.shape:
            message = f"`{name}`: expected tensors of one shape, got {tuple(first.shape)} and {tuple(tensor.shape)}"
            raise InvalidInputError(message)
        if (tensor.is_floating_point(), tensor.is_complex()) != (first.is_floating_point(), first.is_complex()):
            message = (
                f"`{name}`: expected floating-point tensors from all networks, or integers from all, got {first.dtype} "
                f"and {tensor.dtype}; convert quantized weights to a floating-point dtype"
            )
            raise InvalidInputError(message)


def _as_real(tensor: Tensor) -> Tensor:
    """Return the real and imaginary parts of a complex tensor, ``[*s, 2]``."""
    return torch.view_as_real(tensor.resolve_conj())


def _is_finite(tensor: Tensor) -> bool:
    """Return whether all entries are finite; the entries are widened, because some dtypes have no comparisons."""
    return all(block.isfinite().all() for block in blocks_of((tensor,)))
