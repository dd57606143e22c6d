"""The gauge of minimal norm, compared with a general optimizer and with its defining equations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch.func import functional_call

from rebasin_core.bilinear.maps.gauge import balanced, mapping
from rebasin_core.symmetry import Kind
from tests.bilinear.maps.networks import network, planted, tensors_of, traced


def test_scales_have_the_minimal_norm() -> None:
    module, inputs = network("relu")
    spec = traced(module, inputs)
    channels = {name: tensor.unsqueeze(0) for name, tensor in tensors_of(module).items()}
    found, _ = balanced(spec.symmetry, channels)
    norm = sum(float(tensor.square().sum()) for tensor in found.values())

    def squared_norm(logarithms: np.ndarray) -> float:
        factors = torch.from_numpy(np.exp(logarithms)).split(16)
        element = mapping(spec.symmetry, dict(enumerate(factors)))
        scaled = element.apply({name: tensor[0] for name, tensor in channels.items()})
        return sum(float(tensor.square().sum()) for tensor in scaled.values())

    best = minimize(squared_norm, np.zeros(32), method="BFGS")
    assert norm == pytest.approx(best.fun, rel=1e-6)


def test_invertible_maps_balance_producing_and_consuming_weights() -> None:
    module, inputs = network("linear")
    spec = traced(module, inputs)
    (linear,) = spec.symmetry.linear
    assert linear.kind is Kind.INVERTIBLE
    tensors = tensors_of(module)
    found, element = balanced(spec.symmetry, {name: tensor.unsqueeze(0) for name, tensor in tensors.items()})
    into = torch.cat([found["0.weight"][0], found["0.bias"][0].unsqueeze(1)], 1)
    out = found["1.weight"][0]
    assert torch.allclose(into @ into.T, out.T @ out, atol=1e-5)
    moved = element.apply(tensors)
    assert torch.allclose(functional_call(module, moved, (inputs,)), module(inputs), atol=1e-10)
    assert torch.allclose(moved["1.weight"], out)


def test_networks_that_differ_by_an_element_have_the_same_gauge_up_to_orthogonal_maps() -> None:
    module, inputs = network("rms")
    spec = traced(module, inputs)
    tensors = tensors_of(module)
    symmetry = spec.folded_symmetry
    other, _ = planted(symmetry, tensors)
    names = [name for name, _ in module.named_parameters()]
    first, second = (
        balanced(symmetry, {name: side[name].unsqueeze(0) for name in names})[0] for side in (tensors, other)
    )
    for name in names:
        one, two = (torch.linalg.svdvals(side[name][0].reshape(len(side[name][0]), -1)) for side in (first, second))
        assert torch.allclose(one, two, atol=1e-6), name
