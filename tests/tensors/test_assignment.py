from __future__ import annotations

from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rebasin_core.errors import InvalidInputError
from rebasin_core.tensors.assignment import solve_assignment


@given(st.integers(1, 5), st.integers(0, 2**31), st.sampled_from(["normal", "ties", "constant", "rank one"]))
@settings(max_examples=60, deadline=None)
def test_equals_brute_force(n: int, seed: int, kind: str) -> None:
    g = torch.Generator().manual_seed(seed)
    a = {
        "normal": torch.randn(n, n, generator=g, dtype=torch.float64),
        "ties": torch.randint(0, 3, (n, n), generator=g).double(),
        "constant": torch.ones(n, n, dtype=torch.float64),
        "rank one": torch.outer(*torch.randn(2, n, generator=g, dtype=torch.float64)),
    }[kind]
    index = solve_assignment(a)
    best = max(sum(a[i, p[i]].item() for i in range(n)) for p in permutations(range(n)))
    assert sorted(index.tolist()) == list(range(n))
    assert a.gather(1, index[:, None]).sum().item() == pytest.approx(best, abs=1e-12)


def test_batches_are_solved_one_by_one() -> None:
    a = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    index = solve_assignment(a)
    assert index.shape == (2, 3, 4)
    assert torch.equal(index[1, 2], solve_assignment(a[1, 2]))


@pytest.mark.parametrize("bad", [torch.zeros(2, 3), torch.zeros(3), torch.tensor([[float("nan")]])])
def test_bad_matrices(bad: torch.Tensor) -> None:
    with pytest.raises(InvalidInputError, match="similarity"):
        solve_assignment(bad)
