"""Saved permutations applied to other checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.func import functional_call

import rebasin_core as rc
from rebasin_core.api.checkpoints import apply_to_checkpoint, verify_output
from rebasin_core.api.checkpoints.network import CheckpointNetwork
from rebasin_core.api.checkpoints.output import working_folder, write_output
from rebasin_core.checkpoints.naming import NamePolicy
from rebasin_core.checkpoints.stored import StoredForm
from rebasin_core.errors import FileFormatError, InvalidInputError, StorageError
from rebasin_core.symmetry import Kind, LinearSymmetry, Slot, Symmetry
from tests.api.checkpoints.networks import ATTENTION, CONVOLUTIONAL, MLP, noisy, write


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A convolutional network, a permuted copy, and the permutation that an alignment found."""
    folder = tmp_path_factory.mktemp("pair")
    first = write(folder / "a.safetensors", CONVOLUTIONAL.network())
    second = write(folder / "b.safetensors", CONVOLUTIONAL.permuted(CONVOLUTIONAL.network(), CONVOLUTIONAL.orders()))
    rc.align_checkpoints(first, second, model=CONVOLUTIONAL.source, chance=False).write(folder / "c.safetensors")
    return folder


PERMUTATION = "c.permutation.safetensors"


def test_a_later_checkpoint_of_the_candidate_is_permuted_in_the_same_way(folder: Path, tmp_path: Path) -> None:
    later = noisy(CONVOLUTIONAL.network(seed=3), 1.0)
    permuted = write(tmp_path / "later.safetensors", CONVOLUTIONAL.permuted(later, CONVOLUTIONAL.orders()))
    files = apply_to_checkpoint(folder / PERMUTATION, permuted, tmp_path / "out.safetensors")
    assert files == (tmp_path / "out.safetensors", tmp_path / "out.permutation.safetensors")
    found = load_file(tmp_path / "out.safetensors")
    assert all(torch.equal(found[name], later[name]) for name in later)
    assert found.keys() == later.keys()


def test_the_inverse_restores_the_candidate(folder: Path, tmp_path: Path) -> None:
    permutations: list[rc.Permutation | Path] = [rc.Permutation.load(folder / PERMUTATION), folder / PERMUTATION]
    for number, given in enumerate(permutations):
        output = tmp_path / f"{number}.safetensors"
        apply_to_checkpoint(given, folder / "c.safetensors", output, inverse=True)
        found, candidate = load_file(output), load_file(folder / "b.safetensors")
        assert all(torch.equal(found[name], candidate[name]) for name in candidate)


def test_names_prefixes_and_dtypes_are_those_of_the_checkpoint(folder: Path, tmp_path: Path) -> None:
    tensors = load_file(folder / "b.safetensors")
    torch.save({f"module.{name}": tensor.half() for name, tensor in tensors.items()}, tmp_path / "b.pt")
    apply_to_checkpoint(folder / PERMUTATION, tmp_path / "b.pt", tmp_path / "out.safetensors")
    found, expected = load_file(tmp_path / "out.safetensors"), CONVOLUTIONAL.network()
    assert all(torch.equal(found[f"module.{name}"], expected[name].half()) for name in expected)


def test_the_permutation_is_never_replaced(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "o.permutation.safetensors").write_bytes((folder / PERMUTATION).read_bytes())
    before = (tmp_path / "o.permutation.safetensors").read_bytes()
    for force in (False, True):
        with pytest.raises(StorageError, match="is also an input"):
            apply_to_checkpoint(
                tmp_path / "o.permutation.safetensors", folder / "b.safetensors", tmp_path / "o.safetensors",
                inverse=True, force=force,
            )  # fmt: skip
    assert (tmp_path / "o.permutation.safetensors").read_bytes() == before


def test_checkpoints_of_other_networks_are_rejected(folder: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other.safetensors", MLP.network())
    with pytest.raises(InvalidInputError, match="does not fit"):
        apply_to_checkpoint(folder / PERMUTATION, other, tmp_path / "out.safetensors")
    wider = load_file(folder / "b.safetensors")
    wider["0.weight"] = torch.zeros(7, 1, 3, 3)
    save_file(wider, tmp_path / "wider.safetensors")
    with pytest.raises(InvalidInputError, match=r"0\.weight"):
        apply_to_checkpoint(folder / PERMUTATION, tmp_path / "wider.safetensors", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def attention_element(*, ones: tuple[str, ...] = ()) -> rc.SymmetryElement:
    """Return random maps within the heads of attention, and a permutation of heads."""
    heads = {"query": "k", "key": "k", "value": "v"}
    table = {f"{name}.weight": f"h*{own}@h, -" for name, own in heads.items()}
    table |= {f"{name}.bias": f"h*{own}@h" for name, own in heads.items()}
    table |= {"out.weight": "-, h*v@h", "out.bias": "-"}
    layout = rc.table_spec(table, ATTENTION.network(), sizes={"h": 3}).layout
    degrees = {"query": 1, "key": -1, "value": 1}
    linear = tuple(
        LinearSymmetry(
            own,
            Kind.INVERTIBLE,
            {Slot(f"{n}.{part}", 0, 1): degrees[n] for n in heads if heads[n] == own for part in ("weight", "bias")}
            | ({Slot("out.weight", 1, 1): -1} if own == "v" else {}),
            ones,
        )
        for own in ("k", "v")
    )
    return rc.SymmetryElement.random(Symmetry(layout, linear), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.1)])
def test_linear_maps_preserve_the_function_up_to_the_rounding_of_the_file(
    dtype: torch.dtype, tolerance: float, tmp_path: Path
) -> None:
    given = write(tmp_path / "a.safetensors", {name: t.to(dtype) for name, t in ATTENTION.network().items()})
    element = attention_element()
    element.save(tmp_path / "e.safetensors")
    files = apply_to_checkpoint(tmp_path / "e.safetensors", given, tmp_path / "b.safetensors")
    assert files[1] == tmp_path / "b.permutation.safetensors"
    assert rc.load_element(files[1]) == element
    found = load_file(files[0])
    model, x = ATTENTION.kind(), ATTENTION.batch()
    first, second = (
        functional_call(model, {name: tensor.float() for name, tensor in of.items()}, (x,))
        for of in (load_file(given), found)
    )
    assert ((first - second).norm() / first.norm()).item() < tolerance
    assert all(tensor.dtype == dtype for tensor in found.values())
    assert not torch.allclose(found["value.weight"], load_file(given)["value.weight"], rtol=0.1)
    # Without rounding to the precision of the input, if the output has a higher one.
    apply_to_checkpoint(element, given, tmp_path / "wide.safetensors", dtype=torch.float64)
    wide = load_file(tmp_path / "wide.safetensors")
    exact = element.apply({name: tensor.double() for name, tensor in load_file(given).items()})
    assert all(torch.equal(wide[name], tensor) for name, tensor in exact.items())
    back = load_file(apply_to_checkpoint(element, files[0], tmp_path / "back.safetensors", inverse=True)[0])
    for name, tensor in load_file(given).items():
        torch.testing.assert_close(back[name], tensor, rtol=tolerance, atol=tolerance)


def test_tensors_that_must_be_one_or_are_integers_are_rejected(tmp_path: Path) -> None:
    network = ATTENTION.network()
    given = write(tmp_path / "a.safetensors", network)
    with pytest.raises(InvalidInputError, match=r"`out\.bias` must be one"):
        apply_to_checkpoint(attention_element(ones=("out.bias",)), given, tmp_path / "b.safetensors")
    integers = write(tmp_path / "i.safetensors", {**network, "value.weight": torch.ones(12, 6, dtype=torch.int8)})
    with pytest.raises(InvalidInputError, match=r"`value\.weight`: .*torch\.int8"):
        apply_to_checkpoint(attention_element(), integers, tmp_path / "b.safetensors")
    assert not (tmp_path / "b.safetensors").exists()


def test_outputs_of_linear_maps_are_verified_up_to_rounding(tmp_path: Path) -> None:
    given = rc.open_checkpoint(write(tmp_path / "a.safetensors", ATTENTION.network()))
    element = attention_element()
    form = StoredForm({name: element.layout.shape(name) for name in element.layout.axes})
    network = CheckpointNetwork.of(given, element.layout.names, form, NamePolicy())
    for number, factor in enumerate((1.0, 1 + 1e-7, 1.001)):
        output = tmp_path / f"{number}.safetensors"

        def produce(name: str, factor: float = factor) -> torch.Tensor:
            return factor * element.apply({name: given.tensors[name]})[name]

        with working_folder(output, None) as work:
            write_output(
                output,
                network,
                produce,
                {"": element},
                {"command": "align"},
                inputs=[given, given],
                work=work,
                max_shard_bytes=1 << 30,
            )
        problems = verify_output(output, given, given)
        assert bool(problems) == (factor == 1.001)


def test_files_that_are_no_permutation_are_rejected(folder: Path, tmp_path: Path) -> None:
    for path in (folder / "a.safetensors", tmp_path / "missing"):
        with pytest.raises(FileFormatError):
            apply_to_checkpoint(path, folder / "b.safetensors", tmp_path / "out.safetensors")
