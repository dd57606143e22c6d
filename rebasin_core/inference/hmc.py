"""Hamiltonian Monte Carlo (HMC)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, final

from pydantic import Field, PositiveInt
from typing_extensions import override

from rebasin_core.inference.hamiltonian.base import AbstractHamiltonianInference
from rebasin_core.inference.hamiltonian.trajectories import fixed_transition
from rebasin_core.inference.options import PositiveFinite

if TYPE_CHECKING:
    from rebasin_core.inference.hamiltonian.dynamics import Dynamics, Phase, Transition


@final
class HMC(AbstractHamiltonianInference):
    r"""Hamiltonian Monte Carlo (HMC) on all data, with trajectories of fixed length and a Metropolis correction.

    Raises:
        ConfigError: If an option is invalid.
        InvalidInputError: In `fit`, if the chains need more memory than there is, or the outputs of the network are
            random in evaluation mode.
        DivergenceError: In `fit`, if the log posterior at the initialization is not finite.

    References:
        R. M. Neal (2011), "MCMC using Hamiltonian dynamics", arXiv 1206.1901.

    Examples:
        >>> import torch
        >>> data = [(torch.ones(8, 1), torch.zeros(8, dtype=torch.int64))]
        >>> result = HMC(chains=2, warmup=20, draws=5).fit(torch.nn.Linear(1, 2), data)
        >>> result.posterior.num_samples, result.sampler.divergences
        (10, (0, 0))
    """

    name: Literal["hmc"] = "hmc"

    trajectory_length: PositiveFinite = 1.5
    r"""Length of a trajectory: step size times number of steps. The mass matrix brings the posterior to about unit
    scale, where $\pi / 2$ leads to the least correlation."""

    leapfrog_steps: PositiveInt | None = None
    """Number of leapfrog steps of a trajectory; if None, it follows from ``trajectory_length``."""

    max_leapfrog_steps: PositiveInt = 1000
    """Maximum number of leapfrog steps of a trajectory."""

    # Trajectories of equal length can return to where they started.
    jitter: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Relative half-width of the uniform distribution of step sizes about the adapted one, in [0, 1); the number of
    steps stays the same."""

    @override
    def _transition(self, dynamics: Dynamics, phase: Phase) -> Transition:
        if self.leapfrog_steps is None:
            steps = (self.trajectory_length / dynamics.step_size).ceil().clamp(1, self.max_leapfrog_steps).long()
            limit = self.max_leapfrog_steps
        else:
            steps = dynamics.step_size.new_full(dynamics.step_size.shape, self.leapfrog_steps).long()
            limit = self.leapfrog_steps + 1
        return fixed_transition(dynamics.jittered(self.jitter), phase, steps, limit=limit)

    @override
    def _held_states(self) -> int:
        # Three phases of three matrices, the state of the chains, adaptation, and temporaries.
        return 18
