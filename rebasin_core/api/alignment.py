"""Alignment in one call: trace, check, match, apply."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, final, get_args

from rebasin_core.api.conversion import PosteriorLike, as_posterior
from rebasin_core.api.matching import match
from rebasin_core.api.tracing import trace_spec
from rebasin_core.errors import AlignmentWarning, InvalidInputError
from rebasin_core.evaluation.effect import Keep, effect_of
from rebasin_core.evaluation.task import require_task
from rebasin_core.specs.base import require_spec
from rebasin_core.specs.check import check_spec

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from rebasin_core.evaluation.effect import AlignmentEffect
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
            aligned candidate in the form in which it was given. The identity where that was kept.
        spec: The permutation symmetries, traced and checked if they were not given.
        found: What the matcher found, whether it was kept or not.
        effect: What the permutation that was found does to the loss at the midpoint; None if outputs and targets do not
            fit the likelihood, as where data are given for their inputs alone.
    """

    aligned: Posterior
    match: MatchResult
    spec: PermutationSpec
    found: MatchResult
    effect: AlignmentEffect | None

    @property
    def helped(self) -> bool | None:
        """Whether the permutation that was found lowers the loss at the midpoint; None if that was not measured."""
        return None if self.effect is None else self.effect.helped


def align(  # ruff: ignore[too-many-arguments] - the last five have defaults that suit nearly everybody
    reference: PosteriorLike,
    candidate: PosteriorLike,
    task: Task,
    *,
    spec: PermutationSpec | None = None,
    matcher: Matcher | str | Mapping[str, object] = "wasserstein",
    keep: Keep = "best",
    allow_untested: bool = False,
    generator: torch.Generator | None = None,
) -> AlignResult:
    """Align a candidate network or posterior with a reference, from their model and data alone.

    The permutation symmetries are derived from the model's graph, checked numerically, and used to match. The loss at
    the midpoint is measured with and without the permutation (`AlignmentEffect`): a matcher improves its own objective,
    which need not improve the loss.

    Args:
        reference: Network or posterior to align to; anything that `as_posterior` takes. It is not changed.
        candidate: Network or posterior to permute. It is not changed.
        task: The model that both are parameters of, and data. The first batch is the example input of the trace.
        spec: Permutation symmetries, if they are known; they are checked too.
        matcher: A registered name, a mapping with ``name`` and options, or a `Matcher` instance.
        keep: ``best`` returns the candidate as it is, with an `AlignmentWarning`, where the permutation raises the loss
            at the midpoint and both networks are better on the data than any constant prediction. ``aligned`` returns
            the permutation that was found, with the warning.
        allow_untested: Accept symmetries of tensors that cannot be shown to matter to the model's outputs, so that a
            wrong axis of them would not be noticed.
        generator: Random number generator; seeded with 0 if None.

    Returns:
        The aligned candidate, the permutation, the specification, and what the alignment did to the loss.

    Raises:
        SpecError: If the model cannot be traced, the symmetries do not leave its outputs unchanged, or that cannot be
            shown for every tensor that they move.
        InvalidInputError: If there are no data, or the networks do not fit each other or the model.

    Examples:
        >>> import torch
        >>> from rebasin_core import Task, align
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> inputs = torch.randn(16, 4)
        >>> task = Task(model, [(inputs, model(inputs).argmax(1))])
        >>> shuffled = torch.randperm(8)
        >>> candidate = {n: t.clone() for n, t in model.state_dict().items()}
        >>> candidate["0.weight"] = candidate["0.weight"][shuffled]
        >>> candidate["0.bias"] = candidate["0.bias"][shuffled]
        >>> candidate["2.weight"] = candidate["2.weight"][:, shuffled]
        >>> result = align(model, candidate, task)
        >>> bool(torch.equal(result.aligned.mean["0.weight"], model[0].weight)), result.helped
        (True, True)
    """
    require_task(task)
    held = task.held()
    first = next(iter(held.fitting_data), None)
    if first is None:
        message = "expected data with at least one batch, got none"
        raise InvalidInputError(message)
    inputs = first[0]
    if spec is not None:
        require_spec(spec)
    found = trace_spec(task.model, inputs) if spec is None else spec
    check_spec(found, task.model, inputs).require(allow_untested=allow_untested)
    posterior = as_posterior(candidate, model=task.model)
    anchor = as_posterior(reference, model=task.model)
    result = match(anchor, posterior, found, matcher, task=held, generator=generator)
    kept, effect = judged(result, anchor, posterior, held, keep)
    return AlignResult(kept.apply(posterior), kept, found, result, effect)


def judged(
    result: MatchResult, reference: Posterior, candidate: Posterior, task: Task, keep: Keep
) -> tuple[MatchResult, AlignmentEffect | None]:
    """Return the alignment to keep, and what the one that was found does to the loss at the midpoint.

    Args:
        result: What a matcher found.
        reference: The posterior that stays.
        candidate: The posterior as it is.
        task: The model, and data that can be read again and again.
        keep: As for `align`.

    Returns:
        The result, or the identity in its place; and the effect, None where the data cannot tell.

    Raises:
        InvalidInputError: If ``keep`` is neither.
    """
    if keep not in get_args(Keep):
        message = f"expected `keep` among {get_args(Keep)}, got {keep!r}"
        raise InvalidInputError(message)
    effect = effect_of(result.permutation, reference, candidate, task)
    if effect is None or not effect.harmed:
        return result, effect
    is_identity_kept = keep == "best" and effect.is_meaningful
    what = (
        "the candidate is kept as it is; `keep='aligned'` returns the alignment"
        if is_identity_kept
        else "the alignment is returned; no alignment would leave a lower loss"
    )
    message = f"the alignment raised the loss at the midpoint: {effect}. {what[0].upper()}{what[1:]}"
    warnings.warn(message, AlignmentWarning, stacklevel=3)
    return (result.at_identity(result.permutation.layout) if is_identity_kept else result), effect
