"""The tensors of two checkpoints that are compared: those that both have, or the rows of them that both have."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, final

from rebasin_core.checkpoints.naming import layout_for, layout_of_shared, read_labels, read_vocabulary, share_rows
from rebasin_core.specs.files import GivenSpec
from rebasin_core.symmetry.parts import restricted
from rebasin_core.symmetry.permutation import Permutation

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from torch import Tensor

    from rebasin_core.api.checkpoints.network import CheckpointNetwork
    from rebasin_core.checkpoints.naming import SharedRows, Vocabulary
    from rebasin_core.specs.base import PermutationSpec
    from rebasin_core.symmetry.layout import Layout
    from rebasin_core.symmetry.permutation import GroupElement


@final
@dataclass(frozen=True, eq=False)
class ComparedPair:
    """A reference and a candidate, and the tensors in which they are compared.

    Tensors that only one network has are not compared, nor are rows of embeddings and heads that belong to a token or
    class of only one of them.

    Attributes:
        reference: The reference.
        candidate: The candidate.
        spec: Permutation symmetries of the compared tensors.
        layout: Permutation symmetries of the candidate.
        rows: The rows that both have, by tensor; tensors that are compared completely are not included.
    """

    reference: CheckpointNetwork
    candidate: CheckpointNetwork
    spec: PermutationSpec
    layout: Layout
    rows: Mapping[str, SharedRows]

    @classmethod
    def of(cls, spec: PermutationSpec, reference: CheckpointNetwork, candidate: CheckpointNetwork) -> ComparedPair:
        """Find the tensors and rows that both networks have.

        Args:
            spec: Permutation symmetries of the model.
            reference: The reference.
            candidate: The candidate.

        Returns:
            The pair.

        Raises:
            FileFormatError: If a tokenizer is damaged.
            InvalidInputError: If the networks differ in a permuted dimension.
        """
        own, other = own_layout(spec.layout, reference), own_layout(spec.layout, candidate)
        rows: dict[str, SharedRows] = {}
        if reference.policy.resized == "keep":
            vocabularies = _vocabularies(reference, candidate)
            rows = share_rows(_shapes(reference), _shapes(candidate), own, vocabularies=vocabularies)
        both = own.axes.keys() & other.axes.keys()
        compared = layout_of_shared(restricted(own, both), rows)
        if compared == spec.layout:
            return cls(reference, candidate, spec, other, rows)
        return cls(reference, candidate, GivenSpec(compared), other, rows)

    @property
    def is_complete(self) -> bool:
        """Whether all tensors are compared completely."""
        return not (self.rows or self.reference.match.missing or self.candidate.match.missing)

    @cached_property
    def reference_tensors(self) -> Mapping[str, Tensor]:
        """The compared tensors of the reference; rows that are not consecutive are copied to memory."""
        if self.is_complete:
            return self.reference.tensors
        return {
            name: self.rows[name].of_reference(tensor) if name in self.rows else tensor
            for name, tensor in self.reference.tensors.items()
            if self.spec.layout.key(name) in self.spec.layout.axes
        }

    @cached_property
    def candidate_tensors(self) -> Mapping[str, Tensor]:
        """The compared tensors of the candidate; rows that are not consecutive are copied to memory."""
        if self.is_complete:
            return self.candidate.tensors
        return {
            name: self.rows[name].of_candidate(tensor) if name in self.rows else tensor
            for name, tensor in self.candidate.tensors.items()
            if self.spec.layout.key(name) in self.spec.layout.axes
        }

    @property
    def buffers(self) -> Collection[str]:
        """Names of the buffers of the model."""
        return self.reference.expected.buffers or ()

    def of_candidate(self, element: GroupElement) -> GroupElement:
        """Return a group element of the compared tensors as one of the candidate.

        Args:
            element: A permutation of the compared tensors; another group element only if all tensors are compared
                completely, since only then the specification has linear symmetries.

        Returns:
            The element, which acts on all tensors of the candidate.
        """
        if element.layout == self.layout:
            return element
        found = Permutation.identity(self.layout).indices
        return Permutation(self.layout, {**found, **element.permutation.indices})


def own_layout(layout: Layout, network: CheckpointNetwork) -> Layout:
    """Return the layout of a network's own tensors, with their lengths.

    Args:
        layout: The layout of the model.
        network: The network.

    Returns:
        The layout.

    Raises:
        InvalidInputError: If the network differs from the model in a permuted dimension, or has only some tensors of a
            stack.
    """
    if not network.is_partial:
        return layout
    missing = set(network.match.missing)
    return layout_for(restricted(layout, [name for name in layout.tensors if name not in missing]), _shapes(network))


def _shapes(network: CheckpointNetwork) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a network's tensors, without assembling those that are stored in parts."""
    resized = network.match.resized
    return {name: resized.get(name, network.form.shapes[name]) for name in network.tensors}


def _vocabularies(reference: CheckpointNetwork, candidate: CheckpointNetwork) -> list[tuple[Vocabulary, Vocabulary]]:
    """Return the tokens and the labels of both networks, if the folders of both have them."""
    first, second = reference.checkpoint, candidate.checkpoint
    pairs = [
        (read_vocabulary(first.companions, first.config), read_vocabulary(second.companions, second.config)),
        (read_labels(first.config), read_labels(second.config)),
    ]
    return [(own, other) for own, other in pairs if own is not None and other is not None]
