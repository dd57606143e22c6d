"""All forms of batches and of model outputs give the results of plain tensors."""

from __future__ import annotations

import operator
from collections import UserDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.data import UnpackedBatches
from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation import ModelInputs, with_output

SEED = torch.Generator().manual_seed(0)
LEFT, RIGHT = torch.randn(2, 12, 3, generator=SEED)
LABELS = torch.arange(12) % 2


class TwoInputs(nn.Module):
    """A network with two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(3, 5)
        self.right = nn.Linear(3, 5)
        self.out = nn.Linear(5, 2)

    @override
    def forward(self, left: Tensor, right: Tensor, scale: float | None = None) -> Tensor:
        hidden = torch.tanh(self.left(left)) * torch.tanh(self.right(right))
        logits: Tensor = self.out(hidden) * (1.0 if scale is None else scale)
        return logits


class OneArgument(nn.Module):
    """The same network with one argument: a dictionary."""

    def __init__(self, inner: TwoInputs) -> None:
        super().__init__()
        self.left, self.right, self.out = inner.left, inner.right, inner.out

    @override
    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        hidden = torch.tanh(self.left(batch["left"])) * torch.tanh(self.right(batch["right"]))
        logits: Tensor = self.out(hidden)
        return logits


torch.manual_seed(0)
MODEL, OTHER = TwoInputs(), TwoInputs()
FORMS: dict[str, Callable[[slice], Any]] = {
    "three tensors": lambda rows: (LEFT[rows], RIGHT[rows], LABELS[rows]),
    "list of tensors": lambda rows: [LEFT[rows], RIGHT[rows], LABELS[rows]],
    "tuple and targets": lambda rows: ((LEFT[rows], RIGHT[rows]), LABELS[rows]),
    "mapping and targets": lambda rows: ({"right": RIGHT[rows], "left": LEFT[rows]}, LABELS[rows]),
    "mapping": lambda rows: {"labels": LABELS[rows], "right": RIGHT[rows], "left": LEFT[rows]},
    "mapping with a number and None": lambda rows: {
        "label": LABELS[rows], "right": RIGHT[rows], "left": LEFT[rows], "scale": None,
    },
    "encoding": lambda rows: UserDict({"right": RIGHT[rows], "left": LEFT[rows], "labels": LABELS[rows]}),
    "arrays": lambda rows: (LEFT[rows].numpy(), RIGHT[rows].numpy(), LABELS[rows].numpy()),
}  # fmt: skip
ROWS = (slice(0, 5), slice(5, 10), slice(10, 12))


def expected_loss(model: TwoInputs) -> float:
    with torch.no_grad():
        return functional.cross_entropy(model(LEFT, RIGHT), LABELS).item()


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_batch_gives_the_same_loss_barrier_and_match(form: str) -> None:
    data = [FORMS[form](rows) for rows in ROWS]
    task = rc.Task(MODEL, data)
    assert rc.score(MODEL, task).nll == pytest.approx(expected_loss(MODEL), rel=1e-5)
    curve = rc.barrier(MODEL, OTHER, task, num_points=3, estimator="reset")
    assert (curve.loss[0], curve.loss[-1]) == pytest.approx((expected_loss(MODEL), expected_loss(OTHER)), rel=1e-5)
    result = rc.align(MODEL, MODEL, task, matcher="activation")
    assert result.match.permutation.is_identity
    assert result.effect is not None
    assert result.effect.reference == pytest.approx(expected_loss(MODEL), rel=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", ["map", "mean_field_vi", "deep_ensemble", "mc_dropout"])
def test_every_form_of_a_batch_gives_the_same_posterior(form: str, method: str) -> None:
    def fitted(name: str) -> rc.Posterior:
        data = [FORMS[name](rows) for rows in ROWS]
        chosen: rc.Inference = rc.build("inference", name=method, epochs=2)
        return chosen.fit(MODEL, data, validation=data).posterior

    found = fitted(form)
    expected = fitted("three tensors")
    for name, tensor in expected.mean.items():
        assert torch.equal(found.mean[name], tensor), name


def test_a_checkpoint_of_training_on_several_inputs_is_resumed(tmp_path: Any) -> None:
    data = [FORMS["encoding"](rows) for rows in ROWS]
    method = rc.inference.MAPInference(epochs=2)
    method.fit(MODEL, data, checkpoint=tmp_path / "state")
    again = method.replace(epochs=2).fit(MODEL, data, checkpoint=tmp_path / "state")
    assert again.resumed_at == 2
    others = [(LEFT[rows], RIGHT[rows] + 1, LABELS[rows]) for rows in ROWS]
    with pytest.raises(rc.errors.FileFormatError, match="another training problem"):
        method.fit(MODEL, others, checkpoint=tmp_path / "state")


def test_a_mapping_is_one_input_of_a_model_without_parameters_of_its_names() -> None:
    model = OneArgument(MODEL)
    task = rc.Task(model, [FORMS["mapping"](rows) for rows in ROWS])
    assert rc.score(model, task).nll == pytest.approx(expected_loss(MODEL), rel=1e-5)
    spec = rc.trace_spec(model, {"left": LEFT, "right": RIGHT})
    assert rc.check_spec(spec, model, {"left": LEFT, "right": RIGHT}).passed


def test_a_mapping_with_one_input_is_positional() -> None:
    model = nn.Linear(3, 2)
    task = rc.Task(model, [{"image": LEFT, "label": LABELS}])
    with torch.no_grad():
        expected = functional.cross_entropy(model(LEFT), LABELS).item()
    assert rc.score(model, task).nll == pytest.approx(expected, rel=1e-5)


def test_example_inputs_may_be_a_mapping() -> None:
    by_name = rc.trace_spec(MODEL, {"right": RIGHT, "left": LEFT})
    by_position = rc.trace_spec(MODEL, (LEFT, RIGHT))
    assert by_name.layout == by_position.layout
    assert rc.check_spec(by_name, MODEL, {"left": LEFT, "right": RIGHT}).passed


def test_entries_that_the_model_does_not_take_are_named() -> None:
    data = [{"left": LEFT, "right": RIGHT, "index": torch.arange(12), "labels": LABELS}]
    with pytest.raises(InvalidInputError, match=r"no parameters for the entries \['index'\]"):
        rc.score(MODEL, rc.Task(MODEL, data))
    unpacked = UnpackedBatches(data, operator.itemgetter("left", "right", "labels"))
    assert rc.score(MODEL, rc.Task(MODEL, unpacked)).nll == pytest.approx(expected_loss(MODEL), rel=1e-5)


def test_entries_without_a_parameter_are_one_dictionary_and_errors_name_the_remedy() -> None:
    data = [{"image": LEFT, "path": ["a"] * 12, "label": LABELS}]
    with pytest.raises(InvalidInputError, match=r"inputs of image \[12, 3\] float32, path list.*UnpackedBatches"):
        rc.score(nn.Linear(3, 2), rc.Task(nn.Linear(3, 2), data))


def test_inputs_of_unequal_lengths_are_named() -> None:
    with pytest.raises(InvalidInputError, match=r"one row per example.*left \[12, 3\] float32, right \[4, 3\]"):
        rc.score(MODEL, rc.Task(MODEL, [{"left": LEFT, "right": RIGHT[:4], "labels": LABELS}]))


def test_rows_of_model_inputs() -> None:
    inputs = ModelInputs((LEFT,), {"right": RIGHT, "scale": torch.tensor(2.0), "other": None})
    part = inputs[2:5]
    assert len(inputs) == 12
    assert len(part) == 3
    assert torch.equal(part.tensors()[1], RIGHT[2:5])
    assert part.kwargs["other"] is None
    assert torch.equal(inputs[torch.tensor([3, 1])].tensors()[0], LEFT[[3, 1]])


class Named(NamedTuple):
    """Output with names."""

    scores: Tensor
    hidden: Tensor


@dataclass
class Output:
    """Output as an object."""

    hidden: Tensor
    scores: Tensor


OUTPUTS: dict[str, tuple[Callable[[Tensor, Tensor], Any], Any]] = {
    "logits": (lambda scores, hidden: {"hidden": hidden, "logits": scores}, None),
    "out": (lambda scores, hidden: {"out": scores, "aux": hidden}, None),
    "one tensor": (lambda scores, _: (scores, None), None),
    "name": (lambda scores, hidden: {"hidden": hidden, "scores": scores}, "scores"),
    "index": (lambda scores, hidden: (hidden, scores), 1),
    "last": (lambda scores, hidden: (hidden, scores), -1),
    "named tuple": (Named, "scores"),
    "object": (lambda scores, hidden: Output(hidden, scores), "scores"),
    "function": (lambda scores, hidden: (hidden, [scores]), lambda found: found[1][0]),
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_every_form_of_an_output(kind: str) -> None:
    pack, output = OUTPUTS[kind]

    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(3, 4)
            self.second = nn.Linear(4, 2)

        @override
        def forward(self, x: Tensor) -> Any:
            hidden = torch.relu(self.first(x))
            return pack(self.second(hidden), hidden)

    model = Packed()
    with torch.no_grad():
        expected = functional.cross_entropy(model.second(torch.relu(model.first(LEFT))), LABELS).item()
    task = rc.Task(model, [(LEFT, LABELS)], output=output)
    assert rc.score(model, task).nll == pytest.approx(expected, rel=1e-5)
    assert rc.inference.MAPInference(epochs=1).fit(model, [(LEFT, LABELS)], output=output).history[0] > 0
    assert not isinstance(model(LEFT), Tensor)  # the module is not changed


def test_a_selected_output_leaves_the_others_free() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(3, 4)
            self.second = nn.Linear(4, 2)

        @override
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            hidden = torch.relu(self.first(x))
            return {"hidden": hidden, "logits": self.second(hidden)}

    model = Both()
    assert not rc.trace_spec(with_output(model, "hidden"), LEFT).layout.groups
    assert len(rc.trace_spec(with_output(model, "logits"), LEFT).layout.groups) == 1


def test_outputs_that_cannot_be_identified_are_named() -> None:
    class Two(nn.Module):
        @override
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"mean": x[:, :2], "scale": x[:, 1:]}

    model = nn.Sequential(nn.Linear(3, 3), Two())
    with pytest.raises(InvalidInputError, match=r"\['mean', 'scale'\]; name the logits or means with `output`"):
        rc.score(model, rc.Task(model, [(LEFT, LABELS)]))
    with pytest.raises(InvalidInputError, match=r"^expected .* an output 'logit', got dict with \['mean', 'scale'\]"):
        rc.score(model, rc.Task(model, [(LEFT, LABELS)], output="logit"))
    with pytest.raises(InvalidInputError, match="select a tensor, got str"):
        rc.score(model, rc.Task(model, [(LEFT, LABELS)], output=repr))  # type: ignore[arg-type] # the error under test
    with pytest.raises(InvalidInputError, match="expected `output` as a name"):
        rc.Task(model, [(LEFT, LABELS)], output=1.5)  # type: ignore[arg-type] # the error under test
