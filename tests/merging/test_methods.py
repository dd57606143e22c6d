"""Merge methods against formulas evaluated entry by entry, at edge cases, and in narrow dtypes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import pytest
import torch
from torch import Tensor

import rebasin_core as rc
from rebasin_core.errors import ConfigError, InvalidInputError
from rebasin_core.merging import (
    DAREMerge,
    KarcherMerge,
    MeanMerge,
    MergeMethod,
    ModelStockMerge,
    SLERPMerge,
    TaskArithmeticMerge,
    TIESMerge,
)

# More entries than a block of the computation, and not a multiple of it.
LARGE = (611, 907)
EVERY: list[MergeMethod] = [
    MeanMerge(),
    TaskArithmeticMerge(),
    TIESMerge(),
    DAREMerge(),
    SLERPMerge(),
    KarcherMerge(),
    ModelStockMerge(),
]


def tensors(count: int, *shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(count)]


def merged(
    method: MergeMethod, *networks: Tensor, weights: Sequence[float] = (1, 1), base: Tensor | None = None
) -> Tensor:
    return method.merge("w", networks, weights, base=base)


def ties_by_entry(base: list[float], networks: list[list[float]], weights: list[float], kept: int) -> list[float]:
    """Algorithm 1 of the paper of TIES, with weighted sums and means."""
    trimmed: list[list[float]] = []
    for network in networks:
        difference = [x - b for x, b in zip(network, base, strict=True)]
        threshold = sorted(map(abs, difference), reverse=True)[kept - 1]
        trimmed.append([d if abs(d) >= threshold else 0.0 for d in difference])
    found: list[float] = []
    for position, start in enumerate(base):
        column = [own[position] for own in trimmed]
        total = math.fsum(w * d for w, d in zip(weights, column, strict=True))
        agreeing = [(w, d) for w, d in zip(weights, column, strict=True) if d * total > 0]
        share = math.fsum(w for w, _ in agreeing)
        found.append(start + (math.fsum(w * d for w, d in agreeing) / share if share else 0.0))
    return found


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.2, 0.7, 0.1]])
@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
def test_ties_is_the_algorithm_of_the_paper(density: float, weights: list[float]) -> None:
    base, *networks = tensors(4, 5, 8)
    expected = ties_by_entry(
        base.flatten().tolist(), [n.flatten().tolist() for n in networks], weights, round(40 * density)
    )
    found = merged(TIESMerge(density=density), *networks, weights=weights, base=base)
    torch.testing.assert_close(found.flatten(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-14)


def test_scale_multiplies_the_merged_difference() -> None:
    base, first, second = tensors(3, 6)
    for method in (TIESMerge(density=0.5), DAREMerge(elect_sign=True), DAREMerge(), TaskArithmeticMerge()):
        once = merged(method, first, second, base=base) - base
        doubled = merged(type(method).model_validate({**method.model_dump(), "scale": 2.0}), first, second, base=base)
        torch.testing.assert_close(doubled - base, 2 * once)


def test_large_tensors_are_trimmed_exactly() -> None:
    base, first, second = tensors(3, *LARGE, dtype=torch.float32)
    found = merged(TIESMerge(density=0.2), first, second, weights=[1, 0], base=base)
    difference = (first.double() - base.double()).flatten()
    kept = difference.abs().topk(int(0.2 * difference.numel())).indices
    expected = base.double().flatten()
    expected[kept] += difference[kept]
    assert torch.equal(found.flatten(), expected.float())


def test_equal_magnitudes_are_kept_together_and_balanced_signs_keep_the_base() -> None:
    base = torch.zeros(4)
    trimmed = merged(TIESMerge(density=0.25), torch.tensor([1.0, -1.0, 1.0, 0.5]), weights=[1], base=base)
    assert trimmed.tolist() == [1, -1, 1, 0]
    balanced = merged(TIESMerge(density=1), torch.tensor([1.0, 1, 1, 1]), torch.tensor([-1.0, 1, 1, 1]), base=base)
    assert balanced.tolist() == [0, 1, 1, 1]


def test_dropped_fraction_scale_and_independence() -> None:
    base = torch.zeros(LARGE)
    networks = [torch.ones(LARGE), torch.full(LARGE, 2.0)]
    method = DAREMerge(density=0.3)
    first = merged(method, networks[0], weights=[1], base=base)
    assert first.unique().tolist() == pytest.approx([0, 1 / 0.3])
    count = first.numel()
    error = 5 * math.sqrt(0.3 * 0.7 / count)
    assert (first != 0).double().mean().item() == pytest.approx(0.3, abs=error)
    both = merged(method, *networks, base=base)
    # The masks of two networks, and of two names and seeds, are independent.
    assert (both == torch.tensor(3 / 0.3)).double().mean().item() == pytest.approx(0.09, abs=error)
    for other in (
        method.merge("v", networks[:1], [1], base=base),
        method.merge("w", networks[:1], [1], base=base, seed=1),
    ):
        assert ((other != 0) & (first != 0)).double().mean().item() == pytest.approx(0.09, abs=error)


def test_without_dropping_dare_is_task_arithmetic_or_ties() -> None:
    base, *networks = tensors(4, 7, 3)
    weights = [0.5, 0.2, 0.9]
    torch.testing.assert_close(
        merged(DAREMerge(density=1, scale=0.4), *networks, weights=weights, base=base),
        merged(TaskArithmeticMerge(scale=0.4), *networks, weights=weights, base=base),
    )
    torch.testing.assert_close(
        merged(DAREMerge(density=1, elect_sign=True), *networks, weights=weights, base=base),
        merged(TIESMerge(density=1), *networks, weights=weights, base=base),
    )


def test_a_negative_coefficient_subtracts_a_task() -> None:
    base, network = tensors(2, 5)
    torch.testing.assert_close(merged(TaskArithmeticMerge(), network, weights=[-1], base=base), 2 * base - network)


@pytest.mark.parametrize("t", [0.0, 0.25, 0.5, 1.0])
def test_slerp_rotates_at_constant_speed(t: float) -> None:
    first, second = tensors(2, 40)
    second *= first.norm() / second.norm()
    point = merged(SLERPMerge(), first, second, weights=[1 - t, t])

    def angle(a: Tensor, b: Tensor) -> float:
        # More accurate for small angles than the arc cosine.
        return 2 * math.atan2((a - b).norm().item(), (a + b).norm().item())

    assert point.norm().item() == pytest.approx(first.norm().item())
    assert angle(first, point) == pytest.approx(t * angle(first, second), abs=1e-9)
    # For two networks of equal norm, the Karcher mean is the same point.
    torch.testing.assert_close(merged(KarcherMerge(), first, second, weights=[1 - t, t]), point)


@pytest.mark.parametrize("second", [torch.zeros(3), torch.tensor([2.0, 4.0, 6.0]), -torch.tensor([1.0, 2.0, 3.0])])
def test_slerp_without_an_angle_is_linear(second: Tensor) -> None:
    first = torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(merged(SLERPMerge(), first, second, weights=[0.75, 0.25]), 0.75 * first + 0.25 * second)


def test_karcher_mean_has_no_gradient_of_squared_distances() -> None:
    networks = [u / u.norm() for u in tensors(4, 9)]
    networks = [n + 2 * networks[0] for n in networks]  # in a half sphere
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    found = merged(KarcherMerge(), *networks, weights=weights.tolist())
    norms = torch.stack([n.norm() for n in networks])
    assert found.norm().item() == pytest.approx((weights @ norms).item())
    direction = (found / found.norm()).requires_grad_()
    cosines = torch.stack([direction @ n / n.norm() for n in networks]) / direction.norm()
    (weights @ cosines.acos().square()).backward()
    assert direction.grad is not None
    assert direction.grad.norm().item() < 1e-9


def test_karcher_of_antipodes_and_zeros_is_finite() -> None:
    first = torch.tensor([3.0, 4.0])
    # All points at a right angle minimize the squared distances; the result is one of the inputs' directions.
    assert merged(KarcherMerge(), first, -first).tolist() == pytest.approx([3, 4])
    assert merged(KarcherMerge(), first, torch.zeros(2)).tolist() == pytest.approx([1.5, 2])
    assert merged(KarcherMerge(), torch.zeros(2), torch.zeros(2)).tolist() == [0, 0]


def test_model_stock_of_opposite_and_unchanged_networks_is_the_base() -> None:
    base, difference = tensors(2, 6)
    assert torch.equal(merged(ModelStockMerge(), base + difference, base - difference, base=base), base)
    assert torch.equal(merged(ModelStockMerge(), base, base.clone(), base=base), base)
    # At the right angle, the differences are noise: the result is the base.
    right = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    assert merged(ModelStockMerge(), *right, base=torch.zeros(2, dtype=torch.float64)).tolist() == [0, 0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_sums_are_rounded_once(dtype: torch.dtype) -> None:
    networks = [t.to(dtype) for t in tensors(3, 300)]
    found = merged(MeanMerge(), *networks, weights=[1, 2, 4])
    assert found.dtype == dtype
    exact = [
        sum(Fraction(w, 7) * Fraction(value) for w, value in zip((1, 2, 4), entries, strict=True))
        for entries in zip(*(n.double().tolist() for n in networks), strict=True)
    ]
    assert torch.equal(found.double(), torch.tensor([float(e) for e in exact], dtype=torch.float64).to(dtype).double())


def test_differences_of_narrow_dtypes_are_exact() -> None:
    # The difference of two bfloat16 has more digits than a bfloat16.
    base = torch.tensor([256.0], dtype=torch.bfloat16)
    network = torch.tensor([1.0078125], dtype=torch.bfloat16)
    assert merged(TaskArithmeticMerge(), network, network, weights=[0.5, 0.5], base=base).item() == 1.0078125


@pytest.mark.parametrize("dtype", [torch.float16, torch.float8_e4m3fn, torch.float32])
def test_values_beyond_the_dtype_are_errors(dtype: torch.dtype) -> None:
    network = torch.tensor([torch.finfo(dtype).max, 1.0]).to(dtype)
    base = torch.zeros(2).to(dtype)
    with pytest.raises(InvalidInputError, match=r"`w`: merging by 'task_arithmetic' gives .* beyond the range"):
        merged(TaskArithmeticMerge(), network, network, base=base)
    assert torch.equal(merged(MeanMerge(), network, network).double(), network.double())


@pytest.mark.parametrize("method", EVERY, ids=lambda method: method.name)
def test_equal_masks_with_infinities_are_kept_and_other_infinities_are_errors(method: MergeMethod) -> None:
    mask = torch.tensor([[0.0, -math.inf], [0.0, 0.0]])
    base = mask if method.uses_base else None
    assert torch.equal(merged(method, mask, mask.clone(), base=base), mask)
    with pytest.raises(InvalidInputError, match="gives NaN, infinite values"):
        merged(method, mask, torch.zeros(2, 2), base=base)
    with pytest.raises(InvalidInputError, match="gives NaN, infinite values"):
        merged(method, mask * 0, mask * 0, base=None if base is None else base * 0)


def test_networks_of_other_dtypes_and_layouts() -> None:
    first, second = tensors(2, 6, 4)
    found = merged(MeanMerge(), first.T.contiguous().T, second.float(), weights=[1, 3])
    torch.testing.assert_close(found, 0.25 * first + 0.75 * second.float().double())
    assert found.dtype == torch.float64
    parameter = torch.nn.Parameter(first)
    assert not merged(MeanMerge(), parameter, second).requires_grad


def test_complex_tensors_are_merged_by_parts() -> None:
    first = torch.tensor([1 + 2j, 3 - 1j], dtype=torch.complex64)
    second = torch.tensor([3 + 0j, 1 + 1j], dtype=torch.complex64)
    assert merged(MeanMerge(), first, second.conj()).tolist() == [2 + 1j, 2 - 1j]
    subtracted = merged(TaskArithmeticMerge(), first, weights=[-1], base=second)
    assert subtracted.tolist() == [5 - 2j, -1 + 3j]
    averaged = rc.merge(
        [{"w": first}, {"w": second}], rc.table_spec({"w": "-"}, {"w": first}), matcher=None, weights=[3, 1]
    )
    assert averaged.posterior.mean["w"].tolist() == [1.5 + 1.5j, 2.5 - 0.5j]


def test_wrong_inputs() -> None:
    first, second, base = tensors(3, 4)
    with pytest.raises(InvalidInputError, match="expected 2 networks for the merge method 'slerp', got 3"):
        SLERPMerge().merge("w", [first, second, base], [1, 1, 1])
    with pytest.raises(
        InvalidInputError, match="expected at least 2 networks for the merge method 'model_stock', got 1"
    ):
        ModelStockMerge().merge("w", [first], [1], base=base)
    with pytest.raises(
        InvalidInputError, match="expected a base network for the merge method 'ties', got none; pass it"
    ):
        merged(TIESMerge(), first, second)
    with pytest.raises(
        InvalidInputError, match="expected no base network for the merge method 'mean', got one; omit it"
    ):
        merged(MeanMerge(), first, second, base=base)
    with pytest.raises(InvalidInputError, match="expected equal weights for the merge method 'model_stock'"):
        merged(ModelStockMerge(), first, second, weights=[1, 2], base=base)
    with pytest.raises(InvalidInputError, match=r"expected 2 nonnegative weights.*\[1.0, -1.0\]"):
        merged(TIESMerge(), first, second, weights=[1, -1], base=base)
    with pytest.raises(InvalidInputError, match="expected 2 nonnegative weights"):
        merged(MeanMerge(), first, second, weights=[1, math.inf])
    with pytest.raises(InvalidInputError, match=r"expected 2 finite coefficients, got \[1.0\]"):
        merged(TaskArithmeticMerge(), first, second, weights=[1], base=base)
    with pytest.raises(InvalidInputError, match=r"`w`: expected tensors of one shape, got \(4,\) and \(3,\)"):
        merged(MeanMerge(), first, second[:3])
    with pytest.raises(
        InvalidInputError, match=r"`w`: expected floating-point tensors .* got torch.float64 and torch.int8"
    ):
        merged(MeanMerge(), first, second.to(torch.int8))
    with pytest.raises(InvalidInputError, match=r"got torch\.float64 and torch\.complex64"):
        merged(MeanMerge(), first, second.to(torch.complex64))
    with pytest.raises(InvalidInputError, match="expected a tensor for `w`, got `list`"):
        MeanMerge().merge("w", [first, [1.0]], [1, 1])  # type: ignore[list-item]  # the wrong type is tested
    with pytest.raises(ConfigError, match="density: expected a value greater than 0"):
        rc.default_registry().build("merge_method", {"name": "ties", "density": 0})
