from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, TypeAlias

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from rebasin_core import MatchOutcome, PermutationSpec, match, table_spec
from rebasin_core.architectures import MLPArchitecture
from rebasin_core.errors import ConfigError, InvalidInputError, UnknownNameError
from rebasin_core.matchers import KLMatcher, WeightMatcher
from rebasin_core.posteriors import DiagonalGaussianPosterior, PointPosterior

Tensors: TypeAlias = dict[str, torch.Tensor]

TABLE = {"q": "h*w@h, d", "k": "h*w, d", "v": "h*u@h, d", "o": "d, h*u", "f": "m, d", "f2": "d, m", "e": "-, d"}


def random_tensors(shapes: Mapping[str, tuple[int, ...]], generator: torch.Generator) -> Tensors:
    return {name: torch.randn(shape, generator=generator).double() for name, shape in shapes.items()}


def attention(seed: int) -> tuple[dict[str, torch.Tensor], PermutationSpec]:
    """Return the tensors of a transformer block with heads, widths inside heads and a residual stream."""
    g = torch.Generator().manual_seed(seed)
    heads, width, stream, hidden = 3, 4, 6, 10
    shapes = {
        "q": (heads * width, stream), "k": (heads * width, stream), "v": (heads * width, stream),
        "o": (stream, heads * width), "f": (hidden, stream), "f2": (stream, hidden), "e": (9, stream),
    }  # fmt: skip
    tensors = {name: torch.randn(shape, generator=g, dtype=torch.float64) for name, shape in shapes.items()}
    return tensors, table_spec(TABLE, tensors, sizes={"h": heads})


def test_planted_permutations_of_heads_and_widths_are_mostly_recovered() -> None:
    recovered = 0
    for seed in range(10):
        tensors, spec = attention(seed)
        planted = spec.random_permutation(generator=torch.Generator().manual_seed(seed))
        result = WeightMatcher().match(PointPosterior(tensors), PointPosterior(planted.apply(tensors)), spec)
        recovered += result.permutation == planted.inverse()
    # Residual streams have local optima; most are recovered, and the count is deterministic.
    assert recovered >= 6


def test_the_objective_is_the_inner_product_and_never_decreases() -> None:
    a, spec = attention(0)
    b, _ = attention(1)
    result = WeightMatcher().match(PointPosterior(a), PointPosterior(b), spec)
    aligned = result.apply(b)
    assert result.objective == pytest.approx(sum((a[name] * aligned[name]).sum().item() for name in a))
    assert list(result.trace) == sorted(result.trace)
    assert result.outcome is MatchOutcome.CONVERGED


def test_the_objective_never_decreases_with_a_group_on_both_axes_of_a_tensor() -> None:
    for seed in range(20):
        g = torch.Generator().manual_seed(seed)
        a, b = ({"w": torch.randn(6, 6, generator=g), "in": torch.randn(6, 2, generator=g)} for _ in range(2))
        spec = table_spec({"w": "h, h", "in": "h, -"}, a)
        result = WeightMatcher().match(PointPosterior(a), PointPosterior(b), spec)
        assert list(result.trace) == sorted(result.trace)


@pytest.mark.parametrize("start", ["greedy", "identity", "best"])
def test_at_convergence_no_single_group_can_be_improved(start: Literal["greedy", "identity", "best"]) -> None:
    """Compare with similarity matrices computed by hand: a recurrent group, twice on one tensor, and its neighbor."""
    permuted = 0
    for seed in range(30):
        g = torch.Generator().manual_seed(seed)
        shapes = {"in": (6, 2), "w": (6, 6), "out": (5, 6), "head": (3, 5)}
        a = random_tensors(shapes, g)
        b = random_tensors(shapes, g)
        spec = table_spec({"in": "h, -", "w": "h, h", "out": "m, h", "head": "-, m"}, a)
        result = WeightMatcher(start=start).match(PointPosterior(a), PointPosterior(b), spec)
        assert result.outcome is MatchOutcome.CONVERGED
        h, m = result.permutation.indices["h"], result.permutation.indices["m"]
        permuted += not result.permutation.is_identity

        def value(h: torch.Tensor, m: torch.Tensor, a: Tensors = a, b: Tensors = b) -> float:
            aligned = {"in": b["in"][h], "w": b["w"][h][:, h], "out": b["out"][m][:, h], "head": b["head"][:, m]}
            return sum((a[name] * tensor).sum().item() for name, tensor in aligned.items())

        assert result.objective == pytest.approx(value(h, m))
        of_h = a["in"] @ b["in"].T + a["w"] @ b["w"][:, h].T + a["w"].T @ b["w"][h] + a["out"].T @ b["out"][m]
        of_m = a["out"] @ b["out"][:, h].T + a["head"].T @ b["head"]
        best_h = linear_sum_assignment(-of_h.numpy())[1]
        best_m = linear_sum_assignment(-of_m.numpy())[1]
        assert value(torch.tensor(best_h), m) <= result.objective + 1e-9
        assert value(h, torch.tensor(best_m)) <= result.objective + 1e-9
    assert permuted == 30


def test_stopping_at_the_maximum_number_of_sweeps_is_an_outcome() -> None:
    a, spec = attention(0)
    b, _ = attention(1)
    result = WeightMatcher(max_sweeps=1).match(PointPosterior(a), PointPosterior(b), spec)
    assert result.outcome is MatchOutcome.MAX_SWEEPS
    assert result.sweeps == 1


def test_the_result_of_a_specification_without_groups_is_the_identity() -> None:
    a = {"w": torch.ones(2)}
    result = WeightMatcher().match(PointPosterior(a), PointPosterior(a), table_spec({"w": "-"}, a))
    assert result.permutation.is_identity
    assert result.objective == 2.0


def test_results_are_equal_on_every_device(device: torch.device) -> None:
    a, spec = attention(0)
    planted = spec.random_permutation(generator=torch.Generator().manual_seed(5))
    on_device = {name: tensor.to(device) for name, tensor in a.items()}
    result = match(on_device, planted.apply(a), spec, matcher="weight")
    on_cpu = match(a, planted.apply(a), spec, matcher="weight")
    assert result.permutation == on_cpu.permutation
    assert result.apply(on_device)["q"].device.type == device.type


def test_messages_about_bad_input_name_the_cause() -> None:
    a, spec = attention(0)
    with pytest.raises(InvalidInputError, match="the candidate does not match the specification; missing: `q`"):
        match(a, {name: t for name, t in a.items() if name != "q"}, spec)
    with pytest.raises(InvalidInputError, match="not in the specification: `extra`"):
        match(a, {**a, "extra": torch.ones(1)}, spec)
    with pytest.raises(InvalidInputError, match=r"`q` has shape \(12, 5\)"):
        match(a, {**a, "q": torch.ones(12, 5)}, spec)
    with pytest.raises(InvalidInputError, match="NaN"):
        match(a, {**a, "q": a["q"] * float("nan")}, spec)
    with pytest.raises(UnknownNameError, match="did you mean 'weight'"):
        match(a, a, spec, matcher="wieght")
    with pytest.raises(ConfigError, match="max_sweep: unknown option; did you mean 'max_sweeps'"):
        match(a, a, spec, matcher={"name": "weight", "max_sweep": 3})
    with pytest.raises(ConfigError, match="max_sweeps: expected a value greater than 0"):
        WeightMatcher(max_sweeps=0)


def test_kl_requires_positive_standard_deviations() -> None:
    a, spec = attention(0)
    with pytest.raises(InvalidInputError, match="use the matcher `wasserstein`"):
        match(a, a, spec, matcher="kl")
    gaussian = DiagonalGaussianPosterior(a, {name: torch.ones_like(t) for name, t in a.items()})
    assert KLMatcher().match(gaussian, gaussian, spec).permutation.is_identity


@pytest.mark.parametrize("seed", range(6))
def test_the_best_start_is_never_below_either(seed: int) -> None:
    architecture = MLPArchitecture(hidden=[12, 12, 12])
    first, second = (
        architecture.build((5,), 3, generator=torch.Generator().manual_seed(2 * seed + number)) for number in (0, 1)
    )
    spec = architecture.spec(first)
    found = {
        start: match(first, second, spec, {"name": "weight", "start": start}).objective
        for start in ("best", "greedy", "identity")
    }
    assert found["best"] == max(found["greedy"], found["identity"])


def test_the_upper_bound_equals_its_formula_and_holds() -> None:
    """Compute by hand: assignments for matrices of one group, sorting for vectors, norms for several groups."""
    for seed in range(5):
        g = torch.Generator().manual_seed(seed)
        shapes = {
            "in": (5, 2), "bias": (5,), "w": (4, 5), "scale": (4,), "shift": (4,), "solo": (4, 3), "fixed": (3, 2),
        }  # fmt: skip
        a = random_tensors(shapes, g)
        b = random_tensors(shapes, g)
        table = {"in": "h, -", "bias": "h", "w": "m, h", "scale": "m", "shift": "m", "solo": "s, -", "fixed": "-, -"}
        result = WeightMatcher().match(PointPosterior(a), PointPosterior(b), table_spec(table, a))
        of_h = (a["in"] @ b["in"].T + torch.outer(a["bias"], b["bias"])).numpy()
        of_s = (a["solo"] @ b["solo"].T).numpy()
        expected = sum(matrix[linear_sum_assignment(-matrix)].sum() for matrix in (of_h, of_s))
        expected += sum((a[name].sort().values * b[name].sort().values).sum().item() for name in ("scale", "shift"))
        expected += (a["w"].norm() * b["w"].norm()).item() + (a["fixed"] * b["fixed"]).sum().item()
        assert result.upper_bound == pytest.approx(expected)
        assert result.objective <= expected + 1e-9


def test_the_upper_bound_of_a_single_group_is_attained() -> None:
    g = torch.Generator().manual_seed(0)
    shapes = {"in": (6, 3), "more": (6, 3)}
    a = random_tensors(shapes, g)
    b = random_tensors(shapes, g)
    result = WeightMatcher().match(PointPosterior(a), PointPosterior(b), table_spec({"in": "h, -", "more": "h, -"}, a))
    assert result.upper_bound == pytest.approx(result.objective)
