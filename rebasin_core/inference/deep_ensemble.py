"""Deep ensembles: networks trained from different first values."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from typing_extensions import override

from rebasin_core.errors import InvalidInputError
from rebasin_core.inference.gradient import AbstractGradientInference, AbstractObjective
from rebasin_core.inference.prior import PriorScale, check_scale
from rebasin_core.inference.stacked import AbstractStackedObjective, require_entrywise
from rebasin_core.posteriors.samples import SamplesPosterior
from rebasin_core.tensors.modules import copied

if TYPE_CHECKING:
    from rebasin_core.evaluation.functional import FunctionalModel
    from rebasin_core.inference.base import FitProblem
    from rebasin_core.inference.optimizer import OptimizerSpec, ScheduleSpec
    from rebasin_core.posteriors.base import Posterior


@final
class DeepEnsemble(AbstractGradientInference):
    r"""Trains M networks to a maximum of the posterior density each, and takes them as equally weighted samples.

    The first starts where the model stands, the others afresh (``reset_parameters``). All are trained side by side, on
    the same batches; small ones at once, as one network with stacked parameters.

    Args:
        members: The number M, at least 2.
        epochs: Passes over the data, at least 1.
        optimizer: An optimiser of torch that treats every entry on its own; Adam with rate 1e-3 if not given.
        schedule: Any learning-rate schedule of torch, or None.
        prior_scale: $\sigma$ of the prior, for all parameters or by pattern of their names; infinity for a flat one.
        patience: Epochs without a better validation loss after which training ends; None trains all epochs.
        together: Whether to run the networks at once where that is possible; the result is the same to rounding.

    Raises:
        InvalidInputError: If an option is out of range.

    References:
        B. Lakshminarayanan, A. Pritzel, C. Blundell (2017), "Simple and scalable predictive uncertainty estimation
        using deep ensembles", NeurIPS, arXiv 1612.01474.

    Example:
        >>> import torch
        >>> data = [(torch.ones(8, 1), torch.zeros(8, dtype=torch.int64))]
        >>> DeepEnsemble(members=3, epochs=2).fit(torch.nn.Linear(1, 2), data).posterior.num_samples
        3
    """

    def __init__(  # ruff: ignore[too-many-arguments] - options of one method, keyword-only
        self,
        *,
        members: int = 5,
        epochs: int = 20,
        optimizer: OptimizerSpec | None = None,
        schedule: ScheduleSpec | None = None,
        prior_scale: PriorScale = 1.0,
        patience: int | None = None,
        together: bool = True,
    ) -> None:
        super().__init__(epochs=epochs, optimizer=optimizer, schedule=schedule, patience=patience)
        if members < 2:  # ruff: ignore[magic-value-comparison] - one network is no ensemble
            message = f"expected `members` of at least 2, got {members!r}; for one network use `map`"
            raise InvalidInputError(message)
        check_scale(prior_scale)
        require_entrywise(self._optimizer.name, members)
        self._members, self._prior_scale, self._together = members, prior_scale, together

    @override
    def _options(self) -> tuple[object, ...]:
        return self._members, self._prior_scale

    @override
    def _objective(self, problem: FitProblem, model: FunctionalModel) -> AbstractObjective:
        return _Objective(problem, model, members=self._members, prior_scale=self._prior_scale, together=self._together)


@final
class _Objective(AbstractStackedObjective):
    @override
    def posterior(self) -> Posterior:
        return SamplesPosterior(copied(self.parameters), sample_buffers=copied(self.buffers), prior=self.prior)
