"""The traced group has the order of the true group, found by enumeration, if the notation can express it."""

from __future__ import annotations

import pytest
import torch

from rebasin_core import trace_spec
from tests.specs.operators import contraction_cases, indexing_cases, pooling_cases, shape_cases
from tests.specs.operators.programs import Case, Network, true_order

CASES = {**contraction_cases.CASES, **indexing_cases.CASES, **pooling_cases.CASES, **shape_cases.CASES}


def order(network: Network) -> int:
    return round(10 ** trace_spec(network, network.inputs(), method="execution").layout.log10_order)


@pytest.mark.parametrize(
    ("name", "output"),
    [
        ("aminmax", 0), ("aminmax", 1), ("sort", 0), ("topk", 0), ("max.dim", 0), ("avg_pool1d whole", None),
        ("adaptive_max_pool2d", 0), ("adaptive_avg_pool2d", None), ("avg_pool2d", None), ("avg_pool3d", None),
        ("max_pool1d whole", None), ("eye", 0), ("eye", 1), ("unfold whole", None), ("bucketize", None), ("isin", None),
        ("fake_quantize", None), ("diag_embed of ones", None), ("max_pool1d indices", 0),
    ],
)  # fmt: skip
def test_no_axis_is_fixed_unnecessarily(name: str, output: int | None) -> None:
    torch.manual_seed(0)
    network = Network(CASES[name], output)
    assert order(network) == true_order(network)


def test_permutations_of_a_sum_with_the_identity_matrix() -> None:
    torch.manual_seed(0)
    weights = Network(CASES["eye and weights"])
    assert order(weights) == 24
    network = Network(Case(3, lambda h: h @ h.new_tensor([[3.0, 1.0, 1.0], [1.0, 3.0, 1.0], [1.0, 1.0, 3.0]])))
    assert order(network) == true_order(network) == 6


def test_a_constant_list_is_traced_like_a_slice() -> None:
    torch.manual_seed(0)
    listed = Network(Case(6, lambda h: h[:, [2]].tanh()))
    sliced = Network(Case(6, lambda h: h[:, 2:3].tanh()))
    assert order(listed) == order(sliced) == 12  # true: 120; the notation has no axis with a unit in its middle
    first = Network(Case(6, lambda h: h[:, [0]].tanh()))
    assert order(first) == true_order(first) == 120
