"""Initialization of new vertices."""

from __future__ import annotations

import torch
from torch import nn

from rebasin_core.evaluation import CategoricalLikelihood
from rebasin_core.landscapes.fitting import FitSettings, fit_points, fitting_task
from rebasin_core.landscapes.growth import ComplexOptions, grow_complex
from rebasin_core.posteriors import PointPosterior


def test_untrained_vertices_are_perturbed_means() -> None:
    networks = [PointPosterior({"weight": torch.full((2, 1), value)}) for value in (1.0, 3.0)]
    data = [(torch.ones(2, 1), torch.tensor([0, 1]))]
    task = fitting_task(nn.Linear(1, 2, bias=False), data, CategoricalLikelihood(), networks[0])
    options = ComplexOptions(epochs=0, perturbation=0.1, num_connectors=2)
    found = grow_complex(task, networks, options, generator=torch.Generator().manual_seed(0))
    first = found.connectors[0].mean["weight"]
    second = found.connectors[1].mean["weight"]
    mean = torch.full((2, 1), 2.0)
    torch.testing.assert_close((first - mean).norm(), 0.1 * mean.norm())
    third = (2 * mean + first) / 3
    torch.testing.assert_close((second - third).norm(), 0.1 * third.norm())
    assert found.history == ()


def test_history_is_the_loss_without_the_penalty() -> None:
    point = PointPosterior({"weight": torch.zeros(2, 1)})
    task = fitting_task(
        nn.Linear(1, 2, bias=False), [(torch.ones(2, 1), torch.tensor([0, 1]))], CategoricalLikelihood(), point
    )
    settings = FitSettings(epochs=1, learning_rate=1e-9)
    fitted = fit_points(
        task, [], [point], lambda _: [1.0], settings, penalty=lambda means: means[0]["weight"].sum() + 7
    )
    torch.testing.assert_close(torch.tensor(fitted.history), torch.tensor([2.0]).log())
