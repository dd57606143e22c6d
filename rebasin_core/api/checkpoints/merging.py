"""Merging of checkpoints of any size and format: align, and combine tensor by tensor."""

from __future__ import annotations

import fnmatch
import json
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from rebasin_core.api.checkpoints.alignment import aligned_pair, opened
from rebasin_core.api.checkpoints.common_rows import CommonRows, common_rows
from rebasin_core.api.checkpoints.network import as_point
from rebasin_core.api.checkpoints.output import require_free_output, working_folder, write_output
from rebasin_core.api.checkpoints.placement import placed
from rebasin_core.api.checkpoints.preparation import permuted_tensor, prepared, unaligned
from rebasin_core.api.checkpoints.search import CheckpointSearch
from rebasin_core.api.matching import as_matcher
from rebasin_core.api.merging import as_merge_method, with_repair
from rebasin_core.checkpoints.naming import NamePolicy
from rebasin_core.checkpoints.writing import MAX_SHARD_BYTES
from rebasin_core.errors import InvalidInputError, nearest
from rebasin_core.merging.streaming import StreamingMerge
from rebasin_core.tensors.arguments import require_sequence
from rebasin_core.tensors.device import CPU, choose_device

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import torch
    from torch import Tensor

    from rebasin_core.api.checkpoints.alignment import CheckpointAlignment, TaskOfModel
    from rebasin_core.api.checkpoints.network import CheckpointNetwork
    from rebasin_core.api.merging import RepairName
    from rebasin_core.checkpoints.checkpoint import Checkpoint
    from rebasin_core.checkpoints.model_source import ModelSource
    from rebasin_core.evaluation.effect import Keep
    from rebasin_core.evaluation.task import Task
    from rebasin_core.matchers.base import Matcher
    from rebasin_core.merging.base import MergeMethod
    from rebasin_core.posteriors.averaging import Weights
    from rebasin_core.posteriors.point import PointPosterior
    from rebasin_core.specs.base import PermutationSpec

_LENIENT = NamePolicy()
_MIN_CHECKPOINTS = 2


@final
@dataclass(frozen=True, eq=False)
class CheckpointMerge:
    """Merge of aligned checkpoints; returned by `merge_checkpoints`. Tensors are merged when they are written.

    Attributes:
        networks: The merged networks.
        base: The base, for methods that merge differences from it; None for others.
        alignments: Alignment of every network with the reference; None for the reference, and without alignment.
        method: The merge method.
        weights: Weight of each network, or a mapping from patterns of tensor names to such weights; None for 1 each.
        seed: Seed of random numbers.
        repaired: The merged network with corrected activation statistics, in memory; None without repair.
        recipe: JSON values of the recipe, for the metadata of the output; None if there is none.
        device: Device on which tensors are merged, to which they are copied one name at a time.
    """

    networks: tuple[CheckpointNetwork, ...]
    base: CheckpointNetwork | None
    alignments: tuple[CheckpointAlignment | None, ...]
    method: MergeMethod
    weights: Weights | None
    seed: int
    repaired: PointPosterior | None = None
    recipe: Mapping[str, Any] | None = None
    device: torch.device = CPU

    def tensor(self, name: str) -> Tensor:
        """Return a merged tensor.

        Tensors that not all networks have are those of the first, as are rows of embeddings and heads.

        Args:
            name: Name of a parameter or buffer of the model.

        Returns:
            A new tensor on the CPU, in the dtype of the first network.
        """
        if self.repaired is not None:
            own = self.repaired.mean if name in self.repaired.shared_mean() else self.repaired.buffers
            return own[name].to(self.networks[0].tensors[name].dtype)
        first = _reader(self.networks[0], self.alignments[0], CPU)
        if not all(name in network.tensors for network in self._all):
            return first(name).clone()
        merged = self._merge.tensor(name).to(CPU)
        rows = self._rows.get(name)
        return merged if rows is None else rows.into(len(self._all) - len(self.networks), first(name), merged)

    @property
    def _all(self) -> tuple[CheckpointNetwork, ...]:
        """The base if there is one, and the networks: the first of these is the reference of all alignments."""
        return self.networks if self.base is None else (self.base, *self.networks)

    @cached_property
    def _rows(self) -> Mapping[str, CommonRows]:
        return common_rows([found.pair.rows for found in self.alignments if found is not None])

    @cached_property
    def _merge(self) -> StreamingMerge:
        alignments = self.alignments if self.base is None else (None, *self.alignments)
        readers = [
            self._common(number, _reader(network, found, self.device))
            for number, (network, found) in enumerate(zip(self._all, alignments, strict=True))
        ]
        return StreamingMerge(
            self.method,
            readers[-len(self.networks) :],
            weights=self.weights,
            base=None if self.base is None else readers[0],
            buffers=self.networks[0].expected.buffers,
            seed=self.seed,
        )

    def _common(self, number: int, read: Callable[[str], Tensor]) -> Callable[[str], Tensor]:
        """Return a function that returns the rows of one network's tensor that all networks have."""

        def rows(name: str) -> Tensor:
            common = self._rows.get(name)
            return read(name) if common is None else common.of(number, read(name))

        return rows

    def report(self, *, full: bool = False, width: int | None = None) -> str:
        """Return the reports of all alignments, or a sentence if the networks were not aligned.

        Args:
            full: Whether to list every group; otherwise groups whose names differ only in numbers are one row.
            width: Maximum number of characters per line; no limit if None.

        Returns:
            Several lines.
        """
        parts = []
        for network, found in zip(self.networks, self.alignments, strict=True):
            if found is not None:
                parts.append(f"{network.checkpoint.path}:\n{found.report(full=full, width=width)}")
        return "\n\n".join(parts) or f"Merged without alignment by {self.method.name!r}."

    def as_json(self) -> dict[str, Any]:
        """Return the method, and all figures of the alignments, as JSON values."""
        return {
            "method": json.loads(self.method.canonical_json()),
            "checkpoints": [str(network.checkpoint.path) for network in self.networks],
            "alignments": [None if found is None else found.as_json() for found in self.alignments],
        }

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
        """Write the merged network, with the names, dtypes and other files of the first, and the permutations.

        Args:
            path: A file with the suffix ``.safetensors``, or a folder.
            force: Whether to replace an existing output.
            dtype: Dtype of floating-point tensors; that of the first network if None.
            max_shard_bytes: Maximum size of a shard in a folder.
            work: Folder on the same disk for the unfinished output; a temporary one if None.
            progress: Whether to show a progress bar.

        Returns:
            The files with tensors, and the files of the permutations.

        Raises:
            StorageError: If the output is one of the inputs, exists and ``force`` is false, or cannot be written; an
                existing one is not changed.
        """
        target = Path(path)
        inputs = [network.checkpoint for network in (*self.networks, *([] if self.base is None else [self.base]))]
        numbered = enumerate(self.alignments, start=1)
        permutations = {label_of(number): each.permutation for number, each in numbered if each is not None}
        require_free_output(target, inputs, force=force, labels=permutations)
        found = [each for each in self.alignments if each is not None]
        provenance = {
            "command": "merge",
            "method": json.loads(self.method.canonical_json()),
            "weights": plain_weights(self.weights),
            "matcher": json.loads(found[0].matcher.canonical_json()) if found else None,
            "specification": found[0].spec.layout.fingerprint if found else None,
            "seed": self.seed,
            "recipe": self.recipe,
        }
        with working_folder(target, work) as folder:
            return write_output(
                target,
                self.networks[0],
                self.tensor,
                permutations,
                provenance,
                inputs=inputs,
                work=folder,
                dtype=dtype,
                max_shard_bytes=max_shard_bytes,
                progress=progress,
            )


def label_of(number: int) -> str:
    """Return the label of a permutation in file names; see `permutation_path`.

    Args:
        number: Number of the checkpoint, from 1.

    Returns:
        The label.
    """
    return f"_{number}"


def merge_checkpoints(  # ruff: ignore[too-many-arguments] - all but the first have defaults
    checkpoints: Sequence[Checkpoint | Path | str],
    *,
    base: Checkpoint | Path | str | None = None,
    method: MergeMethod | str | Mapping[str, object] = "mean",
    weights: Weights | None = None,
    align: bool = True,
    model: ModelSource | Mapping[str, Any] | str | None = None,
    spec: PermutationSpec | Path | str | None = None,
    matcher: Matcher | str | Mapping[str, object] = "weight",
    names: NamePolicy = _LENIENT,
    freeze: Sequence[str] = (),
    check: bool = True,
    chance: bool = True,
    task: TaskOfModel | None = None,
    keep: Keep = "best",
    repair: RepairName | None = None,
    seed: int = 0,
    memory: int | None = None,
    device: torch.device | str = "cpu",
    work: Path | None = None,
    progress: bool = False,
) -> CheckpointMerge:
    """Align checkpoints with the first one, or with the base, and merge them tensor by tensor.

    Args:
        checkpoints: At least two checkpoints of one model: files or folders of any registered format.
        base: Base of methods that merge differences from it, such as the model before fine-tuning. All checkpoints are
            aligned with it.
        method: Merge method: a registered name, a mapping with ``name`` and options, or an instance.
        weights: Weight of each checkpoint, or a mapping from patterns of tensor names to such weights; 1 for each if
            None. Methods state their meaning.
        align: Whether to align; otherwise tensors are merged as they are.
        model: Source of the model; as for `align_checkpoints`. Not needed without alignment.
        spec: Permutation symmetries or their file; traced from the model if None.
        matcher: A registered name, a mapping with ``name`` and options, or an instance.
        names: Rules for names in the files that differ from those of the model.
        freeze: Glob patterns of tensors to keep fixed; only if the specification is traced.
        check: Whether to compare the outputs of the model before and after each permutation.
        chance: Whether to compare each alignment with one to a shuffled copy of the reference.
        task: Function that returns a task for the module of the model; as for `align_checkpoints`.
        keep: With a task: whether to keep the order of a network whose alignment raises the loss at the midpoint.
        repair: With a task: ``reset`` recomputes batch-normalization statistics, ``repair`` is REPAIR. The merged
            network is in memory then.
        seed: Seed of the matcher, the shuffled copies and the merge method.
        memory: Maximum number of bytes in addition to mapped files, and on the device; as much as is useful if None.
        device: Device of the computations, as for `align_checkpoints`.
        work: Folder for temporary files and the state of the searches, from which an interrupted call continues. A
            temporary folder if None.
        progress: Whether to show progress bars.

    Returns:
        The merge; `CheckpointMerge.write` computes and writes it.

    Raises:
        ConfigError: If the device is not available.
        FileFormatError: If a file is damaged, or of an unknown format.
        InvalidInputError: If the checkpoints do not fit each other, the model or the method.
        SpecError: If the model cannot be traced, or a permutation changes its function.
        StorageError: If the work folder cannot be written.
    """
    require_sequence(checkpoints, "at least two checkpoints")
    chosen = choose_device(device)
    strategy = as_merge_method(method)
    _require_fit(strategy, len(checkpoints), weights, has_base=base is not None)
    if repair is not None and (task is None or not align):
        missing = "data, `task` (--data)" if task is None else "alignment, which reads the model"
        message = f"`repair` {repair!r} recomputes statistics of activations and needs {missing}"
        raise InvalidInputError(message)
    every = [opened(each) for each in ([] if base is None else [base])] + [opened(each) for each in checkpoints]
    alignments: list[CheckpointAlignment | None] = [None] * len(every)
    measured: Task | None = None
    problem = prepared(every, model=model, spec=spec, names=names, freeze=freeze) if align else None
    networks = unaligned(every, names) if problem is None else problem.networks
    _require_used(weights, networks[0].tensors)
    if problem is not None:
        if check:
            problem.require_runnable()
        with ExitStack() as stack:
            folder = work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rebasin-")))
            aligner, placement = placed(as_matcher(matcher), memory, chosen, problem.spec.layout, networks)
            measured = None if task is None else task(problem.module()).held()
            for number in range(1, len(every)):
                search = CheckpointSearch(aligner, folder / str(number), seed, progress, placement)
                alignments[number] = aligned_pair(
                    problem, search, number, check=check, chance=chance, task=measured, keep=keep
                )
    first = 0 if base is None else 1
    found = CheckpointMerge(
        networks[first:],
        None if base is None else networks[0],
        tuple(alignments[first:]),
        strategy,
        weights,
        seed,
        device=chosen,
    )
    if repair is not None:
        found = _repaired(found, repair, measured, placement.of_networks)
    return found


def _repaired(merge: CheckpointMerge, repair: RepairName, task: Task | None, device: torch.device) -> CheckpointMerge:
    """Return a merge with corrected activation statistics; all networks are in the memory of a device."""
    pairs = zip(merge.networks, merge.alignments, strict=True)
    aligned = [
        network.posterior if found is None else found.result.apply(network.posterior) for network, found in pairs
    ]
    aligned = [network.to(device=device) for network in aligned]
    tensors = {name: merge.tensor(name) for name in merge.networks[0].tensors}
    merged = as_point(tensors, merge.networks[0].expected.buffers or ()).to(device=device)
    weights = None if merge.method.weighting == "coefficients" else merge.weights
    return replace(merge, repaired=with_repair(aligned, merged, repair, weights, task).to(device=CPU))


def _require_fit(method: MergeMethod, count: int, weights: Weights | None, *, has_base: bool) -> None:
    """Raise if a method cannot merge a number of networks with some weights, before networks are aligned."""
    if count < _MIN_CHECKPOINTS:
        message = f"expected at least two checkpoints to merge, got {count}"
        raise InvalidInputError(message)

    def unread(name: str) -> Tensor:
        raise KeyError(name)

    StreamingMerge(method, [unread] * count, weights=weights, base=unread if has_base else None)


def _require_used(weights: Weights | None, names: Iterable[str]) -> None:
    """Raise if a pattern of weights matches no tensor."""
    known = list(names)
    for pattern in weights if isinstance(weights, Mapping) else ():
        if not fnmatch.filter(known, pattern):
            message = f"no tensor matches {pattern!r} in `weights`; {nearest(pattern, known)}"
            raise InvalidInputError(message)


def _reader(
    network: CheckpointNetwork, alignment: CheckpointAlignment | None, device: torch.device
) -> Callable[[str], Tensor]:
    if alignment is None:
        return lambda name: network.tensors[name].to(device)
    return lambda name: permuted_tensor(alignment.permutation, network.tensors, name, device)


def plain_weights(weights: Weights | None) -> Any:  # ruff: ignore[any-type] - JSON
    """Return weights as JSON values.

    Args:
        weights: The weights, or a mapping from patterns of tensor names to such weights.

    Returns:
        The same with lists of numbers; patterns in their order, because the first one that matches applies.
    """
    if weights is None:
        return None
    if hasattr(weights, "items"):
        return {pattern: [float(each) for each in own] for pattern, own in weights.items()}
    return [float(each) for each in weights]
