"""Terms of the objective: bounds of networks in every precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rebasin_core.bilinear.terms import Term
from rebasin_core.symmetry.axis import Atom

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def test_the_bound_is_the_product_of_the_norms(dtype: torch.dtype, generator: torch.Generator) -> None:
    left, right = [torch.randn(1, 5, 4, generator=generator).to(dtype) for _ in range(2)]
    term = Term(left, right, (Atom(5, "out"), Atom(4, "in")))
    expected = np.linalg.norm(left.double().numpy()) * np.linalg.norm(right.double().numpy())
    assert term.bound == pytest.approx(expected, rel=1e-6)
