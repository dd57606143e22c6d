"""The source of models of transformers."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from contextlib import contextmanager
from importlib.metadata import version
from types import MethodType
from typing import TYPE_CHECKING, Any, Literal, final

from typing_extensions import override

from rebasin_core import Checkpoint, ModelSource
from rebasin_core.checkpoints import SourcedModel, configuration_of
from rebasin_core.errors import InvalidInputError
from rebasin_core.tensors.input_texts import parse_named_inputs

if TYPE_CHECKING:
    from collections.abc import Generator

    from transformers import PreTrainedConfig, PreTrainedModel

_CUSTOM_CODE = "auto_map"
# Entries of a configuration that name code or weights that would be downloaded, or that depend on the machine.
_DROPPED = frozenset({
    _CUSTOM_CODE, "attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation",
    "use_kernels", "kernel_config", "compression_config",
})  # fmt: skip
# Entries that differ between checkpoints of one architecture, and do not change its symmetries.
_UNRELATED = frozenset({
    "_name_or_path",
    "transformers_version",
    "torch_dtype",
    "dtype",
    "use_cache",
    "id2label",
    "label2id",
})
# Outputs that a model returns in addition to its predictions. Hidden states are permuted by an alignment.
_AUXILIARY = (
    "past_key_values", "hidden_states", "attentions", "router_logits", "loss", "encoder_last_hidden_state",
    "cache_params", "text_model_output", "vision_model_output", "mems", "state", "router_probs",
)  # fmt: skip


@final
class TransformersModelSource(ModelSource):
    """Makes the model of a folder of Hugging Face transformers from its ``config.json``.

    The class is the one that ``architectures`` names, or the base model of ``model_type``. Only classes of the
    installed version of transformers are used: code in the folder is never executed, and there are no downloads.

    Examples:
        >>> TransformersModelSource(named_inputs={"input_ids": "1,16:int<1000"})
        TransformersModelSource(named_inputs={'input_ids': '1,16:int<1000'})
    """

    name: Literal["transformers"] = "transformers"

    named_inputs: Mapping[str, str] = {}
    """Random inputs by name for tracing and for the function check, each as a comma-separated shape, followed by
    ``:int<N`` for integers in [0, N), or by ``:bool``; those of the configuration if empty."""

    @override
    def recognizes(self, checkpoint: Checkpoint) -> bool:
        return isinstance(configuration_of(checkpoint).get("model_type"), str)

    @override
    def _prepare(self) -> None:
        importlib.import_module("transformers.modeling_utils")

    @override
    def _build(self, checkpoint: Checkpoint) -> SourcedModel:
        from rebasin_transformers.inputs import example_inputs  # ruff: ignore[import-outside-top-level] - slow
        from rebasin_transformers.stored import stored_tensors  # ruff: ignore[import-outside-top-level] - slow

        document = _usable(configuration_of(checkpoint))
        with _offline():
            module = _module(document)
        given = dict(self.named_inputs)
        inputs = parse_named_inputs(f"{k}={text}" for k, text in given.items()) if given else example_inputs(module)
        module.forward = MethodType(_predictions, module)
        return SourcedModel(
            module=module,
            example_inputs=((), inputs),
            identity=_identity(type(module).__name__, document, given),
            stored=stored_tensors(module, checkpoint),
        )


def _usable(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration without entries that would load code or weights."""
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "an unknown method")
        message = (
            f"the checkpoint is quantized ({method}), so its tensors cannot be compared or averaged; dequantize it "
            "first (`model.dequantize()` in transformers), and quantize the result again"
        )
        raise InvalidInputError(message)
    found = _without(dict(config), _DROPPED)
    if not isinstance(found, dict):
        raise TypeError
    if "use_pretrained_backbone" in found:
        found["use_pretrained_backbone"] = False
    return found


def _without(value: Any, names: frozenset[str]) -> Any:  # ruff: ignore[any-type] - JSON
    match value:
        case dict():
            return {name: _without(item, names) for name, item in value.items() if name not in names}
        case list():
            return [_without(item, names) for item in value]
        case _:
            return value


def _module(document: dict[str, Any]) -> PreTrainedModel:
    """Return the model of a configuration, without the outputs and caches that a comparison does not need."""
    import torch  # ruff: ignore[import-outside-top-level] - like transformers
    from transformers.utils import logging  # ruff: ignore[import-outside-top-level] - slow

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        config = _config(document)
        kind = _kind(config, document)
        for part in (config, config.get_text_config(decoder=True)):
            part.use_cache = False
        config.return_dict = True
        config.output_hidden_states = False
        module: PreTrainedModel = kind._from_config(config, dtype=torch.float32)  # ruff: ignore[private-member-access] - that of `AutoModel.from_config`
    finally:
        logging.set_verbosity(verbosity)
    return module


def _config(document: dict[str, Any]) -> PreTrainedConfig:
    from transformers import CONFIG_MAPPING  # ruff: ignore[import-outside-top-level] - slow

    kind = document["model_type"]
    if kind not in CONFIG_MAPPING:
        message = (
            f"transformers {version('transformers')} has no models of type {kind!r}; install a version that has, or "
            "give a factory of the model, `package.module:name`. Code next to the weights is not executed"
        )
        raise InvalidInputError(message)
    config: PreTrainedConfig = CONFIG_MAPPING[kind].from_dict(document)
    return config


def _kind(config: PreTrainedConfig, document: Mapping[str, Any]) -> type[PreTrainedModel]:
    """Return the class of a model: the first of ``architectures`` in transformers, or the base model."""
    import transformers  # ruff: ignore[import-outside-top-level] - slow
    from transformers import MODEL_MAPPING, PreTrainedModel  # ruff: ignore[import-outside-top-level] - slow

    names = document.get("architectures") or ()
    for name in names:
        found = getattr(transformers, name, None)
        if isinstance(found, type) and issubclass(found, PreTrainedModel):
            return found
    if names or type(config) not in MODEL_MAPPING:
        wanted = ", ".join(names) or f"a model of type {config.model_type!r}"
        message = (
            f"transformers {version('transformers')} has no {wanted}; install a version that has, or give a factory of "
            "the model, `package.module:name`. Code next to the weights is not executed"
        )
        raise InvalidInputError(message)
    base = MODEL_MAPPING[type(config)]
    kind: type[PreTrainedModel] = base[0] if isinstance(base, tuple) else base
    return kind


def _predictions(self: PreTrainedModel, *args: object, **kwargs: object) -> dict[str, object]:
    """Run the forward pass of the class, and return its predictions without hidden states and caches."""
    outputs = type(self).forward(self, *args, **kwargs)
    if not isinstance(outputs, Mapping):
        return {"output": outputs}
    found = {name: value for name, value in outputs.items() if not name.endswith(_AUXILIARY)}
    # The last hidden states of a decoder are those of its output.
    return found or dict(outputs)


def _identity(kind: str, document: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    packages = {name: version(name) for name in ("transformers", "rebasin-transformers")}
    related = {name: value for name, value in document.items() if name not in _UNRELATED}
    return json.dumps([kind, packages, related, inputs], sort_keys=True)


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
