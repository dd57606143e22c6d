"""Alignment of two checkpoints of any size and format."""

from __future__ import annotations

import json
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, final

from rebasin_core.api.alignment import select_alignment
from rebasin_core.api.checkpoints.compared import ComparedPair
from rebasin_core.api.checkpoints.output import require_free_output, working_folder, write_output
from rebasin_core.api.checkpoints.placement import placed
from rebasin_core.api.checkpoints.preparation import Prepared, permuted_tensor, prepared
from rebasin_core.api.checkpoints.search import CheckpointSearch
from rebasin_core.api.checkpoints.table import AlignmentFigures, alignment_record, alignment_report
from rebasin_core.api.checkpoints.verdict import Verdict
from rebasin_core.api.matching import as_matcher
from rebasin_core.api.opening import open_checkpoint
from rebasin_core.checkpoints.checkpoint import Checkpoint
from rebasin_core.checkpoints.naming import NamePolicy
from rebasin_core.checkpoints.writing import MAX_SHARD_BYTES
from rebasin_core.errors import InvalidInputError
from rebasin_core.tensors.device import choose_device

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch
    from torch import Tensor, nn

    from rebasin_core.analysis.distances import NetworkDistances
    from rebasin_core.api.checkpoints.network import CheckpointNetwork
    from rebasin_core.checkpoints.function_check import FunctionDifference
    from rebasin_core.checkpoints.model_source import ModelSource, SourcedModel
    from rebasin_core.evaluation.effect import AlignmentEffect, Keep
    from rebasin_core.evaluation.task import Task
    from rebasin_core.matchers.base import Matcher, MatchResult
    from rebasin_core.specs.base import PermutationSpec
    from rebasin_core.symmetry.permutation import GroupElement

TaskOfModel: TypeAlias = "Callable[[nn.Module], Task]"
"""Function that returns a task for the module of a model."""

_LENIENT = NamePolicy()


@final
@dataclass(frozen=True, eq=False)
class CheckpointAlignment:
    """Alignment of a candidate checkpoint with a reference; returned by `align_checkpoints`.

    Attributes:
        pair: The reference and the candidate, not permuted, and the tensors in which they are compared.
        spec: Permutation symmetries of the model.
        model: The model; None if only a specification was given.
        result: Result of the matcher.
        distances: Distances between the networks before and after alignment.
        chance: Distances between a shuffled copy of the reference and the candidate, before and after they were
            aligned in the same way; the median of several copies; None if not computed.
        chance_range: Range of the cosine similarity after alignment over these copies; 0 for one copy.
        function: Difference between the outputs of the candidate and of the aligned candidate; None if not computed.
        effect: Loss at the midpoint before and after alignment; None without data.
        matcher: The matcher.
        seed: Seed of the matcher and of the shuffled copy.
        recipe: JSON values of the recipe, for the metadata of the output; None if there is none.
    """

    pair: ComparedPair
    spec: PermutationSpec
    model: SourcedModel | None
    result: MatchResult
    distances: NetworkDistances
    chance: NetworkDistances | None
    chance_range: float
    function: FunctionDifference | None
    effect: AlignmentEffect | None
    matcher: Matcher
    seed: int
    recipe: Mapping[str, Any] | None = None

    @property
    def reference(self) -> CheckpointNetwork:
        """The reference."""
        return self.pair.reference

    @property
    def candidate(self) -> CheckpointNetwork:
        """The candidate, not permuted."""
        return self.pair.candidate

    @cached_property
    def permutation(self) -> GroupElement:
        """The permutation that aligns the candidate; a `SymmetryElement` if the matcher also finds linear maps."""
        return self.pair.of_candidate(self.result.group_element)

    @cached_property
    def verdict(self) -> Verdict:
        """Meaning of the alignment: whether the networks are related, and whether it is better than chance."""
        return Verdict.of(self.permutation, self.distances, self.chance, self.chance_range)

    def module(self) -> nn.Module:
        """Return the module of the model with the tensors of the reference.

        Raises:
            InvalidInputError: If only a specification was given.
        """
        return Prepared((self.reference,), self.spec, self.model).module()

    def report(self, *, full: bool = False, width: int | None = None) -> str:
        """Return a table of the distances in all and by group, before and after alignment, and the verdict.

        Args:
            full: Whether to list every group; otherwise groups whose names differ only in numbers are one row.
            width: Maximum number of characters per line; no limit if None.

        Returns:
            Several lines.
        """
        return alignment_report(self._figures, full=full, width=width)

    def as_json(self) -> dict[str, Any]:
        """Return all figures as JSON values."""
        return {
            "reference": str(self.reference.checkpoint.path),
            "candidate": str(self.candidate.checkpoint.path),
            **alignment_record(self._figures),
        }

    @property
    def _figures(self) -> AlignmentFigures:
        return AlignmentFigures(
            self.result,
            self.distances,
            self.chance,
            self.function,
            self.effect,
            self.verdict,
            self.candidate.copied_weights,
            {name: len(rows) for name, rows in self.pair.rows.items()},
        )

    def write(
        self,
        path: Path | str,
        *,
        force: bool = False,
        dtype: torch.dtype | None = None,
        max_shard_bytes: int = MAX_SHARD_BYTES,
        work: Path | None = None,
        progress: bool = False,
    ) -> tuple[Path, ...]:
        """Write the aligned candidate, with the names, dtypes and other files of the candidate, and the permutation.

        Args:
            path: A file with the suffix ``.safetensors``, or a folder.
            force: Whether to replace an existing output.
            dtype: Dtype of floating-point tensors; that of the candidate if None.
            max_shard_bytes: Maximum size of a shard in a folder.
            work: Folder on the same disk for the unfinished output; a temporary one if None.
            progress: Whether to show a progress bar.

        Returns:
            The files with tensors, and the file of the permutation.

        Raises:
            InvalidInputError: If the output is one of the inputs, or exists and ``force`` is false.
            StorageError: If the output cannot be written; an existing one is not changed.
        """
        inputs = [self.reference.checkpoint, self.candidate.checkpoint]
        require_free_output(Path(path), inputs, force=force)
        provenance = {
            "command": "align",
            "matcher": json.loads(self.matcher.canonical_json()),
            "seed": self.seed,
            "specification": self.spec.layout.fingerprint,
            "recipe": self.recipe,
        }
        with working_folder(Path(path), work) as folder:
            return write_output(
                Path(path),
                self.candidate,
                self.tensor,
                {"": self.permutation},
                provenance,
                inputs=inputs,
                work=folder,
                dtype=dtype,
                max_shard_bytes=max_shard_bytes,
                progress=progress,
            )

    def tensor(self, name: str) -> Tensor:
        """Return a tensor of the aligned candidate.

        Args:
            name: Name of a parameter or buffer of the model.

        Returns:
            A new tensor, in the dtype of the candidate's file.
        """
        return permuted_tensor(self.permutation, self.candidate.tensors, name)


def align_checkpoints(  # ruff: ignore[too-many-arguments] - all but two have defaults
    reference: Checkpoint | Path | str,
    candidate: Checkpoint | Path | str,
    *,
    model: ModelSource | Mapping[str, Any] | str | None = None,
    spec: PermutationSpec | Path | str | None = None,
    matcher: Matcher | str | Mapping[str, object] = "weight",
    names: NamePolicy = _LENIENT,
    freeze: Sequence[str] = (),
    check: bool = True,
    chance: bool = True,
    task: TaskOfModel | None = None,
    keep: Keep = "best",
    seed: int = 0,
    memory: int | None = None,
    device: torch.device | str = "cpu",
    work: Path | None = None,
    progress: bool = False,
) -> CheckpointAlignment:
    """Align a candidate checkpoint with a reference, without loading whole networks into memory.

    Tensors are mapped from the files, and read, widened and compared one slice at a time. The function of the aligned
    candidate is compared with that of the candidate, and the alignment with one to a shuffled copy of the reference.

    Args:
        reference: Checkpoint to align to: a file or folder of any registered format, or an opened one.
        candidate: Checkpoint to permute, of the same model.
        model: Source of the model, for tracing and for the function check: ``package.module:factory``, a mapping with
            ``name`` and options of a registered source, or an instance. If None, the registered source that recognizes
            the configuration in the folder of the reference.
        spec: Permutation symmetries, or their file; traced from the model if None.
        matcher: A registered name, a mapping with ``name`` and options, or an instance.
        names: Rules for names in the files that differ from those of the model.
        freeze: Glob patterns of tensors to keep fixed; only if the specification is traced.
        check: Whether to compare the outputs of the model before and after the permutation.
        chance: Whether to align the candidate with a shuffled copy of the reference too, which doubles the time.
        task: Function that returns a task for the module of the model, to evaluate the loss at the midpoint before and
            after alignment, and for matchers that need data.
        keep: With a task, as for `align`: ``best`` keeps the candidate's order, with an `AlignmentWarning`, if
            alignment raises the loss at the midpoint; ``aligned`` never does.
        seed: Seed of the matcher and of the shuffled copy.
        memory: Maximum number of bytes in addition to mapped files, and on the device; as much as is useful if None.
        device: Device of the computations: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ... Whole networks are copied to it
            if they fit into its memory, otherwise slices of their tensors.
        work: Folder for temporary files and the state of the search, from which an interrupted call continues. A
            temporary folder if None.
        progress: Whether to show progress bars.

    Returns:
        The alignment.

    Raises:
        ConfigError: If the device is not available.
        FileFormatError: If a file is damaged, or of an unknown format.
        InvalidInputError: If the checkpoints do not fit the model, there is no model for the function check, or the
            memory is not sufficient.
        SpecError: If the model cannot be traced, or the permutation changes its function.
        StorageError: If the work folder cannot be written.
    """
    chosen = choose_device(device)
    checkpoints = [opened(each) for each in (reference, candidate)]
    problem = prepared(checkpoints, model=model, spec=spec, names=names, freeze=freeze)
    if check:
        problem.require_runnable()
    with ExitStack() as stack:
        folder = work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rebasin-")))
        strategy, placement = placed(as_matcher(matcher), memory, chosen, problem.spec.layout, problem.networks)
        search = CheckpointSearch(strategy, folder, seed, progress, placement)
        measured = None if task is None else task(problem.module())
        return aligned_pair(problem, search, 1, check=check, chance=chance, task=measured, keep=keep)


def aligned_pair(  # ruff: ignore[too-many-arguments] - one step of two functions
    problem: Prepared,
    search: CheckpointSearch,
    candidate: int,
    *,
    check: bool,
    chance: bool,
    task: Task | None,
    keep: Keep,
) -> CheckpointAlignment:
    """Align one network of a problem with the first one.

    Args:
        problem: The networks, their specification and their model.
        search: The matcher, and the folder of its state.
        candidate: Number of the network to align.
        check: Whether to compare the outputs of the model before and after the permutation.
        chance: Whether to align the candidate with a shuffled copy of the reference too.
        task: Model and data; None without data.
        keep: As for `align_checkpoints`.

    Returns:
        The alignment.

    Raises:
        InvalidInputError: If there are data, and the networks do not have the same tensors.
        SpecError: If the permutation, or another group element, changes the function of the model.
        StorageError: If the folder cannot be written.
    """
    first, second = problem.networks[0], problem.networks[candidate]
    pair = ComparedPair.of(problem.spec, first, second)
    held = None if task is None else task.held()
    if held is not None and not pair.is_complete:
        message = (
            f"{second.checkpoint.path} has missing tensors or another vocabulary; the loss at the midpoint with the "
            "reference is not defined. Omit the data"
        )
        raise InvalidInputError(message)
    result = search.align(pair, task=held)
    effect = None
    if held is not None:
        at_start = search.placement.network(first.tensors, pair.buffers)
        at_end = search.placement.network(second.tensors, pair.buffers)
        result, effect = select_alignment(result, at_start, at_end, held, keep)
    element = pair.of_candidate(result.group_element)
    function = problem.function_check(second, element, search.placement.device) if check else None
    distances = search.distances(pair, result.group_element)
    by_chance, chance_range = None, 0.0
    if chance and not search.matcher.uses_task:
        by_chance, chance_range = search.align_by_chance(pair)
    return CheckpointAlignment(
        pair=pair,
        spec=problem.spec,
        model=problem.model,
        result=result,
        distances=distances,
        chance=by_chance,
        chance_range=chance_range,
        function=function,
        effect=effect,
        matcher=search.matcher,
        seed=search.seed,
    )


def opened(checkpoint: Checkpoint | Path | str) -> Checkpoint:
    """Return an opened checkpoint.

    Args:
        checkpoint: A checkpoint, or the path of one.

    Returns:
        The checkpoint.

    Raises:
        FileFormatError: If it is damaged, or of an unknown format.
    """
    return checkpoint if isinstance(checkpoint, Checkpoint) else open_checkpoint(checkpoint)
