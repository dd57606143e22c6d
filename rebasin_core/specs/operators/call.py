"""The call of an operator in a traced graph: its arguments, and the constraints that its rule can add."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from torch import Tensor

from rebasin_core.specs.unification.relation import Relation, Sight
from rebasin_core.specs.unification.reshaping import reshape, stack
from rebasin_core.specs.unification.terms import AxisTerm, AxisTerms, Reason, concatenation, fresh, length

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from typing_extensions import TypeIs

    from rebasin_core.specs.unification.constraints import Part, PartPath
    from rebasin_core.specs.unification.interface import AxisConstraints

_SPLIT = "a split isolates single units"
_TIED = "two tied axes have different factors or parts"
_CONTRACTED = "two contracted axes have different factors or parts"


def _unknown(name: str) -> None:
    """Return None: no information about the argument."""
    del name


@final  # ruff: ignore[too-many-public-methods] - the vocabulary of all rules
@dataclass(frozen=True, slots=True)
class Call:
    """The call of an operator in a traced graph.

    A tensor is represented by the *terms* of its axes, one per dimension. A rule returns the terms of the outputs and
    constrains the terms of the arguments with the methods below.

    Attributes:
        operator: Name of the operator without its overload, such as ``aten.linear``.
        node: Name of the node in the graph, for reports.
        arguments: Arguments by their names in the operator's schema. A tensor is represented by the terms of its axes,
            a list of tensors by a list of these.
        shapes: Shapes of the outputs.
        used: Indices of the outputs that the graph uses; empty if the operator returns a single tensor.
        constraints: The constraints of the graph so far.
        example: Function of an argument's name. For a tensor, it returns the value if the model's code alone
            determines it, else a record of shape and dtype; for a list, a list of these; None for a missing argument.
    """

    operator: str
    node: str
    arguments: Mapping[str, Any]
    shapes: tuple[tuple[int, ...], ...]
    used: frozenset[int]
    constraints: AxisConstraints
    example: Callable[[str], Any] = _unknown

    def tensor(self, name: str) -> AxisTerms:
        """Return the axes of a tensor argument.

        Args:
            name: Name of the argument in the operator's schema.

        Returns:
            One term per dimension.
        """
        found: AxisTerms = self.arguments[name]
        return found

    @property
    def tensors(self) -> list[AxisTerms]:
        """The axes of all tensors among the arguments, including tensors in lists."""
        return tensors_in([*self.arguments.values()])

    @property
    def first(self) -> AxisTerms:
        """The axes of the first argument, the tensor that the operator transforms."""
        found: AxisTerms = self.arguments[next(iter(self.arguments))]
        return found

    def optional(self, name: str) -> AxisTerms | None:
        """Return the axes of an optional tensor argument.

        Args:
            name: Name of the argument in the operator's schema.

        Returns:
            One term per dimension; None if the argument is missing.
        """
        found = self.arguments.get(name)
        return found if is_tensor(found) else None

    def because(self, why: str) -> Reason:
        """Return a reason for fixing an axis, with the name of this operator and its node.

        Args:
            why: A short phrase, such as "positions are mixed by a kernel".

        Returns:
            The reason.
        """
        return Reason(self.operator.removeprefix("aten."), self.node, why)

    def freeze(self, term: AxisTerm, why: str) -> AxisTerm:
        """Fix an axis: only the identity permutes it.

        Args:
            term: The axis.
            why: The reason, a short phrase for reports.

        Returns:
            The fixed axis.
        """
        return self.constraints.freeze(term, self.because(why))

    def fixed(self, size: int, why: str) -> AxisTerm:
        """Return a new fixed axis.

        Args:
            size: Its length.
            why: The reason, a short phrase for reports.

        Returns:
            The axis.
        """
        return fresh(size, self.because(why))

    def all_fixed(self, why: str) -> list[AxisTerms]:
        """Return new fixed axes for all outputs.

        Args:
            why: The reason, a short phrase for reports.

        Returns:
            The axes of each output.
        """
        return [tuple(self.fixed(size, why) for size in shape) for shape in self.shapes]

    def unify(self, first: AxisTerm, *others: AxisTerm, why: str = _TIED) -> AxisTerm:
        """Constrain axes of equal length to be permuted identically.

        Args:
            first: An axis.
            others: The other axes.
            why: Reason to report for axes that are fixed because their factors or parts differ.

        Returns:
            The unified axis.
        """
        return self.relate(Relation.TIED, first, *others, why=why)

    def relate(self, relation: Relation, first: AxisTerm, *others: AxisTerm, why: str = _TIED) -> AxisTerm:
        """Unify axes, and state how their elements are combined: scales and signs depend on it.

        Args:
            relation: How they are combined; only for operators that the family's ``sights`` contain.
            first: An axis.
            others: The other axes.
            why: Reason to report for axes that are fixed because their factors or parts differ.

        Returns:
            The axis of the combination.
        """
        for other in others:
            first = self.constraints.unify(first, other, self.because(why), relation)
        return first

    def see(self, term: AxisTerm, sight: Sight, why: str = "") -> None:
        """Record how the operator sees the units of an axis, where ``sights`` does not state it.

        Args:
            term: The axis.
            sight: How it is seen.
            why: A short phrase for reports.
        """
        self.constraints.see(term, sight, self.because(why or f"units are seen by a function that is {sight.value}"))

    def broadcast(self, *tensors: AxisTerms, relation: Relation = Relation.TIED) -> AxisTerms:
        """Unify the axes of tensors that are combined elementwise, with broadcasting.

        Args:
            tensors: The axes of each tensor.
            relation: How their elements are combined.

        Returns:
            The axes of the result.
        """
        found: list[AxisTerm] = []
        for dim in range(-max(map(len, tensors), default=0), 0):
            terms = [terms[dim] for terms in tensors if len(terms) >= -dim]
            sizes = {length(term) for term in terms} - {1}
            given = [term for term in terms if length(term) != 1 or not sizes]
            found.append(self.relate(relation, *given))
            if relation is Relation.EQUAL and len(given) < len(tensors):  # one number is added to all units
                self.see(found[-1], Sight.SUM)
        return tuple(found)

    def contract(self, first: AxisTerm, second: AxisTerm, batch: AxisTerms = (), *, why: str = _CONTRACTED) -> AxisTerm:
        """Unify the two axes over which a product of two tensors is summed, as in a matrix product.

        The contracted axis may be permuted differently in each unit of a batch axis, but not of any other axis.

        Args:
            first: The contracted axis of one tensor.
            second: The contracted axis of the other tensor.
            batch: Batch axes, which both tensors share.
            why: Reason to report if the axes are fixed because their factors or parts differ.

        Returns:
            The unified axis.
        """
        unified = self.relate(Relation.CONTRACTED, first, second, why=why)
        self.observe((*batch, unified))
        return unified

    def observe(self, terms: AxisTerms) -> None:
        """Record an intermediate tensor that the operator computes.

        An axis v can be permuted differently in each unit of an axis w only if every tensor that contains v also
        contains w.

        Args:
            terms: The axes of the intermediate tensor.
        """
        self.constraints.observe(terms)

    def reduce(self, terms: AxisTerms, dims: Sequence[int]) -> None:
        """Record that the operator reduces some dimensions internally, as a softmax or a normalization does.

        Args:
            terms: The axes of the tensor.
            dims: The reduced dimensions.
        """
        reduced = {dim % len(terms) for dim in dims}
        self.observe(tuple(term for dim, term in enumerate(terms) if dim not in reduced))

    def mix(self, terms: AxisTerms, sizes: Mapping[int, int], why: str) -> AxisTerms:
        """Fix dimensions along which the operator mixes, selects or reorders elements.

        No other axis can be permuted differently at different indices of these dimensions.

        Args:
            terms: The axes of the tensor.
            sizes: New lengths of these dimensions, by nonnegative index.
            why: The reason, a short phrase for reports.

        Returns:
            The axes of the result: new fixed axes for these dimensions; the other axes are unchanged.
        """
        self.reduce(terms, [*sizes])
        found = list(terms)
        for dim, size in sizes.items():
            self.freeze(terms[dim], why)
            found[dim] = self.fixed(size, why)
        return tuple(found)

    def split(self, terms: AxisTerms, dim: int, sizes: Sequence[int], why: str = _SPLIT) -> list[AxisTerms]:
        """Split a tensor along a dimension into consecutive parts.

        Args:
            terms: The axes of the tensor.
            dim: The dimension.
            sizes: Lengths of the parts; parts of length 0 are omitted.
            why: Reason to report for parts of length 1, which are fixed.

        Returns:
            The axes of each part.
        """
        dim %= len(terms)
        return [
            tuple(part.term if other == dim else self.restrict(term, part.path) for other, term in enumerate(terms))
            for part in self.split_axis(terms[dim], sizes, why)
        ]

    def split_axis(self, term: AxisTerm, sizes: Sequence[int], why: str = _SPLIT) -> list[Part]:
        """Split an axis into consecutive parts.

        Args:
            term: The axis.
            sizes: Lengths of the parts; parts of length 0 are omitted.
            why: Reason to report for parts of length 1, which are fixed.

        Returns:
            The parts, with their paths for `restrict`.
        """
        return self.constraints.split(term, [size for size in sizes if size], self.because(why))

    def restrict(self, term: AxisTerm, path: PartPath) -> AxisTerm:
        """Return the restriction of an axis to a part of another axis of the same tensor.

        Args:
            term: The axis.
            path: The path of the part, from `split_axis`.

        Returns:
            The axis itself, or a new axis if it may be permuted differently in each part.
        """
        return self.constraints.restrict(term, path)

    @staticmethod
    def concat(terms: Sequence[AxisTerm]) -> AxisTerm:
        """Return the concatenation of axes.

        Args:
            terms: At least one axis.

        Returns:
            The concatenated axis.
        """
        return concatenation(terms)

    def stack(self, terms: Sequence[AxisTerm], why: str) -> tuple[AxisTerm, AxisTerm]:
        """Return the axes of tensors that are stacked along a new dimension.

        Args:
            terms: The axis of one dimension of each tensor; these axes may differ.
            why: Reason to report for the new dimension, which is fixed.

        Returns:
            The axis of the new dimension, and the axis of the given dimension in the result.
        """
        return stack(self.constraints, terms, self.because(why))

    def reshape(
        self, terms: Sequence[AxisTerm], sizes: Sequence[int], why: str = "a reshape mixes its factors"
    ) -> list[AxisTerm]:
        """Return the axes of a reshaped tensor.

        Args:
            terms: The old axes.
            sizes: The new lengths, with the same product.
            why: Reason to report for axes that are fixed because neither shape refines the other.

        Returns:
            The new axes.
        """
        return reshape(self.constraints, terms, sizes, self.because(why))


def is_tensor(value: object) -> TypeIs[AxisTerms]:
    """Return whether an argument is a tensor, represented by the terms of its axes.

    Args:
        value: An argument.

    Returns:
        True for a tuple of terms.
    """
    return isinstance(value, tuple) and all(isinstance(term, tuple) for term in value)


def is_constant(example: object) -> TypeIs[Tensor]:
    """Return whether the model's code alone determines a tensor argument.

    Args:
        example: The result of `Call.example`, or an item of it.

    Returns:
        True for a tensor with values; False for a record of shape and dtype.
    """
    return type(example) is Tensor and example.device.type != "meta"


def tensors_in(value: object) -> list[AxisTerms]:
    """Return the tensors in an argument or result.

    Args:
        value: A tensor, another value, or nested lists and dictionaries of these.

    Returns:
        The axes of each tensor, in order.
    """
    if is_tensor(value):
        return [value]
    items = value if isinstance(value, list) else value.values() if isinstance(value, dict) else ()
    return [found for item in items for found in tensors_in(item)]
