"""Tables of all architectures have the same groups and axes as their traced specifications."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

import rebasin_core as rc
from rebasin_core.architectures import CifarResNetSpec, VGGSpec
from rebasin_core.symmetry.axis import atoms_of

if TYPE_CHECKING:
    from rebasin_core import Layout
    from rebasin_core.architectures.cifar_resnet import ShortcutName
    from rebasin_core.architectures.layers import NormName
    from rebasin_core.symmetry import Kind, Slot, Symmetry

IMAGE = (3, 32, 32)
RESNETS: list[tuple[int, NormName, ShortcutName, float]] = [
    (20, "batch", "conv", 1), (20, "layer", "pad", 1), (20, "frn", "pad", 2),
    (32, "frn", "conv", 1), (32, "batch", "pad", 2), (32, "layer", "conv", 1),
    (8, "layer", "conv", 0.5), (8, "frn", "pad", 0.25),
]  # fmt: skip


def _resnet(
    depth: int, norm: NormName, shortcut: ShortcutName, width: float
) -> tuple[rc.architectures.CifarResNetArchitecture, tuple[int, ...]]:
    return rc.architectures.CifarResNetArchitecture(depth=depth, norm=norm, shortcut=shortcut, width=width), IMAGE


CASES: dict[str, tuple[rc.Architecture, tuple[int, ...]]] = {
    "mlp": (rc.architectures.MLPArchitecture(hidden=[7, 5]), IMAGE),
    "mlp-tanh": (rc.architectures.MLPArchitecture(hidden=[7, 5], activation="tanh"), IMAGE),
    "mlp-gelu": (rc.architectures.MLPArchitecture(hidden=[7, 5], activation="gelu"), IMAGE),
    "mlp-identity": (rc.architectures.MLPArchitecture(hidden=[7, 5], activation="identity", bias=False), IMAGE),
    "vgg11": (rc.architectures.VGGArchitecture(depth=11, width=0.0625), IMAGE),
    "vgg16": (rc.architectures.VGGArchitecture(depth=16, width=0.0625, batch_norm=False), (3, 40, 40)),
    **{"cifar_resnet{}-{}-{}-{}".format(*options): _resnet(*options) for options in RESNETS},
    "resnet18": (rc.architectures.ResNetArchitecture(depth=18, width=8), IMAGE),
    "resnet50": (rc.architectures.ResNetArchitecture(depth=50, width=4), IMAGE),
    "vit": (rc.architectures.ViTArchitecture(patch=8, width=24, depth=3, heads=4, hidden=40), IMAGE),
    "gpt": (rc.architectures.GPTArchitecture(width=24, depth=3, heads=4, hidden=40), (11,)),
}  # fmt: skip


def canonical(layout: Layout) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[int, str | None]]]:
    """Return the axes and groups with groups named in the order of their occurrence."""
    found = (a.group for axes in layout.axes.values() for axis in axes for a in atoms_of(axis) if a.group is not None)
    names = {name: f"g{number}" for number, name in enumerate(dict.fromkeys(found))}
    renamed = layout.as_json()["axes"]
    for name in sorted(names, key=len, reverse=True):
        renamed = {tensor: text.replace(name, f"<{names[name]}>") for tensor, text in renamed.items()}
    groups = {
        names[name]: (group.size, None if group.within is None else names[group.within])
        for name, group in layout.groups.items()
    }
    return renamed, groups


def maps(symmetry: Symmetry) -> set[tuple[Kind, frozenset[tuple[Slot, int]], tuple[str, ...]]]:
    """Return the kind, the degrees and the scales of every family; the name of its group does not matter."""
    found = [(one.kind, frozenset(one.degrees.items()), tuple(sorted(one.ones))) for one in symmetry.linear]
    assert len(found) == len(set(found))
    return set(found)


@pytest.mark.parametrize("case", CASES)
def test_table_and_trace_agree_and_preserve_the_function(case: str) -> None:
    architecture, shape = CASES[case]
    model = architecture.build(shape, 10)
    inputs = architecture.example_inputs(shape, 10)
    table, trace = architecture.spec(model), rc.trace_spec(model, inputs)
    assert canonical(table.layout) == canonical(trace.layout)
    assert maps(table.symmetry) == maps(trace.symmetry)
    assert maps(table.folded_symmetry) == maps(trace.folded_symmetry)
    assert not trace.coverage.without_rule
    rc.check_spec(table, model, inputs).require()


def test_only_inputs_outputs_and_kernels_are_fixed() -> None:
    architecture, shape = CASES["cifar_resnet20-batch-conv-1"]
    spec = rc.trace_spec(architecture.build(shape, 10), architecture.example_inputs(shape, 10))
    whys = {reason.why for axis in spec.coverage.frozen for reason in axis.reasons}
    assert whys == {"model input", "model output", "positions are mixed by a kernel"}


def test_group_on_the_class_axis_is_detected() -> None:
    model = CASES["vgg11"][0].build(IMAGE, 10)
    wrong = rc.table_spec({**VGGSpec(model).table, "head.weight": "classes, convs.7*-", "head.bias": "classes"}, model)
    check = rc.check_spec(wrong, model, torch.randn(2, *IMAGE))
    assert not check.passed
    assert set(check.failing_groups) == {"classes"}
    assert "head.weight" in str(check)


def test_fixed_running_statistics_are_named() -> None:
    model = CASES["vgg11"][0].build(IMAGE, 10)
    wrong = rc.table_spec({**VGGSpec(model).table, "norms.3.running_mean": "-"}, model)
    check = rc.check_spec(wrong, model, torch.randn(2, *IMAGE))
    assert check.suggestions == ("'convs.3': `norms.3.running_mean`, axis 0: should belong to the group",)


def test_untied_residual_streams_are_detected() -> None:
    # A mistake of a published PyTorch port: a block without a projection has a separate group for its outputs.
    architecture, shape = CASES["cifar_resnet20-batch-conv-1"]
    model = architecture.build(shape, 10)
    table = {
        name: axes.replace("stem", "other") if name.startswith(("blocks.0.conv2", "blocks.0.norm2")) else axes
        for name, axes in CifarResNetSpec(model).table.items()
    }
    check = rc.check_spec(rc.table_spec(table, model), model, torch.randn(2, *shape))
    assert not check.passed
    assert set(check.failing_groups) == {"stem", "other"}
    assert "blocks.0.conv2.weight" in str(check)


def test_permutation_across_heads_is_detected() -> None:
    # A mistake of a published BERT port: one permutation of all features of queries and keys, across heads.
    architecture, shape = CASES["vit"]
    model = architecture.build(shape, 10)
    spec = architecture.spec(model)
    table = dict(spec.layout.as_json()["axes"])
    name = "blocks.0.attention"
    table[f"{name}.qkv.weight"] = "mixed + mixed + blocks.0.heads*blocks.0.heads.value@blocks.0.heads, stream"
    table[f"{name}.qkv.bias"] = "mixed + mixed + blocks.0.heads*blocks.0.heads.value@blocks.0.heads"
    wrong = rc.table_spec(table, model, sizes={f"blocks.{block}.heads": 4 for block in range(3)})
    check = rc.check_spec(wrong, model, architecture.example_inputs(shape, 10))
    assert not check.passed
    assert "mixed" in check.failing_groups
    assert f"{name}.qkv.weight" in str(check)


def test_state_dict_names_are_those_of_torchvision() -> None:
    names = set(rc.architectures.ResNetArchitecture(depth=50).build((3, 64, 64), 1000).state_dict())
    assert {"layer1.0.downsample.0.weight", "layer4.2.bn3.running_var", "layer2.3.conv2.weight", "fc.bias"} <= names
    assert len(names) == 320


def test_channels_of_fractional_widths() -> None:
    model = rc.architectures.CifarResNetArchitecture(depth=8, width=0.5).build(IMAGE, 10)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
    assert shapes["stem.weight"] == (8, 3, 3, 3)
    assert shapes["head.weight"] == (10, 32)
    with pytest.raises(rc.errors.ConfigError, match="expected a multiple of 1/16"):
        rc.architectures.CifarResNetArchitecture(width=0.3)
