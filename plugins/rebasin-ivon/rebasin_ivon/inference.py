"""Inference by the optimizer of the library ivon-opt."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, final

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from tqdm import tqdm
from typing_extensions import override

from rebasin_core import Inference
from rebasin_core.errors import DivergenceError, PluginError
from rebasin_core.evaluation import FunctionalModel, checked_batches
from rebasin_core.inference import FitResult, ScheduleSpec
from rebasin_core.posteriors import DiagonalGaussianPosterior, GaussianPrior

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from rebasin_core.inference import FitProblem

# An optimizer of the library, which is imported in `fit` only.
IVON: TypeAlias = Any
Finite: TypeAlias = Annotated[PositiveFloat, Field(allow_inf_nan=False)]


@final
class IVONInference(Inference):
    r"""Mean-field variational inference by IVON (improved variational online Newton) of the library ivon-opt.

    The posterior is $\mathcal N(m, \mathrm{diag}(\lambda (h + \delta))^{-1})$, with the Hessian estimate $h$ of the
    loss per example, the effective sample size $\lambda = N / T$ and the weight decay $\delta = 1 / (N \sigma^2)$. It
    maximizes the evidence lower bound under the prior $\mathcal N(0, \sigma^2 I)$, for the temperature $T = 1$. Each
    step needs the gradients at ``samples`` draws from the posterior.

    The state of the optimizer is not written to the checkpoint: an interrupted run restarts from the first epoch.
    Validation data are not used. Buffers, such as normalization statistics, are those of training.

    Raises:
        ConfigError: If an option is invalid.
        PluginError: In `fit`, if ivon-opt is not installed, or is not the expected library.

    References:
        Y. Shen et al. (2024), "Variational learning is effective for large deep networks", ICML, arXiv 2402.17641,
        algorithm 1.

    Examples:
        >>> data = [(torch.ones(8, 1), torch.zeros(8, dtype=torch.int64))]
        >>> IVONInference(epochs=2).fit(torch.nn.Linear(1, 2), data).posterior.kind
        'diagonal_gaussian'
    """

    name: Literal["ivon"] = "ivon"

    epochs: PositiveInt = 20
    """Number of passes over the data."""

    learning_rate: Finite = 0.1
    """Learning rate ``lr`` of the library, positive."""

    schedule: ScheduleSpec | None = None
    """Learning-rate schedule of ``torch.optim.lr_scheduler`` with its options; constant if None."""

    initial_hessian: Finite = 1.0
    """Initial Hessian estimate ``hess_init``, positive; smaller values start with a wider posterior."""

    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Decay ``beta1`` of the average of gradients, in [0, 1)."""

    hessian_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay ``beta2`` of the average of Hessian estimates, in [0, 1). The library has 0.99999, for long training."""

    samples: PositiveInt = 1
    """Number of posterior samples of each step, ``mc_samples``."""

    clip_radius: PositiveFloat = math.inf
    """Largest change of a parameter per step in units of the learning rate, positive; no limit if infinite."""

    prior_scale: Finite = 1.0
    r"""Standard deviation $\sigma$ of the zero-mean Gaussian prior, positive."""

    temperature: Finite = 1.0
    """Temperature T, positive; 1 is the Bayesian posterior, less than 1 a cold posterior, in which likelihood and prior
    are tempered."""

    @property
    @override
    def uses_spec(self) -> bool:
        return False

    @override
    def _fit(self, problem: FitProblem) -> FitResult:
        first = next(problem.model.parameters())
        model = FunctionalModel(problem.model, device=first.device, dtype=first.dtype, training=True)
        parameters = {n: p.detach().clone().requires_grad_() for n, p in problem.model.named_parameters()}
        buffers = {n: b.detach().clone() for n, b in problem.model.named_buffers()}
        history: list[float] = []
        # The library draws from the global generator.
        with torch.random.fork_rng(devices=[first.device] if first.device.type == "cuda" else []):
            torch.manual_seed(problem.generator.initial_seed())
            optimizer = self._optimizer(list(parameters.values()), problem.num_examples)
            schedule = None if self.schedule is None else self.schedule.build(optimizer)
            for epoch in tqdm(range(self.epochs), desc=problem.label, unit="epoch", disable=not problem.progress):
                total = 0.0
                for inputs, targets in checked_batches(problem.data):
                    batch = model.to_device(inputs), model.to_device(targets)
                    total += self._step(optimizer, model, (parameters, buffers), batch, problem) / problem.num_batches
                    if schedule is not None and self.schedule is not None and self.schedule.interval == "step":
                        schedule.step()
                if schedule is not None and self.schedule is not None and self.schedule.interval == "epoch":
                    schedule.step()
                history.append(total)
                _require_finite(total, parameters, epoch)
        prior = GaussianPrior.isotropic(list(parameters), self.prior_scale)
        mean = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        posterior = DiagonalGaussianPosterior(mean, _stddev(optimizer, parameters), buffers=buffers, prior=prior)
        return FitResult(posterior, tuple(history), 0)

    def _optimizer(self, parameters: list[Tensor], num_examples: int) -> IVON:
        """Return the optimizer of the library."""
        try:
            import ivon  # ruff: ignore[import-outside-top-level] - only when it is used

            kind = ivon.IVON
        except (ImportError, AttributeError) as error:
            message = (
                f"expected the library `ivon-opt`, 0.1.3 or newer, for the inference method 'ivon', got: {error}; "
                "install it with `pip install ivon-opt`"
            )
            raise PluginError(message) from error
        return kind(
            parameters,
            lr=self.learning_rate,
            ess=num_examples / self.temperature,
            hess_init=self.initial_hessian,
            beta1=self.momentum,
            beta2=self.hessian_momentum,
            weight_decay=1 / (num_examples * self.prior_scale**2),
            mc_samples=self.samples,
            clip_radius=self.clip_radius,
        )

    def _step(
        self,
        optimizer: IVON,
        model: FunctionalModel,
        network: tuple[dict[str, Tensor], dict[str, Tensor]],
        batch: tuple[Any, Tensor],
        problem: FitProblem,
    ) -> float:
        """Optimize for one step on a batch, and return its weighted mean loss over the posterior samples."""
        parameters, buffers = network
        inputs, targets = batch
        total = 0.0
        for _ in range(self.samples):
            with optimizer.sampled_params(train=True):
                optimizer.zero_grad()
                outputs = model({**parameters, **buffers}, inputs)
                problem.likelihood.check(outputs.detach(), targets)
                loss = -problem.batch_weight(targets) * problem.likelihood.log_prob(outputs, targets).mean()
                loss.backward()
                for parameter in parameters.values():
                    # The library needs gradients of parameters without influence, too.
                    parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            total += loss.item() / self.samples
        optimizer.step()
        return total


def _require_finite(loss: float, parameters: Mapping[str, Tensor], epoch: int) -> None:
    """Raise if the loss or a parameter is not finite."""
    if not math.isfinite(loss) or not all(bool(torch.isfinite(each).all()) for each in parameters.values()):
        message = (
            f"training diverged: the loss or a parameter is not finite after epoch {epoch + 1}. Lower the learning "
            "rate, set `clip_radius`, or raise `initial_hessian`"
        )
        raise DivergenceError(message)


def _stddev(optimizer: IVON, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the standard deviations of the posterior by parameter name."""
    (group,) = optimizer.param_groups
    flat = (group["ess"] * (group["hess"] + group["weight_decay"])).rsqrt()
    parts = flat.split([parameter.numel() for parameter in parameters.values()])
    return {name: part.reshape(p.shape).clone() for (name, p), part in zip(parameters.items(), parts, strict=True)}
