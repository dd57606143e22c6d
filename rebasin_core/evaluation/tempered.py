"""A likelihood with a softmax temperature."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, final

from pydantic import PositiveFloat
from typing_extensions import override

from rebasin_core.evaluation.likelihood import Likelihood, TargetKind

if TYPE_CHECKING:
    from torch import Tensor

    from rebasin_core.evaluation.elements import Elements


@final
class TemperedLikelihood(Likelihood):
    """A likelihood of class indices whose logits are divided by a temperature. It is not registered.

    Raises:
        ConfigError: If an option is invalid.
    """

    targets: ClassVar[TargetKind] = "classes"

    name: Literal["tempered"] = "tempered"

    likelihood: Likelihood
    """Likelihood of the logits divided by the temperature."""

    temperature: PositiveFloat
    """The temperature, positive."""

    @override
    def num_outputs(self, size: int) -> int:
        return self.likelihood.num_outputs(size)

    @override
    def is_dense(self, targets: Tensor) -> bool:
        return self.likelihood.is_dense(targets)

    @override
    def elements(self, outputs: Tensor, targets: Tensor) -> Elements:
        return self.likelihood.elements(outputs, targets)

    @override
    def check(self, outputs: Tensor, targets: Tensor) -> None:
        self.likelihood.check(outputs, targets)

    @override
    def log_prob(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.likelihood.log_prob(outputs / self.temperature, targets)

    @override
    def prediction(self, outputs: Tensor) -> Tensor:
        return self.likelihood.prediction(outputs / self.temperature)

    @override
    def score(self, prediction: Tensor, targets: Tensor) -> Tensor:
        return self.likelihood.score(prediction, targets)

    @override
    def entropy(self, outputs: Tensor) -> Tensor:
        return self.likelihood.entropy(outputs / self.temperature)

    @override
    def assess(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.likelihood.assess(outputs / self.temperature, targets)

    @override
    def constant(self, outputs: Tensor, targets: Tensor) -> Tensor | None:
        found = self.likelihood.constant(outputs, targets)
        return None if found is None else found * self.temperature

    @property
    @override
    def score_name(self) -> str:
        return self.likelihood.score_name
