"""Scaled dot-product attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from rebasin_core.specs.operators.base import OperatorRules
from rebasin_core.specs.unification.relation import Relation, Sight
from rebasin_core.specs.unification.terms import length, uniform

if TYPE_CHECKING:
    from rebasin_core.specs.operators.base import Result, Rule, Sights
    from rebasin_core.specs.operators.call import Call
    from rebasin_core.specs.unification.terms import AxisTerms

_CAUSAL = "attention is causal"


def attention(call: Call) -> Result:
    """Tie the widths of queries and keys, the tokens of keys and values, and the heads and batch of all three.

    With grouped queries, several query heads share one key head.

    Args:
        call: ``scaled_dot_product_attention(query, key, value, attn_mask, ...)`` or one of its backends.

    Returns:
        The axes of the result and of further outputs.
    """
    query = call.tensor("query")
    key = call.tensor("key")
    value = call.tensor("value")
    if call.arguments.get("enable_gqa") and length(query[-3]) != length(key[-3]):
        key = _repeated(key, length(query[-3]))
        value = _repeated(value, length(query[-3]))
    batch = call.broadcast(query[:-2], key[:-2], relation=Relation.PRODUCT)
    for term in (*batch, query[-2], key[-2]):
        call.see(term, Sight.ANY, "units are seen by a softmax")
    batch = call.broadcast(batch, value[:-2], relation=Relation.PRODUCT)
    call.contract(query[-1], key[-1], batch)
    tokens = call.contract(key[-2], value[-2], batch)
    scores = (*batch, query[-2], tokens)
    mask = call.optional("attn_mask") if "attn_mask" in call.arguments else call.optional("attn_bias")
    if mask is not None:
        scores = call.broadcast(scores, mask)
    if call.arguments.get("is_causal"):
        scores = (*scores[:-2], *(call.freeze(term, _CAUSAL) for term in scores[-2:]))
    call.observe(scores)
    call.observe(scores[:-1])
    statistics = [_statistic(call, scores, shape) for shape in call.shapes[1:]]
    return [(*scores[:-1], value[-1]), *statistics]


def _statistic(call: Call, scores: AxisTerms, shape: tuple[int, ...]) -> AxisTerms:
    """Return the axes of a further output: of the scores or of one value per query if its shape fits, else fixed."""
    for found in (scores, scores[:-1]):
        if tuple(map(length, found)) == shape:
            return found
    return tuple(call.fixed(size, "statistics of attention") for size in shape)


def _repeated(terms: AxisTerms, heads: int) -> AxisTerms:
    """Return the axes of keys or values after repeating each head for the query heads that share it."""
    return (*terms[:-3], (*terms[-3], *uniform(heads // length(terms[-3]))), *terms[-2:])


_NAMES = (
    "scaled_dot_product_attention", "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_attention_math",
)  # fmt: skip

RULES: dict[str, Rule] = {f"aten.{name}": attention for name in _NAMES}

SIGHTS: Sights = {f"aten.{name}": Sight.LINEAR for name in _NAMES}


@final
class AttentionRules(OperatorRules):
    """Rules of scaled dot-product attention."""

    name = "attention"
    rules = RULES
    sights = SIGHTS
