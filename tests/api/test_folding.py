"""`fold` and `untie` on modules, mappings and posteriors, and their errors."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import rebasin_core as rc
from rebasin_core.errors import InvalidInputError, SpecError
from rebasin_core.posteriors import DiagonalGaussianPosterior, PointPosterior, SamplesPosterior
from rebasin_core.specs import BiasedWeight, Dim, Foldable, GivenSpec
from tests.analysis.folding.networks import Language, example, outputs


def test_untied_models_have_a_parameter_for_each_name() -> None:
    given = example("tied gpt")
    separate = rc.untie(given.model)
    names = {name for name, _ in separate.named_parameters()}
    assert names == {name for name, _ in given.model.named_parameters()} | {"head.weight"}
    assert isinstance(given.model, Language)
    assert given.model.head.weight is given.model.tokens.weight
    torch.testing.assert_close(separate(given.inputs), given.model(given.inputs), rtol=0, atol=0)


def test_modules_registered_twice_stay_shared() -> None:
    layer = nn.Linear(3, 3)
    separate = rc.untie(nn.Sequential(layer, nn.ReLU(), layer))
    assert [name for name, _ in separate.named_parameters()] == ["0.weight", "0.bias"]


def test_untying_is_stated_in_the_configuration() -> None:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False))
    model[1].weight = model[0].weight
    model.config = SimpleNamespace(tie_word_embeddings=True)  # type: ignore[assignment]  # as in transformers
    separate = rc.untie(model)
    assert isinstance(separate.config, SimpleNamespace)
    assert separate.config.tie_word_embeddings is False
    assert isinstance(model.config, SimpleNamespace)
    assert model.config.tie_word_embeddings is True


@pytest.mark.parametrize("form", ["module", "mapping", "point", "samples"])
def test_untied_networks_admit_rotations(form: str) -> None:
    given = example("tied gpt")
    point = PointPosterior(given.tensors)
    network: object = {
        "module": given.model,
        "mapping": given.tensors,
        "point": point,
        "samples": SamplesPosterior.from_points([point, point]),
    }[form]
    folded = rc.fold(network, given.spec, untie=True, model=given.model, example_inputs=given.inputs)
    folded.report.require()
    mean = rc.as_posterior(folded.network, spec=folded.spec).mean
    assert folded.spec.symmetry_of(mean) == folded.spec.folded_symmetry
    found = outputs(rc.untie(given.model), mean, given.inputs)
    torch.testing.assert_close(found, outputs(given.model, given.tensors, given.inputs), rtol=1e-11, atol=1e-11)


def test_traced_inputs_are_enough_to_trace_again() -> None:
    given = example("tied gpt")
    folded = rc.fold(given.model, given.spec, untie=True)
    assert folded.report.is_complete


def test_random_tied_tensors_are_not_separated() -> None:
    given = example("tied gpt")
    gaussian = DiagonalGaussianPosterior(given.tensors, {n: torch.full_like(t, 0.1) for n, t in given.tensors.items()})
    with pytest.raises(InvalidInputError, match=r"`tokens\.weight`.* would be independent"):
        rc.fold(gaussian, given.spec, untie=True, model=given.model)


def test_untying_needs_the_module() -> None:
    given = example("tied gpt")
    with pytest.raises(InvalidInputError, match="expected the module as `model`"):
        rc.fold(given.tensors, given.spec, untie=True)


def test_wrong_specifications_are_errors_if_there_is_a_module() -> None:
    given = example("gpt")
    right = given.spec
    layer = BiasedWeight(Dim("blocks.0.attention.query.weight", 1), "blocks.0.attention.query.bias")
    wrong = GivenSpec(
        right.layout, right.symmetry, right.folded_symmetry, foldable=Foldable({"blocks.0.norm1.bias": (layer,)})
    )
    with pytest.raises(SpecError, match="folding changed the function of Language"):
        rc.fold(given.model, wrong, shifts=True, example_inputs=given.inputs)


def test_names_of_wrapped_and_tied_networks_are_kept() -> None:
    given = example("tied gpt")
    state = {f"module.{name}": tensor for name, tensor in given.model.state_dict().items()}
    folded = rc.fold(state, given.spec)
    assert folded.network.keys() == state.keys()
    expected = rc.fold(given.tensors, given.spec).network
    assert torch.equal(folded.network["module.head.weight"], expected["tokens.weight"])


@pytest.mark.parametrize("network", [None, 3, torch.zeros(2)])
def test_other_objects_are_errors(network: object) -> None:
    given = example("gpt")
    with pytest.raises((InvalidInputError, TypeError), match="a module, a mapping of tensors or a posterior"):
        rc.fold(network, given.spec)


def test_other_networks_are_errors() -> None:
    given, other = example("gpt"), example("llama")
    with pytest.raises((InvalidInputError, SpecError)):
        rc.fold(other.tensors, given.spec)
