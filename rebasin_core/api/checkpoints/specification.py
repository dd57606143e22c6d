"""The specification of the model of a checkpoint, checked with the tensors of the checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import torch

from rebasin_core.api.checkpoints.alignment import opened
from rebasin_core.api.checkpoints.models import model_of
from rebasin_core.api.checkpoints.network import networks_in
from rebasin_core.api.checkpoints.preparation import Prepared
from rebasin_core.api.tracing import trace_spec
from rebasin_core.checkpoints.construction import with_reserved_memory
from rebasin_core.checkpoints.naming import NamePolicy
from rebasin_core.errors import InvalidInputError
from rebasin_core.tensors.names import TensorNames
from rebasin_core.tensors.reading import shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from rebasin_core.checkpoints.checkpoint import Checkpoint
    from rebasin_core.checkpoints.function_check import FunctionDifference
    from rebasin_core.checkpoints.model_source import ModelSource
    from rebasin_core.specs.tracing.capture import Method
    from rebasin_core.specs.tracing.trace import TracedSpec

_LENIENT = NamePolicy()


@final
@dataclass(frozen=True, eq=False, slots=True)
class CheckpointSpec:
    """Specification of the model of a checkpoint.

    Attributes:
        spec: The traced specification.
        check: Difference between the outputs of the network and of a randomly permuted copy; None if not computed.
    """

    spec: TracedSpec
    check: FunctionDifference | None


def spec_of_checkpoint(  # ruff: ignore[too-many-arguments] - all but the first have defaults
    checkpoint: Checkpoint | Path | str,
    *,
    model: ModelSource | Mapping[str, Any] | str | None = None,
    names: NamePolicy = _LENIENT,
    freeze: Sequence[str] = (),
    free: Sequence[str] = (),
    method: Method = "auto",
    check: bool = True,
) -> CheckpointSpec:
    """Trace the model of a checkpoint, and check the specification with its tensors.

    No network is loaded into memory: tracing needs no values of parameters, and the check reads tensors when they are
    used.

    Args:
        checkpoint: A file or folder of any registered format, or an opened checkpoint.
        model: Source of the model; as for `align_checkpoints`.
        names: Rules for names in the files that differ from those of the model.
        freeze: Glob patterns of parameters and buffers to keep fixed.
        free: Glob patterns of buffers to permute with the parameters.
        method: How to trace; as for `trace_spec`.
        check: Whether to compare the outputs of the network with those of a copy that is permuted at random.

    Returns:
        The specification, and the difference of the outputs.

    Raises:
        FileFormatError: If the file is damaged, or of an unknown format.
        InvalidInputError: If the model is unknown or has no example inputs, or, with ``check``, the checkpoint does not
            fit the model.
        SpecError: If the model cannot be traced, or the permutation changes its function.
    """
    source = opened(checkpoint)
    found = model_of(source, model)
    if found.example_inputs is None:
        message = f"expected example inputs of the model of {shown(source.path)}, which are needed to trace it"
        raise InvalidInputError(message)
    args, kwargs = found.example_inputs
    reserved = with_reserved_memory(found.module)
    spec = trace_spec(reserved, args, kwargs=kwargs, freeze=freeze, free=free, method=method)
    if not check:
        return CheckpointSpec(spec, None)
    networks = networks_in([source], TensorNames.of_module(found.module), found.form, names)
    spec.layout.check(networks[0].tensors, str(source.path))
    permutation = spec.random_permutation(generator=torch.Generator().manual_seed(0))
    problem = Prepared(networks, spec, found)
    return CheckpointSpec(spec, problem.function_check(networks[0], permutation))
