"""LoRA adapters: their options, and the weights of a network with an adapter merged into them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import torch
from typing_extensions import override

from rebasin_core.checkpoints.requirements import ADAPTER_CONFIG
from rebasin_core.errors import FileFormatError, InvalidInputError, nearest
from rebasin_core.tensors.checks import shorten
from rebasin_core.tensors.reading import exists, read_json, shown

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from rebasin_core.checkpoints.checkpoint import Checkpoint

_PREFIX = "base_model.model."
_FACTOR = re.compile(
    r"^(?P<layer>.+)\.lora_(?P<embedding>embedding_)?(?P<factor>[AB])(\.weight|\.default|\.default\.weight)?$"
)
_SAVED = re.compile(r"\.(base_layer|modules_to_save(\.default)?)(?=\.)")
_MAX_NUMBER = 10**6
_REMEDY = "merge it with the library that wrote it: `model.merge_and_unload().save_pretrained(output)` of peft"


@final
@dataclass(frozen=True, slots=True)
class LoraOptions:
    """Options of a LoRA adapter, as in ``adapter_config.json``.

    Attributes:
        rank: Rank of the update.
        alpha: Numerator of the scale; the scale is alpha / rank, or alpha / sqrt(rank) with ``rank_stabilized``.
        rank_stabilized: Whether the scale is that of rank-stabilized LoRA.
        fan_in_fan_out: Whether weights of layers are stored as ``[inputs, outputs]``, as by GPT-2.
        rank_pattern: Ranks of layers by patterns of their names.
        alpha_pattern: Values of alpha by patterns of names.
    """

    rank: int
    alpha: float
    rank_stabilized: bool
    fan_in_fan_out: bool
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]

    def scale(self, layer: str) -> float:
        """Return the factor of the update of a layer.

        Args:
            layer: Name of the layer.

        Returns:
            The factor.
        """
        rank = _of_pattern(self.rank_pattern, layer, self.rank)
        alpha = _of_pattern(self.alpha_pattern, layer, self.alpha)
        return alpha / math.sqrt(rank) if self.rank_stabilized else alpha / rank


@final
class LoraTensors(Mapping[str, "Tensor"]):
    """The tensors of a network with a LoRA adapter merged into them, each computed whenever it is accessed.

    Args:
        base: The network.
        adapter: The adapter.
    """

    def __init__(self, base: Checkpoint, adapter: Checkpoint) -> None:
        self._base = base.tensors
        self._options = _options(adapter)
        self._factors, self._replaced = _split(adapter)
        self._names = {layer: _weight_name(base, layer) for layer in self._factors}
        self._layers = {name: layer for layer, name in self._names.items()}
        replaced = {name: _base_name(base, name) for name in self._replaced}
        self._replaced = {own: self._replaced[name] for name, own in replaced.items()}
        for name, layer in self._layers.items():
            self._require_shapes(name, layer)

    @override
    def __getitem__(self, name: str) -> Tensor:
        tensor = self._replaced.get(name, self._base[name])
        layer = self._layers.get(name)
        if layer is None:
            return tensor
        update = self._update(layer, tensor) * self._options.scale(layer)
        return (tensor.to(update.dtype) + update).to(tensor.dtype)

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(self._base)

    @override
    def __len__(self) -> int:
        return len(self._base)

    def _update(self, layer: str, weight: Tensor) -> Tensor:
        """Return B A in the shape of a weight, in float32 or better."""
        factors = self._factors[layer]
        wide = torch.promote_types(torch.promote_types(weight.dtype, factors["A"].dtype), torch.float32)
        a, b = factors["A"].to(wide), factors["B"].to(wide)
        if a.dim() > 2:  # a convolution: A has the shape of its kernel, B is a convolution of size 1
            return torch.einsum("or,r...->o...", b.flatten(1), a)
        product = b @ a
        return product.T if self._options.fan_in_fan_out or "embedding" in factors else product

    def _require_shapes(self, name: str, layer: str) -> None:
        factors = self._factors[layer]
        shapes = {key: tuple(tensor.shape) for key, tensor in factors.items() if key != "embedding"}
        a, b = shapes["A"], shapes["B"]
        weight = tuple(self._base[name].shape)
        product = (b[0], *a[1:])
        if self._options.fan_in_fan_out or "embedding" in factors:
            product = product[::-1]
        fits = len(a) == len(b) >= 2 and a[0] == b[1] and math.prod(b[2:]) == 1 and product == weight
        if not fits:
            message = f"`{name}` of the base has shape {weight}, the factors of the adapter have {a} (A) and {b} (B)"
            raise InvalidInputError(message)


def _options(adapter: Checkpoint) -> LoraOptions:
    """Read the options of an adapter from the file next to its weights."""
    folder = adapter.path if adapter.path.is_dir() else adapter.path.parent
    path = folder / ADAPTER_CONFIG
    if not exists(path):
        message = (
            f"{shown(adapter.path)} has no {ADAPTER_CONFIG}, which has the scale of its updates (the format of peft); "
            "convert it to this format, or merge it with the library that wrote it"
        )
        raise FileFormatError(message)
    document = read_json(path)
    if not isinstance(document, dict):
        message = f"{shown(path)}: expected a JSON object, got {type(document).__name__}"
        raise FileFormatError(message)
    return _checked_options(document, path)


def _checked_options(document: Mapping[str, Any], path: Path) -> LoraOptions:
    kind = document.get("peft_type")
    if kind != "LORA" or document.get("use_dora") or document.get("use_qalora"):
        found = "DoRA" if document.get("use_dora") else "QA-LoRA" if document.get("use_qalora") else shown(kind)
        message = f"{shown(path)}: expected an adapter of type 'LORA', got {found}; {_REMEDY}"
        raise FileFormatError(message)
    ranks = _numbers(document, path, "rank_pattern")
    return LoraOptions(
        rank=_rank(document.get("r"), path, "r"),
        alpha=_number(document.get("lora_alpha"), path, "lora_alpha"),
        rank_stabilized=bool(document.get("use_rslora")),
        fan_in_fan_out=bool(document.get("fan_in_fan_out")),
        rank_pattern={pattern: _rank(rank, path, f"rank_pattern.{pattern}") for pattern, rank in ranks.items()},
        alpha_pattern=_numbers(document, path, "alpha_pattern"),
    )


def _number(value: object, path: Path, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < _MAX_NUMBER:
        message = f"{shown(path)}: expected a positive number `{name}` below {_MAX_NUMBER}, got {shown(value)}"
        raise FileFormatError(message)
    return value


def _rank(value: object, path: Path, name: str) -> int:
    rank = _number(value, path, name)
    if rank != int(rank):
        message = f"{shown(path)}: expected an integer `{name}`, got {shown(value)}"
        raise FileFormatError(message)
    return int(rank)


def _numbers(document: Mapping[str, Any], path: Path, name: str) -> dict[str, float]:
    found = document.get(name) or {}
    if not isinstance(found, dict):
        message = f"{shown(path)}: expected a JSON object `{name}`, got {shown(found)}"
        raise FileFormatError(message)
    return {pattern: _number(value, path, f"{name}.{pattern}") for pattern, value in found.items()}


def _of_pattern(patterns: Mapping[str, float], layer: str, default: float) -> float:
    """Return the value of the first pattern that is a suffix of a layer's name, as peft chooses it.

    Patterns are compared as texts, since a regular expression of an untrusted file can need unbounded time.
    """
    found = next((p for p in patterns if layer == p.lstrip("^") or layer.endswith(f".{p}")), None)
    return default if found is None else patterns[found]


def _split(adapter: Checkpoint) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """Return the factors of each layer, and the tensors that replace those of the base."""
    factors: dict[str, dict[str, Tensor]] = {}
    replaced: dict[str, Tensor] = {}
    for name, tensor in adapter.tensors.items():
        plain = name.removeprefix(_PREFIX)
        match = _FACTOR.match(plain)
        if match is not None:
            of_layer = factors.setdefault(match["layer"], {})
            of_layer[match["factor"]] = tensor
            if match["embedding"]:
                of_layer["embedding"] = tensor
        elif "lora_" in plain:
            message = f"{shown(adapter.path)}: `{name}` is not supported; {_REMEDY}"
            raise FileFormatError(message)
        else:
            replaced[_SAVED.sub("", plain)] = tensor
    incomplete = [layer for layer, of_layer in factors.items() if not {"A", "B"} <= of_layer.keys()]
    if incomplete or not factors:
        problem = f"one factor is missing for {shorten(incomplete)}" if incomplete else "it has no factors A and B"
        message = f"{shown(adapter.path)}: expected a LoRA adapter; {problem}"
        raise FileFormatError(message)
    return factors, replaced


def _weight_name(base: Checkpoint, layer: str) -> str:
    return _base_name(base, f"{layer}.weight")


def _base_name(base: Checkpoint, name: str) -> str:
    """Return the name of a tensor in the base, in which a leading name of the model may be omitted."""
    if name in base.tensors:
        return name
    matching = [own for own in base.tensors if name.endswith(f".{own}") or own.endswith(f".{name}")]
    if len(matching) != 1:
        message = f"the adapter changes `{name}`, which the base {shown(base.path)} does not have; "
        raise InvalidInputError(message + nearest(name, base.tensors))
    return matching[0]
