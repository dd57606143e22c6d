"""Hamiltonian Monte Carlo on all data, with parallel chains."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal, Self, cast, final

import torch
from pydantic import AfterValidator, Field, NonNegativeInt, PositiveInt, model_validator
from typing_extensions import override

from rebasin_core.errors import DivergenceError, InvalidInputError
from rebasin_core.evaluation.functional import FunctionalModel
from rebasin_core.inference.base import FitResult, Inference
from rebasin_core.inference.deep_ensemble import DeepEnsemble
from rebasin_core.inference.gradient import forked_rng, on_model_device
from rebasin_core.inference.hamiltonian.potential import Potential, required_bytes
from rebasin_core.inference.hamiltonian.sampler import Sampler, Schedule
from rebasin_core.inference.identity import ProblemIdentity
from rebasin_core.inference.maximum_a_posteriori import MAPInference
from rebasin_core.inference.optimizer import OptimizerSpec
from rebasin_core.inference.options import PositiveFinite, PriorScale, has_infinite
from rebasin_core.inference.stacked import reinitialized
from rebasin_core.tensors.memory import free_memory, total_memory
from rebasin_core.tensors.modules import named_tensors

if TYPE_CHECKING:
    from torch import Tensor

    from rebasin_core.inference.base import FitProblem
    from rebasin_core.inference.hamiltonian.dynamics import Dynamics, Phase, Transition
    from rebasin_core.posteriors.samples import SamplesPosterior

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


def _proper(scale: PriorScale) -> PriorScale:
    if has_infinite(scale):
        message = (
            f"expected a finite prior scale, got {scale!r}; under a flat prior, the posterior of a network cannot be "
            "normalized and chains have no stationary distribution"
        )
        raise ValueError(message)
    return scale


class AbstractHamiltonianInference(Inference):
    r"""Hamiltonian Monte Carlo with gradients on all data; the states of parallel chains are the posterior samples.

    The target is $(p(D \mid \theta) \, p(\theta))^{1 / T}$, without error from minibatches or step sizes: every
    transition leaves it invariant. In warm-up, each chain adapts its step size by dual averaging, and its diagonal mass
    matrix to the variances of its draws, in the windows of Stan. Draws of warm-up are discarded.

    The data are read once and kept in memory, and the gradients of their batches are summed: use large batches. The
    network is in evaluation mode with the buffers of the model: the posterior is that of one function. The
    first chain starts at the parameters of the model, the others at parameters drawn by ``reset_parameters``.

    Divergences, constant chains, and low energy fractions of missing information (E-BFMI) are warned of. The
    statistics of the chains are in `FitResult.sampler`. `FitResult.history` has the mean potential energy after each
    transition, in nats per example. Validation data are not used.

    Raises:
        ConfigError: If an option is invalid.
        InvalidInputError: In `fit`, if the chains need more memory than there is, or the outputs of the network are
            random in evaluation mode.
        DivergenceError: In `fit`, if the log posterior at the initialization is not finite.

    References:
        R. M. Neal (2011), "MCMC using Hamiltonian dynamics", arXiv 1206.1901; P. Izmailov et al. (2021), ICML,
        arXiv 2104.14421; E. Sommer et al. (2024), "Connecting
        the dots: Is mode-connectedness the key to feasible sample-based inference in Bayesian neural networks?", ICML,
        arXiv 2402.01484 (warm starts).
    """

    chains: PositiveInt = 4
    """Number of chains, run in parallel."""

    warmup: NonNegativeInt = 500
    """Number of transitions of warm-up, which are discarded."""

    draws: PositiveInt = 500
    """Number of draws that each chain keeps."""

    thinning: PositiveInt = 1
    """Number of transitions per draw."""

    step_size: PositiveFinite | None = None
    """Initial step size of the leapfrog integrator; if None, one is searched for."""

    adapt: bool = True
    """Whether step sizes and mass matrices are adapted in warm-up; if not, ``step_size`` is used throughout."""

    target_acceptance: Annotated[float, Field(gt=0, lt=1)] = 0.8
    """Target of the acceptance probability, in (0, 1); a larger one leads to smaller steps and fewer divergences."""

    mass_matrix: Literal["diagonal", "identity"] = "diagonal"
    """Mass matrix: ``diagonal``, adapted in warm-up, or ``identity``."""

    jitter: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Relative half-width of the uniform distribution of step sizes about the adapted one, in [0, 1)."""

    prior_scale: Annotated[PriorScale, AfterValidator(_proper)] = 1.0
    r"""Standard deviation $\sigma$ of the prior, positive and finite; a number, or a mapping from name patterns."""

    temperature: PositiveFinite = 1.0
    """Temperature $T$, positive; 1 is the Bayesian posterior, less than 1 a cold posterior, in which likelihood and
    prior are tempered."""

    dtype: Literal["float32", "float64"] | None = None
    """Dtype of the computation; that of the model if None (float32 for bfloat16). Draws have the dtype of the model."""

    warm_start: bool = False
    """Whether chains start at MAP estimates: networks of a deep ensemble, trained from the same initial parameters."""

    warm_start_epochs: PositiveInt = 200
    """Number of epochs of this training."""

    warm_start_optimizer: OptimizerSpec = OptimizerSpec(lr=0.01)
    """Optimizer of this training, of ``torch.optim``, coordinate-wise."""

    together: bool | None = None
    """Whether to run the networks in one batch (`torch.vmap`) if the model supports it; the result is the same up to
    rounding. If None, the faster way: one batch on a GPU, and for small networks on a CPU."""

    @model_validator(mode="after")
    def _check_step_size(self) -> Self:
        if self.step_size is None and not (self.adapt and self.warmup):
            message = (
                f"expected a `step_size` without adaptation, got None with adapt={self.adapt} and "
                f"warmup={self.warmup}; set `step_size`, or adapt it in a warm-up"
            )
            raise ValueError(message)
        return self

    @abstractmethod
    def _transition(self, dynamics: Dynamics, phase: Phase) -> Transition:
        """Return one transition.

        Args:
            dynamics: The dynamics, at the adapted step sizes.
            phase: Positions with fresh momenta.

        Returns:
            The transition.
        """

    @abstractmethod
    def _held_states(self) -> int:
        """Return the number of matrices ``[K, D]`` that a transition holds in memory."""

    @final
    @property
    @override
    def uses_spec(self) -> bool:
        return False

    @final
    @override
    def _check(self, problem: FitProblem) -> None:
        with forked_rng(on_model_device(problem)) as local:
            potential = self._potential(local)
            self._require_memory(local, potential)
            _require_function(potential, potential.rows(_stacked([local.model] * self.chains)))

    @final
    @override
    def _fit(self, problem: FitProblem) -> FitResult:
        with forked_rng(on_model_device(problem)) as local:
            identity = None if local.checkpoint is None else ProblemIdentity.of(self, local)
            potential = self._potential(local)
            self._require_memory(local, potential)
            resumes = local.checkpoint is not None and local.checkpoint.exists()
            # A checkpoint has positions: those of the model are used to check its data.
            networks = _stacked([local.model] * self.chains) if resumes else self._initial(local)
            position = potential.rows(networks)
            _require_function(potential, position)
            sampler = Sampler(local, potential, position, self._schedule(), self._transition)
            resumed_at = sampler.run(identity)
            posterior = sampler.posterior()
        statistics = sampler.statistics()
        statistics.warn(stacklevel=4)
        return FitResult(posterior, tuple(sampler.history), resumed_at, sampler=statistics)

    @final
    def _schedule(self) -> Schedule:
        return Schedule(
            warmup=self.warmup,
            draws=self.draws,
            thinning=self.thinning,
            step_size=self.step_size,
            adapt=self.adapt,
            adapt_mass=self.adapt and self.mass_matrix == "diagonal",
            target=self.target_acceptance,
        )

    @final
    def _potential(self, problem: FitProblem) -> Potential:
        first = next(problem.model.parameters())
        default = torch.float64 if first.dtype == torch.float64 else torch.float32
        dtype = default if self.dtype is None else _DTYPES[self.dtype]
        return Potential(
            problem,
            FunctionalModel(problem.model, device=first.device, dtype=dtype),
            chains=self.chains,
            prior_scale=self.prior_scale,
            temperature=self.temperature,
            together=self.together,
        )

    @final
    def _initial(self, problem: FitProblem) -> dict[str, Tensor]:
        """Return the initial parameters of the chains, each ``[K, *s]``."""
        if not self.warm_start:
            others = (reinitialized(problem.model, problem.generator) for _ in range(self.chains - 1))
            return _stacked([problem.model, *others])
        options = {
            "epochs": self.warm_start_epochs,
            "optimizer": self.warm_start_optimizer,
            "prior_scale": self.prior_scale,
        }
        alone = replace(problem, checkpoint=None, validation=None, identity={}, label="warm start")
        if self.chains == 1:
            mean = MAPInference(**options).solve(alone).posterior.mean
            return {name: tensor[None] for name, tensor in mean.items()}
        posterior = DeepEnsemble(members=self.chains, together=self.together, **options).solve(alone).posterior
        return dict(cast("SamplesPosterior", posterior).samples)

    @final
    def _require_memory(self, problem: FitProblem, potential: Potential) -> None:
        """Raise if the chains do not fit into memory."""
        first = next(problem.model.parameters())
        sizes = first.element_size(), potential.element_size
        required = required_bytes(
            potential, chains=self.chains, draws=self.draws, trajectory=self._held_states(), sizes=sizes
        )
        # On a CPU, the system can free the memory of files that it keeps.
        given = free_memory(first.device) if first.device.type == "cuda" else total_memory(first.device)
        if required > given:
            message = (
                f"expected chains that fit into memory, got {self.chains} chains with {self.draws} draws of "
                f"{potential.size} parameters, which need {required / 2**30:.1f} GiB of {given / 2**30:.1f} GiB; use "
                "fewer `draws` (with more `thinning`) or `chains`"
            )
            raise InvalidInputError(message)


def _stacked(networks: list[torch.nn.Module]) -> dict[str, Tensor]:
    """Return the stacked parameters of networks."""
    every = [named_tensors(network) for network in networks]
    names = [name for name, _ in networks[0].named_parameters()]
    return {name: torch.stack([tensors[name].detach() for tensors in every]) for name in names}


def _require_function(potential: Potential, position: Tensor) -> None:
    """Raise if the log posterior is not a function of the parameters, or not finite at the initialization."""
    potential.check(position)
    first, gradient = potential(position)
    second, _ = potential(position)
    is_finite = first.isfinite() & gradient.isfinite().all(1)
    if not bool(is_finite.all()):
        chain = int((~is_finite).nonzero()[0].item())
        message = (
            f"expected a finite log posterior at the initialization, got {-first[chain].item()} in chain {chain}, "
            "or a gradient that is not finite. Check the data for NaN, or set `warm_start=True`"
        )
        raise DivergenceError(message)
    if not torch.allclose(first, second, rtol=1e-4):
        message = (
            "expected a network whose outputs are a function of its parameters and inputs in evaluation mode, got "
            f"log posteriors of {-first[0].item()} and {-second[0].item()} at the same parameters; remove random "
            "operations, such as dropout that does not depend on `self.training`"
        )
        raise InvalidInputError(message)
