"""Gradient matching of units by the gradients of the loss with respect to their outputs."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter
from typing import TYPE_CHECKING, ClassVar, Literal, final

from pydantic import PositiveInt
from typing_extensions import override

from rebasin_core.evaluation.likelihood import Likelihood
from rebasin_core.evaluation.likelihoods import CategoricalLikelihood
from rebasin_core.matchers.activation import matched_by_similarity
from rebasin_core.matchers.activation_statistics import CrossMoments, ResponseMetric
from rebasin_core.matchers.base import Matcher, MatchProblem

if TYPE_CHECKING:
    from rebasin_core.matchers.base import MatchResult


_BY_SAMPLES = "compares gradients of independent posterior samples; recovery needs many samples"


@final
class GradientMatcher(Matcher):
    r"""Aligns units by the gradients of the loss with respect to their outputs: maximizes the sum of correlations.

    $$ \max_P \sum_l \sum_i C^l_{i, p_l(i)}, \qquad C^l_{ij} = \mathrm{corr}\Bigl(
       \frac{\partial L_0}{\partial z^0_{l,i}}, \frac{\partial L_1}{\partial z^1_{l,j}} \Bigr) $$

    over examples, positions and posterior samples, where $L$ is the negative log-likelihood of each network's outputs.
    Units are matched if they affect the loss in the same way, even if their activations differ. Everything else is as
    in `ActivationMatcher`.

    Raises:
        ConfigError: If an option is invalid.
        InvalidInputError: On matching, without a model and data, or if no layer computes the units of a group.

    References:
        Y. Li et al. (2016), "Convergent learning", ICLR, arXiv 1511.07543; S. Ainsworth, J. Hayase, S. Srinivasa
        (2023), "Git Re-Basin", ICLR, arXiv 2209.04836, section 3.1 (both for outputs instead of gradients).

    Examples:
        >>> import torch
        >>> from rebasin_core.posteriors import PointPosterior
        >>> from rebasin_core.specs import table_spec
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2))
        >>> data = [(torch.randn(50, 2), torch.arange(50) % 2)]
        >>> rows = {"0.weight": "a, -", "0.bias": "a", "2.weight": "-, a", "2.bias": "-"}
        >>> spec = table_spec(rows, model)
        >>> planted = spec.random_permutation(generator=torch.Generator().manual_seed(1))
        >>> q = PointPosterior.from_module(model)
        >>> from rebasin_core.evaluation import Task
        >>> found = GradientMatcher().match(q, planted.apply(q), spec, task=Task(model, data))
        >>> found.permutation == planted.inverse()
        True
    """

    exempt_laws: ClassVar[Mapping[str, str]] = {"planted_permutation": _BY_SAMPLES, "device_and_dtype": _BY_SAMPLES}

    name: Literal["gradient"] = "gradient"

    metric: ResponseMetric = "correlation"
    """``correlation``, or ``covariance``, in which units with large gradients have more weight."""

    num_samples: PositiveInt = 16
    """Number of independent samples of each posterior; a single network is run once."""

    likelihood: Likelihood = CategoricalLikelihood()
    """Likelihood of the targets given the network's outputs."""

    @override
    def _match(self, problem: MatchProblem) -> MatchResult:
        start = perf_counter()
        moments = CrossMoments.of(problem, problem.model, self.num_samples, self.likelihood)
        return matched_by_similarity(problem, moments.similarities(correlation=self.metric == "correlation"), start)
