"""What is not a posterior of ours yet: objects of other libraries, and files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

from torch import Tensor, nn

from rebasin_core.errors import FileFormatError, InvalidInputError
from rebasin_core.plugin.registry import Registry, default_registry
from rebasin_core.posteriors.adapter import AbstractWriteBack, PosteriorAdapter
from rebasin_core.posteriors.base import Posterior
from rebasin_core.posteriors.point import PointPosterior
from rebasin_core.tensors.files import OF_DAMAGED_TENSORS, read_tensors
from rebasin_core.tensors.reading import shown

if TYPE_CHECKING:
    from pathlib import Path

PosteriorLike: TypeAlias = Posterior | Mapping[str, Tensor] | nn.Module | object


def as_posterior(
    source: PosteriorLike, *, model: nn.Module | None = None, registry: Registry | None = None
) -> Posterior:
    """Return the posterior that an object stands for.

    Args:
        source: A posterior; a mapping of tensors (a point; its integer tensors ride along as buffers); or an object
            that a registered adapter knows by its type: a module, or an object of another library.
        model: The deterministic network, for objects that do not know the names of its parameters.
        registry: Where to look for adapters; everything installed if not given.

    Returns:
        The posterior.

    Raises:
        InvalidInputError: If the object is none of these; names the types that are known.
    """
    if isinstance(source, Posterior):
        return source
    if isinstance(source, Mapping):
        buffers = {name: t.detach().clone() for name, t in source.items() if not t.is_floating_point()}
        return PointPosterior(
            {name: t.detach().clone() for name, t in source.items() if name not in buffers}, buffers=buffers
        )
    posterior: Posterior = _adapter_of(source, registry).to_posterior(source, model=model)
    return posterior


def write_back(
    target: object, posterior: Posterior, *, model: nn.Module | None = None, registry: Registry | None = None
) -> None:
    """Put a posterior, such as an aligned one, back into the object of another library that it came from.

    Args:
        target: The object; changed in place, or not at all.
        posterior: A posterior of the kind that `as_posterior` gives for it.
        model: The deterministic network, for objects that do not know the names of its parameters.
        registry: Where to look for adapters; everything installed if not given.

    Raises:
        InvalidInputError: If no adapter can write into such an object, or it cannot hold this posterior.
    """
    adapter = _adapter_of(target, registry)
    if not isinstance(adapter, AbstractWriteBack):
        message = f"{type(adapter).__name__} reads {type(target).__qualname__} and cannot write into it"
        raise InvalidInputError(message)
    adapter.write_back(target, posterior, model=model)


def _adapter_of(source: object, registry: Registry | None) -> PosteriorAdapter:
    """Return the adapter of an object: that of its type, or of the nearest of its bases that is known."""
    kinds = [entry.kind for entry in (registry or default_registry()).all() if entry.family == "posterior_adapter"]
    names = [f"{base.__module__}.{base.__qualname__}" for base in type(source).__mro__]
    for name in names:
        for kind in kinds:
            if name in kind.handles:
                adapter: PosteriorAdapter = kind()
                return adapter
    known = sorted(handled for kind in kinds for handled in kind.handles)
    message = (
        f"cannot read a posterior from {names[0]}; expected a Posterior, a mapping of tensors, or one of {known}. "
        "A plugin can add an adapter with the hook `rebasin_posterior_adapters`"
    )
    raise InvalidInputError(message)


def load_posterior(path: Path | str, *, model: nn.Module | None = None, registry: Registry | None = None) -> Posterior:
    """Read a posterior of any registered representation, or a plain safetensors checkpoint as a point.

    Args:
        path: A file.
        model: The network: a plain checkpoint does not say which of its tensors are buffers.
        registry: Where to look for representations; everything installed if not given.

    Returns:
        The posterior, on the CPU.

    Raises:
        FileFormatError: If the file is missing or damaged.
        UnknownNameError: If its representation is not installed.
    """
    tensors, document = read_tensors(path)
    if document.get("kind") is None:
        return _with_buffers(as_posterior(tensors), model)
    if document["kind"] != "posterior":
        message = f"{path}: expected a posterior or a checkpoint, got a file of kind {document['kind']!r}"
        raise FileFormatError(message)
    registry = registry or default_registry()
    registry.names("posterior")  # imports all representations, of which a mixture may hold any
    representation = document.get("representation")
    if not isinstance(representation, str):
        message = f"{path}: expected the name of a representation in its document, got {shown(representation)}"
        raise FileFormatError(message)
    kind: type[Posterior] = registry.get("posterior", representation).kind
    try:
        return _with_buffers(kind.from_tensors(tensors), model)
    except (*OF_DAMAGED_TENSORS, FileFormatError) as error:
        message = f"{path}: {error}"
        raise FileFormatError(message) from error


def _with_buffers(point: Posterior, model: nn.Module | None) -> Posterior:
    """Return a point whose buffers are those of a model, whatever the kinds of its numbers are."""
    if model is None or not point.is_point:
        return point
    every = {**point.mean, **point.buffers}
    names = dict(model.named_buffers()).keys()
    if point.buffers.keys() >= names:
        return point
    parameters = {n: t for n, t in every.items() if n not in names}
    buffers = {n: t for n, t in every.items() if n in names}
    return PointPosterior(parameters, buffers=buffers)
