"""Alignment in one call: trace, check, match and permute."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, final, get_args

from rebasin_core.analysis.folding.pair import FoldedPair
from rebasin_core.api.conversion import PosteriorLike, as_posterior
from rebasin_core.api.matching import as_matcher, match
from rebasin_core.api.tracing import trace_spec
from rebasin_core.errors import AlignmentWarning, InvalidInputError, SpecError
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
    from rebasin_core.matchers.map_search import SymmetryOption
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.specs.base import PermutationSpec


@final
@dataclass(frozen=True, slots=True)
class AlignResult:
    """Aligned candidate, with the specification and the permutation.

    Attributes:
        aligned: The aligned candidate; it computes the same function as the candidate.
        match: The permutation that was applied, its objective, and why the matcher stopped; the identity if the
            alignment was rejected (`keep`). ``match.apply(candidate)`` returns the type of ``candidate``. If the
            networks were folded, it applies to the folded candidate.
        spec: The permutation symmetries, traced if they were not given, and checked.
        found: The matcher's result, even if it was rejected.
        effect: Loss at the midpoint before and after the matcher's alignment; None if it could not be evaluated, for
            example because the targets do not fit the likelihood.
        folded: The networks that were matched, if they were folded first; None otherwise.
    """

    aligned: Posterior
    match: MatchResult
    spec: PermutationSpec
    found: MatchResult
    effect: AlignmentEffect | None
    folded: FoldedPair | None = None

    @property
    def helped(self) -> bool | None:
        """Whether the matcher's alignment lowers the loss at the midpoint; None if it could not be evaluated."""
        return None if self.effect is None else self.effect.helped


def align(  # ruff: ignore[too-many-arguments] - all but three have defaults
    reference: PosteriorLike,
    candidate: PosteriorLike,
    task: Task,
    *,
    spec: PermutationSpec | None = None,
    matcher: Matcher | str | Mapping[str, object] = "wasserstein",
    symmetry: SymmetryOption | None = None,
    keep: Keep = "best",
    allow_untested: bool = False,
    generator: torch.Generator | None = None,
) -> AlignResult:
    """Align a candidate network or posterior with a reference: trace, check, match and permute in one call.

    The permutation symmetries are derived from the model's graph, checked numerically, and used to match. A matcher
    optimizes its own objective, which need not lower the loss. Therefore the loss at the midpoint is evaluated before
    and after alignment (`AlignmentEffect`).

    If the matcher also searches over rotations, which need scales of one in the normalizations, both networks are
    folded first (see `fold`), and the aligned candidate is returned in the coordinates of the reference: with its
    scales. If a scale cannot be folded, the alignment is without these rotations, with an `AlignmentWarning` that
    contains the reason.

    Args:
        reference: Network or posterior to align to; anything that `as_posterior` accepts. It is not changed.
        candidate: Network or posterior to permute, with the same parameters as the reference. It is not changed.
        task: Model and data. The first batch is the example input of the trace.
        spec: Permutation symmetries; traced if None. They are checked in either case.
        matcher: A registered name, a mapping with ``name`` and options, or a `Matcher` instance.
        symmetry: The symmetries to align modulo, for matchers with the option ``symmetry``: ``permutation``, ``full``,
            or a tuple of kinds. The matcher's own option if None.
        keep: ``best`` returns the unpermuted candidate, with an `AlignmentWarning`, if the alignment raises the loss at
            the midpoint and both networks have a lower loss than the best constant prediction. ``aligned`` always
            returns the alignment, with the same warning if it raises the loss.
        allow_untested: Accept symmetries of tensors that do not measurably influence the model's outputs. The check
            cannot detect a wrong axis of such a tensor.
        generator: Random number generator; seeded with 0 if None.

    Returns:
        The aligned candidate, the permutation, the specification, and the loss at the midpoint before and after.

    Raises:
        SpecError: If the model cannot be traced, the symmetries change its outputs, or a permuted tensor could not be
            tested and ``allow_untested`` is false.
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
    symmetries = trace_spec(task.model, inputs) if spec is None else spec
    check_spec(symmetries, task.model, inputs).require(allow_untested=allow_untested)
    posterior = as_posterior(candidate, model=task.model)
    target = as_posterior(reference, model=task.model)
    strategy = as_matcher(matcher, symmetry)
    pair = _folded(symmetries, target, posterior, strategy)
    folded = (target, posterior) if pair is None else (pair.reference.posterior, pair.candidate.posterior)
    result = match(*folded, symmetries, strategy, task=held, generator=generator)
    aligned = None if pair is None else pair.restored(result.apply(folded[1]))
    kept, effect = select_alignment(result, target, posterior, held, keep, aligned=aligned)
    if aligned is None or kept is not result:  # the candidate, permuted or unchanged
        return AlignResult(kept.apply(posterior), kept, symmetries, result, effect)
    return AlignResult(aligned, kept, symmetries, result, effect, pair)


def _folded(spec: PermutationSpec, reference: Posterior, candidate: Posterior, matcher: Matcher) -> FoldedPair | None:
    """Return folded networks if the matcher can use them; warn if they cannot be folded."""
    try:
        return FoldedPair.of(spec, reference, candidate, matcher.kinds)
    except (SpecError, InvalidInputError) as error:
        message = f"the alignment is without rotations that need scales of one: {error}"
        warnings.warn(message, AlignmentWarning, stacklevel=3)
        return None


def select_alignment(
    result: MatchResult,
    reference: Posterior,
    candidate: Posterior,
    task: Task,
    keep: Keep,
    *,
    aligned: Posterior | None = None,
) -> tuple[MatchResult, AlignmentEffect | None]:
    """Return the alignment that `keep` selects, and the loss at the midpoint before and after the matcher's alignment.

    Args:
        result: The matcher's result.
        reference: The posterior to align to.
        candidate: The unpermuted candidate.
        task: The model, and data that can be iterated more than once.
        keep: As for `align`.
        aligned: The aligned candidate; that of the result if None.

    Returns:
        The result, or the identity instead; and the effect, None if it could not be evaluated.

    Raises:
        InvalidInputError: If ``keep`` is not ``best`` or ``aligned``.
    """
    if keep not in get_args(Keep):
        message = f"expected `keep` among {get_args(Keep)}, got {keep!r}"
        raise InvalidInputError(message)
    alignment = result.group_element if aligned is None else aligned
    effect = effect_of(alignment, reference, candidate, task)
    if effect is None or not effect.harmed:
        return result, effect
    is_identity_kept = keep == "best" and effect.is_meaningful
    returned = (
        "Returned the unpermuted candidate; use `keep='aligned'` to return the alignment"
        if is_identity_kept
        else "Returned the alignment; the unpermuted candidate has a lower loss at the midpoint"
    )
    message = f"the alignment raised the loss at the midpoint: {effect}. {returned}"
    warnings.warn(message, AlignmentWarning, stacklevel=3)
    return (result.at_identity(result.permutation.layout) if is_identity_kept else result), effect
