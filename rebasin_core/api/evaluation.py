"""The scores of one posterior."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rebasin_core.api.conversion import PosteriorLike, as_posterior
from rebasin_core.evaluation.evaluator import Evaluator
from rebasin_core.evaluation.likelihoods import AbstractRegressionLikelihood
from rebasin_core.evaluation.scores import PredictiveScores

if TYPE_CHECKING:
    from torch import nn

    from rebasin_core.evaluation.likelihood import Likelihood
    from rebasin_core.evaluation.networks import EvaluationOptions
    from rebasin_core.evaluation.predictive import Batches


def score(  # ruff: ignore[too-many-arguments] - the problem's parts, keyword-only after the first
    posterior: PosteriorLike,
    *,
    model: nn.Module,
    data: Batches,
    likelihood: Likelihood | str = "categorical",
    num_samples: int = 64,
    seed: int = 0,
    evaluation: EvaluationOptions | None = None,
) -> PredictiveScores:
    """Return how good the predictive of a posterior is on data.

    Args:
        posterior: A posterior, or anything that `as_posterior` takes.
        model: The network.
        data: Any iterable of ``(inputs, targets)`` batches.
        likelihood: An instance, ``categorical``, ``gaussian`` or ``heteroscedastic``.
        num_samples: Networks drawn; one is enough of a point.
        seed: Seed of the noise.
        evaluation: How networks are run.

    Returns:
        Negative log likelihood with its standard errors, accuracy, Brier score, calibration error and more.

    Raises:
        InvalidInputError: If posterior, model and data do not fit each other, or a loss is not finite.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(1, 2)
        >>> data = [(torch.ones(4, 1), torch.tensor([0, 1, 0, 1]))]
        >>> sorted(score(model, model=model, data=data).values)
        ['accuracy', 'brier', 'ece', 'entropy', 'mutual_information']
    """
    distribution = as_posterior(posterior, model=model)
    evaluator = Evaluator(
        model, data, distribution, likelihood=likelihood, num_samples=num_samples, seed=seed, options=evaluation
    )
    regression = isinstance(evaluator.likelihood, AbstractRegressionLikelihood)
    return PredictiveScores.of(evaluator.predictions(distribution, keep_outputs=regression), evaluator.likelihood)
