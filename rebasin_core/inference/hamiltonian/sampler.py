"""The loop of Hamiltonian Monte Carlo: warm-up, draws and checkpoints of K chains."""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.inference.checkpoint import TrainingState
from rebasin_core.inference.hamiltonian.adaptation import StepSizes, Variances, windows
from rebasin_core.inference.hamiltonian.dynamics import Dynamics, Phase, initial_step_size
from rebasin_core.inference.sampler_statistics import SamplerStatistics
from rebasin_core.posteriors.samples import SamplesPosterior
from rebasin_core.tensors.progress import StepProgress

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from rebasin_core.inference.base import FitProblem
    from rebasin_core.inference.hamiltonian.dynamics import Transition
    from rebasin_core.inference.hamiltonian.potential import Potential
    from rebasin_core.inference.identity import ProblemIdentity

# A checkpoint is due after 20 times the duration of the last writing: writing needs at most 5 % of the run time.
_CHECKPOINT_INTERVAL = 20
# Step size from which the search for an initial one starts.
_FIRST_STEP_SIZE = 1.0


@final
@dataclass(frozen=True, slots=True)
class Schedule:
    """Lengths of the phases of chains, and their adaptation.

    Attributes:
        warmup: Number of transitions of warm-up.
        draws: Number of draws that each chain keeps.
        thinning: Number of transitions per draw.
        step_size: Initial step size; None to search for it.
        adapt: Whether step sizes are adapted in warm-up.
        adapt_mass: Whether mass matrices are adapted, too.
        target: Target of the acceptance probability.
    """

    warmup: int
    draws: int
    thinning: int
    step_size: float | None
    adapt: bool
    adapt_mass: bool
    target: float

    @property
    def transitions(self) -> int:
        """Number of transitions of each chain after warm-up."""
        return self.draws * self.thinning


@final
class Sampler:
    """K chains of Hamiltonian Monte Carlo.

    Attributes:
        history: Mean potential energy of the chains after each transition, in nats per example.

    Args:
        problem: The problem.
        potential: Its potential energy.
        position: Initial parameters, ``[K, D]``.
        schedule: Numbers of transitions, and their adaptation.
        transition: Function from the dynamics and a phase with fresh momenta to the transition.
    """

    def __init__(
        self,
        problem: FitProblem,
        potential: Potential,
        position: Tensor,
        schedule: Schedule,
        transition: Callable[[Dynamics, Phase], Transition],
    ) -> None:
        self._problem = problem
        self._potential = potential
        self._schedule = schedule
        self._transition = transition
        self._bounds = windows(schedule.warmup) if schedule.adapt_mass else ()
        first = schedule.step_size or _FIRST_STEP_SIZE
        self._sizes = StepSizes(position.new_full((len(position),), first, dtype=torch.float64), schedule.target)
        self._variances = Variances(position)
        self._state = {
            "position": position.clone(),
            "potential": position.new_zeros(len(position), dtype=torch.float64),
            "gradient": torch.zeros_like(position),
            "gradients": torch.zeros((), dtype=torch.int64),
        }
        length = len(position), schedule.transitions
        empty = torch.zeros(length, dtype=torch.float64, device=position.device)
        self._trace = {name: empty.clone() for name in ("energy", "acceptance")}
        self._trace |= {
            name: torch.zeros_like(empty, dtype=torch.bool) for name in ("divergent", "accepted", "saturated")
        }
        self._trace["steps"] = torch.zeros_like(empty, dtype=torch.int64)
        kept = next(problem.model.parameters()).dtype
        self._draws = position.new_zeros((len(position), schedule.draws, position.shape[1]), dtype=kept)
        self._checkpoint = TrainingState(
            parameters={}, buffers={}, memory=self._memory(), optimizer=None, schedule=None, generator=problem.generator
        )
        self.history = self._checkpoint.history

    def run(self, identity: ProblemIdentity | None) -> int:
        """Run all remaining transitions.

        Args:
            identity: Identity of the problem, which a checkpoint must match; None without a checkpoint.

        Returns:
            Number of transitions already done in the checkpoint; 0 without one.

        Raises:
            FileFormatError: If the checkpoint belongs to another problem, or is damaged.
            StorageError: If the checkpoint cannot be written.
        """
        path = self._problem.checkpoint
        if path is not None and identity is not None and path.exists():
            self._checkpoint.load(path, identity, self._problem)
        resumed_at = len(self.history)
        if not resumed_at:
            self._start()
        total = self._schedule.warmup + self._schedule.transitions
        next_writing = 0.0
        label, is_shown = self._problem.label, self._problem.progress
        with StepProgress(total, done=resumed_at, label=label, unit="transition", is_shown=is_shown) as shown:
            for index in range(resumed_at, total):
                self._advance(index)
                shown.advance(f"energy {self.history[-1]:.4f}")
                start = monotonic()
                if path is not None and identity is not None and (start >= next_writing or index == total - 1):
                    self._checkpoint.save(path, identity)
                    next_writing = monotonic() + _CHECKPOINT_INTERVAL * (monotonic() - start)
        return resumed_at

    def statistics(self) -> SamplerStatistics:
        """Return the statistics of the transitions after warm-up.

        Returns:
            The statistics.
        """
        return SamplerStatistics.of(self._trace, self._sizes.state["size"], int(self._state["gradients"]))

    def posterior(self) -> SamplesPosterior:
        """Return the draws as posterior samples, sorted by chain, then by time.

        Returns:
            The samples, in the dtype of the model.
        """
        chains, draws = self._draws.shape[:2]
        named = self._potential.named(self._draws.flatten(0, 1))
        return SamplesPosterior(
            {name: tensor.clone() for name, tensor in named.items()},
            chains=torch.arange(chains).repeat_interleave(draws),
            buffers={name: tensor.detach().clone() for name, tensor in self._problem.model.named_buffers()},
            prior=self._potential.prior,
        )

    def _memory(self) -> dict[str, Tensor]:
        """Return all tensors that change between transitions."""
        parts = {
            "state": self._state,
            "step sizes": self._sizes.state,
            "variances": self._variances.state,
            "trace": self._trace,
            "chains": {"draws": self._draws},
        }
        return {f"{part}/{name}": tensor for part, tensors in parts.items() for name, tensor in tensors.items()}

    def _phase(self) -> Phase:
        """Return the present phase, with zero momenta."""
        position = self._state["position"]
        potential = self._state["potential"]
        return Phase(position, torch.zeros_like(position), potential, self._state["gradient"])

    def _dynamics(self) -> Dynamics:
        """Return the dynamics at the present step sizes and mass matrices."""
        state = self._sizes.state
        return Dynamics(
            self._energy, state["size"].clone(), self._variances.state["variances"], self._problem.generator
        )

    def _energy(self, position: Tensor) -> tuple[Tensor, Tensor]:
        self._state["gradients"] += len(position)
        return self._potential(position)

    def _start(self) -> None:
        """Compute the energies of the initial positions, and search for initial step sizes."""
        potential, gradient = self._energy(self._state["position"])
        self._state["potential"].copy_(potential)
        self._state["gradient"].copy_(gradient)
        if self._schedule.step_size is None:
            self._sizes.restart(initial_step_size(self._dynamics(), self._phase(), self._schedule.target))

    def _advance(self, index: int) -> None:
        """Run a transition, and adapt to it or record it."""
        dynamics = self._dynamics()
        found = self._transition(dynamics, dynamics.refreshed(self._phase()))
        self._state["position"].copy_(found.phase.position)
        self._state["potential"].copy_(found.phase.potential)
        self._state["gradient"].copy_(found.phase.gradient)
        mean = found.phase.potential.mean().item()
        self.history.append(mean / self._problem.num_examples)
        if index >= self._schedule.warmup:
            self._record(index - self._schedule.warmup, found)
        elif self._schedule.adapt:
            self._adapt(index, found)

    def _record(self, index: int, found: Transition) -> None:
        for name, trace in self._trace.items():
            trace[:, index].copy_(getattr(found, name))
        if (index + 1) % self._schedule.thinning == 0:
            self._draws[:, index // self._schedule.thinning].copy_(found.phase.position)

    def _adapt(self, index: int, found: Transition) -> None:
        """Adapt step sizes, and after each window the mass matrices."""
        self._sizes.update(found.acceptance)
        if self._bounds and self._bounds[0] <= index < self._bounds[-1]:
            self._variances.add(found.phase.position)
            if index + 1 in self._bounds:
                self._variances.close()
                self._sizes.restart(initial_step_size(self._dynamics(), self._phase(), self._schedule.target))
        if index + 1 == self._schedule.warmup:
            self._sizes.finish()
