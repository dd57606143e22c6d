"""Inference by the transforms of posteriors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias, final

import torch
from tqdm import tqdm
from typing_extensions import override

from rebasin_core import DiagonalGaussianPosterior, FitResult, Inference, SamplesPosterior
from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation import FunctionalModel

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from rebasin_core.inference import FitProblem

# Of the library, which is imported only when it is used.
Transform: TypeAlias = Any
LogPosterior: TypeAlias = "Callable[[dict[str, Tensor], tuple[Tensor, Tensor]], tuple[Tensor, Tensor]]"
Build: TypeAlias = "Callable[[LogPosterior], Transform]"
SamplerName: TypeAlias = Literal["sgld", "sghmc"]


@final
class PosteriorsChain(Inference):
    """Samples with SGLD or SGHMC of posteriors, at the temperature 1 / N of the log posterior per example.

    A run that is killed starts again from its beginning: the library's states are not written to the checkpoint.

    Args:
        sampler: ``sgld`` or ``sghmc``.
        epochs: Passes over the data.
        burn_in: Passes before the first sample.
        learning_rate: Its ``lr``.
        friction: Its ``alpha``, for ``sghmc``.
        prior_scale: Standard deviation of the Gaussian prior.

    Raises:
        InvalidInputError: If an option is out of range.
    """

    def __init__(
        self,
        *,
        sampler: SamplerName = "sghmc",
        epochs: int = 100,
        burn_in: int = 20,
        learning_rate: float = 0.01,
        friction: float = 0.01,
        prior_scale: float = 1.0,
    ) -> None:
        if not 0 <= burn_in < epochs or not min(learning_rate, friction, prior_scale) > 0:
            message = (
                "expected `burn_in` below `epochs`, and a positive `learning_rate`, `friction` and `prior_scale`, got "
                f"{burn_in!r}, {epochs!r}, {learning_rate!r}, {friction!r} and {prior_scale!r}"
            )
            raise InvalidInputError(message)
        self._sampler, self._epochs, self._burn_in = sampler, epochs, burn_in
        self._rate, self._prior_scale = learning_rate, prior_scale
        # At rest to begin with: the library's own start, momenta of variance 1, is N times too hot at temperature 1 / N
        # and throws the parameters far from where they were set up.
        self._options = {"alpha": friction, "momenta": 0.0} if sampler == "sghmc" else {}

    @override
    def _fit(self, problem: FitProblem) -> FitResult:
        import posteriors  # ruff: ignore[import-outside-top-level] - only when it is used

        make: Any = getattr(posteriors.sgmcmc, self._sampler)
        return _run(
            problem,
            lambda log_posterior: make.build(
                log_posterior, lr=self._rate, temperature=1 / problem.num_examples, **self._options
            ),
            self._epochs,
            self._prior_scale,
            burn_in=self._burn_in,
        )


@final
class PosteriorsVI(Inference):
    """Diagonal variational inference of posteriors.

    A run that is killed starts again from its beginning: the library's states are not written to the checkpoint.

    Args:
        epochs: Passes over the data.
        learning_rate: Of Adam.
        initial_stddev: The standard deviation at the start.
        prior_scale: Standard deviation of the Gaussian prior.

    Raises:
        InvalidInputError: If an option is out of range.
    """

    def __init__(
        self,
        *,
        epochs: int = 20,
        learning_rate: float = 1e-3,
        initial_stddev: float = 0.01,
        prior_scale: float = 1.0,
    ) -> None:
        if epochs < 1 or not min(learning_rate, initial_stddev, prior_scale) > 0:
            message = "expected `epochs` of at least 1, and a positive rate, standard deviation and prior scale"
            raise InvalidInputError(message)
        self._epochs, self._rate = epochs, learning_rate
        self._stddev, self._prior_scale = initial_stddev, prior_scale

    @override
    def _fit(self, problem: FitProblem) -> FitResult:
        import posteriors  # ruff: ignore[import-outside-top-level] - only when it is used
        import torchopt  # ruff: ignore[import-outside-top-level]

        def build(log_posterior: LogPosterior) -> Transform:
            return posteriors.vi.diag.build(
                log_posterior,
                torchopt.adam(lr=self._rate),
                temperature=1 / problem.num_examples,
                init_log_sds=torch.tensor(self._stddev).log().item(),
            )

        return _run(problem, build, self._epochs, self._prior_scale, burn_in=None)


def _run(problem: FitProblem, build: Build, epochs: int, prior_scale: float, *, burn_in: int | None) -> FitResult:
    """Run a transform; collect samples after the burn-in, or take the last state where there is none."""
    first = next(problem.model.parameters())
    model = FunctionalModel(problem.model, device=first.device, dtype=first.dtype)
    buffers = {name: tensor.detach().clone() for name, tensor in problem.model.named_buffers()}

    def log_posterior(params: dict[str, Tensor], batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        inputs, targets = (model.to_device(part) for part in batch)
        outputs = model({**params, **buffers}, inputs)
        problem.likelihood.check(outputs.detach(), targets)
        prior = torch.stack([p.square().sum() for p in params.values()]).sum() / (-2 * prior_scale**2)
        value = problem.likelihood.log_prob(outputs, targets).mean() + prior / problem.num_examples
        return value, torch.empty(0)

    history: list[float] = []
    states: list[dict[str, Tensor]] = []
    with torch.random.fork_rng():
        torch.manual_seed(problem.generator.initial_seed())
        transform = build(log_posterior)
        state = transform.init({n: p.detach().clone() for n, p in problem.model.named_parameters()})
        for epoch in tqdm(range(epochs), desc=problem.label, unit="epoch", disable=not problem.progress):
            total = 0.0
            for batch in problem.data:
                # Out of place: in place, chains share what they should not.
                state, _ = transform.update(state, batch, inplace=False)
                value = state.nelbo if hasattr(state, "nelbo") else -state.log_posterior
                total += value.item() / problem.num_batches
            history.append(total)
            if not torch.isfinite(torch.tensor(total)):
                message = f"training diverged in epoch {epoch + 1}; lower the learning rate"
                raise InvalidInputError(message)
            if burn_in is not None and epoch >= burn_in:
                states.append({n: p.detach().clone() for n, p in state.params.items()})
    if burn_in is None:
        mean = {n: p.detach().clone() for n, p in state.params.items()}
        stddev = {n: p.detach().exp() for n, p in state.log_sd_diag.items()}
        return FitResult(DiagonalGaussianPosterior(mean, stddev, buffers=buffers), tuple(history), 0)
    stacked = {n: torch.stack([s[n] for s in states]) for n in states[0]}
    return FitResult(SamplesPosterior(stacked, buffers=buffers), tuple(history), 0)
