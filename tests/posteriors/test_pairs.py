"""Dispatch of functions of several posteriors, and registration of functions for a posterior of a third party."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytest
import torch

import rebasin_core as rc
from rebasin_core.errors import InvalidInputError, NoClosedFormError, PluginError
from rebasin_core.posteriors import (
    TensorWeights,
    register_barycenter,
    register_geodesic,
    register_kl,
    register_wasserstein,
    squared_moment_distance,
)
from rebasin_core.posteriors.pairs import Operation
from rebasin_core.testing.cases import network
from tests.posteriors.box import BoxPosterior

Returns = Callable[[], str]


class General(BoxPosterior):
    kind: ClassVar[str] = "general"


class Left(General):
    kind: ClassVar[str] = "left"


class Right(General):
    kind: ClassVar[str] = "right"


class Both(Left, Right):
    kind: ClassVar[str] = "both"


def box(kind: type[BoxPosterior] = BoxPosterior, center: float = 0.0, radius: float = 1.0) -> Any:
    return kind({"w": torch.full((2, 2), center).double()}, {"w": torch.full((2, 2), radius).double()})


def table(*kinds: tuple[type, ...]) -> Operation[Returns]:
    """Return an operation whose functions return the names of the classes for which they are registered."""
    operation: Operation[Returns] = Operation("test operation", "register_test", "do something else")
    for each in kinds:
        operation.register(each, named(", ".join(kind.__name__ for kind in each)))
    return operation


def named(name: str) -> Returns:
    return lambda: name


def found(operation: Operation[Returns], *kinds: type[BoxPosterior]) -> str | None:
    function = operation.find([box(kind) for kind in kinds])
    return None if function is None else function()


def test_the_function_for_the_nearest_bases_is_used() -> None:
    pairs = table((General, General), (Left, General), (Left, Left))
    assert found(pairs, Left, Left) == "Left, Left"
    assert found(pairs, Left, Right) == "Left, General"
    assert found(pairs, Right, Left) == "General, General"
    assert found(pairs, BoxPosterior, Left) is None


def test_the_method_resolution_order_decides_between_two_bases() -> None:
    assert found(table((Left, Left), (Right, Right)), Both, Both) == "Left, Left"
    assert found(table((Left, Right), (General, General)), Both, Both) == "Left, Right"


def test_the_error_for_ambiguous_functions_names_both() -> None:
    pairs = table((Left, General), (General, Left))
    assert found(pairs, Left, Right) == "Left, General"
    with pytest.raises(PluginError, match=r"`Left` is ambiguous: .*`Left` and `General`.*`General` and `Left`"):
        found(pairs, Left, Left)


def test_a_function_for_one_class_accepts_any_number_of_posteriors() -> None:
    operation = table((General,), (Left,))
    assert found(operation, Left, Left, Left) == "Left"
    assert found(operation, Left, Both, Right) == "General"
    assert found(operation, Left) == "Left"
    assert found(operation, Left, BoxPosterior) is None


def test_a_pair_cannot_be_registered_twice() -> None:
    with pytest.raises(PluginError, match=r"of `Left` and `Right` is registered twice: by `.*named.*` and by"):
        table((Left, Right), (Left, Right))


def test_a_function_for_a_pair_also_applies_to_the_swapped_pair() -> None:
    class Near(BoxPosterior):
        kind: ClassVar[str] = "near"

    class Far(BoxPosterior):
        kind: ClassVar[str] = "far"

    @register_wasserstein(Near, Far)
    def distance(first: Near, second: Far) -> float:
        assert (first.kind, second.kind) == ("near", "far")
        return 1.0

    @register_geodesic(Near, Far)
    def path(first: Near, second: Far) -> Callable[[float], rc.Posterior]:
        center = second.mean["w"] - first.mean["w"]
        return lambda t: Near({"w": first.mean["w"] + t * center}, first.radius)

    near, far = box(Near, 0.0), box(Far, 4.0)
    assert rc.wasserstein_distance(near, far) == rc.wasserstein_distance(far, near) == 1.0
    assert rc.posteriors.geodesic(near, far)(0.25).mean["w"].unique().tolist() == [1.0]
    assert rc.posteriors.geodesic(far, near)(0.25).mean["w"].unique().tolist() == [3.0]
    with pytest.raises(PluginError, match="registered twice"):
        register_wasserstein(Far, Near)(distance)


def test_a_posterior_of_a_third_party_raises_until_functions_are_registered() -> None:
    class Cube(BoxPosterior):
        kind: ClassVar[str] = "cube"

    first, second = box(Cube, 0.0, 1.0), box(Cube, 2.0, 3.0)
    for operation, message in (
        (lambda: rc.wasserstein_distance(first, second), "register_wasserstein"),
        (lambda: rc.kl_divergence(first, second), "register_kl"),
        (lambda: rc.posteriors.geodesic(first, second), "register_geodesic"),
        (lambda: rc.barycenter([first, second]), r"moment_barycenter.*register_barycenter"),
    ):
        with pytest.raises(NoClosedFormError, match=rf"of `Cube` is registered.*{message}"):
            operation()

    @register_wasserstein(Cube, Cube)
    def _distance(one: Cube, other: Cube) -> float:
        return math.sqrt(squared_moment_distance(one, other))

    @register_kl(Cube, Cube)
    def _divergence(one: Cube, other: Cube) -> float:
        assert one.dtype == other.dtype == torch.float64
        return sum(torch.log(other.radius[n] / r).sum().item() for n, r in one.radius.items())

    @register_geodesic(Cube, Cube)
    def _path(one: Cube, other: Cube) -> Callable[[float], rc.Posterior]:
        return one.linear_path(other)

    @register_barycenter(Cube)
    def _center(cubes: Sequence[Cube], weights: TensorWeights) -> Cube:
        return Cube(weights.mean([q.mean for q in cubes]), weights.mean([q.radius for q in cubes]))

    # Uniform distributions are a location-scale family: the optimal transport map of each entry is affine.
    expected = (4 * (2.0**2 + (2 / 3**0.5) ** 2)) ** 0.5
    assert rc.wasserstein_distance(first, second) == pytest.approx(expected)
    assert rc.kl_divergence(first, second) == pytest.approx(4 * torch.tensor(3.0).log().item())
    quarter = rc.posteriors.geodesic(first, second)(0.25)
    assert isinstance(quarter, Cube)
    assert rc.wasserstein_distance(first, quarter) == pytest.approx(0.25 * expected)
    assert rc.barycenter([first, second]).kind == "cube"


def test_the_default_path_of_a_third_party_is_its_geodesic() -> None:
    class Pillar(BoxPosterior):
        kind: ClassVar[str] = "pillar"

    @register_geodesic(Pillar, Pillar)
    def _path(one: Pillar, other: Pillar) -> Callable[[float], rc.Posterior]:
        return one.linear_path(other)

    first = Pillar({"weight": torch.zeros(2, 1)}, {"weight": torch.ones(2, 1)})
    second = Pillar({"weight": torch.full((2, 1), 2.0)}, {"weight": torch.ones(2, 1)})
    task = rc.Task(torch.nn.Linear(1, 2, bias=False), [(torch.ones(4, 1), torch.tensor([0, 1, 0, 1]))])
    options: dict[str, Any] = {"num_samples": 4, "num_points": 3}
    curve = rc.barrier(first, second, task, **options)
    assert curve.loss[0] == pytest.approx(rc.barrier(first, first, task, **options).loss[0])


def test_modules_are_not_posteriors() -> None:
    module: Any = torch.nn.Linear(2, 2)
    for operation in (rc.wasserstein_distance, rc.kl_divergence, rc.posteriors.geodesic):
        with pytest.raises(InvalidInputError, match=r"expected posteriors, got `Linear`; `rebasin_core.as_posterior`"):
            operation(module, module)
    with pytest.raises(InvalidInputError, match="expected posteriors, got `Linear`"):
        rc.barycenter([module])


def test_results_report_whether_they_are_a_barycenter() -> None:
    case = network()
    mean = {name: tensor.detach() for name, tensor in case.model.named_parameters()}
    scale = {name: torch.full_like(tensor, 0.1) for name, tensor in mean.items()}
    swag = [
        rc.posteriors.LowRankGaussianPosterior(
            mean, scale, {n: k * 0.1 * torch.ones(2, *t.shape).to(t) for n, t in mean.items()}
        )
        for k in (1, 3)
    ]
    exact = [rc.posteriors.DiagonalGaussianPosterior(mean, scale)] * 2
    options: dict[str, Any] = {"task": rc.Task(case.model, case.data), "num_samples": 2}
    for posteriors, expected in ((swag, False), (exact, True)):
        merged = rc.merge(posteriors, case.spec)
        assert merged.is_barycenter is expected
        assert merged.posterior.kind == "diagonal_gaussian"
        soup = rc.greedy_soup(posteriors, case.spec, rc.Task(case.model, case.data), num_samples=2)
        assert soup.is_barycenter is (expected or len(soup.members) == 1)
        assert rc.star(posteriors, num_points=3, **options).is_barycenter is expected
        assert rc.hull_losses(posteriors, num_points=1, **options).is_barycenter is expected
    with pytest.raises(NoClosedFormError, match="barycenter of `LowRankGaussianPosterior`"):
        _ = rc.match_many(swag, case.spec, max_rounds=1).center
    average = rc.posteriors.moment_barycenter(swag, [1, 3])
    for name, tensor in average.stddev.items():
        torch.testing.assert_close(tensor, 0.25 * swag[0].stddev[name] + 0.75 * swag[1].stddev[name])


def test_weights_by_tensor_require_independent_entries() -> None:
    root = {"a": torch.eye(2)[:, :1], "b": torch.eye(2)[:, 1:]}
    full = rc.posteriors.FullGaussianPosterior({name: torch.zeros(1) for name in root}, root)
    samples = rc.posteriors.SamplesPosterior({name: torch.zeros(3, 1) for name in root})
    for posterior in (full, samples):
        with pytest.raises(NoClosedFormError, match="one weight per posterior"):
            rc.barycenter([posterior, posterior], {"a": [1, 1], "b": [1, 3]})
        assert (
            rc.posteriors.moment_barycenter([posterior, posterior], {"a": [1, 1], "b": [1, 3]}).kind
            == "diagonal_gaussian"
        )


def test_sets_of_different_sizes_have_no_barycenter() -> None:
    sets = [rc.posteriors.SamplesPosterior({"w": torch.arange(float(k))}) for k in (2, 3)]
    with pytest.raises(NoClosedFormError, match=r"got \[2, 3\] samples"):
        rc.barycenter(sets)
