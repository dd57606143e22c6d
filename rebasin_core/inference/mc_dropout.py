"""Monte Carlo dropout: masks on the inputs of layers, in training and in prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from torch import nn
from torch.nn import functional
from typing_extensions import override

from rebasin_core.errors import InvalidInputError
from rebasin_core.inference.gradient import AbstractGradientInference, AbstractObjective
from rebasin_core.inference.prior import PriorScale, check_scale, chosen_names
from rebasin_core.inference.stacked import AbstractStackedObjective
from rebasin_core.posteriors.multiplicative_noise import MultiplicativeNoisePosterior, UnitNoise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from rebasin_core.evaluation.functional import FunctionalModel
    from rebasin_core.inference.base import FitProblem
    from rebasin_core.inference.optimizer import OptimizerSpec, ScheduleSpec
    from rebasin_core.posteriors.base import Posterior


@final
class MCDropout(AbstractGradientInference):
    r"""Trains with dropout on the inputs of layers, and keeps the dropout as the posterior.

    In training every example has masks of its own: on the features that enter a dense layer, and on whole channels that
    enter a convolution. A sample of the posterior is a network with one set of masks, applied to its weights.

    Args:
        rate: The probability that a unit is dropped, in (0, 1).
        layers: Patterns of the names of layers whose inputs are dropped out; all dense and convolutional layers but the
            first if not given.
        epochs: Passes over the data, at least 1.
        optimizer: Any optimiser of torch; Adam with rate 1e-3 if not given.
        schedule: Any learning-rate schedule of torch, or None.
        prior_scale: $\sigma$ of the prior, for all parameters or by pattern of their names; infinity for a flat one.
        patience: Epochs without a better validation loss after which training ends; None trains all epochs.

    Raises:
        InvalidInputError: If an option is out of range; on fitting, if there is no layer to drop out.

    References:
        Y. Gal, Z. Ghahramani (2016), "Dropout as a Bayesian approximation", ICML, arXiv 1506.02142.

    Example:
        >>> import torch
        >>> data = [(torch.ones(8, 1), torch.zeros(8, dtype=torch.int64))]
        >>> model = torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> [noise.targets for noise in MCDropout(epochs=1).fit(model, data).posterior.noise]
        [(('2.weight', 1),)]
    """

    def __init__(  # ruff: ignore[too-many-arguments] - options of one method, keyword-only
        self,
        *,
        rate: float = 0.1,
        layers: Sequence[str] | None = None,
        epochs: int = 20,
        optimizer: OptimizerSpec | None = None,
        schedule: ScheduleSpec | None = None,
        prior_scale: PriorScale = 1.0,
        patience: int | None = None,
    ) -> None:
        super().__init__(epochs=epochs, optimizer=optimizer, schedule=schedule, patience=patience)
        if not 0 < rate < 1:
            message = f"expected a dropout `rate` in (0, 1), got {rate!r}"
            raise InvalidInputError(message)
        check_scale(prior_scale)
        self._rate, self._prior_scale = rate, prior_scale
        self._layers = None if layers is None else tuple(layers)

    @override
    def _options(self) -> tuple[object, ...]:
        return self._rate, self._layers, self._prior_scale

    @override
    def _objective(self, problem: FitProblem, model: FunctionalModel) -> AbstractObjective:
        every = [
            name
            for name, module in model.module.named_modules()
            if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
        ]
        layers = every[1:] if self._layers is None else chosen_names(every, self._layers, "layers")
        if not layers:
            message = f"expected dense or convolutional layers after the first to drop out, got {every}"
            raise InvalidInputError(message)
        return _Objective(problem, model, self._prior_scale, rate=self._rate, layers=layers)


@final
class _Objective(AbstractStackedObjective):
    def __init__(
        self, problem: FitProblem, model: FunctionalModel, prior_scale: PriorScale, *, rate: float, layers: list[str]
    ) -> None:
        super().__init__(problem, model, members=1, prior_scale=prior_scale)
        self._rate, self._layers = rate, layers
        for name in layers:
            model.module.get_submodule(name).register_forward_pre_hook(self._drop)

    def _drop(self, module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        drop = functional.dropout2d if isinstance(module, nn.Conv2d) else functional.dropout
        return (drop(arguments[0], self._rate), *arguments[1:])

    @override
    def posterior(self) -> Posterior:
        mean, buffers = self.copies(0)
        targets = [f"{layer}.weight" if layer else "weight" for layer in self._layers]
        keep = {name: mean[name].new_full((mean[name].shape[1],), 1 - self._rate) for name in targets}
        return MultiplicativeNoisePosterior(
            mean,
            [UnitNoise(((name, 1),), "bernoulli", keep[name]) for name in targets],
            buffers=buffers,
            prior=self.prior,
        )
