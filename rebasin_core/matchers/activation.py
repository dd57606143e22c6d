"""Activation matching of units by their activations on the same inputs."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Literal, final

import torch
from pydantic import PositiveInt
from typing_extensions import override

from rebasin_core.bilinear.coordinate_descent import CoordinateDescent
from rebasin_core.matchers.activation_statistics import CrossMoments, ResponseMetric
from rebasin_core.matchers.base import Matcher, MatchProblem
from rebasin_core.matchers.channel import run_descent
from rebasin_core.symmetry.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from rebasin_core.matchers.base import MatchResult
    from rebasin_core.symmetry.axis import Axis

_MAX_SWEEPS = 100


@final
class ActivationMatcher(Matcher):
    r"""Aligns units by their activations on data: maximizes the sum of their correlations.

    $$ \max_P \sum_l \sum_i C^l_{i, p_l(i)}, \qquad
       C^l_{ij} = \frac{\mathrm{cov}(z^0_{l,i}, z^1_{l,j})}{\sigma(z^0_{l,i})\, \sigma(z^1_{l,j})} $$

    where $z_l$ is the output of a dense or convolutional product (a layer, or ``x @ weight``) whose weight is used only
    once, and whose output units a group permutes. Moments are taken over examples, positions and posterior samples. If
    several weights compute the units of one group (a residual stream), their matrices are added. The objective has no
    terms between groups, so each group is solved exactly; nested groups (widths within heads) are solved jointly. A
    group whose units no such product computes is not permuted, and a warning names it.

    Activations are not stored: both networks run batch by batch, and second moments are accumulated.

    Raises:
        ConfigError: If an option is invalid.
        InvalidInputError: On matching, without a model and data, or if no layer computes the units of a group.

    References:
        S. Ainsworth, J. Hayase, S. Srinivasa (2023), "Git Re-Basin", ICLR, arXiv 2209.04836, section 3.1; Y. Li et al.
        (2016), "Convergent learning", ICLR, arXiv 1511.07543.

    Examples:
        >>> import torch
        >>> from rebasin_core.posteriors import PointPosterior
        >>> from rebasin_core.specs import table_spec
        >>> make = lambda: torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
        >>> model, data = make(), [(torch.randn(50, 2), torch.zeros(50))]
        >>> rows = {"0.weight": "a, -", "0.bias": "a", "2.weight": "-, a", "2.bias": "-"}
        >>> spec = table_spec(rows, model)
        >>> planted = spec.random_permutation(generator=torch.Generator().manual_seed(1))
        >>> q = PointPosterior.from_module(model)
        >>> from rebasin_core.evaluation import Task
        >>> found = ActivationMatcher().match(q, planted.apply(q), spec, task=Task(model, data))
        >>> found.permutation == planted.inverse()
        True
    """

    name: Literal["activation"] = "activation"

    metric: ResponseMetric = "correlation"
    """``correlation``, or ``covariance``, in which units with large variance have more weight."""

    num_samples: PositiveInt = 4
    """Number of independent samples of each posterior; a single network is run once."""

    @override
    def _match(self, problem: MatchProblem) -> MatchResult:
        start = perf_counter()
        moments = CrossMoments.of(problem, problem.model, self.num_samples)
        return matched_by_similarity(problem, moments.similarities(correlation=self.metric == "correlation"), start)


def matched_by_similarity(
    problem: MatchProblem, matrices: Mapping[str, tuple[tuple[Axis, ...], Tensor]], start: float
) -> MatchResult:
    """Return the permutation with the largest total similarity.

    Args:
        problem: The matching problem.
        matrices: For every layer, the axes and values of a similarity matrix ``[units, units]``.
        start: The `time.perf_counter` when the matcher started.

    Returns:
        The result; groups without a similarity matrix are not permuted.
    """
    measured = perf_counter()
    # sum_i C[i, p(i)] is a bilinear assignment problem: the inner product of the identity and the permuted C.
    layout = Layout(problem.layout.groups, {name: axes for name, (axes, _) in matrices.items()})
    reference = {n: torch.eye(len(c), dtype=c.dtype, device=c.device).unsqueeze(0) for n, (_, c) in matrices.items()}
    solver = CoordinateDescent(layout, reference, {n: c.unsqueeze(0) for n, (_, c) in matrices.items()})
    return run_descent(problem, solver, max_sweeps=_MAX_SWEEPS, start=start, seconds={"activations": measured - start})
