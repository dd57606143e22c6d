"""The laws of sources of models. Their examples are pairs: a source, and the checkpoint of a small model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rebasin_core.api.checkpoints.models import spec_of
from rebasin_core.checkpoints.checkpoint import Checkpoint
from rebasin_core.checkpoints.function_check import function_difference
from rebasin_core.checkpoints.model_source import ModelSource
from rebasin_core.tensors.modules import named_tensors
from rebasin_core.tensors.trees import tree_leaves
from rebasin_core.testing.law import expect, law, seeded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rebasin_core.checkpoints.model_source import SourcedModel

_OTHER_CONFIGURATIONS: tuple[Mapping[str, Any] | None, ...] = (
    None,
    {},
    {"name": "a network", "layers": [{"units": 8}]},
    {"architecture": None, "architectures": 3, "model_type": []},
    {"architecture": {}, "architectures": [None], "model_type": 1.5},
)


@law("model_source")
def recognition(example: object, folder: Path) -> None:
    """The examples are recognized; no configuration, and configurations of other programs, are not."""
    del folder
    source, checkpoint = _parts(example)
    expect(source.recognizes(checkpoint), f"{source!r} does not recognize its example {checkpoint.path}")
    for config in _OTHER_CONFIGURATIONS:
        found = source.recognizes(replace(checkpoint, config=config, path=checkpoint.path / "other"))
        expect(not found, f"{source!r} recognizes the configuration {config}")


@law("model_source")
def no_allocation(example: object, folder: Path) -> None:
    """Parameters are on the meta device, and all buffers have values."""
    del folder
    source, checkpoint = _parts(example)
    module = source.build(checkpoint).module
    allocated = [name for name, parameter in module.named_parameters() if parameter.device.type != "meta"]
    expect(not allocated, f"expected parameters on the meta device, got memory for {allocated}")
    empty = [name for name, buffer in module.named_buffers() if buffer.device.type == "meta"]
    expect(not empty, f"expected buffers with values, got none for {empty}")
    expect(not module.training, "the model is in training mode")


@law("model_source")
def complete(example: object, folder: Path) -> None:
    """The checkpoint contains all parameters and saved buffers, and parts of tensors are disjoint."""
    del folder
    source, checkpoint = _parts(example)
    form = source.build(checkpoint).form
    for name, part in form.stored.items():
        expect(name in checkpoint.tensors, f"the checkpoint has no tensor `{name}`")
        shape = tuple(checkpoint.tensors[name].shape)
        expect(shape == part.shape, f"`{name}`: expected the shape {part.shape}, got {shape}")
    expect(form.parts.keys() == form.shapes.keys(), f"no parts of {sorted(form.shapes.keys() - form.parts.keys())}")
    numbers = {name: torch.arange(torch.Size(shape).numel()).reshape(shape) for name, shape in form.shapes.items()}
    write = form.stored_tensors(lambda name: numbers[name])
    found = form.model_tensors({name: write(name) for name in form.stored})
    for name, expected in numbers.items():
        expect(torch.equal(found[name], expected), f"the parts of `{name}` overlap")


@law("model_source")
def function(example: object, folder: Path) -> None:
    """The model runs on its example inputs, and group elements of the traced specification preserve the outputs."""
    del folder
    source, checkpoint = _parts(example)
    model = source.build(checkpoint)
    if model.example_inputs is None:
        expect(condition=False, message=f"{source!r} has no example inputs")
        return
    spec = spec_of(model, cache=False)
    tensors = named_tensors(model.module) | dict(model.form.model_tensors(checkpoint.tensors))
    element = spec.random_permutation(generator=seeded())
    expect(not element.is_identity, "the specification permutes no tensor")
    permuted = element.apply(tensors)
    given = {name: tensors[name] for name in model.form.shapes}
    found = function_difference(model.module, given, lambda name: permuted[name], model.example_inputs)
    expect(found.is_kept, str(found))


@law("model_source")
def deterministic(example: object, folder: Path) -> None:
    """Two models of one checkpoint have equal tensors, inputs and identities."""
    del folder
    source, checkpoint = _parts(example)
    first, second = source.build(checkpoint), source.build(checkpoint)
    expect(first.identity == second.identity, f"expected equal identities: {first.identity}; {second.identity}")
    expect(_described(first) == _described(second), "two models have different tensors")
    expect(first.stored == second.stored, "two models have different forms in files")
    for one, other in zip(tree_leaves(first.example_inputs), tree_leaves(second.example_inputs), strict=True):
        is_equal = torch.equal(one, other) if isinstance(one, Tensor) else one == other
        expect(is_equal, "two models have different example inputs")


@law("model_source")
def no_side_effects(example: object, folder: Path) -> None:
    """PyTorch's random state, the default dtype and the working directory do not change."""
    del folder
    source, checkpoint = _parts(example)
    state, dtype, directory = torch.get_rng_state(), torch.get_default_dtype(), Path.cwd()
    source.build(checkpoint)
    expect(torch.equal(torch.get_rng_state(), state), "PyTorch's random state was changed")
    expect(torch.get_default_dtype() == dtype, f"the default dtype was changed to {torch.get_default_dtype()}")
    expect(Path.cwd() == directory, f"the working directory was changed to {Path.cwd()}")
    expect(torch.nn.Linear(1, 1).weight.device.type == "cpu", "parameters of later modules have no memory")


@law("model_source")
def canonical(example: object, folder: Path) -> None:
    """A source that is read back from its canonical JSON is equal."""
    del folder
    source, _ = _parts(example)
    found = type(source).model_validate_json(source.canonical_json())
    expect(found == source, f"expected {source!r}, got {found!r}")


def _described(model: SourcedModel) -> dict[str, tuple[object, ...]]:
    return {name: (tuple(t.shape), t.dtype, t.device) for name, t in named_tensors(model.module).items()}


def _parts(example: object) -> tuple[ModelSource, Checkpoint]:
    """Return the source and the checkpoint of an example."""
    match example:
        case (ModelSource() as source, Checkpoint() as checkpoint):
            return source, checkpoint
        case _:
            message = f"{example}: expected pairs of a source and a checkpoint; return them from `rebasin_examples`"
            expect(condition=False, message=message)
            raise TypeError
