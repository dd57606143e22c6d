"""Activation matching of units by their activations on the same inputs."""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Literal, final

import torch
from pydantic import PositiveInt
from typing_extensions import override

from rebasin_core.bilinear.coordinate_descent import CoordinateDescent
from rebasin_core.bilinear.maps.gauge import balanced, centered
from rebasin_core.matchers.activation_statistics import CrossMoments, ResponseMetric
from rebasin_core.matchers.base import Matcher, MatchProblem
from rebasin_core.matchers.channel import mean_channels, run_descent
from rebasin_core.matchers.compared_units import ComparedUnits
from rebasin_core.matchers.map_search import MapSearch, SymmetryOption, admitted_symmetry, kinds_of
from rebasin_core.symmetry.layout import Layout
from rebasin_core.symmetry.symmetry_element import recentered

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from rebasin_core.matchers.base import MatchResult
    from rebasin_core.symmetry.axis import Axis
    from rebasin_core.symmetry.kind import Kind
    from rebasin_core.symmetry.linear import Symmetry

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

    With the option ``symmetry``, both networks are first transformed to the gauge of minimal norm (see
    `rebasin_core.bilinear.maps.gauge`), and the sum is maximized over permutations, signs and orthogonal maps as well.
    A correlation changes if units are mixed; for groups that admit such maps covariances are compared instead, divided
    by the mean standard deviation of the units of each network. In the activations of a residual stream and of pairs
    of layers, orthogonal maps are the solutions of Procrustes problems.

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

    symmetry: SymmetryOption = "permutation"
    """The group: ``permutation``; ``full`` for all maps that the specification admits and under which both posteriors
    are closed; or a tuple of kinds (see `rebasin_core.symmetry.Kind`), in addition to permutations."""

    @property
    @override
    def kinds(self) -> frozenset[Kind]:
        return kinds_of(self.symmetry)

    @override
    def _match(self, problem: MatchProblem) -> MatchResult:
        start = perf_counter()
        if self.symmetry != "permutation":
            symmetry = admitted_symmetry(problem, self.symmetry, problem.reference, problem.candidate)
            if symmetry.linear:
                return self._match_maps(problem, symmetry, start)
        moments = CrossMoments.of(problem, problem.model, self.num_samples)
        return matched_by_similarity(problem, moments.similarities(correlation=self.metric == "correlation"), start)

    def _match_maps(self, problem: MatchProblem, symmetry: Symmetry, start: float) -> MatchResult:
        gauge = symmetry.centered
        _, of_reference = balanced(gauge, centered(symmetry, mean_channels(problem.reference)))
        _, of_candidate = balanced(gauge, centered(symmetry, mean_channels(problem.candidate)))
        gauged = replace(
            problem,
            reference=problem.reference.transform(recentered(of_reference, symmetry)),
            candidate=problem.candidate.transform(recentered(of_candidate, symmetry)),
            layout=symmetry.layout,
        )
        compared = ComparedUnits.of(gauge, CrossMoments.of(gauged, problem.model, self.num_samples), self.metric)
        permutations = replace(problem, layout=compared.symmetry.permutations, initial=None)
        permuted = matched_by_similarity(permutations, compared.matrices, start)
        search = MapSearch(problem, compared.symmetry)
        best = search.improved(*compared.channels(), permuted)
        found = compared.extended(best.group_element)
        element = recentered(of_candidate.compose(found).compose(of_reference.inverse()), symmetry)
        seconds = {**permuted.seconds, "total": perf_counter() - start}
        return replace(best, permutation=element.permutation, element=element, seconds=seconds)


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
