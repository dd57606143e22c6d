"""Rows of tables for common layers, so that a table by hand is a few lines.

Each function returns the rows of one layer; tables are merged with ``|``:

    >>> table = dense("fc1", "-", "hidden") | batch_norm("bn1", "hidden") | dense("fc2", "hidden", "-")
    >>> table["fc1.weight"], table["bn1.running_var"], table["fc2.weight"]
    ('hidden, -', 'hidden', '-, hidden')

Axes are in the notation of `rebasin_core.symmetry.notation`: ``-`` stays in order, ``channels*-`` is a flattened map,
``a + b`` a concatenation, ``width@heads`` a group inside each unit of another. A residual connection needs no function:
give both its ends the same axis.
"""

from __future__ import annotations

from typing import TypeAlias

Table: TypeAlias = "dict[str, str]"
"""Axes by tensor name, in the notation of `rebasin_core.symmetry.notation`: ``{"fc1.weight": "hidden, -"}``."""


def dense(name: str, inputs: str, outputs: str, *, bias: bool = True) -> Table:
    """Return the rows of a dense layer.

    Args:
        name: Of the layer.
        inputs: The axis of its input features.
        outputs: The axis of its output features.
        bias: Whether it has one.

    Returns:
        ``weight [out, in]`` and ``bias``.
    """
    return {f"{name}.weight": f"{outputs}, {inputs}"} | ({f"{name}.bias": outputs} if bias else {})


def conv(name: str, inputs: str, outputs: str, *, bias: bool = True, dims: int = 2) -> Table:
    """Return the rows of a convolution; the kernel stays in order.

    Args:
        name: Of the layer.
        inputs: The axis of its input channels; of those within a group if it is grouped.
        outputs: The axis of its output channels.
        bias: Whether it has one.
        dims: Number of dimensions of the kernel.

    Returns:
        ``weight [out, in, *kernel]`` and ``bias``.
    """
    kernel = ", -" * dims
    return {f"{name}.weight": f"{outputs}, {inputs}{kernel}"} | ({f"{name}.bias": outputs} if bias else {})


def norm(name: str, units: str, *, bias: bool = True) -> Table:
    """Return the rows of a normalisation without running statistics: layer, group, RMS.

    Args:
        name: Of the layer.
        units: The axis that is normalised.
        bias: Whether it has one.

    Returns:
        ``weight`` and ``bias``.
    """
    return {f"{name}.weight": units} | ({f"{name}.bias": units} if bias else {})


def batch_norm(name: str, units: str) -> Table:
    """Return the rows of a batch normalisation, its running statistics included.

    Args:
        name: Of the layer.
        units: The axis of the channels.

    Returns:
        ``weight``, ``bias``, ``running_mean``, ``running_var`` and the count of batches.
    """
    statistics = {f"{name}.running_mean": units, f"{name}.running_var": units, f"{name}.num_batches_tracked": ""}
    return norm(name, units) | statistics


def embedding(name: str, units: str) -> Table:
    """Return the row of an embedding table, whose entries stay in order.

    Args:
        name: Of the layer.
        units: The axis of the features.

    Returns:
        ``weight [entries, features]``.
    """
    return {f"{name}.weight": f"-, {units}"}


def attention(name: str, stream: str, heads: str, *, qkv: str = "qkv", out: str = "out", bias: bool = True) -> Table:
    """Return the rows of multi-head self-attention with one fused projection of queries, keys and values.

    Heads move; inside each head the width of queries moves with that of keys, and the width of values with the output
    projection. The groups are called ``heads``, ``heads.query`` and ``heads.value``.

    Args:
        name: Of the layer.
        stream: The axis that comes in and goes out.
        heads: A name for the group of heads; unique to the layer.
        qkv: Name of the fused projection, rows of queries, keys and values, each head by head.
        out: Name of the output projection.
        bias: Whether the projections have biases.

    Returns:
        The rows of both projections.
    """
    query = f"{heads}*{heads}.query@{heads}"
    value = f"{heads}*{heads}.value@{heads}"
    fused = f"{query} + {query} + {value}"
    return dense(f"{name}.{qkv}", stream, fused, bias=bias) | dense(f"{name}.{out}", value, stream, bias=bias)
