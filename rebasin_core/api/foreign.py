"""Permutations applied to objects of other libraries: a permuted copy of the same kind."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import nn

from rebasin_core.api.conversion import adapter_of
from rebasin_core.errors import InvalidInputError
from rebasin_core.posteriors.adapter import AbstractWriteBack
from rebasin_core.posteriors.foreign.adapters import bayesian_layout
from rebasin_core.symmetry.permutation import permute_foreign_by
from rebasin_core.tensors.modules import named_tensors

if TYPE_CHECKING:
    from rebasin_core.posteriors.foreign.layout import BayesianLayout
    from rebasin_core.symmetry.permutation import Permutation


def permuted_copy(permutation: Permutation, target: object) -> object:
    """Return a permuted copy of an object that a registered adapter reads.

    Args:
        permutation: A group element over the names of the deterministic network.
        target: A module with Bayesian layers, a fitted Laplace object, or another one whose adapter can write.

    Returns:
        A copy; the object is not changed.

    Raises:
        InvalidInputError: If no adapter reads such objects, or it cannot write into them.
    """
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


permute_foreign_by(permuted_copy)
