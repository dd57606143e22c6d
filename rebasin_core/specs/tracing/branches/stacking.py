"""The tensors and the graph of a model whose like branches have stacked weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.specs.tracing.branches.naming import label_of, stack_name
from rebasin_core.specs.tracing.branches.regrouping import regrouped
from rebasin_core.specs.tracing.branches.site import find_sites
from rebasin_core.symmetry.axis import Atom

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from typing import Self

    from torch import Tensor

    from rebasin_core.specs.tracing.branches.site import Site
    from rebasin_core.specs.tracing.graph import ModelGraph
    from rebasin_core.specs.tracing.model_tensors import ModelTensors
    from rebasin_core.symmetry.layout import Layout


@final
@dataclass(frozen=True)
class Stacking:
    """Like branches of a model, with the names of their groups.

    Attributes:
        original: The graph of the model.
        labels: The name of the group of each site; several sites can have one.
    """

    original: ModelGraph
    labels: tuple[tuple[Site, str], ...]

    @classmethod
    def of(cls, graph: ModelGraph, tensors: ModelTensors, frozen: Collection[str]) -> Self:
        """Return the like branches of a graph that can be recorded as one branch.

        Args:
            graph: The graph of a model.
            tensors: The tensors of the model.
            frozen: Names of tensors that must not be permuted.

        Returns:
            The branches; without sites if there are none.
        """
        constants = {name: tensors.buffers[name] for name in tensors.unsaved}
        labels: list[tuple[Site, str]] = []
        for site in find_sites(graph, constants):
            names = _members(graph, site)
            label = label_of(names, [other for _, other in labels])
            is_free = set(frozen).isdisjoint(name for own in names for name in own)
            if is_free and cls(graph, ((site, label),)).is_recorded:
                labels.append((site, label))
        return cls(graph, tuple(labels))

    @property
    def is_recorded(self) -> bool:
        """Whether the branches can be recorded as one branch, and named."""
        if any(name is None for name in self._names.values()):
            return False
        try:
            _ = self.graph
        except Exception:  # ruff: ignore[blind-except] - operators without vectorization may raise anything
            return False
        return True

    @cached_property
    def _names(self) -> dict[tuple[str, ...], str | None]:
        """The name of each stack, by those of its tensors."""
        found = [(tuple(own), label) for site, label in self.labels for own in _members(self.original, site)]
        return {own: stack_name(own, label) for own, label in found}

    @cached_property
    def stacks(self) -> Mapping[str, str]:
        """The name of the stack of every tensor of a branch."""
        return {member: name for own, name in self._names.items() if name is not None for member in own}

    @cached_property
    def graph(self) -> ModelGraph:
        """The graph with stacked weights."""
        return regrouped(self.original, [site for site, _ in self.labels], self.stacks)

    def tensors(self, given: ModelTensors) -> ModelTensors:
        """Return the tensors of a model with stacked weights.

        Args:
            given: The tensors of the model.

        Returns:
            The tensors; the stacks are on the meta device.
        """
        parameters, buffers = self._stacked(given.parameters), self._stacked(given.buffers)
        return replace(
            given,
            named={**parameters, **buffers},
            parameters=parameters,
            buffers=buffers,
            states=self.renamed(given.states),
        )

    def _stacked(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        sizes = {name: len(own) for own, name in self._names.items()}
        found: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            stack = self.stacks.get(name)
            if stack is None:
                found[name] = tensor
            elif stack not in found:
                found[stack] = torch.empty((sizes[stack], *tensor.shape), dtype=tensor.dtype, device="meta")
        return found

    def renamed(self, names: Collection[str]) -> frozenset[str]:
        """Return names of tensors, with those of stacks instead of their tensors.

        Args:
            names: Names of tensors of the model.

        Returns:
            The names.
        """
        return frozenset(self.stacks.get(name, name) for name in names)

    def permuted_in(self, layout: Layout) -> Self:
        """Return the branches that the groups of a layout exchange.

        Args:
            layout: The layout that was derived for this stacking.

        Returns:
            The same branches if all are exchanged by the groups with their names; without those that no group
            exchanges, and with the name of the group if it has another one.
        """
        kept: list[tuple[Site, str]] = []
        for site, _ in self.labels:
            names = {self.stacks[own[0]] for own in _members(self.original, site)}
            axes = {layout.axes[name][0] for name in names}
            groups = [axis.group for axis in axes if isinstance(axis, Atom) and axis.group is not None]
            if len(axes) == 1 and groups:
                kept.append((site, groups[0]))
        return self if tuple(kept) == self.labels else type(self)(self.original, tuple(kept))


def _members(graph: ModelGraph, site: Site) -> list[list[str]]:
    """Return the names of the tensors of the branches of a site: those of one stack in each list."""
    return [[str(graph.origins[node.name]) for node in own] for own in site.template.members]
