"""Recipes: alignments and merges of checkpoints as validated files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from annotated_types import MinLen
from pydantic import BeforeValidator, NonNegativeInt, PositiveInt, WithJsonSchema

from rebasin_core.checkpoints.model_source import ModelSource
from rebasin_core.checkpoints.naming import NamePolicy
from rebasin_core.checkpoints.writing import MAX_SHARD_BYTES
from rebasin_core.matchers.base import Matcher
from rebasin_core.matchers.weight import WeightMatcher
from rebasin_core.merging import MeanMerge, MergeMethod
from rebasin_core.strategy import Options

_SIZE = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[KMGT]?)i?B?", re.IGNORECASE | re.ASCII)
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}

Dtype: TypeAlias = Literal["float64", "float32", "float16", "bfloat16"]
"""Name of a floating-point dtype of PyTorch."""


def as_bytes(size: object) -> object:
    """Return the number of bytes of a text such as ``8GB``; other values unchanged.

    Args:
        size: A number, or a text with a unit: KB, MB, GB or TB, powers of 1000.

    Returns:
        The number of bytes.

    Raises:
        ValueError: If the text is no size.
    """
    if not isinstance(size, str):
        return size
    found = _SIZE.fullmatch(size.strip())
    if found is None:
        message = f"expected a size such as 8GB or 500MB, got {size!r}"
        raise ValueError(message)
    return round(float(found["number"]) * _UNITS[found["unit"].upper()])


_BYTES_SCHEMA = {"anyOf": [{"type": "integer", "exclusiveMinimum": 0}, {"type": "string", "examples": ["8GB"]}]}

Bytes: TypeAlias = Annotated[PositiveInt, BeforeValidator(as_bytes), WithJsonSchema(_BYTES_SCHEMA)]
"""A number of bytes, or a text such as ``8GB``."""


class CheckpointOptions(Options):
    """Options of all commands that align checkpoints."""

    model: ModelSource | None = None
    """Source of the model, such as ``{name: factory, factory: "package.module:name", inputs: ["1,3,224,224"]}``. If not
    given, the registered source that recognizes the configuration next to the weights."""

    spec: Path | None = None
    """File of the specification; traced from the model if not given."""

    freeze: tuple[str, ...] = ()
    """Glob patterns of tensors to keep fixed when the specification is traced."""

    matcher: Matcher = WeightMatcher()
    """The matcher."""

    names: NamePolicy = NamePolicy()
    """Rules for names in the files that differ from those of the model."""

    entry: str | None = None
    """Keys of the nested state dict, joined by dots, for files that contain several, such as ``ema``. It does not apply
    to files without this entry, unless no file has it."""

    check: bool = True
    """Compare the outputs of the model before and after the permutation, and write no output if they differ."""

    chance: bool = True
    """Align also with a shuffled copy of the reference, to compare with chance. Doubles the time."""

    seed: NonNegativeInt = 0
    """Seed of the matcher and of the shuffled copy."""

    memory: Bytes | None = None
    """Maximum memory, such as ``8GB``, in addition to mapped files, and on the device. If not given, as much as is
    useful."""

    device: str = "cpu"
    """`auto` (CUDA if available), `cpu`, `cuda`, `cuda:1`, ... Whole networks are copied to the device if they fit into
    its memory, otherwise slices of their tensors."""


class OutputOptions(CheckpointOptions):
    """Options of commands that write a checkpoint."""

    output: Path | None = None
    """File with the suffix ``.safetensors``, or folder."""

    dtype: Dtype | None = None
    """Dtype of floating-point tensors in the output; those of the first input, or the candidate, if not given."""

    max_shard: Bytes = MAX_SHARD_BYTES
    """Maximum size of a file in an output folder."""

    force: bool = False
    """Replace an existing output, never an input."""


class AlignRecipe(OutputOptions):
    """Alignment of a candidate with a reference."""

    command: Literal["align"] = "align"
    """The command."""

    reference: Path
    """File or folder of the network that is not changed."""

    candidate: Path
    """File or folder of the network to permute."""


class MergeRecipe(OutputOptions):
    """Merge of two or more checkpoints, aligned with the first or with the base."""

    command: Literal["merge"] = "merge"
    """The command."""

    checkpoints: Annotated[tuple[Path, ...], MinLen(2)]
    """Files or folders of the networks."""

    base: Path | None = None
    """Base of methods that merge differences, such as the model before fine-tuning."""

    method: MergeMethod = MeanMerge()
    """The merge method."""

    weights: tuple[float, ...] | dict[str, tuple[float, ...]] | None = None
    """Weight of each network, or weights by patterns of tensor names; 1 for each if not given."""

    align: bool = True
    """Align before merging."""
