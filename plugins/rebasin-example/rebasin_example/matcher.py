"""A simple matcher."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Literal, final

import torch
from typing_extensions import override

from rebasin_core import Matcher, MatchOutcome, MatchResult, Permutation, RebasinError
from rebasin_core.symmetry import cells

if TYPE_CHECKING:
    from torch import Tensor

    from rebasin_core import Layout, MatchProblem, Posterior


class NestedGroupError(RebasinError, ValueError):
    """The specification has nested groups, which the matcher does not support."""


@final
class RankMatcher(Matcher):
    r"""Matches units by the rank of their norm.

    The norm of a unit includes its incoming and outgoing weights, in mean and standard deviation. It is invariant under
    permutations of other groups. Therefore, sorting the units of both networks by their norms recovers the permutation
    of a permuted copy exactly, in one pass. For independently trained networks, the method is weak. If the inner
    product of the means is smaller than at the identity, the identity is returned.

    Examples:
        >>> import torch
        >>> from rebasin_core import table_spec
        >>> from rebasin_core.posteriors import PointPosterior
        >>> a, b = {"w": torch.tensor([1.0, 2.0, 3.0])}, {"w": torch.tensor([3.0, 1.0, 2.0])}
        >>> result = RankMatcher().match(PointPosterior(a), PointPosterior(b), table_spec({"w": "hidden"}, a))
        >>> result.apply(b)["w"].tolist()
        [1.0, 2.0, 3.0]
    """

    name: Literal["rank"] = "rank"

    @override
    def _match(self, problem: MatchProblem) -> MatchResult:
        start = perf_counter()
        layout = problem.layout
        reference = problem.reference
        candidate = problem.candidate
        nested = [name for name, group in layout.groups.items() if group.within is not None]
        if nested:
            message = f"expected no nested groups for the matcher `rank`, got {nested}; use `weight`"
            raise NestedGroupError(message)
        indices: dict[str, Tensor] = {}
        for name in layout.groups:
            ranks = _norms(layout, reference, name).argsort().argsort()
            indices[name] = _norms(layout, candidate, name).argsort()[ranks]
        found = Permutation(layout, indices)
        identity = Permutation.identity(layout)
        value = _inner_product(reference, found.apply(candidate))
        base = _inner_product(reference, identity.apply(candidate))
        return MatchResult(
            permutation=found if value >= base else identity,
            objective=max(value, base),
            identity_objective=base,
            outcome=MatchOutcome.CONVERGED,
            trace=(base, max(value, base)),
            seconds={"total": perf_counter() - start},
        )


def _norms(layout: Layout, posterior: Posterior, group: str) -> Tensor:
    """Return the squared norm of the entries that belong to each unit of a group."""
    total = torch.zeros(layout.groups[group].size, dtype=torch.float64, device=posterior.device)
    mean, stddev = layout.stacked(posterior.mean), layout.stacked(posterior.stddev)
    for name in layout.tensors_of(group):
        if name not in mean:
            continue
        for tensor in (mean[name], stddev[name]):
            total += _unit_sums(layout, name, tensor.double().square(), group)
    return total


def _unit_sums(layout: Layout, name: str, squares: Tensor, group: str) -> Tensor:
    """Return the sums over all dimensions except the units of a group."""
    size = layout.groups[group].size
    sums = torch.zeros(size, dtype=squares.dtype, device=squares.device)
    for cell, atoms in cells(squares, layout.axes[name]):
        for dim, atom in enumerate(atoms):
            if atom.group == group:
                sums += cell.movedim(dim, 0).flatten(1).sum(1) if cell.dim() > 1 else cell
    return sums


def _inner_product(reference: Posterior, candidate: Posterior) -> float:
    other = candidate.mean
    return sum((mean.double() * other[name].double()).sum().item() for name, mean in reference.mean.items())
