"""Tied weights made separate: a tensor with several names becomes one tensor for each name."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from torch import nn

from rebasin_core.errors import InvalidInputError
from rebasin_core.posteriors.attached import AbstractAttachedPosterior
from rebasin_core.posteriors.capabilities import AbstractMixture
from rebasin_core.posteriors.mixture import MixturePosterior
from rebasin_core.posteriors.networks import networks_of, with_networks
from rebasin_core.tensors.checks import shorten
from rebasin_core.tensors.modules import repeated_names, unwrapped

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rebasin_core.posteriors.base import Posterior


def untie(model: nn.Module) -> nn.Module:
    """Return a copy of a model in which tied weights are separate parameters with equal values.

    Parameters of modules that are registered under several names remain shared. If the model has a configuration with
    an entry ``tie_word_embeddings``, as models of Hugging Face libraries, it is set to false. Then saving the copy
    writes both.

    Args:
        model: A module; it is not changed.

    Returns:
        The copy; it computes the same function.

    Examples:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.Embedding(5, 3), torch.nn.Linear(3, 5, bias=False))
        >>> model[1].weight = model[0].weight
        >>> [name for name, _ in model.named_parameters()], [name for name, _ in untie(model).named_parameters()]
        (['0.weight'], ['0.weight', '1.weight'])
    """
    separate = copy.deepcopy(unwrapped(model))
    for alias, first in repeated_names(separate).items():
        owner, own = _owner(separate, alias)
        other, _ = _owner(separate, first)
        if owner is not other and own in owner._parameters:  # ruff: ignore[private-member-access] - no public equivalent
            tied = owner.get_parameter(own)
            owner.register_parameter(own, nn.Parameter(tied.detach().clone(), requires_grad=tied.requires_grad))
    configuration: Any = getattr(separate, "config", None)
    if getattr(configuration, "tie_word_embeddings", False):
        configuration.tie_word_embeddings = False
    return separate


def separated_names(model: nn.Module) -> dict[str, str]:
    """Return the names that `untie` gives tensors of their own.

    Args:
        model: A module.

    Returns:
        For each such name, the first name of the tied tensor.
    """
    tied = repeated_names(unwrapped(model))
    remaining = repeated_names(untie(model))
    return {alias: first for alias, first in tied.items() if alias not in remaining}


def untied_posterior(posterior: Posterior, names: Mapping[str, str]) -> Posterior:
    """Return a posterior over the parameters of an untied model.

    Args:
        posterior: A posterior of the tied model.
        names: The first name of the tied tensor for each new name.

    Returns:
        The posterior, in which tied tensors are contained once for each name.

    Raises:
        InvalidInputError: If a tied tensor is random and not given by samples: its copies would be independent.
    """
    networks = networks_of(posterior)
    if networks is not None:
        copies = [{alias: network[first].clone() for alias, first in names.items()} for network in networks]
        return with_networks(posterior, [network | own for network, own in zip(networks, copies, strict=True)])
    if isinstance(posterior, AbstractMixture):
        components = [untied_posterior(component, names) for component in posterior.components]
        return MixturePosterior(components, weights=posterior.weights)
    stddev = posterior.stddev
    random = [first for first in names.values() if bool(stddev[first].any())]
    if random or not isinstance(posterior, AbstractAttachedPosterior):
        message = (
            f"cannot separate the tied tensors {shorten(sorted(set(names.values())))} of a posterior of kind "
            f"{posterior.kind!r}: copies of a random tensor would be independent; convert it with "
            "`SamplesPosterior.from_posterior`"
        )
        raise InvalidInputError(message)
    tensors = posterior.as_tensors()
    for key, tensor in posterior.as_tensors().items():
        field, _, name = key.partition("/")
        tensors |= {f"{field}/{alias}": tensor.clone() for alias, first in names.items() if first == name}
    return posterior.from_tensors(tensors)


def _owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Return the module that has a parameter, and the name of the parameter there."""
    owner, _, own = name.rpartition(".")
    return model.get_submodule(owner), own
