from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

import rebasin_core as rc
from rebasin_core.errors import FileFormatError, InvalidInputError, SpecError
from rebasin_core.symmetry import Atom, Group, Kind, Layout, Permutation, Symmetry
from rebasin_core.symmetry.parts import restricted
from rebasin_core.symmetry.stack_action import permuted_member
from tests.symmetry.experts import EXPERTS, HIDDEN, STACKS, TABLE, Mixture, element, run, spec, stacked, tensors_of

X = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def by_hand(p: Permutation, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return permuted tensors, computed one expert at a time."""
    d, order, hidden = p.indices["d"], p.indices["expert"], p.indices["hidden"]
    found = {
        "embed.weight": tensors["embed.weight"][d],
        "embed.bias": tensors["embed.bias"][d],
        "gate.weight": tensors["gate.weight"][order][:, d],
        "gate.bias": tensors["gate.bias"][order],
        "out.weight": tensors["out.weight"][:, d],
        "out.bias": tensors["out.bias"],
    }
    for new in range(EXPERTS):
        old, within = int(order[new]), hidden[new]
        found[f"experts.{new}.up.weight"] = tensors[f"experts.{old}.up.weight"][within][:, d]
        found[f"experts.{new}.up.bias"] = tensors[f"experts.{old}.up.bias"][within]
        found[f"experts.{new}.down.weight"] = tensors[f"experts.{old}.down.weight"][d][:, within]
    return found


def test_permutation_exchanges_the_tensors_of_experts_and_their_units() -> None:
    model = Mixture()
    before, p = tensors_of(model), element()
    after = p.apply(before)
    expected = by_hand(p, before)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in expected.items())
    assert (run(model, before, X) - run(model, after, X)).abs().max() < 1e-12
    assert all(torch.equal(permuted_member(p, n, before), after[n]) for n in before if n.startswith("experts."))


def test_modules_are_permuted_like_mappings() -> None:
    model = Mixture()
    permuted = element().apply(model)
    assert (model(X) - permuted(X)).abs().max() < 1e-12
    expected = element().apply(tensors_of(model))
    assert all(torch.equal(tensor, expected[name]) for name, tensor in permuted.named_parameters())


def test_permutation_of_stacked_tensors_is_the_stacked_permutation() -> None:
    before, p = tensors_of(Mixture()), element()
    both = p.layout.stacked(before)
    after = p.apply(both)
    assert {*STACKS.values()} <= after.keys()
    unstacked = p.layout.unstacked(after)
    assert all(torch.equal(unstacked[name], tensor) for name, tensor in p.apply(before).items())


def test_leading_dimensions_are_kept() -> None:
    tensors = {name: torch.stack([t, 2 * t]) for name, t in tensors_of(Mixture()).items()}
    found = element().apply(tensors)
    first = element().apply({name: t[0] for name, t in tensors.items()})
    second = element().apply({name: t[1] for name, t in tensors.items()})
    assert all(torch.equal(found[name], torch.stack([first[name], second[name]])) for name in tensors)


def test_group_laws_hold_for_stacks() -> None:
    tensors, first, second = tensors_of(Mixture()), element(1), element(2)
    twice = second.apply(first.apply(tensors))
    composed = first.compose(second).apply(tensors)
    assert all(torch.equal(twice[name], composed[name]) for name in tensors)
    back = first.inverse().apply(first.apply(tensors))
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)


def test_results_share_no_memory() -> None:
    tensors = tensors_of(Mixture())
    identity = spec().identity().apply(tensors)
    pointers = [t.untyped_storage().data_ptr() for t in (*tensors.values(), *identity.values())]
    assert len(set(pointers)) == len(pointers)


def test_two_braces_stack_in_two_axes() -> None:
    table = {
        "layers.{layer}.heads.{head@layer}.weight": "w@head, -",
        "layers.{layer}.out.weight": "-, head*w@head",
        "scale": "layer",
    }
    numbers = [*itertools.product(range(3), range(4))]
    shapes: dict[str, tuple[int, ...]] = {f"layers.{a}.heads.{b}.weight": (2, 5) for a, b in numbers}
    shapes |= {f"layers.{a}.out.weight": (6, 8) for a in range(3)} | {"scale": (3,)}
    tensors = {name: torch.randn(shape) for name, shape in shapes.items()}
    layout = rc.table_spec(table, tensors).layout
    assert layout.index_shape("w") == (3, 4, 2)
    p = Permutation.random(layout, generator=torch.Generator().manual_seed(3))
    after = p.apply(tensors)
    for a, b in numbers:
        old = int(p.indices["layer"][a])
        source = tensors[f"layers.{old}.heads.{int(p.indices['head'][a, b])}.weight"]
        expected = source[p.indices["w"][a, b]]
        assert torch.equal(after[f"layers.{a}.heads.{b}.weight"], expected)
        assert torch.equal(permuted_member(p, f"layers.{a}.heads.{b}.weight", tensors), expected)
        assert torch.equal(permuted_member(p, f"layers.{a}.out.weight", tensors), after[f"layers.{a}.out.weight"])


def test_labels_name_modules_that_are_not_numbered() -> None:
    table = {"{side=left|right}.weight": "-, -"}
    tensors = {"left.weight": torch.zeros(2, 3), "right.weight": torch.ones(2, 3)}
    layout = rc.table_spec(table, tensors).layout
    swap = Permutation(layout, {"side": torch.tensor([1, 0])})
    assert swap.apply(tensors)["left.weight"].sum() == 6
    assert Layout.from_json(layout.as_json()) == layout


def test_files_have_the_notation_of_tables(tmp_path: Path) -> None:
    given = spec()
    rc.save_spec(given, tmp_path / "spec.json")
    assert rc.load_spec(tmp_path / "spec.json").layout == given.layout
    document = given.layout.as_json()
    assert document["axes"]["experts.{expert}.up.weight"] == "hidden@expert, d"
    p = element()
    p.save(tmp_path / "p.safetensors")
    assert rc.load_element(tmp_path / "p.safetensors") == p
    assert rc.load_element(tmp_path / "p.safetensors").layout.fingerprint == given.layout.fingerprint


def test_fingerprint_of_a_layout_without_stacks_is_unchanged() -> None:
    # Computed before stacks existed.
    layout = Layout({"h": Group("h", 3)}, {"a": (Atom(3, "h"), Atom(2)), "b": (Atom(3, "h"),)})
    assert layout.fingerprint == "857303f639e05fd4"


def test_braces_without_a_group_are_part_of_a_name() -> None:
    layout = Layout({"h": Group("h", 2)}, {"table.{x}": (Atom(2, "h"),)})
    assert not layout.stacks
    assert layout.tensors == ("table.{x}",)


def test_names_of_stacks_and_of_tensors() -> None:
    layout = spec().layout
    assert layout.key("experts.1.up.bias") == "experts.{expert}.up.bias"
    assert layout.key("gate.bias") == "gate.bias"
    assert layout.shape("experts.1.up.bias") == (HIDDEN,)
    assert layout.shape("experts.{expert}.up.bias") == (EXPERTS, HIDDEN)
    assert sorted(layout.tensors) == sorted(name for name, _ in Mixture().named_parameters())
    assert layout.buffers == frozenset()


@pytest.mark.parametrize(
    ("axes", "expected"),
    [
        ({"e.{g}.w": (Atom(3),)}, "expected the groups in braces as its first axes"),
        ({"e.{g=a|b}.w": (Atom(3, "g"),)}, "lists 2 modules, group 'g' has 3 units"),
        ({"e.{g=a|a|b}.w": (Atom(3, "g"),)}, "a different tensor for every unit"),
        ({"e.{g}.w": (Atom(3, "g"),), "e.1.w": ()}, "`e.1.w` several times"),
        ({"e.{g}.{g}.w": (Atom(3, "g"),)}, "each group in braces once"),
        ({"e.{g}.{other}.w": (Atom(3, "g"),)}, "each group in braces once, and all of them among"),
    ],
)
def test_contradictory_stacks_are_rejected(axes: dict[str, tuple[Atom, ...]], expected: str) -> None:
    with pytest.raises(SpecError, match=expected.replace("|", r"\|")):
        Layout({"g": Group("g", 3)}, axes)


def test_contradictory_documents_are_rejected() -> None:
    document = {"groups": {"g": {"size": 2}}, "axes": {"{g=a}.w": "2"}}
    with pytest.raises(FileFormatError, match="lists 1 modules, group 'g' has 2 units"):
        Layout.from_json(document)


def test_part_of_a_stack_is_rejected() -> None:
    tensors = tensors_of(Mixture())
    del tensors["experts.1.up.bias"]
    with pytest.raises(InvalidInputError, match=r"all tensors of the stack .* missing: .*experts\.1\.up\.bias"):
        element().apply(tensors)
    with pytest.raises(InvalidInputError, match=r"missing: .*experts\.1\.up\.bias"):
        element().layout.check(tensors, "the network")
    with pytest.raises(InvalidInputError, match=r"or none; missing: .*experts\.1\.up\.bias"):
        restricted(element().layout, [*tensors])
    without = [name for name in tensors if not name.endswith("up.bias")]
    assert "experts.{expert}.up.bias" not in restricted(element().layout, without).axes


def test_tensors_of_different_dtypes_are_rejected() -> None:
    tensors = tensors_of(Mixture())
    tensors["experts.1.up.bias"] = tensors["experts.1.up.bias"].float()
    with pytest.raises(InvalidInputError, match=r"equal shapes, dtypes and devices .*float32"):
        element().apply(tensors)


def test_axes_of_one_expert_alone_are_rejected() -> None:
    with pytest.raises(InvalidInputError, match=r"it is one of the stack `experts.\{expert\}.up.bias`"):
        element().apply_to_axes("experts.1.up.bias", torch.zeros(HIDDEN), [0])


def test_exchanged_group_must_be_permuted() -> None:
    with pytest.raises(SpecError, match="exchange tensors of stacks"):
        Symmetry(spec().layout, (), frozenset({"expert", "hidden"}))


def test_maps_of_units_within_experts_preserve_the_function() -> None:
    model = Mixture()
    kinds = {"hidden": {"kind": "sign"}}
    given = rc.table_spec(TABLE, model, kinds=kinds)
    assert [linear.kind for linear in given.symmetry.linear] == [Kind.SIGN]
    rc.check_spec(given, model, X).require()
    drawn = rc.SymmetryElement.random(given.symmetry, generator=torch.Generator().manual_seed(2))
    before = tensors_of(model)
    after = drawn.apply(before)
    assert not torch.equal(after["experts.0.up.bias"].sign(), before["experts.0.up.bias"].sign())
    assert (run(model, before, X) - run(model, after, X)).abs().max() < 1e-12
    back = drawn.inverse().apply(after)
    assert all(torch.allclose(back[name], before[name], rtol=1e-12) for name in before)


def test_example_is_the_model_with_stacked_weights() -> None:
    tensors = tensors_of(Mixture())
    joint = spec().layout.stacked(tensors)
    assert all(torch.equal(stacked(tensors)[own], joint[name]) for own, name in STACKS.items())
