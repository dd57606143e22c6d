"""Soundness of every rule, for every output of its operator: traced group elements preserve the function."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import pytest
import torch
from torch.torch_version import TorchVersion

from rebasin_core.specs.operators.attention import AttentionRules
from rebasin_core.specs.operators.catalogue import BUILT_IN_FAMILIES
from rebasin_core.specs.operators.contraction import ContractionRules
from rebasin_core.specs.operators.convolution import ConvolutionRules
from rebasin_core.specs.operators.creation import CreationRules
from rebasin_core.specs.operators.elementwise import ElementwiseRules
from rebasin_core.specs.operators.fourier import FourierRules
from rebasin_core.specs.operators.indexing import IndexingRules
from rebasin_core.specs.operators.matrix import MatrixRules
from rebasin_core.specs.operators.normalization import NormalizationRules
from rebasin_core.specs.operators.pooling import PoolingRules
from rebasin_core.specs.operators.position_catalogue import PRODUCERS
from rebasin_core.specs.operators.recurrent import RecurrentRules
from rebasin_core.specs.operators.reduction import ReductionRules
from rebasin_core.specs.operators.shape import ShapeRules
from rebasin_core.specs.operators.slicing import SlicingRules
from rebasin_core.specs.operators.vision import VisionRules
from rebasin_core.specs.operators.writing import WritingRules
from rebasin_core.symmetry import Kind
from tests.specs.kinds.maps import linear_error_of
from tests.specs.operators import contraction_cases, indexing_cases, pooling_cases, shape_cases
from tests.specs.operators.programs import NUM_PARAMETERS, error_of, networks, traced

if TYPE_CHECKING:
    from rebasin_core import Call, OperatorRules
    from tests.specs.operators.programs import Case

# Rules that no network here reaches: for other devices, and for operators that PyTorch does not record before dispatch.
UNREACHED: Final = frozenset({
    "aten._scaled_dot_product_efficient_attention", "aten._scaled_dot_product_flash_attention", "aten.cudnn_batch_norm",
    "aten.miopen_batch_norm", "aten.conj", "aten.contiguous", "aten.lift_fresh", "aten.requires_grad_",
    "aten._embedding_bag",
})  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*deprecated", "ignore:indexing with dtype", "ignore:The .*vmap")
@pytest.mark.parametrize(
    ("cases", "families"),
    [
        pytest.param(pooling_cases.CASES, (PoolingRules, ConvolutionRules, ReductionRules), marks=pytest.mark.nightly),
        (
            contraction_cases.CASES,
            (ContractionRules, AttentionRules, NormalizationRules, RecurrentRules, FourierRules, MatrixRules),
        ),
        (indexing_cases.CASES, (IndexingRules, WritingRules)),
        pytest.param(
            shape_cases.CASES,
            (ShapeRules, SlicingRules, CreationRules, ElementwiseRules),
            marks=pytest.mark.nightly,
        ),
    ],
)
def test_every_rule_is_sound_with_every_output_of_its_operator(
    cases: dict[str, Case], families: tuple[type[OperatorRules], ...]
) -> None:
    if cases is contraction_cases.CASES and TorchVersion(torch.__version__) < "2.13":
        pytest.skip("recorded LSTMs with projections fail")
    wrong: dict[str, float] = {}
    kinds: Counter[Kind] = Counter()
    used: dict[str, set[int]] = {}
    for name, case in cases.items():
        for network in networks(case):
            calls: list[Call] = []
            spec = traced(network, network.inputs(), calls)
            error = error_of(network, spec)
            if error > 1e-9:
                wrong[f"{name}, output {network.output}"] = error
            folded = [] if spec.folded_symmetry == spec.symmetry else [spec.folded_symmetry]
            for symmetry in (spec.symmetry, *folded):
                kinds.update(linear.kind for linear in symmetry.linear)
                error = linear_error_of(network, network.inputs(), symmetry, draws=NUM_PARAMETERS)
                if error > 1e-9:
                    wrong[f"{name}, output {network.output}, linear maps"] = error
            for call in calls:
                used.setdefault(call.operator, set()).update(call.used or {0})
    assert not wrong
    assert kinds.keys() >= {Kind.INVERTIBLE, Kind.NONZERO}, "the rules of these operators have lost their sights"
    rules = {rule for family in families for rule in family.rules}
    untried = (
        rules
        - UNREACHED
        - PRODUCERS.keys()
        - {found for name in used for found in (name, f"{name}_", name.removesuffix("_"))}
    )
    assert not untried, "add a network for each rule, with all outputs of its operator"
    outputs = {
        name: number for name in (rules - PRODUCERS.keys()) & used.keys() if (number := _number_of_outputs(name)) > 1
    }
    unused = {name: number for name, number in outputs.items() if used[name] < set(range(number))}
    assert not unused


@pytest.mark.parametrize("cases", [contraction_cases.NORMALIZATION, shape_cases.CASES])
def test_linear_maps_preserve_the_function_of_a_sample(cases: dict[str, Case]) -> None:
    sample = [networks(case)[0] for case in list(cases.values())[::6]]
    symmetries = [traced(network, network.inputs(), []).symmetry for network in sample]
    errors = [
        linear_error_of(network, network.inputs(), symmetry)
        for network, symmetry in zip(sample, symmetries, strict=True)
    ]
    assert max(errors) < 1e-9
    assert sum(error > 0 for error in errors) > len(errors) // 3  # these have linear maps


def _number_of_outputs(name: str) -> int:
    operator = getattr(torch.ops.aten, name.removeprefix("aten."))
    schemas = [getattr(operator, overload)._schema for overload in operator.overloads()]
    return max(sum(str(output.type) == "Tensor" for output in schema.returns) for schema in schemas)


def test_every_family_is_tested() -> None:
    marks = test_every_rule_is_sound_with_every_output_of_its_operator.pytestmark  # type: ignore[attr-defined]
    rows = [row for mark in marks if mark.name == "parametrize" for row in mark.args[1]]
    pairs: list[Any] = [row.values if isinstance(row, type(pytest.param())) else row for row in rows]
    tried = {family for _, families in pairs for family in families}
    assert tried == set(BUILT_IN_FAMILIES) - {VisionRules}
