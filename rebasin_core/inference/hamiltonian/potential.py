"""The potential energy of K chains: the negative log posterior on all data, with its gradient."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.evaluation.predictive import held_batches
from rebasin_core.inference.prior import prior_of, scales_of
from rebasin_core.inference.stacked import StackedNetworks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from rebasin_core.evaluation.functional import FunctionalModel
    from rebasin_core.inference.base import FitProblem
    from rebasin_core.inference.options import PriorScale
    from rebasin_core.tensors.inputs import AnyInputs


@final
class Potential:
    r"""Potential energy $U(\theta) = -\frac1T \big( \sum_i \log p(y_i \mid x_i, \theta) + \log p(\theta) \big)$.

    Constants of the prior are omitted. The parameters of a chain are one row of a matrix ``[K, D]``, in the order of
    the model: the integrator then needs a few operations a step, whatever the number of tensors.

    Attributes:
        batches: The data, on the model's device.
        shapes: Shapes of the parameters of a network, by name.
        size: Number D of these parameters.
        prior: The prior, in the dtype of the given model.

    Args:
        problem: The problem; its data are read once.
        model: The network in evaluation mode, which determines device and dtype.
        chains: Number K of chains.
        prior_scale: Standard deviations of the Gaussian prior.
        temperature: Temperature $T$.
        together: Whether to run the networks in one batch; the faster way if None.
    """

    def __init__(
        self,
        problem: FitProblem,
        model: FunctionalModel,
        *,
        chains: int,
        prior_scale: PriorScale,
        temperature: float,
        together: bool | None,
    ) -> None:
        parameters = dict(model.module.named_parameters())
        self.shapes = {name: tensor.shape for name, tensor in parameters.items()}
        self._sizes = [shape.numel() for shape in self.shapes.values()]
        self.size = sum(self._sizes)
        self.batches = held_batches(model, problem.data)
        self.prior = prior_of(dict(problem.model.named_parameters()), prior_scale)
        self._likelihood = problem.likelihood
        self._chains = chains
        self._temperature = temperature
        self._networks = StackedNetworks(model.compiled() if problem.compiled else model, chains, together=together)
        self._buffers = {name: tensor.expand(chains, *tensor.shape) for name, tensor in model.module.named_buffers()}
        scales = scales_of(parameters, prior_scale)
        rows = [t.new_full((t.numel(),), scales[name] ** -2 / temperature) for name, t in parameters.items()]
        self._precision = torch.cat(rows)

    def __call__(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """Return the potential energies and their gradients.

        Args:
            position: Parameters of the chains, ``[K, D]``.

        Returns:
            Energies ``[K]`` in float64, and gradients ``[K, D]``; not finite where the likelihood is not.
        """
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in self.named(position).items()}
        # Differences of energies of thousands of nats decide on acceptance: float32 has too few digits for their sums.
        energy = 0.5 * (self._precision * position.square()).sum(1, dtype=torch.float64)
        gradient = self._precision * position
        for inputs, targets in self.batches:
            with torch.enable_grad():
                terms = -self._log_likelihoods(leaves, inputs, targets) / self._temperature
                found = torch.autograd.grad(terms.sum(), list(leaves.values()), materialize_grads=True)
            energy += terms.detach()
            gradient += torch.cat([tensor.flatten(1) for tensor in found], 1)
        return energy, gradient

    @property
    def element_size(self) -> int:
        """Bytes of an entry of a position."""
        return self._precision.element_size()

    def named(self, rows: Tensor) -> dict[str, Tensor]:
        """Return rows of parameters as named tensors.

        Args:
            rows: ``[..., D]``.

        Returns:
            Tensors ``[..., *s]`` by name.
        """
        parts = rows.split(self._sizes, -1)
        lead = rows.shape[:-1]
        return {name: part.reshape(*lead, *s) for (name, s), part in zip(self.shapes.items(), parts, strict=True)}

    def rows(self, networks: Mapping[str, Tensor]) -> Tensor:
        """Return named tensors of several networks as rows.

        Args:
            networks: Tensors ``[K, *s]`` by name.

        Returns:
            ``[K, D]`` in the dtype of this potential.
        """
        return torch.cat([networks[name].flatten(1) for name in self.shapes], 1).to(self._precision)

    def check(self, position: Tensor) -> None:
        """Raise if outputs and targets do not match.

        Args:
            position: Parameters of the chains, ``[K, D]``.

        Raises:
            InvalidInputError: If the model cannot process the data, or its outputs do not fit the targets.
        """
        with torch.no_grad():
            for inputs, targets in self.batches:
                outputs = self._networks(self.named(position), self._buffers, inputs)
                self._likelihood.check(outputs[0], targets)

    def _log_likelihoods(self, networks: Mapping[str, Tensor], inputs: AnyInputs, targets: Tensor) -> Tensor:
        """Return the log likelihood of a batch for each network, ``[K]`` in float64."""
        outputs = self._networks(networks, self._buffers, inputs)
        repeated = targets.expand(self._chains, *targets.shape).flatten(0, 1)
        logs = self._likelihood.log_prob(outputs.flatten(0, 1), repeated)
        return logs.reshape(self._chains, -1).sum(1, dtype=torch.float64)


def required_bytes(potential: Potential, *, chains: int, draws: int, trajectory: int, sizes: tuple[int, int]) -> int:
    """Return the memory that chains need, apart from the activations of the networks.

    Args:
        potential: The potential energy.
        chains: Number of chains.
        draws: Number of draws of each chain.
        trajectory: Number of states that a transition holds.
        sizes: Bytes of an entry of a draw, and of a state.

    Returns:
        The number of bytes.
    """
    # The draws are collected, and then sorted by chain.
    return math.ceil(chains * potential.size * (2 * draws * sizes[0] + trajectory * sizes[1]))
