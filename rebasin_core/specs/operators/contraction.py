"""Contractions: matrix products, linear layers, einsum."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from rebasin_core.specs.operators.base import OperatorRules
from rebasin_core.specs.unification.relation import Relation, Sight

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rebasin_core.specs.operators.base import Result, Rule, Sights
    from rebasin_core.specs.operators.call import Call
    from rebasin_core.specs.unification.terms import AxisTerm, AxisTerms


def linear(call: Call) -> Result:
    """Tie the input features to the columns of the weight; its rows are the output features.

    Args:
        call: ``linear(input, weight, bias)``.

    Returns:
        The axes of the result.
    """
    inputs = call.tensor("input")
    weight = call.tensor("weight")
    bias = call.optional("bias")
    call.contract(inputs[-1], weight[-1])
    if len(weight) == 1:
        return inputs[:-1]
    if bias is None:
        return (*inputs[:-1], weight[0])
    for term in inputs[:-1]:
        call.see(term, Sight.SUM, "the same bias is added at all positions")
    (rows,) = call.broadcast((weight[0],), bias, relation=Relation.EQUAL)
    return (*inputs[:-1], rows)


def matmul(call: Call) -> Result:
    """Tie the last axis of the first factor to the second-to-last of the second; leading axes are batch dimensions.

    Args:
        call: ``matmul``, ``mm``, ``bmm``, ``mv`` or ``dot``.

    Returns:
        The axes of the product.
    """
    first, second, *_ = call.arguments.values()
    return product(call, first, second)


def product(call: Call, first: AxisTerms, second: AxisTerms) -> AxisTerms:
    """Return the axes of a matrix product.

    Args:
        call: The operator.
        first: The first factor.
        second: The second factor.

    Returns:
        The axes of the product.
    """
    inner = second[-2] if len(second) > 1 else second[-1]
    batch = call.broadcast(first[:-2], second[:-2], relation=Relation.PRODUCT)
    call.contract(first[-1], inner, batch)
    return (*batch, *first[-2:-1], *second[max(len(second) - 1, 1) :])


def added(call: Call) -> Result:
    """Tie the axes of a matrix product to those of the tensor added to it.

    Args:
        call: ``addmm``, ``baddbmm`` or ``addmv``.

    Returns:
        The axes of the sum.
    """
    start, first, second, *_ = call.arguments.values()
    return call.broadcast(start, product(call, first, second), relation=Relation.EQUAL)


def added_batch(call: Call) -> Result:
    """Tie the axes of a sum of matrix products to those of the matrix added to it.

    Args:
        call: ``addbmm``.

    Returns:
        The axes of the sum.
    """
    start, first, second, *_ = call.arguments.values()
    _, *rest = product(call, first, second)
    call.observe(tuple(rest))
    return call.broadcast(start, tuple(rest))


def outer(call: Call) -> Result:
    """Return the axes of an outer product.

    Args:
        call: ``outer``.

    Returns:
        The axes of the first factor, then those of the second.
    """
    first, second, *_ = call.arguments.values()
    return (*first, *second)


def einsum(call: Call) -> Result:
    """Tie axes that have the same letter.

    Args:
        call: ``einsum(equation, tensors)``.

    Returns:
        The axes of the letters after the arrow.
    """
    tensors: list[AxisTerms] = call.arguments["tensors"]
    names, right = _letters(call.arguments["equation"])
    letters: dict[str, list[AxisTerm]] = {}
    batches: list[AxisTerms] = []
    for name, terms in zip(names, tensors, strict=True):
        before, dots, after = name.partition("...")
        stop = len(terms) - len(after)
        batches.append(terms[len(before) : stop] if dots else ())
        for letter, term in [*zip(before, terms, strict=False), *zip(after, terms[stop:], strict=True)]:
            letters.setdefault(letter, []).append(term)
    found = {letter: _combined(call, terms, is_kept=letter in right) for letter, terms in letters.items()}
    shared = set.intersection(*(set(name) for name in names)) - set(".")
    contracted = set(letters) - set(right)
    # Only letters in all tensors are batch dimensions; those of them that are contracted are contracted as one.
    for together in (contracted & shared, *({letter} for letter in contracted - shared)):
        call.observe(tuple(found[letter] for letter in (shared & set(right)) | together))
    before, _, after = right.partition("...")
    batch = call.broadcast(*batches, relation=Relation.PRODUCT) if "..." in right else ()
    return (*(found[letter] for letter in before), *batch, *(found[letter] for letter in after))


def _letters(equation: str) -> tuple[list[str], str]:
    """Return the letters of each tensor, and of the result."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    if not arrow:
        once = sorted(letter for letter in set(left) - set(",.") if left.count(letter) == 1)
        right = ("..." if "..." in left else "") + "".join(once)
    return left.split(","), right


def _combined(call: Call, terms: Sequence[AxisTerm], *, is_kept: bool) -> AxisTerm:
    """Return the axis of a letter; axes of length 1 are broadcast."""
    given = [term for term in terms if term]
    if not given:
        return ()
    if is_kept:
        return call.relate(Relation.PRODUCT, *given)
    if len(given) == 1:
        call.see(given[0], Sight.SUM)
    elif len(given) > 2:
        for term in given:
            call.see(term, Sight.ANY)
    return call.relate(Relation.CONTRACTED, *given)


def bilinear(call: Call) -> Result:
    """Tie both inputs to the weight ``[out, in1, in2]``.

    Args:
        call: ``bilinear(input1, input2, weight, bias)``.

    Returns:
        The axes of the result.
    """
    first = call.tensor("input1")
    second = call.tensor("input2")
    weight = call.tensor("weight")
    call.contract(first[-1], weight[1])
    call.contract(second[-1], weight[2])
    rows = (weight[0],)
    bias = call.optional("bias")
    batch = call.broadcast(first[:-1], second[:-1], relation=Relation.PRODUCT)
    if bias is None:
        return (*batch, *rows)
    for term in batch:
        call.see(term, Sight.SUM, "the same bias is added at all positions")
    return (*batch, *call.broadcast(rows, bias, relation=Relation.EQUAL))


RULES: dict[str, Rule] = {
    "aten.linear": linear,
    "aten.bilinear": bilinear,
    "aten.einsum": einsum,
    "aten.addbmm": added_batch,
    "aten.outer": outer,
    "aten.ger": outer,
    **{f"aten.{name}": matmul for name in ("matmul", "mm", "bmm", "mv", "dot", "vdot", "linalg_matmul")},
    **{f"aten.{name}": added for name in ("addmm", "baddbmm", "addmv", "addmm_")},
}

_LINEAR = (
    "linear",
    "matmul",
    "mm",
    "bmm",
    "mv",
    "dot",
    "linalg_matmul",
    "addmm",
    "baddbmm",
    "addmv",
    "outer",
    "ger",
    "vdot",
    "bilinear",
    "einsum",
)
SIGHTS: Sights = {f"aten.{name}": Sight.LINEAR for name in _LINEAR}


@final
class ContractionRules(OperatorRules):
    """Rules for matrix products, linear layers and einsum."""

    name = "contraction"
    rules = RULES
    sights = SIGHTS
