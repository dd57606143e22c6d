"""One operator of a traced graph as its rule sees it: the arguments, and the constraints that a rule can add."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from rebasin_core.specs.unification.reshaping import reshape, stack
from rebasin_core.specs.unification.terms import AxisTerm, AxisTerms, Reason, concatenation, fresh, length

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from typing_extensions import TypeIs

    from rebasin_core.specs.unification.constraints import Constraints, Part, PartPath

_SPLIT = "it is cut where its factors do not end"
_SUMMED = "the two factors of a product do not factor alike"


def _unknown(name: str) -> None:
    """Tell nothing about an argument."""
    del name


@final
@dataclass(frozen=True, slots=True)
class Call:
    """One operator in the traced graph, with its arguments and the constraints that its rule adds to.

    The axes of a tensor are given as *terms*, one per dimension. A rule passes them on to the outputs, and calls the
    methods below to constrain them.

    Attributes:
        operator: Name of the operator without its overload, such as ``aten.linear``.
        node: Name of the node in the graph, for reports.
        arguments: Arguments by the names of the operator's schema. A tensor is given as the terms of its axes, a list
            of tensors as a list of those.
        shapes: The shapes of the outputs.
        used: Indices of the outputs that the graph uses.
        constraints: The constraints of the graph so far.
        example: By the name of an argument, what is known about its values: a tensor if the code of the model alone
            determines it, else a record of shape and dtype; lists of those, or None.
    """

    operator: str
    node: str
    arguments: Mapping[str, Any]
    shapes: tuple[tuple[int, ...], ...]
    used: frozenset[int]
    constraints: Constraints
    example: Callable[[str], Any] = _unknown

    def tensor(self, name: str) -> AxisTerms:
        """Return the axes of a tensor argument.

        Args:
            name: Its name in the schema.

        Returns:
            One term per dimension.
        """
        found: AxisTerms = self.arguments[name]
        return found

    @property
    def tensors(self) -> list[AxisTerms]:
        """The axes of all tensors among the arguments, including those in lists."""
        return tensors_in([*self.arguments.values()])

    @property
    def first(self) -> AxisTerms:
        """The axes of the first argument, the tensor that the operator transforms."""
        found: AxisTerms = self.arguments[next(iter(self.arguments))]
        return found

    def optional(self, name: str) -> AxisTerms | None:
        """Return the axes of an optional tensor argument.

        Args:
            name: Its name in the schema.

        Returns:
            One term per dimension; None if the argument is missing.
        """
        found = self.arguments.get(name)
        return found if is_tensor(found) else None

    def because(self, why: str) -> Reason:
        """Return a reason to fix an axis that names this operator.

        Args:
            why: A phrase.

        Returns:
            The reason, with the operator and the node.
        """
        return Reason(self.operator.removeprefix("aten."), self.node, why)

    def freeze(self, term: AxisTerm, why: str) -> AxisTerm:
        """Constrain an axis to be fixed.

        Args:
            term: The axis.
            why: A phrase for reports.

        Returns:
            The fixed axis.
        """
        return self.constraints.freeze(term, self.because(why))

    def fixed(self, size: int, why: str) -> AxisTerm:
        """Return a new fixed axis.

        Args:
            size: Its length.
            why: A phrase for reports.

        Returns:
            The axis.
        """
        return fresh(size, self.because(why))

    def all_fixed(self, why: str) -> list[AxisTerms]:
        """Return new fixed axes for all outputs.

        Args:
            why: A phrase for reports.

        Returns:
            The axes of each output.
        """
        return [tuple(self.fixed(size, why) for size in shape) for shape in self.shapes]

    def unify(self, first: AxisTerm, *others: AxisTerm, why: str = "two axes do not factor alike") -> AxisTerm:
        """Constrain axes of equal length to be permuted identically.

        Args:
            first: An axis.
            others: The other axes.
            why: Why they are frozen if they have no common factors.

        Returns:
            The unified axis.
        """
        for other in others:
            first = self.constraints.unify(first, other, self.because(why))
        return first

    def broadcast(self, *tensors: AxisTerms) -> AxisTerms:
        """Constrain tensors that are combined elementwise; missing dimensions and those of length 1 are broadcast.

        Args:
            tensors: Their axes.

        Returns:
            The axes of the result.
        """
        found: list[AxisTerm] = []
        for dim in range(-max(map(len, tensors), default=0), 0):
            terms = [terms[dim] for terms in tensors if len(terms) >= -dim]
            sizes = {length(term) for term in terms} - {1}
            found.append(self.unify(*(term for term in terms if length(term) != 1 or not sizes)))
        return tuple(found)

    def contract(self, first: AxisTerm, second: AxisTerm, batch: AxisTerms = (), *, why: str = _SUMMED) -> AxisTerm:
        """Constrain an axis of each of two tensors that are multiplied and summed over it.

        Both axes are unified. In addition, the axis that is summed over cannot be permuted differently in each unit of
        the other axes, except for those of the batch.

        Args:
            first: The axis in one tensor.
            second: The axis in the other tensor.
            batch: The axes along which the tensors are multiplied one by one.
            why: Why both are frozen if they have no common factors.

        Returns:
            The unified axis.
        """
        unified = self.unify(first, second, why=why)
        self.observe((*batch, unified))
        return unified

    def observe(self, terms: AxisTerms) -> None:
        """Record that the operator computes an intermediate tensor with these axes.

        An axis can only be permuted differently in each unit of another one if all tensors that have the first also
        have the second.

        Args:
            terms: The axes of the intermediate tensor.
        """
        self.constraints.observe(terms)

    def reduce(self, terms: AxisTerms, dims: Sequence[int]) -> None:
        """Record that the operator sums over some dimensions inside, as a softmax or a normalization does.

        Args:
            terms: The axes of the tensor.
            dims: The dimensions that are summed over.
        """
        reduced = {dim % len(terms) for dim in dims}
        self.observe(tuple(term for dim, term in enumerate(terms) if dim not in reduced))

    def mix(self, terms: AxisTerms, sizes: Mapping[int, int], why: str) -> AxisTerms:
        """Constrain dimensions along which the operator mixes, picks or moves elements.

        They are fixed, and so that slices can be mixed, no other axis can be permuted differently along them.

        Args:
            terms: The axes of the tensor.
            sizes: The dimensions, all nonnegative, with their new lengths.
            why: A phrase for reports.

        Returns:
            The axes of the result: new fixed ones for these dimensions, and the others as they were.
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
            sizes: Lengths of the parts; parts of length 0 are left out.
            why: Why parts of length 1 are fixed.

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
            sizes: Lengths of the parts; parts of length 0 are left out.
            why: Why parts of length 1 are fixed.

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
            The axis itself, or another one if it may be permuted differently in each part.
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
            terms: The same old dimension of each tensor; the tensors may have different axes there.
            why: Why the new dimension is fixed.

        Returns:
            The new dimension, and the old one.
        """
        return stack(self.constraints, terms, self.because(why))

    def reshape(
        self, terms: Sequence[AxisTerm], sizes: Sequence[int], why: str = "a reshape mixes its factors"
    ) -> list[AxisTerm]:
        """Return the axes of a reshaped tensor.

        Args:
            terms: The old axes.
            sizes: The new lengths, with the same product.
            why: Why axes are frozen if neither shape refines the other there.

        Returns:
            The new axes.
        """
        return reshape(self.constraints, terms, sizes, self.because(why))


def is_tensor(value: object) -> TypeIs[AxisTerms]:
    """Return whether an argument is a tensor, which a rule sees as the terms of its axes.

    Args:
        value: An argument.

    Returns:
        True for a tuple of terms.
    """
    return isinstance(value, tuple) and all(isinstance(term, tuple) for term in value)


def tensors_in(value: object) -> list[AxisTerms]:
    """Return the tensors in an argument or result.

    Args:
        value: A tensor, anything else, or nested lists and dictionaries of them.

    Returns:
        The axes of each, in order.
    """
    if is_tensor(value):
        return [value]
    items = value if isinstance(value, list) else value.values() if isinstance(value, dict) else ()
    return [found for item in items for found in tensors_in(item)]
