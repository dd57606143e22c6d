"""All forms of one network (module, state dict, file, ...) give bitwise equal results in every function."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias, cast

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.errors import AlignmentWarning, InvalidInputError
from rebasin_core.testing.examples.foreign import stand_in

# The networks are random, so alignment need not lower their loss.
pytestmark = pytest.mark.filterwarnings("ignore::rebasin_core.errors.AlignmentWarning")
X = torch.randn(24, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(24) % 3


class Tied(nn.Module):
    """Network with batch normalization, a weight and a module with two names each, and custom buffers."""

    norm: nn.BatchNorm1d
    scale: Tensor
    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 5)
        self.norm = nn.BatchNorm1d(5)
        self.again = self.norm
        self.inner = nn.Linear(5, 5, bias=False)
        self.head = nn.Linear(5, 3)
        self.tied = self.head.weight
        self.register_buffer("scale", torch.rand(3) + 0.5)
        self.register_buffer("mask", torch.ones(6), persistent=False)

    @override
    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.norm(self.first(x * self.mask)))
        last = torch.relu(self.again(self.inner(hidden)))
        outputs: Tensor = self.scale * (self.head(last) + last @ self.tied.T)
        return outputs


def network(seed: int) -> Tied:
    torch.manual_seed(seed)
    model = Tied().train()
    for _ in range(4):
        model(X + 0.1 * torch.randn_like(X))
    with torch.no_grad():
        model.norm.weight.normal_(1.0, 0.3)
        model.scale.copy_(torch.rand(3) + 0.5)
    return model.eval()


MODELS = [network(1), network(2)]
SPEC = rc.trace_spec(MODELS[0], X)
TASK = rc.Task(MODELS[0], [(X, Y)])


def through_file(model: nn.Module, folder: Path) -> Mapping[str, Tensor]:
    path = folder / f"{id(model)}.pt"
    torch.save(model.state_dict(), path)
    loaded: Mapping[str, Tensor] = torch.load(path, weights_only=True)
    return loaded


def untied(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def safetensors_file(model: nn.Module, folder: Path) -> rc.Posterior:
    path = folder / f"{id(model)}.safetensors"
    safetensors.torch.save_model(model, str(path))
    return rc.load_posterior(path)


def posterior_file(model: nn.Module, folder: Path) -> rc.Posterior:
    path = folder / f"{id(model)}.posterior.safetensors"
    rc.posteriors.PointPosterior(model.state_dict()).save(path)  # all tensors as parameters, also the buffers
    return rc.load_posterior(path)


def compiled(model: nn.Module) -> nn.Module:
    wrapped: Any = torch.compile(model)  # never called, so nothing is compiled
    return cast("nn.Module", wrapped)


def partly_compiled(model: nn.Module) -> nn.Module:
    found = copy.deepcopy(model)
    found.add_module("inner", compiled(found.get_submodule("inner")))
    return found


Form: TypeAlias = Callable[[nn.Module, Path], Any]
FORMS: dict[str, Form] = {
    "module": lambda m, _: m,
    "state dict": lambda m, _: m.state_dict(),
    "untied state dict": lambda m, _: untied(m),
    "torch file": through_file,
    "safetensors file": safetensors_file,
    "posterior file": posterior_file,
    "point": lambda m, _: rc.as_posterior(m),
    "compiled": lambda m, _: compiled(m),
    "compiled state dict": lambda m, _: compiled(m).state_dict(),
    "partly compiled": lambda m, _: partly_compiled(m),
    "DataParallel": lambda m, _: nn.DataParallel(m),
    "DataParallel state dict": lambda m, _: nn.DataParallel(m).state_dict(),
    "averaged": lambda m, _: torch.optim.swa_utils.AveragedModel(m),
    "averaged state dict": lambda m, _: torch.optim.swa_utils.AveragedModel(m).state_dict(),
    "averaged, compiled, parallel": lambda m, _: nn.DataParallel(compiled(torch.optim.swa_utils.AveragedModel(m))),
}
VERBS: dict[str, Callable[[Any, Any], Any]] = {
    "match": lambda a, b: rc.match(a, b, SPEC).trace,
    "permutation": lambda a, b: {n: p.tolist() for n, p in rc.match(a, b, SPEC).permutation.indices.items()},
    "match activation": lambda a, b: rc.match(a, b, SPEC, "activation", task=TASK).objective,
    "align": lambda a, b: tensors_of(rc.align(a, b, TASK, spec=SPEC).aligned),
    "barrier": lambda a, b: rc.barrier(a, b, TASK, num_points=3).loss,
    "merge": lambda a, b: tensors_of(rc.merge([a, b], SPEC).posterior),
    "merge reset": lambda a, b: tensors_of(rc.merge([a, b], SPEC, repair="reset", task=TASK).posterior),
    "greedy_soup": lambda a, b: tensors_of(rc.greedy_soup([a, b], SPEC, TASK).posterior),
    "score": lambda a, b: [rc.score(q, TASK).nll for q in (a, b)],
    "match_many": lambda a, b: rc.match_many([a, b], SPEC).trace,
    "align_samples": lambda a, b: rc.align_samples([a, b], SPEC).mean_squared_distances,
    "barrier_matrix": lambda a, b: rc.barrier_matrix([a, b], TASK, num_points=3),
    "wasserstein_distance": lambda a, b: rc.wasserstein_distance(*(rc.as_posterior(q, spec=SPEC) for q in (a, b))),
}


def tensors_of(posterior: rc.Posterior) -> dict[str, Any]:
    return {
        "mean": {name: tensor.tolist() for name, tensor in sorted(posterior.mean.items())},
        "buffers": {name: t.tolist() for name, t in sorted(posterior.buffers.items()) if name != "mask"},
    }


with warnings.catch_warnings():
    warnings.simplefilter("ignore", AlignmentWarning)
    EXPECTED = {name: verb(*MODELS) for name, verb in VERBS.items()}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_equal_results(form: str, tmp_path: Path) -> None:
    given = [FORMS[form](model, tmp_path) for model in MODELS]
    found = {name: verb(*given) for name, verb in VERBS.items()}
    for name, expected in EXPECTED.items():
        assert str(found[name]) == str(expected), (form, name)


@pytest.mark.parametrize("form", FORMS)
def test_forms_can_be_mixed(form: str, tmp_path: Path) -> None:
    given = FORMS[form](MODELS[1], tmp_path)
    for name in ("match", "barrier", "merge", "match_many"):
        assert str(VERBS[name](MODELS[0], given)) == str(EXPECTED[name]), (form, name)


@pytest.mark.parametrize("form", FORMS)
def test_apply_accepts_every_form_and_returns_its_type(form: str, tmp_path: Path) -> None:
    given = FORMS[form](MODELS[1], tmp_path)
    result = rc.match(MODELS[0], given, SPEC)
    assert not result.permutation.is_identity
    permuted: Any = result.apply(given)
    assert type(permuted) is type(given) or isinstance(given, Mapping)
    if isinstance(given, Mapping):
        assert list(permuted) == list(given)
    if isinstance(given, nn.Module):
        assert list(permuted.state_dict()) == list(given.state_dict())
    expected = rc.as_posterior(result.apply(MODELS[1]), spec=SPEC)
    found = rc.as_posterior(permuted, spec=SPEC)
    assert str(tensors_of(found)) == str(tensors_of(expected))
    assert rc.match(MODELS[0], permuted, SPEC).permutation.is_identity


@pytest.mark.parametrize("model", [compiled(MODELS[0]), nn.DataParallel(MODELS[0]), partly_compiled(MODELS[0])])
def test_a_wrapped_model_has_the_specification_of_the_module(model: nn.Module) -> None:
    spec = rc.trace_spec(model, X)
    assert spec.layout.log10_order == SPEC.layout.log10_order > 0
    assert rc.check_spec(spec, model, X).passed
    assert rc.match(MODELS[0], MODELS[1].state_dict(), spec).objective == EXPECTED["match"][-1]
    assert rc.score(MODELS[0], rc.Task(model, [(X, Y)])).nll == rc.score(MODELS[0], TASK).nll


def test_a_saved_specification_has_the_buffers_and_aliases(tmp_path: Path) -> None:
    assert set(SPEC.layout.buffers or ()) == {name for name, _ in MODELS[0].named_buffers()}
    assert SPEC.layout.aliases["head.weight"] == "tied"
    rc.save_spec(SPEC, tmp_path / "spec.json")
    loaded = rc.load_spec(tmp_path / "spec.json")
    assert loaded.layout == SPEC.layout
    assert loaded.layout.buffers == SPEC.layout.buffers
    assert loaded.layout.aliases == SPEC.layout.aliases
    first = MODELS[0].state_dict()
    second = MODELS[1].state_dict()
    assert rc.match(first, second, loaded).objective == EXPECTED["match"][-1]
    # Older files have the symmetries without buffers and aliases, which are then inferred from names and types.
    document = SPEC.layout.as_json()
    old = rc.Layout.from_json({"groups": document["groups"], "axes": document["axes"]})
    assert old.buffers is None
    assert old.fingerprint == SPEC.layout.fingerprint


def test_buffers_of_a_table_of_named_tensors_are_an_argument() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    model.register_buffer("offset", torch.rand(3))
    state = model.state_dict()
    rows = {"0.weight": "h, -", "0.bias": "h", "2.weight": "-, h", "2.bias": "-", "offset": "-"}
    assert rc.table_spec(rows, model).layout.buffers == frozenset({"offset"})
    assert rc.table_spec(rows, state).layout.buffers is None
    stated = rc.table_spec(rows, state, buffers=["offset"])
    assert set(rc.as_posterior(state, spec=stated).buffers) == {"offset"}
    with pytest.raises(rc.errors.SpecError, match="`buffers` or `aliases` names `ofset`"):
        rc.table_spec(rows, state, buffers=["ofset"])


QUANTIZED = {n: (50 * t).round().to(torch.int8) if t.dim() == 2 else t for n, t in MODELS[0].state_dict().items()}


@pytest.mark.parametrize("spec", [SPEC, rc.specs.GivenSpec(rc.Layout(SPEC.groups, SPEC.axes))])
def test_quantized_weights_are_errors(spec: rc.PermutationSpec) -> None:
    message = r"`(first|inner).weight`.* parameter.* of the network, got torch.int8.* Dequantize them first"
    for call in (
        lambda: rc.match(QUANTIZED, QUANTIZED, spec),
        lambda: rc.merge([QUANTIZED, QUANTIZED], spec),
        lambda: rc.barrier(QUANTIZED, QUANTIZED, TASK),
        lambda: rc.score(QUANTIZED, TASK),
    ):
        with pytest.raises(InvalidInputError, match=message):
            call()


def test_tied_weights_with_different_values_are_errors() -> None:
    state = untied(MODELS[0])
    state["tied"] += 1
    with pytest.raises(InvalidInputError, match=r"`tied` and `head.weight` are one tensor of the network"):
        rc.match(state, state, SPEC)


def test_one_name_of_a_tied_weight_is_sufficient() -> None:
    state = {name: tensor for name, tensor in MODELS[1].state_dict().items() if name != "tied"}
    assert rc.match(MODELS[0], state, SPEC).objective == EXPECTED["match"][-1]


def test_training_checkpoints_and_nested_mappings_are_errors() -> None:
    checkpoint: Any = {"epoch": 3, "state_dict": MODELS[0].state_dict()}
    with pytest.raises(InvalidInputError, match="got `int` at 'epoch'"):
        rc.match(checkpoint, checkpoint, SPEC)
    nested: Any = {"state_dict": MODELS[0].state_dict()}
    with pytest.raises(InvalidInputError, match="pass the state dict in it, such as the entry 'state_dict'"):
        rc.match(nested, nested, SPEC)


def test_a_module_with_bayesian_layers_is_permuted_like_its_deterministic_network() -> None:
    kind = stand_in("bayesian_torch.layers.linear", "LinearReparameterization", nn.Module)
    generator = torch.Generator().manual_seed(0)

    def layer(outputs: int, inputs: int) -> nn.Module:
        made: nn.Module = kind()
        for name, shape in {"weight": (outputs, inputs), "bias": (outputs,)}.items():
            made.register_parameter(f"mu_{name}", nn.Parameter(torch.randn(shape, generator=generator)))
            made.register_parameter(f"rho_{name}", nn.Parameter(torch.randn(shape, generator=generator)))
            made.register_buffer(f"eps_{name}", torch.randn(shape, generator=generator), persistent=False)
            made.register_buffer(f"prior_{name}_mu", torch.randn(shape, generator=generator))
        return made

    model: Any = nn.Sequential(layer(5, 4), nn.ReLU(), layer(3, 5))
    posterior = rc.as_posterior(model)
    rows = {"0.weight": "h, -", "0.bias": "h", "2.weight": "-, h", "2.bias": "-"}
    spec = rc.table_spec(rows, posterior.mean)
    element = spec.random_permutation(generator=generator)
    permuted = element.apply(model)
    found, expected = rc.as_posterior(permuted), element.apply(posterior)
    for name, mean in expected.mean.items():
        assert torch.equal(found.mean[name], mean)
        assert torch.equal(found.stddev[name], expected.stddev[name])
    assert torch.equal(permuted[0].prior_weight_mu, model[0].prior_weight_mu[element.indices["h"]])
    assert torch.equal(permuted[2].eps_weight, model[2].eps_weight[:, element.indices["h"]])


def test_objects_that_cannot_be_written_are_errors() -> None:
    model = nn.Linear(2, 3)
    spec = rc.trace_spec(nn.Linear(2, 3), torch.zeros(1, 2))
    guide = stand_in("pyro.infer.autoguide.guides", "AutoNormal")()
    with pytest.raises(InvalidInputError, match="but not write to it; apply the group element to the posterior"):
        spec.identity().apply(guide)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(InvalidInputError, match=r"cannot read a posterior from torch\.optim\.sgd\.SGD"):
        spec.identity().apply(optimizer)
