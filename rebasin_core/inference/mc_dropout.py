"""Monte Carlo dropout: random masks on the inputs of layers, in training and in prediction."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Annotated, Literal, final

import torch
from pydantic import Field
from torch.nn import functional
from typing_extensions import override

from rebasin_core.errors import InvalidInputError, UnreadWeightWarning
from rebasin_core.evaluation.batches import checked_batches
from rebasin_core.evaluation.reading import Interception, Product, WeightUse
from rebasin_core.inference.gradient import AbstractOptimizedInference
from rebasin_core.inference.options import PriorScale
from rebasin_core.inference.prior import chosen_names
from rebasin_core.inference.stacked import AbstractStackedObjective
from rebasin_core.posteriors.multiplicative_noise import MultiplicativeNoisePosterior, UnitNoise

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    from torch import Tensor

    from rebasin_core.evaluation.functional import FunctionalModel
    from rebasin_core.evaluation.reading import ModelReading
    from rebasin_core.inference.base import FitProblem
    from rebasin_core.inference.objective import AbstractObjective
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.tensors.inputs import AnyInputs

# Number of examples with which the network is read; normalization layers need more than one.
_TRIAL_ROWS = 2


@final
class MCDropout(AbstractOptimizedInference):
    r"""Monte Carlo dropout: train with dropout on the inputs of layers, and keep the dropout noise as the posterior.

    In training every example has its own masks, on the inputs of a dense layer or on whole input channels of a
    convolution. A posterior sample is a network with one set of masks, applied to its weights.

    A layer is any dense or convolutional product of activations with a weight, computed by a module or a function. Its
    name is that of the weight without the suffix ``.weight``. Grouped convolutions have no dropout.

    Raises:
        ConfigError: If an option is invalid.
        InvalidInputError: In `fit`, if no layer can have dropout.

    References:
        Y. Gal, Z. Ghahramani (2016), "Dropout as a Bayesian approximation", ICML, arXiv 1506.02142.

    Examples:
        >>> import torch
        >>> data = [(torch.ones(8, 1), torch.zeros(8, dtype=torch.int64))]
        >>> model = torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> [noise.targets for noise in MCDropout(epochs=1).fit(model, data).posterior.noise]
        [(('2.weight', 1),)]
    """

    name: Literal["mc_dropout"] = "mc_dropout"

    rate: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Probability that an input unit or channel is set to zero, in (0, 1)."""

    layers: tuple[str, ...] | None = None
    """Name patterns of the layers with dropout on their inputs; all dense and convolutional layers except the first if
    None."""

    prior_scale: PriorScale = 1.0
    r"""Standard deviation $\sigma$ of the prior, positive; a number, or a mapping from name patterns. Infinity is a
    flat prior."""

    @property
    @override
    def uses_spec(self) -> bool:
        return False

    @override
    def _objective(self, problem: FitProblem, model: FunctionalModel) -> AbstractObjective:
        return _Objective(problem, model, self)


@final
class _Objective(AbstractStackedObjective):
    def __init__(self, problem: FitProblem, model: FunctionalModel, method: MCDropout) -> None:
        super().__init__(problem, model, members=1, prior_scale=method.prior_scale)
        self._rate = method.rate
        self._patterns = method.layers
        self._uses: list[WeightUse] | None = None

    @override
    def loss(self, inputs: AnyInputs, targets: Tensor) -> Tensor:
        self._dropout_uses(inputs)
        return super().loss(inputs, targets)

    @override
    def around(self, tensors: Mapping[str, Tensor]) -> AbstractContextManager[object]:
        return Interception(self._uses or [], tensors, on_product=self._drop)

    def _drop(self, use: WeightUse, product: Product) -> Tensor:
        """Return a product with dropout on its inputs, for a convolution on whole channels."""
        inputs = product.inputs
        if use.kind == "dense":
            return product.output(functional.dropout(inputs, self._rate))
        return product.output(torch.feature_dropout(inputs, self._rate, train=True))

    def _dropout_uses(self, inputs: AnyInputs | None = None) -> list[WeightUse]:
        """Return the products with dropout on their inputs, one per weight, in the order of the parameters."""
        if self._uses is None:
            if inputs is None:
                inputs = self.model.to_device(next(checked_batches(self.problem.data))[0])
            # Reading the network runs it, and must not advance the generator of its own stochastic layers.
            devices = [inputs.device] if inputs.device.type == "cuda" else []
            with torch.random.fork_rng(devices=devices):
                reading = self.model.reading(inputs[:_TRIAL_ROWS], {**self.copies(0)[0], **self.copies(0)[1]})
            self._uses = self._chosen(reading)
        return self._uses

    def _chosen(self, reading: ModelReading) -> list[WeightUse]:
        """Return the layers that match the patterns; without patterns, all except the first that is called."""
        possible = {use.name: use for use in reversed(reading.uses) if _can_drop(use, reading)}
        uses = [possible[name] for name in self.parameters if name in possible]
        if self._patterns is not None:
            names = chosen_names([use.layer for use in uses], self._patterns, "layers")
            return [use for use in uses if use.layer in names]
        chosen = [use for use in uses if use.name != reading.uses[0].name]
        unread = {name: reason for name, reason in reading.reasons.items() if name not in possible}
        if unread:
            named = ", ".join(f"`{name}` ({reason})" for name, reason in unread.items())
            message = f"no dropout on the inputs of some weights: {named}"
            warnings.warn(message, UnreadWeightWarning, stacklevel=2)
        if not chosen:
            message = (
                "expected at least one dense or convolutional layer after the first for dropout, got "
                f"{[use.layer for use in uses]}"
            )
            raise InvalidInputError(message)
        return chosen

    @override
    def posterior(self) -> Posterior:
        mean, buffers = self.copies(0)
        targets = [(use.name, use.input_axes[0]) for use in self._dropout_uses()]
        keep = {name: mean[name].new_full((mean[name].shape[axis],), 1 - self._rate) for name, axis in targets}
        return MultiplicativeNoisePosterior(
            mean,
            [UnitNoise((target,), "bernoulli", keep[target[0]]) for target in targets],
            buffers=buffers,
            prior=self.prior,
        )


def _can_drop(use: WeightUse, reading: ModelReading) -> bool:
    """Return whether dropout on a product's inputs equals a factor along one axis of its weight."""
    same = all(
        (other.input_axes, other.input_dim) == (use.input_axes, use.input_dim)
        for other in reading.uses
        if other.name == use.name
    )
    is_layer = use.kind in {"dense", "convolution", "transposed convolution"} and use.groups == 1
    return is_layer and same and len(use.input_axes) == 1 and use.name not in reading.reasons
