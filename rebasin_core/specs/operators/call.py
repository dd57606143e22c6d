"""What a rule sees of an operator, and how it says what the operator asks of the axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, final

from rebasin_core.specs.unification.pieces import concat
from rebasin_core.specs.unification.terms import Reason, Term, fresh, length

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from typing_extensions import TypeIs

    from rebasin_core.specs.unification.equations import Equations
    from rebasin_core.specs.unification.pieces import Piece, Steps

_CUT = "it is cut where its factors do not end"
_SUMMED = "the two factors of a product do not factor alike"

Terms: TypeAlias = "tuple[Term, ...]"
"""The axes of one tensor, one a dimension."""


@final
@dataclass(frozen=True, slots=True)
class Call:
    """One operator in the traced graph, with its arguments and the equations that its rule adds to.

    Attributes:
        operator: The operator's name without its overload, such as ``aten.linear``.
        node: Its place in the graph, for reports.
        arguments: By the names of the operator's schema; a tensor is given as its axes, a list of tensors as a list.
        shapes: The shapes of the outputs.
        used: Which outputs the graph uses.
        equations: What is known of the axes so far.
    """

    operator: str
    node: str
    arguments: Mapping[str, Any]
    shapes: tuple[tuple[int, ...], ...]
    used: frozenset[int]
    equations: Equations

    def tensor(self, name: str) -> Terms:
        """Return the axes of a tensor argument.

        Args:
            name: Its name in the schema.

        Returns:
            One term a dimension.
        """
        found: Terms = self.arguments[name]
        return found

    @property
    def tensors(self) -> list[Terms]:
        """The axes of all tensors among the arguments, those in lists too."""
        return tensors_in([*self.arguments.values()])

    @property
    def first(self) -> Terms:
        """The axes of the first argument, the tensor that is worked on."""
        found: Terms = self.arguments[next(iter(self.arguments))]
        return found

    def optional(self, name: str) -> Terms | None:
        """Return the axes of a tensor argument that may be missing.

        Args:
            name: Its name in the schema.

        Returns:
            One term a dimension, or None.
        """
        found = self.arguments.get(name)
        return found if is_tensor(found) else None

    def because(self, why: str) -> Reason:
        """Return the reason to freeze an axis here.

        Args:
            why: A phrase.

        Returns:
            The reason, with the operator and the node.
        """
        return Reason(self.operator.removeprefix("aten."), self.node, why)

    def freeze(self, term: Term, why: str) -> Term:
        """Say that an axis must stay in order.

        Args:
            term: The axis.
            why: A phrase.

        Returns:
            The frozen axis.
        """
        return self.equations.freeze(term, self.because(why))

    def fixed(self, size: int, why: str) -> Term:
        """Return a new axis that stays in order.

        Args:
            size: Its length.
            why: A phrase.

        Returns:
            The axis.
        """
        return fresh(size, self.because(why))

    def all_fixed(self, why: str) -> list[Terms]:
        """Return new axes that stay in order for every output.

        Args:
            why: A phrase.

        Returns:
            The axes of each output.
        """
        return [tuple(self.fixed(size, why) for size in shape) for shape in self.shapes]

    def join(self, first: Term, *others: Term, why: str = "two axes do not factor alike") -> Term:
        """Say that axes of equal length are permuted alike.

        Args:
            first: An axis.
            others: The others.
            why: Why they are frozen if they do not factor alike.

        Returns:
            The axis that all of them are.
        """
        for other in others:
            first = self.equations.join(first, other, self.because(why))
        return first

    def broadcast(self, *tensors: Terms) -> Terms:
        """Say that tensors are combined elementwise, dimensions of length 1 and missing ones being repeated.

        Args:
            tensors: Their axes.

        Returns:
            The axes of the result.
        """
        found: list[Term] = []
        for place in range(-max(map(len, tensors), default=0), 0):
            terms = [terms[place] for terms in tensors if len(terms) >= -place]
            sizes = {length(term) for term in terms} - {1}
            joined = [term for term in terms if length(term) != 1 or not sizes]
            found.append(self.join(*joined))
        return tuple(found)

    def cut(self, term: Term, sizes: Sequence[int], why: str = _CUT) -> list[Piece]:
        """Say that an axis is used in pieces.

        Args:
            term: The axis.
            sizes: Lengths of the pieces; empty ones are left out.
            why: Why it is frozen if it cannot be cut there.

        Returns:
            The pieces, each with where it lies.
        """
        return self.equations.cut(term, [size for size in sizes if size], self.because(why))

    def pieces(self, terms: Terms, dim: int, sizes: Sequence[int], why: str = _CUT) -> list[Terms]:
        """Say that a tensor is used in pieces along a dimension.

        Args:
            terms: The axes of the tensor.
            dim: The dimension.
            sizes: Lengths of the pieces; empty ones are left out.
            why: Why the dimension is frozen if it cannot be cut there.

        Returns:
            The axes of each piece.
        """
        dim %= len(terms)
        return [
            tuple(piece if place == dim else self.restrict(term, steps) for place, term in enumerate(terms))
            for piece, steps in self.cut(terms[dim], sizes, why)
        ]

    def regroup(
        self, terms: Sequence[Term], sizes: Sequence[int], why: str = "a reshape mixes its factors"
    ) -> list[Term]:
        """Return the axes of a reshaped tensor.

        Args:
            terms: The old ones.
            sizes: The new lengths.
            why: Why what does not nest is frozen.

        Returns:
            The new ones.
        """
        return self.equations.regroup(terms, sizes, self.because(why))

    @staticmethod
    def concat(terms: Sequence[Term]) -> Term:
        """Return the axis that lays others end to end.

        Args:
            terms: At least one.

        Returns:
            Their concatenation.
        """
        return concat(terms)

    def restrict(self, term: Term, steps: Steps) -> Term:
        """Return what an axis is beside one piece of another axis of the same tensor.

        Args:
            term: The axis.
            steps: Where the piece lies, from `cut`.

        Returns:
            The same axis, or one of its own where nothing forbids that.
        """
        return self.equations.restrict(term, steps)

    def contract(self, first: Term, second: Term, batch: Terms = (), *, why: str = _SUMMED) -> Term:
        """Say that two tensors are multiplied and summed over an axis.

        Unlike `join`, this also says that the other axes of the two are not the same, apart from those of the batch:
        what is summed over cannot be permuted differently in each unit of them.

        Args:
            first: The axis in one tensor.
            second: The axis in the other.
            batch: The axes along which the two go side by side.
            why: Why both are frozen if they do not factor alike.

        Returns:
            The axis that both are.
        """
        joined = self.join(first, second, why=why)
        self.equations.sight((*batch, joined))
        return joined

    def separate(self, terms: Terms, dims: Sequence[int]) -> None:
        """Say that the operator sums over some dimensions inside, as a softmax or a normalisation does.

        Args:
            terms: The axes of the tensor.
            dims: The dimensions summed over.
        """
        gone = {dim % len(terms) for dim in dims}
        self.equations.sight(tuple(term for place, term in enumerate(terms) if place not in gone))


def is_tensor(value: object) -> TypeIs[Terms]:
    """Return whether an argument is a tensor, which a rule sees as the axes of its dimensions.

    Args:
        value: An argument.

    Returns:
        True for a tuple of terms.
    """
    return isinstance(value, tuple) and all(isinstance(term, tuple) for term in value)


def tensors_in(value: object) -> list[Terms]:
    """Return the tensors in an argument or result.

    Args:
        value: A tensor, anything else, or lists and dictionaries of them, nested.

    Returns:
        The axes of each, in order.
    """
    if is_tensor(value):
        return [value]
    items = value if isinstance(value, list) else value.values() if isinstance(value, dict) else ()
    return [found for item in items for found in tensors_in(item)]
