"""Arguments of wrong types raise a `RebasinError` in every public function, never an error from its internals."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal, final

import pytest
import torch
from torch import nn
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.errors import InvalidInputError, RebasinError
from rebasin_core.matchers import AbstractChannelMatcher

X, Y = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3
MODEL = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3))
SPEC = rc.trace_spec(MODEL, X)
TASK = rc.Task(MODEL, [(X, Y)])
POINT = rc.as_posterior(MODEL)
GAUSSIAN = rc.posteriors.DiagonalGaussianPosterior(POINT.mean, {n: t.abs() + 0.1 for n, t in POINT.mean.items()})
PERMUTATION = SPEC.random_permutation(generator=torch.Generator().manual_seed(1))
CHECKPOINT = rc.Checkpoint(Path("no"), "safetensors", {}, (), {})
ROWS = {"0.weight": "h, -", "0.bias": "h", "2.weight": "-, h", "2.bias": "-"}

# Valid arguments by name; the test replaces each of them by objects of other types.
CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "load_study": (rc.load_study, {"path": "study.yaml"}),
    "align": (rc.align, {"reference": MODEL, "candidate": MODEL, "task": TASK, "spec": SPEC, "matcher": "weight"}),
    "align_checkpoints": (rc.align_checkpoints, {"reference": "no.safetensors", "candidate": "no.safetensors"}),
    "merge_checkpoints": (
        rc.merge_checkpoints,
        {"checkpoints": ["no.safetensors", "no.safetensors"], "method": "mean"},
    ),
    "open_checkpoint": (rc.open_checkpoint, {"path": "no.safetensors"}),
    "open_adapter": (rc.open_adapter, {"path": "no"}),
    "merge_lora": (rc.merge_lora, {"base": CHECKPOINT, "adapter": CHECKPOINT}),
    "model_of": (rc.model_of, {"checkpoint": CHECKPOINT, "source": None}),
    "spec_of": (rc.spec_of, {"model": rc.model_of(CHECKPOINT, "torch.nn:Identity")}),
    "align_samples": (rc.align_samples, {"samples": [POINT, POINT], "spec": SPEC, "matcher": "weight", "task": TASK}),
    "as_posterior": (rc.as_posterior, {"source": MODEL, "model": MODEL, "spec": SPEC}),
    "barrier": (
        rc.barrier,
        {
            "reference": MODEL,
            "candidate": MODEL,
            "task": TASK,
            "estimator": "pointwise",
            "num_points": 3,
            "path": "auto",
        },
    ),
    "barrier_matrix": (rc.barrier_matrix, {"networks": [POINT, POINT], "task": TASK, "spec": SPEC}),
    "barycenter": (rc.barycenter, {"posteriors": [POINT, POINT], "weights": [1.0, 1.0]}),
    "build": (rc.build, {"family": "matcher", "name": "weight"}),
    "check_spec": (partial(rc.check_spec, example_inputs=X), {"spec": SPEC, "model": MODEL}),
    "discrepancy": (
        partial(rc.discrepancy, num_permutations=0),
        {"first": [POINT] * 4, "second": GAUSSIAN, "spec": SPEC, "matcher": "weight", "reference": POINT, "task": TASK},
    ),
    "function_discrepancy": (
        partial(rc.function_discrepancy, num_permutations=0),
        {"first": [POINT] * 4, "second": GAUSSIAN, "model": MODEL, "inputs": X},
    ),
    "fit_center": (partial(rc.fit_center, epochs=1), {"networks": [POINT, POINT], "task": TASK}),
    "fit_curve": (
        partial(rc.fit_curve, method={"name": "curved", "epochs": 1}),
        {"reference": MODEL, "candidate": MODEL, "task": TASK},
    ),
    "fit_curve by": (partial(rc.fit_curve, MODEL, MODEL, TASK), {"method": {"name": "curved", "epochs": 1}}),
    "fit_simplex": (partial(rc.fit_simplex, epochs=1), {"networks": [POINT, POINT], "task": TASK}),
    "fold": (rc.fold, {"network": MODEL, "spec": SPEC}),
    "untie": (rc.untie, {"model": MODEL}),
    "greedy_soup": (rc.greedy_soup, {"networks": [POINT, POINT], "spec": SPEC, "task": TASK, "matcher": "weight"}),
    "hull_losses": (rc.hull_losses, {"networks": [POINT, POINT], "task": TASK}),
    "instability": (
        partial(rc.instability, inference={"name": "map", "epochs": 1}),
        {"model": MODEL, "task": TASK, "batches": lambda seed: [(X, Y)] * (seed + 1), "steps": [0]},
    ),
    "kl_divergence": (rc.kl_divergence, {"first": GAUSSIAN, "second": GAUSSIAN}),
    "load_posterior": (rc.load_posterior, {"path": "no.safetensors"}),
    "load_run": (rc.load_run, {"path": "no.yaml"}),
    "load_element": (rc.load_element, {"path": "no.safetensors"}),
    "load_spec": (rc.load_spec, {"path": "no.json"}),
    "loss_plane": (rc.loss_plane, {"first": POINT, "second": POINT, "third": GAUSSIAN, "task": TASK}),
    "match": (rc.match, {"reference": MODEL, "candidate": MODEL, "spec": SPEC, "matcher": "weight", "task": TASK}),
    "match_many": (rc.match_many, {"networks": [POINT, POINT], "spec": SPEC, "matcher": "weight", "task": TASK}),
    "match_many_on_data": (
        partial(rc.match_many_on_data, epochs=1),
        {"networks": [POINT, POINT], "spec": SPEC, "task": TASK},
    ),
    "merge": (rc.merge, {"networks": [POINT, POINT], "spec": SPEC, "matcher": "weight", "task": TASK}),
    "save_checkpoint": (rc.save_checkpoint, {"network": MODEL, "path": "saved.safetensors", "model": MODEL}),
    "save_spec": (rc.save_spec, {"spec": SPEC, "path": "saved.json"}),
    "score": (rc.score, {"posterior": MODEL, "task": TASK, "num_samples": 2}),
    "simplex_losses": (
        partial(rc.simplex_losses, num_points=1),
        {"simplex": rc.fit_simplex([POINT], TASK, epochs=1), "task": TASK},
    ),
    "star": (rc.star, {"networks": [POINT, POINT], "task": TASK}),
    "summarize": (rc.summarize, {"samples": [POINT, POINT], "spec": SPEC, "matcher": "weight"}),
    "table_spec": (rc.table_spec, {"table": ROWS, "tensors": MODEL, "sizes": {"h": 3}}),
    "trace_spec": (rc.trace_spec, {"model": MODEL, "example_inputs": X, "kwargs": {}}),
    "wasserstein_distance": (rc.wasserstein_distance, {"first": POINT, "second": POINT}),
    "write_back": (rc.write_back, {"target": MODEL, "posterior": POINT}),
    "run": (rc.run, {"config": None, "output": "run"}),
    "Task": (
        lambda **given: rc.score(MODEL, rc.Task(**given)),
        {"model": MODEL, "data": [(X, Y)], "likelihood": "categorical", "calibration": [(X, Y)]},
    ),
    "Permutation": (rc.Permutation, {"layout": SPEC.layout, "indices": dict(PERMUTATION.indices)}),
    "Permutation.load": (rc.Permutation.load, {"path": "no.safetensors", "layout": SPEC.layout}),
    "Permutation.apply": (PERMUTATION.apply, {"target": MODEL}),
    "Layout": (rc.Layout, {"groups": SPEC.groups, "axes": SPEC.axes}),
    "Group": (rc.Group, {"name": "h", "size": 3}),
}
WRONG: dict[str, Any] = {
    "None": None,
    "number": 3,
    "text": "some text",
    "object": object(),
    "list": [1, 2],
    "pairs": [(1, 2)],
    "mapping": {"a": 1},
    "module": nn.Linear(2, 2),
    "tensor": torch.zeros(3),
    "class": nn.Linear,
    "function": nn.functional.cross_entropy,
    "posterior": POINT,
    "specification": SPEC,
    "dataset": torch.utils.data.TensorDataset(X, Y),
}


def raw_error(call: Callable[..., Any], arguments: dict[str, Any]) -> str | None:
    """Return an internal error, or an error message that is too short; None otherwise."""
    try:
        call(**arguments)
    except RebasinError as error:
        return None if len(str(error)) > 15 else f"message too short: {error}"
    except Exception as error:  # ruff: ignore[blind-except] - any other exception is a fault
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {error!s:.90} [{Path(where.filename).name}:{where.lineno}]"
    return None


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.filterwarnings("ignore::rebasin_core.errors.RebasinWarning")
def test_wrong_types_raise_a_rebasin_error(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    call, valid = CALLS[name]
    found = {
        f"{name}({argument}={kind})": raw_error(call, {**valid, argument: wrong})
        for argument in valid
        for kind, wrong in WRONG.items()
    }
    assert not {case: problem for case, problem in found.items() if problem is not None}


def test_every_public_function_is_tested() -> None:
    functions = {name for name in rc.__all__ if inspect.isfunction(getattr(rc, name))}
    assert functions - {"default_registry"} <= CALLS.keys()


def test_pytorch_losses_as_likelihoods() -> None:
    expected = rc.score(MODEL, TASK)
    given: Any
    for given in (nn.functional.cross_entropy, nn.CrossEntropyLoss()):
        assert rc.score(MODEL, rc.Task(MODEL, [(X, Y)], given)).nll == expected.nll
    others: list[tuple[Any, str]] = [
        (nn.functional.mse_loss, "squared error is not a density; use {'name': 'gaussian'"),
        (nn.MSELoss(), "squared error is not a density"),
        (nn.functional.binary_cross_entropy, "let the model return logits and use 'bernoulli'"),
        (nn.PoissonNLLLoss(log_input=False), "logs of rates"),
    ]
    for given, message in others:
        with pytest.raises(InvalidInputError, match=message):
            rc.Task(MODEL, [(X, Y)], given)


@pytest.mark.parametrize("fault", ["flat", "missing", "other"])
def test_invalid_channels_are_errors_that_name_the_matcher(fault: str) -> None:
    @final
    class Faulty(AbstractChannelMatcher):
        name: Literal["faulty"] = "faulty"

        @override
        def _channels(self, reference: rc.Posterior, candidate: rc.Posterior) -> tuple[Any, Any]:
            mean = {name: tensor.unsqueeze(0) for name, tensor in reference.mean.items()}
            changed = {
                "flat": {**mean, "0.weight": mean["0.weight"].flatten(1)},
                "missing": {name: tensor for name, tensor in mean.items() if name != "0.weight"},
                "other": {**mean, "0.wieght": mean["0.weight"]},
            }
            return mean, changed[fault]

    with pytest.raises(InvalidInputError, match=r"'faulty' \(.*Faulty\) returned channels of the candidate"):
        rc.match(MODEL, MODEL, SPEC, Faulty())
