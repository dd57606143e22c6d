"""`check_spec` passes correct tables and fails wrong ones; `tests/benchmarks/wrong_tables.py` runs all networks."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from rebasin_core import check_spec, trace_spec
from rebasin_core.specs.checking.advice import Adviser
from tests.specs.checking.networks import NETWORKS, inputs_of
from tests.specs.checking.wrong_tables import truly_changes, wrong_tables

SMALL = [
    "MLP, ReLU", "8 convolutions with dead units", "grouped-query attention", "GRU", "language model, masked",
    "variational autoencoder",
]  # fmt: skip


@pytest.mark.parametrize("name", SMALL)
def test_wrong_tables_fail_and_correct_ones_pass(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Adviser, "advice", lambda *_: [])
    torch.manual_seed(1)
    make, shape = NETWORKS[name]
    model, inputs = make(), inputs_of(shape)
    right = trace_spec(model, inputs).layout
    assert check_spec(trace_spec(model, inputs), model, inputs).passed
    wrong = (table for table in wrong_tables(right, seed=1) if truly_changes(model, inputs, right, table.layout))
    found = {(table.kind, table.where): check_spec(table.spec, model, inputs) for table in islice(wrong, 4)}
    assert len(found) == 4
    assert not [key for key, check in found.items() if check.kept]
