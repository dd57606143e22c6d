"""Saved permutations and other group elements applied to checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rebasin_core.api.checkpoints.alignment import opened
from rebasin_core.api.checkpoints.network import CheckpointNetwork
from rebasin_core.api.checkpoints.output import require_free_output, working_folder, write_output
from rebasin_core.api.checkpoints.preparation import permuted_tensor
from rebasin_core.checkpoints.naming import NamePolicy
from rebasin_core.checkpoints.stored import StoredForm
from rebasin_core.checkpoints.writing import MAX_SHARD_BYTES
from rebasin_core.symmetry.permutation import GroupElement
from rebasin_core.symmetry.symmetry_element import load_element
from rebasin_core.tensors.device import CPU, choose_device

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from rebasin_core.checkpoints.checkpoint import Checkpoint

_LENIENT = NamePolicy()


def apply_to_checkpoint(  # ruff: ignore[too-many-arguments] - all but three have defaults
    element: GroupElement | Path | str,
    checkpoint: Checkpoint | Path | str,
    output: Path | str,
    *,
    inverse: bool = False,
    names: NamePolicy = _LENIENT,
    force: bool = False,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    device: torch.device | str = "cpu",
    work: Path | None = None,
) -> tuple[Path, ...]:
    """Apply a group element to a checkpoint tensor by tensor, and write it in the same layout.

    A permutation changes no number. Linear maps are applied in double precision, and the results are rounded to the
    dtypes of the checkpoint.

    Args:
        element: A permutation or another group element, or its file, such as the one next to the output of an
            alignment.
        checkpoint: Checkpoint of the model of the element.
        output: A file with the suffix ``.safetensors``, or a folder.
        inverse: Whether to apply the inverse of the element.
        names: Rules for names in the file that differ from those of the model.
        force: Whether to replace an existing output.
        dtype: Dtype of floating-point tensors; that of the checkpoint if None.
        max_shard_bytes: Maximum size of a shard in a folder.
        device: Device to which tensors are copied one at a time, and on which they are permuted. The result is the
            same on all devices; that of linear maps is the same up to rounding.
        work: Folder on the same disk for the unfinished output; a temporary one if None.

    Returns:
        The files with tensors, and the file of the element.

    Raises:
        ConfigError: If the device is not available.
        FileFormatError: If a file is damaged, or of an unknown format.
        InvalidInputError: If the checkpoint does not fit the element, or has integers where a linear map acts.
        StorageError: If the output is an input, exists and ``force`` is false, or cannot be written.
    """
    chosen = choose_device(device)
    given = element if isinstance(element, GroupElement) else load_element(element)
    applied = given.inverse() if inverse else given
    layout = applied.layout
    source = opened(checkpoint)
    target = Path(output)
    read: list[Checkpoint | Path] = [source] if isinstance(element, GroupElement) else [source, Path(element)]
    require_free_output(target, read, force=force)
    form = StoredForm({name: layout.shape(name) for name in layout.tensors})
    network = CheckpointNetwork.of(source, layout.names, form, names)
    layout.check(network.tensors, str(source.path))
    applied.require_preserving(network.tensors)

    def produce(name: str) -> Tensor:
        return permuted_tensor(applied, network.tensors, name, chosen, dtype=dtype).to(CPU)

    with working_folder(target, work) as folder:
        return write_output(
            target,
            network,
            produce,
            {"": applied},
            {"command": "apply", "specification": layout.fingerprint},
            inputs=[source],
            work=folder,
            dtype=dtype,
            max_shard_bytes=max_shard_bytes,
        )
