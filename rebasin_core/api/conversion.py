"""What is not a posterior of ours yet: objects of other libraries, and files."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias, TypeGuard

import torch
from torch import Tensor, nn

from rebasin_core.errors import FileFormatError, InvalidInputError
from rebasin_core.plugin.registry import Registry, default_registry
from rebasin_core.posteriors.adapter import AbstractWriteBack, PosteriorAdapter
from rebasin_core.posteriors.base import Posterior
from rebasin_core.posteriors.foreign.adapters import ModuleAdapter, bayesian_layout
from rebasin_core.posteriors.point import PointPosterior
from rebasin_core.specs.base import require_spec
from rebasin_core.symmetry.permutation import permute_foreign_by
from rebasin_core.tensors.files import OF_DAMAGED_TENSORS, read_tensors
from rebasin_core.tensors.kinds import require_several
from rebasin_core.tensors.modules import named_tensors, unsaved_buffers, unwrapped
from rebasin_core.tensors.names import TensorNames, require_numbers
from rebasin_core.tensors.reading import shown

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rebasin_core.posteriors.foreign.layout import BayesianLayout
    from rebasin_core.specs.base import PermutationSpec
    from rebasin_core.symmetry.permutation import Permutation

PosteriorLike: TypeAlias = Posterior | Mapping[str, Tensor] | nn.Module | object
"""A posterior, or anything that `as_posterior` converts to one.

A module, or a mapping from names to tensors such as a state dict, is a single network. Any other object is converted by
the adapter of an installed plugin: an IVON optimizer, an averaged model, a guide of Pyro, a Laplace approximation.
"""


def as_posterior(
    source: PosteriorLike,
    *,
    model: nn.Module | None = None,
    spec: PermutationSpec | None = None,
    registry: Registry | None = None,
) -> Posterior:
    """Return the posterior that an object stands for.

    A network is the same however it is given. Compiled, parallel and averaged modules stand for the module that they
    wrap. In a state dict or a point, the model or else the specification tells which tensors are buffers; second names
    of tied weights, and the prefixes ``module.`` and ``_orig_mod.``, are replaced. Where neither tells, integers and
    the statistics of normalizations (``running_mean`` and the like) are taken for buffers.

    Args:
        source: A posterior; a mapping of tensors (a point); or an object that a registered adapter knows by its type: a
            module, or an object of another library.
        model: The deterministic network, for objects that do not know which of their tensors are parameters.
        spec: The symmetries of the network, in the place of a model.
        registry: Where to look for adapters; everything installed if not given.

    Returns:
        The posterior.

    Raises:
        InvalidInputError: If the object is none of these; names the types that are known. If a parameter holds
            integers (quantized weights), or two names of one tensor have different values.
    """
    if spec is not None:
        require_spec(spec)
    model = None if model is None else unwrapped(model)
    names = TensorNames.of_module(model) if model is not None else None if spec is None else spec.layout.names
    if isinstance(source, Posterior):
        posterior = source
    elif isinstance(source, Mapping):
        posterior = PointPosterior.from_tensors_by_name(source, names)
    else:
        given = unwrapped(source) if isinstance(source, nn.Module) else source
        posterior = adapter_of(given, registry).to_posterior(given, model=model)
    if names is not None:
        posterior = posterior.named_as(names)
    if spec is not None:
        # Of a specification that does not know buffers: no buffer of integers has units.
        moved = {name: posterior.buffers[name] for name in spec.layout.moved if name in posterior.buffers}
        require_numbers(moved if names is None or names.buffers is None else {}, "the network")
    return posterior if model is None else _completed(posterior, model)


def as_posteriors(
    sources: Sequence[PosteriorLike], *, model: nn.Module | None = None, spec: PermutationSpec | None = None
) -> list[Posterior]:
    """Return the posteriors that several objects stand for, given in any mixture of forms.

    Args:
        sources: The objects, over the parameters of one network.
        model: As for `as_posterior`; the first module among the objects if neither this nor the specification tells
            which tensors are buffers.
        spec: As for `as_posterior`.

    Returns:
        The posteriors, in order.

    Raises:
        InvalidInputError: As by `as_posterior`.
    """
    require_several(sources, "several networks or posteriors")
    sources = list(sources)
    if model is None:
        model = next((source for source in sources if _is_plain(source)), None)
    return [as_posterior(source, model=model, spec=spec) for source in sources]


def _is_plain(source: object) -> TypeGuard[nn.Module]:
    """Return whether an object is a deterministic network, which knows the names of its tensors."""
    if not isinstance(source, nn.Module):
        return False
    inner = unwrapped(source)
    return isinstance(adapter_of(inner), ModuleAdapter) and bayesian_layout(inner) is None


def _completed(posterior: Posterior, model: nn.Module) -> Posterior:
    """Return a point with the buffers of a model that state dicts leave out: those that are not saved."""
    if not posterior.is_point:
        return posterior
    unsaved = unsaved_buffers(model)
    missing = {
        name: buffer.detach().clone()
        for name, buffer in model.named_buffers()
        if name in unsaved and name not in posterior.buffers
    }
    if not missing:
        return posterior
    buffers = {**posterior.buffers, **missing}
    return PointPosterior(posterior.mean, buffers=buffers, prior=posterior.prior)


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
    adapter = adapter_of(target, registry)
    if not isinstance(adapter, AbstractWriteBack):
        message = f"{type(adapter).__name__} reads {type(target).__qualname__} and cannot write into it"
        raise InvalidInputError(message)
    adapter.write_back(target, posterior, model=model)


def adapter_of(source: object, registry: Registry | None = None) -> PosteriorAdapter:
    """Return the adapter of an object: that of its type, or of the nearest of its bases that is known.

    Args:
        source: Any object.
        registry: Where to look; everything installed if not given.

    Returns:
        The adapter.

    Raises:
        InvalidInputError: If there is none; names the types that are known.
    """
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
        return as_posterior(tensors, model=model)
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
        return as_posterior(kind.from_tensors(tensors), model=model)
    except (*OF_DAMAGED_TENSORS, FileFormatError) as error:
        message = f"{path}: {error}"
        raise FileFormatError(message) from error


def _permuted_copy(permutation: Permutation, target: object) -> object:
    """Return a permuted copy of an object that a registered adapter reads."""
    if isinstance(target, nn.Module) and (layout := bayesian_layout(target)) is not None:
        return _permuted_layers(permutation, target, layout)
    adapter = adapter_of(target)
    if not isinstance(adapter, AbstractWriteBack):
        message = (
            f"{type(adapter).__name__} reads `{type(target).__qualname__}` and cannot write into it; apply the "
            "permutation to the posterior that `rebasin_core.as_posterior` gives for it"
        )
        raise InvalidInputError(message)
    if isinstance(target, torch.optim.Optimizer):
        message = (
            f"`{type(target).__qualname__}` holds the parameters of a network, which a copy of it would not hold: "
            "permute its posterior, and put that back by `write_back(optimizer, posterior, model=model)`"
        )
        raise InvalidInputError(message)
    posterior = adapter.to_posterior(target)
    moved = copy.deepcopy(target)
    adapter.write_back(moved, posterior.permute(permutation))
    return moved


def _permuted_layers(permutation: Permutation, module: nn.Module, layout: BayesianLayout) -> nn.Module:
    """Return a copy of a module with Bayesian layers: each tensor of a layer moves as the parameter it belongs to."""
    moved = copy.deepcopy(module)
    tensors = named_tensors(moved)
    plain = layout.plain_names(tensors)
    belongs = {name: own for name in tensors if (own := plain.get(name, name)) is not None}
    permutation.layout.check({own: tensors[name] for name, own in belongs.items()}, "the module")
    with torch.no_grad():
        for name, own in belongs.items():
            tensors[name].copy_(permutation.apply({own: tensors[name]})[own])
    return moved


permute_foreign_by(_permuted_copy)
