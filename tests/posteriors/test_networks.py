"""The networks of posteriors, and posteriors of the same kind with other networks."""

from __future__ import annotations

import pytest
import torch

from rebasin_core.errors import InvalidInputError
from rebasin_core.posteriors import DiagonalGaussianPosterior, PointPosterior, SamplesPosterior
from rebasin_core.posteriors.networks import networks_of, with_networks

SAMPLES = SamplesPosterior(
    {"a": torch.tensor([[1.0], [2.0]])},
    weights=torch.tensor([0.25, 0.75]),
    chains=torch.tensor([0, 1]),
    sample_buffers={"b": torch.tensor([[5], [6]])},
    buffers={"c": torch.tensor([7.0])},
    fixed={"d": torch.tensor([8.0])},
)


def test_networks_have_all_tensors() -> None:
    assert networks_of(SAMPLES) == [
        {"a": torch.tensor([1.0]), "b": torch.tensor([5]), "c": torch.tensor([7.0]), "d": torch.tensor([8.0])},
        {"a": torch.tensor([2.0]), "b": torch.tensor([6]), "c": torch.tensor([7.0]), "d": torch.tensor([8.0])},
    ]
    assert networks_of(PointPosterior({"a": torch.ones(1)})) == [{"a": torch.ones(1)}]
    assert networks_of(DiagonalGaussianPosterior({"a": torch.ones(1)}, {"a": torch.ones(1)})) is None


def test_shared_tensors_stay_shared_while_they_are_equal() -> None:
    networks = networks_of(SAMPLES)
    assert networks is not None
    networks[0]["a"], networks[1]["d"] = torch.tensor([3.0]), torch.tensor([9.0])
    found = with_networks(SAMPLES, [{**network, "e": torch.tensor([4.0])} for network in networks])
    assert isinstance(found, SamplesPosterior)
    assert {name: tensor.flatten().tolist() for name, tensor in found.samples.items()} == {
        "a": [3.0, 2.0],
        "d": [8.0, 9.0],
        "e": [4.0, 4.0],
    }
    assert found.fixed == {}
    assert found.shared_buffers["c"].tolist() == [7.0]
    assert found.sample_buffers["b"].flatten().tolist() == [5, 6]
    assert found.weights.tolist() == [0.25, 0.75]
    assert found.chains.tolist() == [0, 1]


def test_points_keep_their_buffers() -> None:
    point = PointPosterior({"a": torch.ones(1)}, buffers={"b": torch.zeros(1)})
    found = with_networks(point, [{"a": torch.zeros(1), "b": torch.ones(1)}])
    assert found.mean["a"].tolist() == [0.0]
    assert found.buffers["b"].tolist() == [1.0]


def test_the_number_of_networks_must_fit() -> None:
    with pytest.raises(InvalidInputError, match="got 1 for 2 networks"):
        with_networks(SAMPLES, [{"a": torch.ones(1)}])
    gaussian = DiagonalGaussianPosterior({"a": torch.ones(1)}, {"a": torch.ones(1)})
    with pytest.raises(InvalidInputError, match="a posterior with a density"):
        with_networks(gaussian, [{"a": torch.ones(1)}])
