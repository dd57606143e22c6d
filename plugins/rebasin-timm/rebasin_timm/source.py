"""The source of models of timm."""

from __future__ import annotations

import importlib
import json
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal, final

import torch
from typing_extensions import override

from rebasin_core import Checkpoint, ModelSource
from rebasin_core.checkpoints import SourcedModel, configuration_of
from rebasin_core.errors import InvalidInputError
from rebasin_core.tensors.input_texts import parse_input

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping

    from torch import Tensor, nn

# Arguments of `timm.create_model` that load weights or other configurations.
_EXCLUDED = frozenset({
    "cache_dir", "checkpoint_path", "exportable", "model_name", "no_jit", "pretrained", "pretrained_cfg",
    "pretrained_cfg_overlay", "scriptable",
})  # fmt: skip
_BATCH = 2
_LARGEST = 128
_DEFAULT_SIZE = (3, 224, 224)


@final
class TimmModelSource(ModelSource):
    """Makes the model of a checkpoint of timm from the ``config.json`` in its folder.

    The configuration is the one that timm writes for the hub: ``architecture``, ``num_classes``, ``model_args`` and
    ``pretrained_cfg``. There are no downloads.

    Examples:
        >>> TimmModelSource(input="1,3,64,64")
        TimmModelSource(input='1,3,64,64')
    """

    name: Literal["timm"] = "timm"

    input: str | None = None
    """Random images for tracing and for the function check, as a comma-separated shape; if None, two images of the
    configured size, or of at most 128 pixels a side if the model accepts any size."""

    @override
    def recognizes(self, checkpoint: Checkpoint) -> bool:
        return isinstance(configuration_of(checkpoint).get("architecture"), str)

    @override
    def _prepare(self) -> None:
        importlib.import_module("timm")

    @override
    def _build(self, checkpoint: Checkpoint) -> SourcedModel:
        config = configuration_of(checkpoint)
        described = _described(config)
        with _offline():
            module = _module(config, described)
        images = _images(config, module, described) if self.input is None else parse_input(self.input)
        related = [config["architecture"], config.get("num_classes"), config.get("model_args"), described, self.input]
        packages = {name: version(name) for name in ("timm", "rebasin-timm")}
        return SourcedModel(module, ((images,), {}), json.dumps([packages, related], sort_keys=True, default=str))


def _described(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description of the pretrained weights; older configurations consist of it."""
    given: Mapping[str, Any] = config.get("pretrained_cfg", config)
    names = ("input_size", "fixed_input_size", "num_classes", "pool_size", "first_conv", "classifier")
    return {name: given[name] for name in names if given.get(name) is not None}


def _module(config: Mapping[str, Any], described: Mapping[str, Any]) -> nn.Module:
    import timm  # ruff: ignore[import-outside-top-level] - slow

    name = config["architecture"]
    # Names of other forms, such as hf-hub:..., would be looked up on the hub.
    if not timm.is_model(name):
        message = (
            f"timm {version('timm')} has no architecture {name!r}; install a version that has, or give a factory of "
            "the model, `package.module:name`"
        )
        raise InvalidInputError(message)
    options = {key: value for key, value in dict(config.get("model_args") or {}).items() if key not in _EXCLUDED}
    classes = config.get("num_classes", described.get("num_classes"))
    if classes is not None:
        options.setdefault("num_classes", classes)
    channels, _, _ = described.get("input_size", _DEFAULT_SIZE)
    if channels != _DEFAULT_SIZE[0]:
        options.setdefault("in_chans", channels)
    module: nn.Module = timm.create_model(name, pretrained=False, pretrained_cfg=_overlay(name, described), **options)
    return module


def _overlay(name: str, described: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description of weights that timm has for an architecture, changed by that of the checkpoint."""
    import timm  # ruff: ignore[import-outside-top-level] - slow

    known = timm.get_pretrained_cfg(name)
    return {"architecture": name, **(known.to_dict() if known is not None else {}), **described}


def _images(config: Mapping[str, Any], module: nn.Module, described: Mapping[str, Any]) -> Tensor:
    known: Mapping[str, Any] = {**vars(module).get("pretrained_cfg", {}), **described}
    channels, height, width = known.get("input_size") or _DEFAULT_SIZE
    options: Mapping[str, Any] = config.get("model_args") or {}
    channels = options.get("in_chans") or channels
    size = options.get("img_size")
    if size is not None:
        height, width = (size, size) if isinstance(size, int) else size
    elif not known.get("fixed_input_size", False):
        height, width = min(height, _LARGEST), min(width, _LARGEST)
    return torch.randn(_BATCH, channels, height, width, generator=torch.Generator().manual_seed(0))


@contextmanager
def _offline() -> Generator[None]:
    """Disable downloads by the client of the hub."""
    from huggingface_hub import constants  # ruff: ignore[import-outside-top-level] - slow

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
