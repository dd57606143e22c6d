"""Monte Carlo dropout: masks on the inputs of layers, in training and in prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, final

from pydantic import Field
from torch import nn
from torch.nn import functional
from typing_extensions import override

from rebasin_core.errors import InvalidInputError
from rebasin_core.inference.gradient import AbstractOptimizedInference
from rebasin_core.inference.options import PriorScale
from rebasin_core.inference.prior import chosen_names
from rebasin_core.inference.stacked import AbstractStackedObjective
from rebasin_core.posteriors.multiplicative_noise import MultiplicativeNoisePosterior, UnitNoise

if TYPE_CHECKING:
    from torch import Tensor

    from rebasin_core.evaluation.functional import FunctionalModel
    from rebasin_core.inference.base import FitProblem
    from rebasin_core.inference.objective import AbstractObjective
    from rebasin_core.posteriors.base import Posterior


@final
class MCDropout(AbstractOptimizedInference):
    r"""Trains with dropout on the inputs of layers, and keeps the dropout as the posterior.

    In training every example has its own masks: on the input features of a dense layer, and on whole input channels of
    a convolution. A posterior sample is a network with one set of masks, applied to its weights.

    Raises:
        ConfigError: If an option is invalid.
        InvalidInputError: On fitting, if there is no layer to drop out.

    References:
        Y. Gal, Z. Ghahramani (2016), "Dropout as a Bayesian approximation", ICML, arXiv 1506.02142.

    Example:
        >>> import torch
        >>> data = [(torch.ones(8, 1), torch.zeros(8, dtype=torch.int64))]
        >>> model = torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> [noise.targets for noise in MCDropout(epochs=1).fit(model, data).posterior.noise]
        [(('2.weight', 1),)]
    """

    name: Literal["mc_dropout"] = "mc_dropout"

    rate: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Probability that a unit is dropped."""

    layers: tuple[str, ...] | None = None
    """Patterns of the names of layers whose inputs are dropped out; all dense and convolutional layers except the first
    if not given."""

    prior_scale: PriorScale = 1.0
    r"""Standard deviation $\sigma$ of the prior, for all parameters or by pattern of their names; infinity for a flat
    prior."""

    @override
    def _objective(self, problem: FitProblem, model: FunctionalModel) -> AbstractObjective:
        every = [
            name
            for name, module in model.module.named_modules()
            if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
        ]
        layers = every[1:] if self.layers is None else chosen_names(every, self.layers, "layers")
        if not layers:
            message = f"expected dense or convolutional layers after the first to drop out, got {every}"
            raise InvalidInputError(message)
        return _Objective(problem, model, self, layers)


@final
class _Objective(AbstractStackedObjective):
    def __init__(self, problem: FitProblem, model: FunctionalModel, method: MCDropout, layers: list[str]) -> None:
        super().__init__(problem, model, members=1, prior_scale=method.prior_scale)
        self._rate = method.rate
        self._layers = layers
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
