"""Inference methods of the library posteriors."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeAlias, final

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from tqdm import tqdm
from typing_extensions import override

from rebasin_core import Inference
from rebasin_core.errors import DivergenceError
from rebasin_core.evaluation import FunctionalModel, checked_batches
from rebasin_core.inference import FitResult
from rebasin_core.posteriors import DiagonalGaussianPosterior, SamplesPosterior

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from rebasin_core.inference import FitProblem

# Objects of the library, which is imported in `fit` only.
Transform: TypeAlias = Any
LogPosterior: TypeAlias = "Callable[[dict[str, Tensor], tuple[Tensor, Tensor]], tuple[Tensor, Tensor]]"
State: TypeAlias = Any
Collect: TypeAlias = "Callable[[int, State], None]"


class AbstractPosteriorsInference(Inference):
    r"""Method that runs a transform of posteriors on the log posterior per example, at the temperature $T / N$.

    The log posterior of a batch is weighted by its number of examples, which gives every example equal weight.

    States of the library are not written to the checkpoint: an interrupted run restarts from the first epoch.

    Raises:
        ConfigError: If an option is invalid.
    """

    epochs: PositiveInt = 100
    """Number of passes over the data."""

    learning_rate: PositiveFloat = 0.01
    """Learning rate of the method for the loss per example, positive."""

    prior_scale: PositiveFloat = 1.0
    """Standard deviation of the zero-mean Gaussian prior, positive."""

    temperature: Annotated[PositiveFloat, Field(allow_inf_nan=False)] = 1.0
    """Temperature T, positive; 1 is the Bayesian posterior, less than 1 a cold posterior, in which likelihood and prior
    are tempered."""

    @abstractmethod
    def _transform(self, log_posterior: LogPosterior, temperature: float) -> Transform:
        """Return a transform of the library for a log posterior per example, at the temperature T / N."""

    @final
    def _run(self, problem: FitProblem, collect: Collect) -> tuple[float, ...]:
        """Run all epochs, call ``collect`` with the epoch and the state after each, and return the objectives."""
        history: list[float] = []
        with torch.random.fork_rng():
            torch.manual_seed(problem.generator.initial_seed())
            transform = self._transform(
                _log_posterior(problem, self.prior_scale), self.temperature / problem.num_examples
            )
            state = transform.init({n: p.detach().clone() for n, p in problem.model.named_parameters()})
            for epoch in tqdm(range(self.epochs), desc=problem.label, unit="epoch", disable=not problem.progress):
                total = 0.0
                for batch in checked_batches(problem.data):
                    # Out of place: with in-place updates, chains share their step counters.
                    state, _ = transform.update(state, batch, inplace=False)
                    value = state.nelbo if hasattr(state, "nelbo") else -state.log_posterior
                    total += value.item() / problem.num_batches
                if not torch.isfinite(torch.tensor(total)):
                    message = f"training diverged: the loss in epoch {epoch + 1} is not finite. Lower the learning rate"
                    raise DivergenceError(message)
                history.append(total)
                collect(epoch, state)
        return tuple(history)


class AbstractPosteriorsChain(AbstractPosteriorsInference):
    """Method that runs one chain of a sampler of posteriors, with one sample per epoch after the burn-in.

    Raises:
        ConfigError: If an option is invalid.
    """

    burn_in: NonNegativeInt = 20
    """Number of epochs of burn-in, before the first sample; less than ``epochs``."""

    @model_validator(mode="after")
    def _check_samples(self) -> Self:
        if self.burn_in >= self.epochs:
            message = f"expected `burn_in` below `epochs`, got {self.burn_in} and {self.epochs}"
            raise ValueError(message)
        return self

    @final
    @override
    def _fit(self, problem: FitProblem) -> FitResult:
        states: list[dict[str, Tensor]] = []

        def collect(epoch: int, state: State) -> None:
            if epoch >= self.burn_in:
                states.append({name: tensor.detach().clone() for name, tensor in state.params.items()})

        history = self._run(problem, collect)
        samples = {name: torch.stack([state[name] for state in states]) for name in states[0]}
        return FitResult(SamplesPosterior(samples, buffers=_buffers(problem)), history, 0)


@final
class PosteriorsSGLD(AbstractPosteriorsChain):
    """Stochastic-gradient Langevin dynamics (SGLD), ``posteriors.sgmcmc.sgld``.

    Raises:
        ConfigError: If an option is invalid.

    Examples:
        >>> data = [(torch.ones(8, 1), torch.zeros(8, dtype=torch.int64))]
        >>> PosteriorsSGLD(epochs=6, burn_in=2).fit(torch.nn.Linear(1, 2), data).posterior.num_samples
        4
    """

    name: Literal["posteriors_sgld"] = "posteriors_sgld"

    @override
    def _transform(self, log_posterior: LogPosterior, temperature: float) -> Transform:
        import posteriors  # ruff: ignore[import-outside-top-level] - only when it is used

        return posteriors.sgmcmc.sgld.build(log_posterior, lr=self.learning_rate, temperature=temperature)


@final
class PosteriorsSGHMC(AbstractPosteriorsChain):
    """Stochastic-gradient Hamiltonian Monte Carlo (SGHMC), ``posteriors.sgmcmc.sghmc``.

    Raises:
        ConfigError: If an option is invalid.

    Examples:
        >>> data = [(torch.ones(8, 1), torch.zeros(8, dtype=torch.int64))]
        >>> PosteriorsSGHMC(epochs=6, burn_in=2).fit(torch.nn.Linear(1, 2), data).posterior.num_samples
        4
    """

    name: Literal["posteriors_sghmc"] = "posteriors_sghmc"

    friction: PositiveFloat = 0.01
    """Friction ``alpha`` of the library, positive."""

    @override
    def _transform(self, log_posterior: LogPosterior, temperature: float) -> Transform:
        import posteriors  # ruff: ignore[import-outside-top-level] - only when it is used

        # Initial momenta are zero: the default, of variance 1, is N times too large at temperature 1 / N and moves the
        # parameters far from their initialization.
        return posteriors.sgmcmc.sghmc.build(
            log_posterior, lr=self.learning_rate, temperature=temperature, alpha=self.friction, momenta=0.0
        )


@final
class PosteriorsVI(AbstractPosteriorsInference):
    """Mean-field variational inference with Adam, ``posteriors.vi.diag``.

    Raises:
        ConfigError: If an option is invalid.

    Examples:
        >>> data = [(torch.ones(8, 1), torch.zeros(8, dtype=torch.int64))]
        >>> PosteriorsVI(epochs=2).fit(torch.nn.Linear(1, 2), data).posterior.kind
        'diagonal_gaussian'
    """

    name: Literal["posteriors_vi"] = "posteriors_vi"

    epochs: PositiveInt = 20
    """Number of passes over the data."""

    learning_rate: PositiveFloat = 1e-3
    """Learning rate of Adam, positive."""

    initial_stddev: PositiveFloat = 0.01
    """Initial standard deviation of the parameters, positive."""

    @override
    def _transform(self, log_posterior: LogPosterior, temperature: float) -> Transform:
        import posteriors  # ruff: ignore[import-outside-top-level] - only when it is used
        import torchopt  # ruff: ignore[import-outside-top-level]

        return posteriors.vi.diag.build(
            log_posterior,
            torchopt.adam(lr=self.learning_rate),
            temperature=temperature,
            init_log_sds=torch.tensor(self.initial_stddev).log().item(),
        )

    @override
    def _fit(self, problem: FitProblem) -> FitResult:
        last: list[State] = []

        def collect(epoch: int, state: State) -> None:
            del epoch
            last[:] = [state]

        history = self._run(problem, collect)
        mean = {n: p.detach().clone() for n, p in last[0].params.items()}
        stddev = {n: p.detach().exp() for n, p in last[0].log_sd_diag.items()}
        return FitResult(DiagonalGaussianPosterior(mean, stddev, buffers=_buffers(problem)), history, 0)


def _log_posterior(problem: FitProblem, prior_scale: float) -> LogPosterior:
    """Return the log posterior per example, up to a constant, as a function of the parameters and a batch."""
    first = next(problem.model.parameters())
    model = FunctionalModel(problem.model, device=first.device, dtype=first.dtype)
    buffers = _buffers(problem)

    def log_posterior(params: dict[str, Tensor], batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        inputs = model.to_device(batch[0])
        targets = model.to_device(batch[1])
        outputs = model({**params, **buffers}, inputs)
        problem.likelihood.check(outputs.detach(), targets)
        prior = torch.stack([p.square().sum() for p in params.values()]).sum() / (-2 * prior_scale**2)
        value = problem.likelihood.log_prob(outputs, targets).mean() + prior / problem.num_examples
        return problem.batch_weight(targets) * value, torch.empty(0)

    return log_posterior


def _buffers(problem: FitProblem) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in problem.model.named_buffers()}
