"""Folding of the normalizations of checkpoints, tensor by tensor."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, final

import torch

from rebasin_core.analysis.folding.folding import Folding
from rebasin_core.analysis.folding.plan import FoldingParts, FoldingPlan
from rebasin_core.analysis.folding.report import FoldingReport
from rebasin_core.api.checkpoints.alignment import opened
from rebasin_core.api.checkpoints.models import model_of, spec_of
from rebasin_core.api.checkpoints.network import CheckpointNetwork
from rebasin_core.api.checkpoints.output import require_free_output, working_folder, write_output
from rebasin_core.api.checkpoints.preparation import Prepared, prepared
from rebasin_core.api.checkpoints.untied import files_of_untied, untied_checkpoint, untied_model
from rebasin_core.checkpoints.function_check import function_difference
from rebasin_core.checkpoints.naming import NamePolicy
from rebasin_core.checkpoints.stored import StoredForm
from rebasin_core.checkpoints.writing import MAX_SHARD_BYTES
from rebasin_core.errors import InvalidInputError, SpecError
from rebasin_core.tensors.names import TensorNames
from rebasin_core.tensors.reading import shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from rebasin_core.checkpoints.checkpoint import Checkpoint
    from rebasin_core.checkpoints.function_check import FunctionDifference
    from rebasin_core.checkpoints.model_source import ModelSource, SourcedModel
    from rebasin_core.specs.base import PermutationSpec
    from rebasin_core.symmetry.layout import Layout

_LENIENT = NamePolicy()
_FOLDING = "folding"


@final
@dataclass(frozen=True, eq=False)
class CheckpointFolding:
    """A checkpoint whose normalizations are folded when it is written; returned by `fold_checkpoint`.

    Attributes:
        network: The network before folding; with tied weights once for each name if they were untied.
        source: The checkpoint that was given.
        spec: The specification of the model.
        folding: The map.
        report: The parts that are folded, and those that are not.
        rounded: Difference of the outputs if folded tensors are rounded to the dtypes of the file; None if that was not
            measured, or if no dtype has less than single precision.
    """

    network: CheckpointNetwork
    source: Checkpoint
    spec: PermutationSpec
    folding: Folding
    report: FoldingReport
    rounded: FunctionDifference | None = None

    def tensor(self, name: str) -> Tensor:
        """Return a tensor of the folded network in double precision.

        Args:
            name: Name of a parameter or saved buffer of the model.

        Returns:
            The tensor; unchanged tensors in the dtype of the file.
        """
        tensors = self.network.tensors
        return self.folding.folded(name, tensors) if name in self.folding.changed else tensors[name]

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
        """Write the folded network with the names, dtypes and other files of the checkpoint, and the map next to it.

        Args:
            path: A file with the suffix ``.safetensors``, or a folder.
            force: Whether to replace an existing output.
            dtype: Dtype of floating-point tensors; that of the checkpoint if None.
            max_shard_bytes: Maximum size of a shard in a folder.
            work: Folder on the same disk for the unfinished output; a temporary one if None.
            progress: Whether to show a progress bar.

        Returns:
            The files with tensors, and the file of the map.

        Raises:
            StorageError: If the output is an input, exists and ``force`` is false, or cannot be written.
        """
        target = Path(path)
        require_free_output(target, [self.source], force=force, kind=_FOLDING)
        record = {"command": "fold", "specification": self.spec.layout.fingerprint}
        with working_folder(target, work) as folder:
            like = self.network
            if like.checkpoint is not self.source:
                others = files_of_untied(like.checkpoint, folder / "untied")
                like = replace(like, checkpoint=replace(like.checkpoint, companions=others))
            return write_output(
                target,
                like,
                self.tensor,
                {"": self.folding},
                record,
                inputs=[self.source],
                work=folder,
                dtype=dtype,
                max_shard_bytes=max_shard_bytes,
                progress=progress,
                kind=_FOLDING,
            )


def fold_checkpoint(  # ruff: ignore[too-many-arguments] - all but one have defaults
    checkpoint: Checkpoint | Path | str,
    *,
    model: ModelSource | Mapping[str, Any] | str | None = None,
    spec: PermutationSpec | Path | str | None = None,
    names: NamePolicy = _LENIENT,
    freeze: Sequence[str] = (),
    scales: bool = True,
    shifts: bool = False,
    center: bool = False,
    untie: bool = False,
    check: bool = True,
) -> CheckpointFolding:
    """Fold the normalizations of a checkpoint of any size; see `rebasin_core.fold`.

    Args:
        checkpoint: A file or folder of any registered format, or an opened checkpoint.
        model: Source of the model, for tracing and for the check of the function; see `align_checkpoints`.
        spec: Its specification, or the file of one; traced from the model if None.
        names: Rules for names in the file that differ from those of the model.
        freeze: Glob patterns of tensors to keep fixed; only if the specification is traced.
        scales: Fold scales.
        shifts: Fold shifts.
        center: Subtract means that no layer sees.
        untie: First make tied weights separate tensors. Folders then contain a configuration with
            ``tie_word_embeddings`` false.
        check: Whether to compare the outputs of the model before and after.

    Returns:
        The folded checkpoint, which `CheckpointFolding.write` writes.

    Raises:
        FileFormatError: If a file is damaged, or of an unknown format.
        InvalidInputError: If the checkpoint does not fit the model, or there is no model where one is needed.
        SpecError: If the model cannot be traced, or the outputs differ by more than rounding.
    """
    source = opened(checkpoint)
    if untie and spec is not None:
        message = "expected no `spec` with `untie`: the untied model is another one, and is traced"
        raise InvalidInputError(message)
    problem = prepared([source], model=model, spec=spec, names=names, freeze=() if untie else freeze)
    if untie:
        problem = _untied(problem, names, freeze)
    (network,) = problem.networks
    if network.is_partial:
        missing = [*network.match.missing, *network.match.resized]
        message = f"{shown(source.path)}: expected all tensors of the model, got none of its shape for {missing}"
        raise InvalidInputError(message)
    if check:
        problem.require_runnable()
    parts = FoldingParts(scales=scales, shifts=shifts, center=center)
    plan = FoldingPlan.of(problem.spec, network.tensors, parts)
    folding = Folding.of(network.tensors, plan)
    exact, rounded = _differences(problem, folding) if check else (None, None)
    report = FoldingReport.of(problem.spec, [plan], exact)
    return CheckpointFolding(network, source, problem.spec, folding, report, rounded)


def unfold_checkpoint(  # ruff: ignore[too-many-arguments] - all but three have defaults
    folding: Folding | Path | str,
    checkpoint: Checkpoint | Path | str,
    output: Path | str,
    *,
    model: ModelSource | Mapping[str, Any] | str | None = None,
    names: NamePolicy = _LENIENT,
    force: bool = False,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    work: Path | None = None,
) -> tuple[Path, ...]:
    """Reverse a folding, tensor by tensor.

    Args:
        folding: The map, or its file next to a folded checkpoint.
        checkpoint: The folded checkpoint, or one that was aligned or merged with it.
        output: A file with the suffix ``.safetensors``, or a folder.
        model: Source of the model, which is needed only if files store its tensors under other names or in parts. If
            None, the registered source that recognizes the configuration in the folder, if there is one.
        names: Rules for names in the file that differ from those of the model.
        force: Whether to replace an existing output.
        dtype: Dtype of floating-point tensors; that of the checkpoint if None.
        max_shard_bytes: Maximum size of a shard in a folder.
        work: Folder on the same disk for the unfinished output; a temporary one if None.

    Returns:
        The files with tensors.

    Raises:
        FileFormatError: If a file is damaged, or of an unknown format.
        InvalidInputError: If the checkpoint does not fit the map, or is not folded.
        StorageError: If the output is an input, exists and ``force`` is false, or cannot be written.
    """
    given = folding if isinstance(folding, Folding) else Folding.load(folding)
    layout = given.element.layout
    source, target = opened(checkpoint), Path(output)
    read: list[Checkpoint | Path] = [source] if isinstance(folding, Folding) else [source, Path(folding)]
    require_free_output(target, read, force=force, labels=())
    expected, form = _names_and_form(source, layout, model)
    network = CheckpointNetwork.of(source, expected, form, names)
    layout.check(network.tensors, str(source.path), complete=False)
    given.require_folded(network.tensors)

    def produce(name: str) -> Tensor:
        return given.unfolded(name, network.tensors) if name in given.changed else network.tensors[name]

    with working_folder(target, work) as folder:
        return write_output(
            target,
            network,
            produce,
            {},
            {"command": "unfold", "specification": layout.fingerprint},
            inputs=[source],
            work=folder,
            dtype=dtype,
            max_shard_bytes=max_shard_bytes,
            kind=_FOLDING,
        )


def _names_and_form(
    source: Checkpoint, layout: Layout, model: ModelSource | Mapping[str, Any] | str | None
) -> tuple[TensorNames, StoredForm]:
    """Return the names of the tensors of a network, and how files store them."""
    if model is not None or source.config is not None:
        try:
            sourced = model_of(source, model)
        except InvalidInputError:
            if model is not None:
                raise
        else:
            return TensorNames.of_module(sourced.module), sourced.form
    return layout.names, StoredForm({name: layout.shape(name) for name in layout.tensors})


def _untied(problem: Prepared, names: NamePolicy, freeze: Sequence[str]) -> Prepared:
    """Return the problem of the untied model."""
    if problem.model is None:
        message = "expected the model, which is traced again after untying; give `model`"
        raise InvalidInputError(message)
    checkpoint = untied_checkpoint(problem.networks[0], problem.model)
    model = untied_model(problem.model)
    network = CheckpointNetwork.of(checkpoint, TensorNames.of_module(model.module), model.form, names)
    return Prepared((network,), spec_of(model, freeze=freeze), model)


def _differences(problem: Prepared, folding: Folding) -> tuple[FunctionDifference, FunctionDifference | None]:
    """Return the differences of the outputs, with exact and with rounded folded tensors."""
    inputs = problem.require_runnable()
    module, tensors = cast("SourcedModel", problem.model).module, problem.networks[0].tensors
    exact = function_difference(module, tensors, lambda name: folding.folded(name, tensors), inputs)
    if not exact.reason and not exact.is_kept:
        message = f"folding changes the function of the model: {exact}. The specification is wrong for this model"
        raise SpecError(message)
    dtypes = {tensors[name].dtype for name in folding.changed}
    if all(torch.finfo(dtype).bits >= torch.finfo(torch.float32).bits for dtype in dtypes):
        return exact, None

    def rounded(name: str) -> Tensor:
        return folding.folded(name, tensors).to(tensors[name].dtype)

    return exact, function_difference(module, tensors, rounded, inputs)
