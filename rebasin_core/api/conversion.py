"""Conversion to and from posteriors: modules, tensors, objects of other libraries, and files."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import torch
from torch import Tensor, nn

from rebasin_core.api.opening import read_any
from rebasin_core.checkpoints.requirements import require_network
from rebasin_core.checkpoints.safetensors_reader import SAFETENSORS
from rebasin_core.errors import FileFormatError, InvalidInputError
from rebasin_core.plugin.registry import Registry, default_registry
from rebasin_core.posteriors.adapter import AbstractWriteBack, PosteriorAdapter
from rebasin_core.posteriors.base import Posterior
from rebasin_core.posteriors.foreign.adapters import ModuleAdapter, bayesian_layout
from rebasin_core.posteriors.point import PointPosterior
from rebasin_core.specs.base import require_spec
from rebasin_core.symmetry.application import transform_foreign_by
from rebasin_core.tensors.arguments import require_sequence
from rebasin_core.tensors.files import OF_DAMAGED_TENSORS, document_in
from rebasin_core.tensors.modules import named_tensors, unsaved_buffers, unwrapped
from rebasin_core.tensors.names import TensorNames, require_numbers
from rebasin_core.tensors.reading import shown

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rebasin_core.posteriors.foreign.layout import BayesianLayout
    from rebasin_core.specs.base import PermutationSpec
    from rebasin_core.symmetry.permutation import GroupElement, Permutation

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
    """Convert a module, a dictionary of tensors or an object of another library to a posterior.

    All forms of one network give equal posteriors. Compiled, parallel and averaged modules are unwrapped. In a state
    dict or a `PointPosterior`, the model, or else the specification, determines which tensors are buffers; second names
    of tied weights, and the prefixes ``module.`` and ``_orig_mod.``, are replaced. Without a model or specification,
    integer tensors and running statistics of normalizations (``running_mean`` and similar names) become buffers.

    Args:
        source: A posterior; a mapping from names to tensors (a single network); or an object whose type a registered
            adapter handles: a module, or an object of another library.
        model: The deterministic network, for objects that do not distinguish parameters from buffers.
        spec: Permutation symmetries of the network, an alternative to ``model``.
        registry: Registry of adapters; all installed plugins if None.

    Returns:
        The posterior.

    Raises:
        InvalidInputError: If no adapter handles the object's type (the message lists the supported types), a parameter
            holds integers (quantized weights), or two names of one tensor have different values.
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
        # If the specification does not list buffers: a permuted buffer of integers is a quantized weight.
        buffers = posterior.buffers
        moved = set(spec.layout.moved)
        permuted = {name: tensor for name, tensor in buffers.items() if spec.layout.key(name) in moved}
        require_numbers(permuted if names is None or names.buffers is None else {}, "the network")
    return posterior if model is None else _completed(posterior, model)


def as_posteriors(
    sources: Sequence[PosteriorLike], *, model: nn.Module | None = None, spec: PermutationSpec | None = None
) -> list[Posterior]:
    """Convert several objects, of equal or different types, to posteriors.

    Args:
        sources: The objects, over the parameters of one network.
        model: As for `as_posterior`; if None, the first plain module among the objects.
        spec: As for `as_posterior`.

    Returns:
        The posteriors, in order.

    Raises:
        InvalidInputError: As by `as_posterior`.
    """
    require_sequence(sources, "several networks or posteriors")
    sources = list(sources)
    if model is None:
        model = next((source for source in sources if _is_plain(source)), None)
    return [as_posterior(source, model=model, spec=spec) for source in sources]


def _is_plain(source: object) -> TypeGuard[nn.Module]:
    """Return whether an object is a deterministic network (a module without Bayesian layers)."""
    if not isinstance(source, nn.Module):
        return False
    inner = unwrapped(source)
    return isinstance(adapter_of(inner), ModuleAdapter) and bayesian_layout(inner) is None


def _completed(posterior: Posterior, model: nn.Module) -> Posterior:
    """Add the model's non-persistent buffers, which state dicts omit, to a point posterior."""
    if not posterior.is_point:
        return posterior
    unsaved = unsaved_buffers(model)
    given = posterior.buffers
    missing = {
        name: buffer.detach().clone() for name, buffer in model.named_buffers() if name in unsaved and name not in given
    }
    if not missing:
        return posterior
    return PointPosterior(posterior.mean, buffers={**given, **missing}, prior=posterior.prior)


def write_back(
    target: object, posterior: Posterior, *, model: nn.Module | None = None, registry: Registry | None = None
) -> None:
    """Write a posterior, such as an aligned one, into the object of another library that it was read from.

    Args:
        target: The object; changed in place. On an error it is unchanged.
        posterior: A posterior of the class that `as_posterior` returns for the object.
        model: The deterministic network, for objects that do not store the names of its parameters.
        registry: Registry of adapters; all installed plugins if None.

    Raises:
        InvalidInputError: If no adapter can write to such an object, or the object cannot represent this posterior.
    """
    adapter = adapter_of(target, registry)
    if not isinstance(adapter, AbstractWriteBack):
        message = f"{type(adapter).__name__} can read `{type(target).__qualname__}` but not write to it"
        raise InvalidInputError(message)
    adapter.write_back(target, posterior, model=model)


def adapter_of(source: object, registry: Registry | None = None) -> PosteriorAdapter:
    """Return the adapter of an object's type, or of the first supported base class in its method resolution order.

    Args:
        source: Any object.
        registry: Registry of adapters; all installed plugins if None.

    Returns:
        The adapter.

    Raises:
        InvalidInputError: If there is none; the message lists the supported types.
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
    """Read a posterior of any registered representation, or a checkpoint of any registered format as a single network.

    Args:
        path: The file, or the folder of a checkpoint. If a file contains several networks, open one of them with
            `open_checkpoint` and its option ``entry``, and pass its tensors to `as_posterior`.
        model: The network, to distinguish parameters from buffers in a checkpoint.
        registry: Registry of representations and readers; all installed plugins if None.

    Returns:
        The posterior, on the CPU.

    Raises:
        FileFormatError: If the file is missing or damaged, or has a format that no reader recognizes.
        InvalidInputError: If a file contains several networks.
        UnknownNameError: If no installed plugin registers its representation.
    """
    registry = registry or default_registry()
    found = read_any(path, registry=registry)
    try:
        document = document_in(found.metadata) if found.format == SAFETENSORS else {"kind": None}
    except FileFormatError as error:
        message = f"{shown(found.path)}: {error}"
        raise FileFormatError(message) from error
    if document["kind"] is None:
        require_network(found)
    elif document["kind"] != "posterior":
        message = f"{path}: expected a posterior or a checkpoint, got a file of kind {document['kind']!r}"
        raise FileFormatError(message)
    # Copies, since tensors in files are not aligned, and sums over unaligned memory differ in the last digit.
    tensors = {name: tensor.clone() for name, tensor in found.tensors.items()}
    if document["kind"] is None:
        return as_posterior(tensors, model=model)
    return _posterior_of(document, tensors, path, model, registry)


def _posterior_of(
    document: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    path: Path | str,
    model: nn.Module | None,
    registry: Registry,
) -> Posterior:
    """Return the posterior with the representation that the document of a file names."""
    registry.names("posterior")  # imports all representations, because a mixture can contain any of them
    representation = document.get("representation")
    if not isinstance(representation, str):
        message = f"{path}: expected the name of a representation in its metadata, got {shown(representation)}"
        raise FileFormatError(message)
    kind: type[Posterior] = registry.get("posterior", representation).kind
    try:
        return as_posterior(kind.from_tensors(tensors), model=model)
    except (*OF_DAMAGED_TENSORS, FileFormatError) as error:
        message = f"{path}: {error}"
        raise FileFormatError(message) from error


def _transformed_copy(element: GroupElement, target: object) -> object:
    """Return a transformed copy of an object that a registered adapter reads."""
    if isinstance(target, nn.Module) and (layout := bayesian_layout(target)) is not None:
        if element != element.permutation:
            message = (
                f"`{type(target).__qualname__}` has Bayesian layers, which can only be permuted; apply the element to "
                "the posterior that `rebasin_core.as_posterior` returns for it"
            )
            raise InvalidInputError(message)
        return _permuted_layers(element.permutation, target, layout)
    adapter = adapter_of(target)
    if not isinstance(adapter, AbstractWriteBack):
        message = (
            f"{type(adapter).__name__} can read `{type(target).__qualname__}` but not write to it; apply the "
            "group element to the posterior that `rebasin_core.as_posterior` returns for it"
        )
        raise InvalidInputError(message)
    if isinstance(target, torch.optim.Optimizer):
        message = (
            f"`{type(target).__qualname__}` refers to the parameters of a network, and a copy of it would not; "
            "transform its posterior, and write that back with `write_back(optimizer, posterior, model=model)`"
        )
        raise InvalidInputError(message)
    posterior = adapter.to_posterior(target)
    transformed = copy.deepcopy(target)
    adapter.write_back(transformed, posterior.transform(element))
    return transformed


def _permuted_layers(permutation: Permutation, module: nn.Module, layout: BayesianLayout) -> nn.Module:
    """Return a copy of a module with Bayesian layers; each tensor is permuted like the weight it parameterizes."""
    permuted = copy.deepcopy(module)
    tensors = named_tensors(permuted)
    plain = layout.plain_names(tensors)
    parameter_names = {name: own for name in tensors if (own := plain.get(name, name)) is not None}
    permutation.layout.check({own: tensors[name] for name, own in parameter_names.items()}, "the module")
    with torch.no_grad():
        for name, tensor in _permuted_fields(permutation, tensors, parameter_names).items():
            tensors[name].copy_(tensor)
    return permuted


def _permuted_fields(
    permutation: Permutation, tensors: Mapping[str, Tensor], names: Mapping[str, str]
) -> dict[str, Tensor]:
    """Return the permuted tensors of Bayesian layers; several can parameterize the weight of one name."""
    fields: list[dict[str, str]] = []
    for name, own in names.items():
        field = next((field for field in fields if own not in field), None)
        if field is None:
            fields.append({own: name})
        else:
            field[own] = name
    found: dict[str, Tensor] = {}
    for field in fields:
        permuted = permutation.apply({own: tensors[name] for own, name in field.items()})
        found |= {field[own]: tensor for own, tensor in permuted.items()}
    return found


transform_foreign_by(_transformed_copy)
