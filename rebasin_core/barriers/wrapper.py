"""Estimators that wrap another estimator."""

from __future__ import annotations

from typing import Self, final

from typing_extensions import override

from rebasin_core.barriers.base import BarrierEstimator
from rebasin_core.barriers.marginalized import MarginalizedBarrier


class AbstractWrapperBarrier(BarrierEstimator):
    """Estimator that changes the problem or the result of another estimator."""

    estimator: BarrierEstimator = MarginalizedBarrier()
    """Estimator that evaluates the path."""

    @final
    @override
    def with_options(self, **options: object) -> Self:
        own = {name: value for name, value in options.items() if name in type(self).model_fields}
        inner = {name: value for name, value in options.items() if name not in own}
        changed = super().with_options(**own)
        return BarrierEstimator.with_options(changed, estimator=changed.estimator.with_options(**inner))
