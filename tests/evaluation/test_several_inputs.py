"""Every function that runs a network gives the same result for two inputs as for one input with both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

import rebasin_core as rc

LEFT, RIGHT = torch.randn(2, 24, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(24) % 2


class Body(nn.Module):
    """A network of two inputs, without `forward`."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(3, 5)
        self.right = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(9)
        self.out = nn.Linear(9, 2)

    def _outputs(self, left: Tensor, right: Tensor) -> Tensor:
        hidden = self.norm(torch.cat([self.left(left), self.right(right)], 1))
        outputs: Tensor = self.out(torch.relu(hidden))
        return outputs


class OneInput(Body):
    """A network whose input is a concatenation of two."""

    @override
    def forward(self, both: Tensor) -> Tensor:
        return self._outputs(both[:, :3], both[:, 3:])


class TwoInputs(Body):
    """The same network with two inputs."""

    @override
    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self._outputs(left, right)


ROWS = torch.arange(24).split(10)
ONE = [(torch.cat([LEFT[rows], RIGHT[rows]], 1), LABELS[rows]) for rows in ROWS]
TWO = [{"left": LEFT[rows], "right": RIGHT[rows], "labels": LABELS[rows]} for rows in ROWS]


def networks(kind: type[Body]) -> list[Body]:
    found = []
    for seed in (0, 1, 2):
        torch.manual_seed(seed)
        found.append(kind().eval())
    return found


def gaussian(network: nn.Module) -> rc.Posterior:
    point = rc.as_posterior(network)
    stddev = {name: torch.full_like(tensor, 0.0 if "norm" in name else 0.1) for name, tensor in point.mean.items()}
    return rc.posteriors.DiagonalGaussianPosterior(point.mean, stddev, buffers=point.buffers)


def parameters(posterior: rc.Posterior) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in posterior.mean.values()])


def matched(matcher: Any) -> Callable[[list[Body], rc.Task, rc.PermutationSpec], Any]:
    def match(found: list[Body], task: rc.Task, spec: rc.PermutationSpec) -> Any:
        permutation = rc.match(found[0], found[1], spec, matcher, task=task).permutation
        return torch.cat(list(permutation.indices.values()))

    return match


def fitted(name: str, **options: Any) -> Callable[[list[Body], rc.Task, rc.PermutationSpec], Any]:
    def fit(found: list[Body], task: rc.Task, spec: rc.PermutationSpec) -> Any:
        del found
        method: rc.Inference = rc.build("inference", name=name, **options)
        method.check(task.model, task.data, spec=spec)
        return parameters(method.fit(task.model, task.data, spec=spec).posterior)

    return fit


def discrepancy(found: list[Body], task: rc.Task, _: rc.PermutationSpec) -> float:
    inputs = torch.cat([LEFT, RIGHT], 1) if type(task.model) is OneInput else {"left": LEFT, "right": RIGHT}
    first, second = gaussian(found[0]), gaussian(found[1])
    return rc.function_discrepancy(first, second, task.model, inputs, num_samples=4, num_permutations=0).squared


def rescalings(found: list[Body], task: rc.Task, spec: rc.PermutationSpec) -> Any:
    inputs = torch.cat([LEFT, RIGHT], 1) if type(task.model) is OneInput else {"left": LEFT, "right": RIGHT}
    return torch.tensor([float(len(rc.specs.find_rescalings(spec, found[0], inputs)))])


CALLS: dict[str, Callable[[list[Body], rc.Task, rc.PermutationSpec], Any]] = {
    **{f"match {name}": matched(name) for name in ("activation", "gradient", "transport", "sinkhorn")},
    "match straight_through": matched({"name": "straight_through", "epochs": 2}),
    "match refined": matched({"name": "refined", "epochs": 2}),
    "match annealing": matched({"name": "annealing", "steps": 2}),
    "barrier repair": lambda n, task, _: torch.tensor(rc.barrier(n[0], n[1], task, estimator="repair").loss),
    "barrier curved": lambda n, task, _: torch.tensor(
        rc.barrier(n[0], n[1], task, estimator={"name": "curved", "epochs": 1, "num_points": 3}).loss
    ),
    "barrier of distributions": lambda n, task, _: torch.tensor(
        rc.barrier(gaussian(n[0]), gaussian(n[1]), task, num_points=3, num_samples=8).loss
    ),
    "score local": lambda n, task, _: rc.score(
        gaussian(n[0]), task, num_samples=8, evaluation=rc.EvaluationOptions(method="local")
    ).nll,
    "score vectorized": lambda n, task, _: rc.score(
        gaussian(n[0]), task, num_samples=8, evaluation=rc.EvaluationOptions(method="vectorized")
    ).nll,
    "score adaptive": lambda n, task, _: rc.score(
        gaussian(n[0]), task, num_samples=16, evaluation=rc.EvaluationOptions(method="local", allocation="adaptive")
    ).nll,
    "merge": lambda n, task, spec: parameters(rc.merge(n, spec, task=task, repair="repair", keep="aligned").posterior),
    "greedy soup": lambda n, task, spec: parameters(rc.greedy_soup(n, spec, task).posterior),
    "barrier matrix": lambda n, task, spec: rc.barrier_matrix(n, task, spec=spec, num_points=3).unaligned,
    "loss plane": lambda n, task, _: rc.loss_plane(n[0], n[1], n[2], task, num_points=3).loss,
    "function discrepancy": discrepancy,
    "rescalings": rescalings,
    "fit map": fitted("map", epochs=2),
    "fit mean_field_vi": fitted("mean_field_vi", epochs=2),
    "fit deep_ensemble": fitted("deep_ensemble", epochs=2),
    "fit mc_dropout": fitted("mc_dropout", epochs=2),
    "fit swag": fitted("swag", epochs=4),
    "fit sgld": fitted("sgld", epochs=4, burn_in=1),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.filterwarnings("ignore::rebasin_core.errors.RebasinWarning")
def test_two_inputs_give_the_result_of_one(name: str) -> None:
    results = []
    data: list[Any]
    for kind, data in ((OneInput, ONE), (TwoInputs, TWO)):
        found = networks(kind)
        task = rc.Task(found[0], data, calibration=data)
        example = data[0][0] if isinstance(data[0], tuple) else (LEFT, RIGHT)
        spec = rc.trace_spec(found[0], example)
        assert sorted(group.size for group in spec.layout.groups.values()) == [4, 5]
        results.append(torch.as_tensor(CALLS[name](found, task, spec), dtype=torch.float64))
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-6)
