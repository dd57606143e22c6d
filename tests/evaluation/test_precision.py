"""The choice of bfloat16 by measurement."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING
from unittest.mock import patch

import torch

from rebasin_core.evaluation import EvaluationOptions
from rebasin_core.evaluation import networks as module
from rebasin_core.evaluation.precision import is_bfloat16_faster

if TYPE_CHECKING:
    from collections.abc import Callable

CPU = torch.device("cpu")


def test_the_measurement_is_made_once() -> None:
    is_bfloat16_faster.cache_clear()
    assert isinstance(is_bfloat16_faster(CPU), bool)
    is_bfloat16_faster(CPU)
    assert is_bfloat16_faster.cache_info().misses == 1


def test_auto_uses_bfloat16_where_it_is_faster() -> None:
    options = EvaluationOptions(precision="auto")

    def dtype(answer: Callable[[torch.device], bool]) -> torch.dtype:
        with patch.object(module, "is_bfloat16_faster", answer), options.arithmetic(CPU):
            return torch.nn.functional.linear(torch.ones(2, 2), torch.ones(2, 2)).dtype

    assert dtype(lambda _: True) == torch.bfloat16
    assert dtype(lambda _: False) == torch.float32
    assert isinstance(EvaluationOptions(precision="full").arithmetic(CPU), nullcontext)
