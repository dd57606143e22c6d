"""How files of transformers store the tensors of a model.

Since version 5, modules may have tensors of another form than files: experts in one tensor, renamed layers. The library
converts them when it loads and saves. Here, its own conversion runs on tensors without memory, whose shape, stride and
offset show which part of a tensor each name in files is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode  # ruff: ignore[import-private-name] - its documented name
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key, revert_weight_conversion
from typing_extensions import override

from rebasin_core.checkpoints import StoredTensor
from rebasin_core.errors import InvalidInputError
from rebasin_core.tensors.modules import named_tensors, unsaved_buffers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedModel

    from rebasin_core import Checkpoint

_COPIES = frozenset({torch.ops.aten.clone.default, torch.ops.aten._to_copy.default, torch.ops.aten.contiguous.default})  # ruff: ignore[private-member-access] - names of operators


def stored_tensors(module: PreTrainedModel, checkpoint: Checkpoint) -> dict[str, StoredTensor]:
    """Return the tensors in the files of a checkpoint as parts of the tensors of its model.

    Args:
        module: The model.
        checkpoint: The checkpoint. Names that only it has, such as those of older versions, replace the names that
            transformers writes.

    Returns:
        The parts by name; empty if files contain the tensors of the model under their names.

    Raises:
        InvalidInputError: If files store a tensor in a form that is no part of a tensor of the model.
    """
    unsaved = unsaved_buffers(module)
    tensors = {name: t.detach().to("meta") for name, t in named_tensors(module).items() if name not in unsaved}
    written = _written(module, tensors)
    found = _in_own_form(written, tensors, checkpoint.tensors)
    found = _with_older_names(module, found, tensors, checkpoint.tensors)
    is_unchanged = found.keys() == tensors.keys() and all(
        part.is_whole(tuple(tensors[n].shape)) for n, part in found.items()
    )
    return {} if is_unchanged else found


def _written(module: PreTrainedModel, tensors: Mapping[str, Tensor]) -> dict[str, StoredTensor]:
    """Return the tensors that ``save_pretrained`` would write."""
    with _WithoutCopies():
        written: Mapping[str, Tensor] = revert_weight_conversion(module, dict(tensors))
    owners = {_memory(tensor): name for name, tensor in tensors.items()}
    found: dict[str, StoredTensor] = {}
    for name, tensor in written.items():
        owner = owners.get(_memory(tensor))
        if owner is None:
            message = (
                f"files of {type(module).__name__} store {name!r} in a form that is no part of a tensor of the model; "
                "give a factory of a model with the tensors in the files, `package.module:name`"
            )
            raise InvalidInputError(message)
        found[name] = StoredTensor(owner, tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset()))
    return found


def _in_own_form(
    written: Mapping[str, StoredTensor], tensors: Mapping[str, Tensor], files: Mapping[str, Tensor]
) -> dict[str, StoredTensor]:
    """Return the parts, with those tensors whole that a file contains in the form of the model."""
    whole = {
        part.tensor
        for name, part in written.items()
        if name not in files and part.tensor in files and files[part.tensor].shape == tensors[part.tensor].shape
    }
    found = {name: part for name, part in written.items() if part.tensor not in whole}
    return found | {name: StoredTensor.whole(name, tensors[name]) for name in tensors if name in whole}


def _with_older_names(
    module: PreTrainedModel,
    written: Mapping[str, StoredTensor],
    tensors: Mapping[str, Tensor],
    files: Mapping[str, Tensor],
) -> dict[str, StoredTensor]:
    """Return the parts with the names in files that transformers would rename when it loads them."""
    missing = {part.tensor: name for name, part in written.items() if name not in files}
    extra = [name for name in files if name not in written and name not in tensors]
    if not missing or not extra:
        return dict(written)
    conversions = get_model_conversion_mapping(module)
    renamings = [entry for entry in conversions if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in conversions if isinstance(entry, WeightConverter)]
    known = dict(tensors)
    renamed: dict[str, str] = {}
    for name in extra:
        target, pattern = rename_source_key(name, renamings, converters, module.base_model_prefix, known)
        is_same = pattern is None and target in missing and files[name].shape == tensors[target].shape
        if is_same and written[missing[target]].is_whole(tuple(tensors[target].shape)):
            renamed[missing[target]] = name
    return {renamed.get(name, name): part for name, part in written.items()}


def _memory(tensor: Tensor) -> int:
    """Return the identity of the memory of a tensor; tensors on the meta device have none, but an identity."""
    identity: int = tensor.untyped_storage()._cdata  # ruff: ignore[private-member-access] - it has no public name
    return identity


class _WithoutCopies(TorchDispatchMode):
    """Returns the tensor itself instead of a copy, to keep its stride and offset."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # PyTorch has no types there

    @override
    def __torch_dispatch__(
        self, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> object:
        if func in _COPIES:
            return args[0].view_as(args[0])
        return func(*args, **(kwargs or {}))
