"""Stage of scores: evaluates the predictive distribution of a posterior."""

from __future__ import annotations

from typing import Literal, final

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from typing_extensions import override

from rebasin_core.evaluation.evaluator import Evaluator
from rebasin_core.evaluation.likelihood import Likelihood
from rebasin_core.evaluation.scores import PredictiveScores
from rebasin_core.evaluation.task import Task
from rebasin_core.studies.kinds.base import Context, Product, Work
from rebasin_core.studies.kinds.options import NetworkOptions


@final
class ScoresWork(Work):
    """Scores a posterior on a dataset."""

    kind: Literal["scores"] = "scores"

    network: NetworkOptions
    """The network."""

    likelihood: Likelihood
    """Likelihood of the targets given the network's outputs."""

    seed: NonNegativeInt
    """Seed of the posterior samples."""

    num_samples: PositiveInt
    """Number of posterior samples."""

    batch_size: PositiveInt
    """Batch size."""

    target_scale: tuple[PositiveFloat, ...] = ()
    """Numbers by which the dimensions of the targets were divided, for scores in the original units; empty if none."""

    @override
    def compute(self, context: Context) -> Product:
        posterior = context.posterior("posterior", self.network)
        batches = context.examples("data").batches(self.batch_size)
        task = Task(context.model(self.network), batches, self.likelihood)
        evaluator = Evaluator(task, posterior, num_samples=self.num_samples, seed=self.seed)
        scores = PredictiveScores.estimate(evaluator, posterior, target_scale=self.target_scale)
        return Product({"scores": {"scores": scores.as_json(), "bins": scores.bins, "notes": list(scores.notes)}})
