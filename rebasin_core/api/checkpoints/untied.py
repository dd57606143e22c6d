"""Checkpoints of models with tied weights, as checkpoints of the untied model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, final

from torch import Tensor
from typing_extensions import override

from rebasin_core.api.untying import separated_names, untie
from rebasin_core.checkpoints.stored import StoredTensor
from rebasin_core.tensors.modules import named_tensors

if TYPE_CHECKING:
    from pathlib import Path

    from rebasin_core.api.checkpoints.network import CheckpointNetwork
    from rebasin_core.checkpoints.checkpoint import Checkpoint
    from rebasin_core.checkpoints.model_source import SourcedModel

_CONFIG = "config.json"
_TIE = "tie_word_embeddings"


def untied_model(model: SourcedModel) -> SourcedModel:
    """Return a model whose tied weights are separate parameters.

    Args:
        model: The model; it is not changed.

    Returns:
        The untied model.
    """
    module = untie(model.module)
    tensors = named_tensors(module)
    added = {name: StoredTensor.whole(name, tensors[name]) for name in separated_names(model.module)}
    identity = f"{model.identity}, untied" if model.identity else ""
    return replace(model, module=module, identity=identity, stored={**model.stored, **added} if model.stored else {})


def untied_checkpoint(network: CheckpointNetwork, model: SourcedModel) -> Checkpoint:
    """Return a checkpoint that contains tied weights once for each name.

    Args:
        network: A network of the tied model.
        model: The tied model.

    Returns:
        The checkpoint, with the configuration of the untied model. Its other files are those of the given one.
    """
    copies: dict[str, str] = {}
    for alias, first in separated_names(model.module).items():
        present = [name for name, own in network.match.targets.items() if own == first]
        for own in (alias, first):
            if not any(name == own or name.endswith(f".{own}") or own.endswith(f".{name}") for name in present):
                copies[_in_file(network, own)] = present[0]
    checkpoint = network.checkpoint
    shards = {**checkpoint.shards, **{name: checkpoint.shards[source] for name, source in copies.items()}}
    return replace(
        checkpoint,
        tensors=_WithCopies(checkpoint.tensors, copies),
        shards=shards,
        config=None if checkpoint.config is None else untied_configuration(checkpoint.config),
    )


def untied_configuration(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of a model whose word embeddings are not tied.

    Args:
        config: Content of ``config.json``.

    Returns:
        The configuration with ``tie_word_embeddings`` false, also in nested configurations that state it.
    """
    nested = {
        name: untied_configuration(value)
        for name, value in config.items()
        if isinstance(value, dict) and value.get(_TIE) is True
    }
    return {**config, **nested, _TIE: False}


def files_of_untied(checkpoint: Checkpoint, folder: Path) -> tuple[Path, ...]:
    """Write the configuration of an untied checkpoint, and return its other files.

    Args:
        checkpoint: A result of `untied_checkpoint`.
        folder: Folder for the configuration.

    Returns:
        Configuration, tokenizer and so on, with the new configuration instead of the old one.
    """
    if checkpoint.config is None:
        return checkpoint.companions
    path = folder / _CONFIG
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(checkpoint.config, indent=2) + "\n", encoding="utf-8")
    return (*(other for other in checkpoint.companions if other.name != _CONFIG), path)


def _in_file(network: CheckpointNetwork, name: str) -> str:
    """Return the name of a tensor of the model with the prefix of the names in a file."""
    match = network.match
    return match.removed + name[len(match.added) :] if name.startswith(match.added) else name


@final
class _WithCopies(Mapping[str, Tensor]):
    """Tensors of a checkpoint, some of them under a second name."""

    def __init__(self, tensors: Mapping[str, Tensor], copies: Mapping[str, str]) -> None:
        self._tensors = tensors
        self._copies = copies

    @override
    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[self._copies.get(name, name)]

    @override
    def __iter__(self) -> Iterator[str]:
        yield from self._tensors
        yield from self._copies

    @override
    def __len__(self) -> int:
        return len(self._tensors) + len(self._copies)
