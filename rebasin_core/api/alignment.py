"""Alignment in one call: trace, check, match and permute."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, final, get_args

from typing_extensions import override

from rebasin_core.analysis.folding.pair import FoldedPair
from rebasin_core.api.conversion import PosteriorLike, as_posterior
from rebasin_core.api.evaluation import barrier
from rebasin_core.api.heads import BodyMatch, head_names
from rebasin_core.api.matching import as_matcher, match
from rebasin_core.api.tasks import as_task
from rebasin_core.api.tracing import trace_spec
from rebasin_core.barriers.plots import plot_curves
from rebasin_core.errors import AlignmentWarning, InvalidInputError, SpecError
from rebasin_core.evaluation.effect import Keep, effect_of
from rebasin_core.evaluation.normalization import BatchStatistics
from rebasin_core.specs.base import require_spec
from rebasin_core.specs.check import check_spec
from rebasin_core.specs.files import save_spec

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    import torch
    from matplotlib.axes import Axes
    from torch import nn

    from rebasin_core.barriers.curve import LossCurve
    from rebasin_core.evaluation.batches import Batches
    from rebasin_core.evaluation.effect import AlignmentEffect
    from rebasin_core.evaluation.losses import LikelihoodLike
    from rebasin_core.evaluation.task import Task
    from rebasin_core.matchers.base import Matcher, MatchResult
    from rebasin_core.matchers.map_search import SymmetryOption
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.specs.base import PermutationSpec
    from rebasin_core.tensors.inputs import AnyInputs
    from rebasin_core.tensors.outputs import OutputChoice


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
        heads: Names of the tensors with other shapes in the candidate, such as a classifier for other classes. They
            were not compared; the candidate keeps them, permuted along their hidden axes.
        curves: Loss curves of the ``unaligned`` and of the ``aligned`` pair, if `align` was called with ``num_points``;
            empty otherwise.
    """

    aligned: Posterior
    match: MatchResult
    spec: PermutationSpec
    found: MatchResult
    effect: AlignmentEffect | None
    folded: FoldedPair | None = None
    heads: tuple[str, ...] = ()
    curves: Mapping[str, LossCurve] = field(default_factory=dict)

    @property
    def helped(self) -> bool | None:
        """Whether the matcher's alignment lowers the loss at the midpoint; None if it could not be evaluated."""
        return None if self.effect is None else self.effect.helped

    @override
    def __str__(self) -> str:
        """Return the number of permuted units, the loss at the midpoint before and after, and the barriers."""
        permutation = self.match.permutation
        units = sum(index.numel() for index in permutation.indices.values())
        permuted = sum(permutation.moved.values())
        count = len(permutation.indices)
        lines = [f"{permuted} of {units} units permuted in {count} group{'' if count == 1 else 's'}"]
        if self.heads:
            lines.append(f"heads of the candidate that were not compared: {', '.join(self.heads)}")
        if self.effect is not None:
            lines.append(str(self.effect))
        if self.match is not self.found and not self.heads:
            lines.append("the alignment raised the loss and was rejected: the candidate is unchanged")
        lines += [f"{label}: {str(curve).splitlines()[0]}" for label, curve in self.curves.items()]
        return "\n".join(lines)

    def to_frame(self) -> pd.DataFrame:
        """Return a pandas data frame with a row for each group: its name, its units, and the number permuted.

        The units of a nested group are those of all blocks.

        Raises:
            PluginError: If pandas is not installed.
        """
        return self.match.to_frame()

    def save(self, folder: Path | str) -> None:
        """Write the aligned candidate, the permutation, the specification and the loss curves to a folder.

        The files are ``aligned.safetensors``, ``permutation.safetensors``, ``specification.json``, and
        ``unaligned.json`` and ``aligned.json`` with the curves. Each is written atomically.

        Args:
            folder: Path of the folder, which is created if it does not exist.

        Raises:
            StorageError: If a file cannot be written.
        """
        target = Path(folder)
        self.aligned.save(target / "aligned.safetensors")
        self.match.group_element.save(target / "permutation.safetensors")
        save_spec(self.spec, target / "specification.json")
        for label, curve in self.curves.items():
            curve.save(target / f"{label}.json")

    def plot(self, axes: Axes | None = None, *, excess: bool = False) -> Axes:
        """Plot the loss along the path from the reference to the candidate, before and after alignment.

        Args:
            axes: Matplotlib axes; those of a new figure if None.
            excess: Whether to plot the excess over the linear interpolation of the endpoint losses, not the loss.

        Returns:
            The axes.

        Raises:
            InvalidInputError: If there are no curves.
            PluginError: If matplotlib is not installed.
        """
        if not self.curves:
            message = "expected an alignment with loss curves; call `align` with `num_points`, such as `num_points=11`"
            raise InvalidInputError(message)
        return plot_curves(self.curves, axes, excess=excess)


def align(  # ruff: ignore[too-many-arguments] - all but three have defaults
    reference: PosteriorLike,
    candidate: PosteriorLike,
    task: Task | Batches,
    *,
    likelihood: LikelihoodLike | None = None,
    output: OutputChoice | None = None,
    spec: PermutationSpec | None = None,
    matcher: Matcher | str | Mapping[str, object] = "wasserstein",
    symmetry: SymmetryOption | None = None,
    keep: Keep = "best",
    num_points: int | None = None,
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

    The networks may have different heads, such as classifiers for different classes: tensors whose shapes differ along
    axes that are not permuted. They are not compared, and the aligned candidate keeps its own (`AlignResult.heads`).
    The losses at the midpoint are not defined then.

    Args:
        reference: Network or posterior to align to; anything that `as_posterior` accepts. It is not changed.
        candidate: Network or posterior to permute, with the same parameters as the reference. It is not changed.
        task: Model and data; or batches in any form that `Task` accepts, for the reference or the candidate given as a
            module. The first batch is the example input of the trace.
        likelihood: With batches, the likelihood or loss of their targets, as for `Task`; ``categorical`` if None.
        output: With batches, the output of the model that the likelihood uses, as for `Task`.
        spec: Permutation symmetries; traced if None. They are checked in either case.
        matcher: A registered name, a mapping with ``name`` and options, or a `Matcher` instance.
        symmetry: The symmetries to align modulo, for matchers with the option ``symmetry``: ``permutation``, ``full``,
            or a tuple of kinds. The matcher's own option if None.
        keep: ``best`` returns the unpermuted candidate, with an `AlignmentWarning`, if the alignment raises the loss at
            the midpoint and both networks have a lower loss than the best constant prediction. ``aligned`` always
            returns the alignment, with the same warning if it raises the loss.
        num_points: Number of points on the path at which losses are evaluated before and after alignment, endpoints
            included; odd. Batch-normalization statistics are recomputed at each. No loss curves if None.
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
    held = as_task(task, (reference, candidate), likelihood=likelihood, output=output).held()
    inputs = _first_inputs(held)
    symmetries = _checked_spec(spec, held.model, inputs, allow_untested=allow_untested)
    posterior = as_posterior(candidate, model=held.model)
    target = as_posterior(reference, model=held.model)
    strategy = as_matcher(matcher, symmetry)
    heads = head_names(symmetries, target, posterior)
    if heads:
        bodies = BodyMatch(target, posterior, candidate, symmetries, heads)
        result = bodies.solve(strategy, held, inputs, generator)
        return AlignResult(result.apply(posterior), result, symmetries, result, None, heads=heads)
    found = _aligned(symmetries, target, posterior, strategy, held, keep, generator)
    if num_points is None:
        return found
    return replace(found, curves=_curves(target, {"unaligned": posterior, "aligned": found.aligned}, held, num_points))


def _first_inputs(task: Task) -> AnyInputs:
    first = next(iter(task.fitting_data), None)
    if first is None:
        message = "expected data with at least one batch, got none"
        raise InvalidInputError(message)
    inputs: AnyInputs = first[0]
    return inputs


def _checked_spec(
    spec: PermutationSpec | None, model: nn.Module, inputs: AnyInputs, *, allow_untested: bool
) -> PermutationSpec:
    """Return given or traced symmetries after checking them."""
    if spec is not None:
        require_spec(spec)
    symmetries = trace_spec(model, inputs) if spec is None else spec
    check_spec(symmetries, model, inputs).require(allow_untested=allow_untested)
    return symmetries


def _aligned(  # ruff: ignore[too-many-arguments, too-many-positional-arguments] - the problem and its options
    spec: PermutationSpec,
    reference: Posterior,
    candidate: Posterior,
    matcher: Matcher,
    task: Task,
    keep: Keep,
    generator: torch.Generator | None,
) -> AlignResult:
    """Return the alignment of two posteriors with tensors of the same shapes."""
    pair = _folded(spec, reference, candidate, matcher)
    folded = (reference, candidate) if pair is None else (pair.reference.posterior, pair.candidate.posterior)
    result = match(*folded, spec, matcher, task=task, generator=generator)
    aligned = None if pair is None else pair.restored(result.apply(folded[1]))
    kept, effect = select_alignment(result, reference, candidate, task, keep, aligned=aligned)
    if aligned is None or kept is not result:  # the candidate, permuted or unchanged
        return AlignResult(kept.apply(candidate), kept, spec, result, effect)
    return AlignResult(aligned, kept, spec, result, effect, pair)


def _curves(
    reference: Posterior, candidates: Mapping[str, Posterior], task: Task, num_points: int
) -> dict[str, LossCurve]:
    """Return loss curves from the reference to each candidate, with recomputed batch-normalization statistics."""
    estimator = "reset" if BatchStatistics(task.model) else None
    return {
        label: barrier(reference, candidate, task, estimator=estimator, num_points=num_points)
        for label, candidate in candidates.items()
    }


def _folded(spec: PermutationSpec, reference: Posterior, candidate: Posterior, matcher: Matcher) -> FoldedPair | None:
    """Return folded networks if the matcher can use them; warn if they cannot be folded."""
    try:
        return FoldedPair.of(spec, reference, candidate, matcher.kinds)
    except (SpecError, InvalidInputError) as error:
        message = f"the alignment is without rotations that need scales of one: {error}"
        warnings.warn(message, AlignmentWarning, stacklevel=4)
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
    warnings.warn(message, AlignmentWarning, stacklevel=4)
    return (result.at_identity(result.permutation.layout) if is_identity_kept else result), effect
