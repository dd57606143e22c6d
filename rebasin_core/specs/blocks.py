"""Rows of tables for common layers.

Each function returns the rows of one layer. Merge tables with ``|``:

    >>> table = dense("fc1", "-", "hidden") | batch_norm("bn1", "hidden") | dense("fc2", "hidden", "-")
    >>> table["fc1.weight"], table["bn1.running_var"], table["fc2.weight"]
    ('hidden, -', 'hidden', '-, hidden')

Axes are in the notation of `rebasin_core.symmetry.notation`: ``-`` is a fixed axis, ``channels*-`` a flattened feature
map, ``a + b`` a concatenation, and ``width@heads`` a nested group. For a residual connection, use the same axis for the
input and the output of its branch.
"""

from __future__ import annotations

from typing import TypeAlias

Table: TypeAlias = "dict[str, str]"
"""Axes by tensor name, in the notation of `rebasin_core.symmetry.notation`: ``{"fc1.weight": "hidden, -"}``."""


def dense(name: str, inputs: str, outputs: str, *, bias: bool = True) -> Table:
    """Return the rows of a dense layer.

    Args:
        name: Name of the layer.
        inputs: Axis of the input features.
        outputs: Axis of the output features.
        bias: Whether the layer has a bias.

    Returns:
        ``weight [out, in]`` and ``bias``.
    """
    return {f"{name}.weight": f"{outputs}, {inputs}"} | ({f"{name}.bias": outputs} if bias else {})


def conv(name: str, inputs: str, outputs: str, *, bias: bool = True, dims: int = 2) -> Table:
    """Return the rows of a convolution; the axes of the kernel are fixed.

    Args:
        name: Name of the layer.
        inputs: Axis of the input channels; of a grouped convolution, of the channels within each group.
        outputs: Axis of the output channels.
        bias: Whether the layer has a bias.
        dims: Number of spatial dimensions of the kernel.

    Returns:
        ``weight [out, in, *kernel]`` and ``bias``.
    """
    kernel = ", -" * dims
    return {f"{name}.weight": f"{outputs}, {inputs}{kernel}"} | ({f"{name}.bias": outputs} if bias else {})


def norm(name: str, units: str, *, bias: bool = True) -> Table:
    """Return the rows of a normalization without running statistics: layer, group or RMS normalization.

    Args:
        name: Name of the layer.
        units: Axis of the scale and the bias.
        bias: Whether the layer has a bias.

    Returns:
        ``weight`` and ``bias``.
    """
    return {f"{name}.weight": units} | ({f"{name}.bias": units} if bias else {})


def batch_norm(name: str, units: str) -> Table:
    """Return the rows of a batch normalization, including its running statistics.

    Args:
        name: Name of the layer.
        units: Axis of the channels.

    Returns:
        ``weight``, ``bias``, ``running_mean``, ``running_var`` and ``num_batches_tracked``.
    """
    statistics = {f"{name}.running_mean": units, f"{name}.running_var": units, f"{name}.num_batches_tracked": ""}
    return norm(name, units) | statistics


def embedding(name: str, units: str) -> Table:
    """Return the row of an embedding; the axis of its entries is fixed.

    Args:
        name: Name of the layer.
        units: Axis of the features.

    Returns:
        ``weight [entries, features]``.
    """
    return {f"{name}.weight": f"-, {units}"}


def attention(name: str, stream: str, heads: str, *, qkv: str = "qkv", out: str = "out", bias: bool = True) -> Table:
    """Return the rows of multi-head self-attention with one fused projection of queries, keys and values.

    The heads form a group. Within each head, the widths of queries and keys form one nested group, and the widths of
    values and the input of the output projection another. The groups are named ``heads``, ``heads.query`` and
    ``heads.value``.

    Args:
        name: Name of the layer.
        stream: Axis of the input and output features (the residual stream).
        heads: Name of the group of heads; unique to the layer.
        qkv: Name of the fused projection; its rows are those of queries, then keys, then values, each ordered by head.
        out: Name of the output projection.
        bias: Whether the projections have biases.

    Returns:
        The rows of both projections.
    """
    query = f"{heads}*{heads}.query@{heads}"
    value = f"{heads}*{heads}.value@{heads}"
    fused = f"{query} + {query} + {value}"
    return dense(f"{name}.{qkv}", stream, fused, bias=bias) | dense(f"{name}.{out}", value, stream, bias=bias)
