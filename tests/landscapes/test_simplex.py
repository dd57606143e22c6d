"""Simplicial complexes: volumes, uniform points, files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rebasin_core.errors import FileFormatError, InvalidInputError
from rebasin_core.landscapes import SimplicialComplex
from rebasin_core.landscapes.simplex import log_volume, uniform_weights
from rebasin_core.posteriors import PointPosterior


def point(*values: float) -> PointPosterior:
    return PointPosterior({"a": torch.tensor(values[:1]).double(), "b": torch.tensor(values[1:]).double()})


@pytest.mark.parametrize("num_vertices", [2, 3, 5])
def test_the_volume_is_the_determinant_of_the_edges(num_vertices: int) -> None:
    generator = torch.Generator().manual_seed(num_vertices)
    vertices = torch.randn((num_vertices, 7), generator=generator, dtype=torch.float64)
    edges = (vertices[1:] - vertices[0]).numpy()
    expected = math.sqrt(np.linalg.det(edges @ edges.T)) / math.factorial(num_vertices - 1)
    found = log_volume([{"a": vertex[:3], "b": vertex[3:].reshape(2, 2)} for vertex in vertices])
    assert found.exp().item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("size", [1e-6, 1e6])
def test_volumes_of_any_scale_neither_over_nor_underflow(size: float) -> None:
    corners = [{"x": size * torch.eye(9, dtype=torch.float64)[index]} for index in range(9)]
    # A regular simplex of dimension n with edges of length s sqrt(2) has the volume s^n sqrt(n + 1) / n!.
    expected = 8 * math.log(size) + math.log(9) / 2 - math.lgamma(9)
    assert log_volume(corners).item() == pytest.approx(expected, rel=1e-9)


def test_the_gradient_of_the_volume_increases_it() -> None:
    corners = [{"x": torch.randn(5, generator=torch.Generator().manual_seed(k)).double()} for k in range(4)]
    corners[3]["x"].requires_grad_()
    torch.autograd.gradcheck(lambda x: log_volume([*corners[:3], {"x": x}]), (corners[3]["x"],))


def test_coinciding_vertices_have_no_volume() -> None:
    assert log_volume([{"x": torch.ones(2)}] * 3).item() == -math.inf


def test_the_volume_of_a_connectedis_the_sum_over_its_simplexes() -> None:
    networks = point(0.0, 0.0), point(0.0, 6.0)
    connected = SimplicialComplex(networks, (point(2.0, 0.0), point(2.0, 1.0)))
    # Triangles with the edge of length 1 between the connecting vertices and height 2.
    assert [math.exp(volume) for volume in connected.log_volumes] == pytest.approx([1.0, 1.0])
    assert math.exp(connected.log_volume) == pytest.approx(2.0)
    assert connected.dimension == 2


def test_points_are_uniformly_distributed_over_the_complex() -> None:
    # Segments of lengths 3 and 1 with a common vertex: a point is in the first with probability 3/4, and its weight of
    # the network is uniform. 4,000 points; tolerance of more than five standard errors.
    connected = SimplicialComplex((point(3.0, 0.0), point(-1.0, 0.0)), (point(0.0, 0.0),))
    weights = connected.draw_weights(4000, generator=torch.Generator().manual_seed(0))
    first = weights[:, 0] > 0
    assert first.double().mean().item() == pytest.approx(0.75, abs=0.035)
    assert weights[first][:, 0].mean().item() == pytest.approx(0.5, abs=0.03)
    assert weights[first][:, 0].var().item() == pytest.approx(1 / 12, abs=0.01)
    torch.testing.assert_close(weights.sum(1), torch.ones(4000).double())
    assert not (weights[:, 0] * weights[:, 1]).any()


def test_uniform_weights_have_the_moments_of_a_flat_dirichlet_distribution() -> None:
    weights = uniform_weights(20000, 3, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(weights.mean(0), torch.full((3,), 1 / 3).double(), atol=0.01, rtol=0)
    # The variance is (K - 1) / (K^2 (K + 1)) with K = 3.
    torch.testing.assert_close(weights.var(0), torch.full((3,), 2 / 36).double(), atol=0.004, rtol=0)


def test_the_ensemble_consists_of_points_of_the_complex() -> None:
    simplex = SimplicialComplex((point(0.0, 0.0),), (point(1.0, 0.0), point(0.0, 1.0)))
    samples = simplex.posterior(50).samples
    x = torch.cat([samples["a"], samples["b"]], dim=1)
    assert (x >= 0).all()
    assert (x.sum(1) <= 1 + 1e-12).all()
    assert x.std() > 0.1


def test_a_connectedis_read_as_it_was_written(tmp_path: Path) -> None:
    connected = SimplicialComplex((point(0.0, 0.0), point(0.0, 6.0)), (point(2.0, 0.0),), (0.5,))
    connected.save(tmp_path / "complex.safetensors")
    found = SimplicialComplex.load(tmp_path / "complex.safetensors")
    assert (len(found.networks), len(found.connectors), found.history) == (2, 1, (0.5,))
    for expected, got in zip(connected.vertices, found.vertices, strict=True):
        torch.testing.assert_close(got.mean, expected.mean)


@pytest.mark.parametrize("change", [{"num_networks": 3}, {"num_networks": 0}, {"num_networks": "1"}])
def test_contradicting_files_raise_errors(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "complex.safetensors"
    SimplicialComplex((point(0.0, 0.0), point(0.0, 6.0)), (point(2.0, 0.0),)).save(path)
    document = {"num_networks": 2, "num_vertices": 3, "history": [], **change}
    metadata = {"format": "rebasin_core/1", "kind": "simplicial_complex", "document": document}
    save_file(load_file(path), path, metadata={"rebasin_core": json.dumps(metadata)})
    with pytest.raises(FileFormatError, match="1 to 2 networks"):
        SimplicialComplex.load(path)


def test_invalid_complexes_raise_errors() -> None:
    with pytest.raises(InvalidInputError, match="at least 1 connecting vertices, got 0"):
        SimplicialComplex((point(0.0, 0.0),), ())
    with pytest.raises(InvalidInputError, match="shape"):
        SimplicialComplex((point(0.0, 0.0),), (point(0.0, 0.0, 1.0),))
    simplex = SimplicialComplex((point(0.0, 0.0),), (point(1.0, 0.0),))
    with pytest.raises(InvalidInputError, match="2 weights with sum 1"):
        simplex.at([0.5, 0.6])
    with pytest.raises(InvalidInputError, match="at least one point"):
        simplex.posterior(0)
