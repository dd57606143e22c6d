"""Stage of a loss curve: estimates the loss between two posteriors, and the barrier."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Literal, final

import torch
from pydantic import NonNegativeInt, PositiveInt
from typing_extensions import override

from rebasin_core.barriers.base import BarrierEstimator
from rebasin_core.barriers.curve import LossCurve
from rebasin_core.barriers.curve_json import KIND, VERSION
from rebasin_core.errors import MeasurementWarning
from rebasin_core.evaluation.likelihood import Likelihood
from rebasin_core.evaluation.task import Task
from rebasin_core.studies.kinds.base import Context, Product, Work
from rebasin_core.studies.kinds.names import PERMUTATION
from rebasin_core.studies.kinds.network import spec_in
from rebasin_core.studies.kinds.options import NetworkOptions
from rebasin_core.symmetry.symmetry_element import load_element

if TYPE_CHECKING:
    from rebasin_core.posteriors.base import Posterior


@final
class CurveWork(Work):
    """Estimates the loss curve between a reference and a candidate, permuted if a match is read."""

    kind: Literal["curve"] = "curve"

    network: NetworkOptions
    """The network."""

    likelihood: Likelihood
    """Likelihood of the targets given the network's outputs."""

    barrier: BarrierEstimator
    """The barrier estimator."""

    seed: NonNegativeInt
    """Seed of the posterior samples."""

    batch_size: PositiveInt
    """Batch size."""

    @override
    def compute(self, context: Context) -> Product:
        model = context.model(self.network)
        calibration = None
        if context.reads("calibration"):
            calibration = context.examples("calibration").batches(self.batch_size)
        task = Task(model, context.examples("data").batches(self.batch_size), self.likelihood, calibration)
        with warnings.catch_warnings():
            # Notes on reliability are stored with the curve.
            warnings.simplefilter("ignore", MeasurementWarning)
            curve = self.barrier.estimate(
                context.posterior("reference", self.network),
                self._candidate(context),
                task,
                generator=torch.Generator().manual_seed(self.seed),
                progress=context.progress,
            )
        return Product({"curve": {"kind": KIND, "version": VERSION, **curve.as_json()}})

    def _candidate(self, context: Context) -> Posterior:
        candidate = context.posterior("candidate", self.network)
        if not context.reads("match"):
            return candidate
        layout = spec_in(context.artifact("network")).layout
        return load_element(context.file("match", PERMUTATION), layout).apply(candidate)


def curve_in(documents: Any) -> LossCurve:  # ruff: ignore[any-type] - JSON
    """Return the curve among the documents of a stage.

    Args:
        documents: Documents by name.

    Returns:
        The curve.

    Raises:
        FileFormatError: If it has another format.
    """
    return LossCurve.from_json(documents["curve"])
