"""Alignment in one call: trace, check, match, apply."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from rebasin_core.api.conversion import PosteriorLike, as_posterior
from rebasin_core.api.matching import match
from rebasin_core.api.tracing import trace_spec
from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.task import require_task
from rebasin_core.specs.check import check_spec

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from rebasin_core.evaluation.task import Task
    from rebasin_core.matchers.base import Matcher, MatchResult
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.specs.base import PermutationSpec


@final
@dataclass(frozen=True, slots=True)
class AlignResult:
    """An aligned candidate, with the specification and the permutation.

    Attributes:
        aligned: The permuted candidate; it computes the candidate's function.
        match: The permutation, its objective, and why the matcher stopped. ``match.apply(candidate)`` returns the
            aligned candidate in the form in which it was given.
        spec: The permutation symmetries, traced and checked if they were not given.
    """

    aligned: Posterior
    match: MatchResult
    spec: PermutationSpec


def align(  # ruff: ignore[too-many-arguments] - the last four have defaults that suit nearly everybody
    reference: PosteriorLike,
    candidate: PosteriorLike,
    task: Task,
    *,
    spec: PermutationSpec | None = None,
    matcher: Matcher | str | Mapping[str, object] = "wasserstein",
    allow_untested: bool = False,
    generator: torch.Generator | None = None,
) -> AlignResult:
    """Align a candidate network or posterior with a reference, from their model and data alone.

    The permutation symmetries are derived from the model's graph, checked numerically, and used to match.

    Args:
        reference: Network or posterior to align to; anything that `as_posterior` takes. It is not changed.
        candidate: Network or posterior to permute. It is not changed.
        task: The model that both are parameters of, and data. The first batch is the example input of the trace.
        spec: Permutation symmetries, if they are known; they are checked too.
        matcher: A registered name, a mapping with ``name`` and options, or a `Matcher` instance.
        allow_untested: Accept symmetries of tensors that cannot be shown to matter to the model's outputs, so that a
            wrong axis of them would not be noticed.
        generator: Random number generator; seeded with 0 if None.

    Returns:
        The aligned candidate, the permutation and the specification.

    Raises:
        SpecError: If the model cannot be traced, the symmetries do not leave its outputs unchanged, or that cannot be
            shown for every tensor that they move.
        InvalidInputError: If there are no data, or the networks do not fit each other or the model.

    Examples:
        >>> import torch
        >>> from rebasin_core import Task, align
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> shuffled = torch.randperm(8)
        >>> candidate = {n: t.clone() for n, t in model.state_dict().items()}
        >>> candidate["0.weight"] = candidate["0.weight"][shuffled]
        >>> candidate["0.bias"] = candidate["0.bias"][shuffled]
        >>> candidate["2.weight"] = candidate["2.weight"][:, shuffled]
        >>> result = align(model, candidate, Task(model, [(torch.randn(16, 4), torch.zeros(16).long())]))
        >>> bool(torch.equal(result.aligned.mean["0.weight"], model[0].weight))
        True
    """
    require_task(task)
    held = task.held()
    first = next(iter(held.fitting_data), None)
    if first is None:
        message = "expected data with at least one batch, got none"
        raise InvalidInputError(message)
    inputs = first[0]
    found = trace_spec(task.model, inputs) if spec is None else spec
    check_spec(found, task.model, inputs).require(allow_untested=allow_untested)
    posterior = as_posterior(candidate, model=task.model)
    result = match(reference, posterior, found, matcher, task=held, generator=generator)
    return AlignResult(result.apply(posterior), result, found)
