"""The model of a checkpoint, from the registered sources, and its specification."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from rebasin_core.api.checkpoints.spec_cache import SpecCache
from rebasin_core.api.tracing import trace_spec
from rebasin_core.checkpoints.checkpoint import Checkpoint
from rebasin_core.checkpoints.construction import with_reserved_memory
from rebasin_core.checkpoints.factory_source import FactoryModelSource
from rebasin_core.checkpoints.model_source import ModelSource, SourcedModel, configuration_of
from rebasin_core.errors import InvalidInputError
from rebasin_core.plugin.registry import Registry, default_registry
from rebasin_core.tensors.arguments import raise_wrong_type
from rebasin_core.tensors.reading import shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rebasin_core.specs.base import PermutationSpec

_REMEDY = "or give a factory of the model, `package.module:name`"
# Keys in configurations of libraries, with the plugin package that reads them.
_PLUGINS = {
    "model_type": "rebasin-transformers",
    "architectures": "rebasin-transformers",
    "architecture": "rebasin-timm",
}


def model_of(
    checkpoint: Checkpoint,
    source: ModelSource | Mapping[str, Any] | str | None = None,
    *,
    registry: Registry | None = None,
) -> SourcedModel:
    """Make the model of a checkpoint, without memory for its parameters.

    Args:
        checkpoint: The checkpoint.
        source: Source of the model: a factory ``package.module:name``, the name of a registered source, a mapping with
            ``name`` and options, or an instance. If None, the registered source that recognizes the configuration next
            to the weights.
        registry: Registry of plugins; all installed plugins if None.

    Returns:
        The model.

    Raises:
        InvalidInputError: If no source or several sources recognize the checkpoint, or the model cannot be made.
        UnknownNameError: If no source has the given name.
        ConfigError: If options of the source are invalid.
    """
    if not isinstance(checkpoint, Checkpoint):
        raise_wrong_type(checkpoint, "a checkpoint, from `open_checkpoint`")
    registry = registry or default_registry()
    return _source(checkpoint, source, registry).build(checkpoint)


def spec_of(
    model: SourcedModel, *, freeze: Sequence[str] = (), cache: bool = True, registry: Registry | None = None
) -> PermutationSpec:
    """Return the specification of the model of a checkpoint: traced, or read from the cache.

    Tracing needs no memory for parameters. Specifications are cached by the identity of the model, the versions of this
    package, of PyTorch and of plugins with rules for operators, in the folder ``specs`` of the user's cache folder
    (``$XDG_CACHE_HOME/rebasin_core`` or ``~/.cache/rebasin_core``). It is safe to delete it.

    Args:
        model: The model.
        freeze: Glob patterns (`fnmatch`) of parameters and buffers to keep fixed.
        cache: Whether to read and write the cache.
        registry: Registry of plugins; all installed plugins if None.

    Returns:
        The specification. The function check verifies it with the tensors of a checkpoint.

    Raises:
        InvalidInputError: If there are no example inputs.
        SpecError: If the model cannot be traced, or a pattern in ``freeze`` matches no tensor.
    """
    if not isinstance(model, SourcedModel):
        raise_wrong_type(model, "a model, from `model_of`")
    cached = SpecCache.of(model.identity, freeze, registry or default_registry()) if cache else None
    found = cached.read() if cached is not None else None
    if found is not None:
        return found
    if model.example_inputs is None:
        message = f"expected example inputs of {type(model.module).__name__}, which are needed to trace it"
        raise InvalidInputError(message)
    args, kwargs = model.example_inputs
    traced = trace_spec(with_reserved_memory(model.module), args, kwargs=kwargs, freeze=freeze)
    if cached is not None:
        cached.write(traced)
    return traced


def _source(checkpoint: Checkpoint, source: object, registry: Registry) -> ModelSource:
    if isinstance(source, str) and ":" in source:
        return FactoryModelSource(factory=source)
    if source is not None:
        return ModelSource.of(source, lambda family, name: registry.get(family, name).kind)
    kinds = [kind for kind in registry.classes("model_source") if not _needs_options(kind)]
    found = [made for made in (cast("ModelSource", kind()) for kind in kinds) if made.recognizes(checkpoint)]
    if len(found) > 1:
        names = ", ".join(repr(made.name) for made in found)
        message = f"{shown(checkpoint.path)}: the sources {names} recognize the configuration; choose one of them"
        raise InvalidInputError(message)
    if not found:
        raise InvalidInputError(_unknown(checkpoint, registry))
    return found[0]


def _needs_options(kind: type[ModelSource]) -> bool:
    return any(option.is_required() for option in kind.model_fields.values())


def _unknown(checkpoint: Checkpoint, registry: Registry) -> str:
    """Return the message that no source recognizes a checkpoint, with the way out."""
    names = ", ".join(registry.names("model_source"))
    config = configuration_of(checkpoint)
    plugins = {plugin for key, plugin in _PLUGINS.items() if key in config}
    missing = sorted(plugins - {entry.status.distribution for entry in registry.all()})
    if missing:
        return f"{shown(checkpoint.path)}: the model is unknown; run `pip install {' '.join(missing)}`, {_REMEDY}"
    found = "has a configuration that no source of models recognizes" if config else "has no configuration"
    return (
        f"{shown(checkpoint.path)} {found} (installed sources: {names}); expected a folder with the config.json of a "
        f"supported library, {_REMEDY}"
    )
