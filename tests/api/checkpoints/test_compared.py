"""Networks of different vocabularies, and files without some tensors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import rebasin_core as rc
from rebasin_core.api.checkpoints import apply_to_checkpoint, verify_output
from rebasin_core.api.checkpoints.fitted import FittedTensors
from rebasin_core.checkpoints.naming import NamePolicy
from rebasin_core.errors import InvalidInputError, SpecError
from rebasin_core.evaluation.task import Task
from tests.api.checkpoints.networks import MLP, TIED, Tensors, Tied, noisy, write

KEEP = NamePolicy(resized="keep")
TOKENS = [f"t{number}" for number in range(11)]


def folder(path: Path, tensors: Tensors, tokens: Sequence[str] = ()) -> Path:
    """Write a folder with a vocabulary."""
    path.mkdir()
    write(path / "model.safetensors", tensors)
    if tokens:
        (path / "vocab.json").write_text(json.dumps({token: row for row, token in enumerate(tokens)}))
        (path / "config.json").write_text(json.dumps({"vocab_size": len(tokens)}))
    return path


def with_rows(tensors: Tensors, rows: Tensor) -> Tensors:
    """Return the tied network with another embedding."""
    return {**tensors, "embedding.weight": rows, "head.weight": rows}


def copy_with(rows: Sequence[int | None]) -> Tensors:
    """Return a noisy copy whose embedding has rows of the reference's tokens, or random ones for None."""
    copy = noisy(TIED.network(), 0.02)
    own = torch.randn(len(rows), 8, generator=torch.Generator().manual_seed(9))
    for number, row in enumerate(rows):
        if row is not None:
            own[number] = copy["embedding.weight"][row]
    return with_rows(copy, own)


def outputs(tensors: Tensors) -> Tensor:
    module = Tied(len(tensors["embedding.weight"])).double()
    module.load_state_dict({name: tensor.double() for name, tensor in tensors.items()})
    with torch.no_grad():
        found: Tensor = module(torch.arange(6).reshape(2, 3))
    return found


@pytest.mark.parametrize("count", [14, 9])
def test_the_first_rows_are_shared_and_all_rows_are_kept(tmp_path: Path, count: int) -> None:
    copy = copy_with([*range(11), None, None, None][:count])
    candidate = TIED.permuted(copy, TIED.orders())
    first = write(tmp_path / "a.safetensors", TIED.network())
    second = write(tmp_path / "b.safetensors", candidate)
    with pytest.raises(InvalidInputError, match="resized"):
        rc.align_checkpoints(first, second, model=TIED.source)
    found = rc.align_checkpoints(first, second, model=TIED.source, names=KEEP)
    found.write(tmp_path / "c.safetensors")
    output = load_file(tmp_path / "c.safetensors")
    assert all(torch.equal(output[name], copy[name]) for name in copy)
    torch.testing.assert_close(outputs(output), outputs(candidate))
    assert found.as_json()["rows"] == {"embedding.weight": min(count, 11)}
    assert f"`embedding.weight` ({min(count, 11)})" in found.report()
    assert found.as_json()["relation"] == "related"
    assert found.function is not None
    assert found.function.is_kept
    # The saved permutation is one of the candidate.
    assert verify_output(tmp_path / "c.safetensors", first, second) == []
    apply_to_checkpoint(
        tmp_path / "c.permutation.safetensors", tmp_path / "c.safetensors", tmp_path / "d.safetensors", inverse=True
    )
    restored = load_file(tmp_path / "d.safetensors")
    assert all(torch.equal(restored[name], candidate[name]) for name in candidate)


def test_rows_are_shared_by_token(tmp_path: Path) -> None:
    rows: list[int | None] = [4, None, 10, 2, 0, None, 7, 8, 3, None, 6]  # of the same number as in the reference
    tokens = [f"new{number}" if row is None else TOKENS[row] for number, row in enumerate(rows)]
    copy = copy_with(rows)
    first = folder(tmp_path / "a", TIED.network(), TOKENS)
    second = folder(tmp_path / "b", TIED.permuted(copy, TIED.orders()), tokens)
    found = rc.align_checkpoints(first, second, model=TIED.source, names=KEEP)
    found.write(tmp_path / "c")
    output = load_file(tmp_path / "c" / "model.safetensors")
    assert all(torch.equal(output[name], copy[name]) for name in copy)
    assert found.as_json()["rows"] == {"embedding.weight": 8}
    # The compared rows differ by the noise only.
    own = noisy(TIED.network(), 0.02)
    expected = sum(float((own[name] - TIED.network()[name])[_shared(name, rows)].square().sum()) for name in _once(own))
    assert found.distances.total.after == pytest.approx(expected, rel=1e-5)


def _once(tensors: Tensors) -> list[str]:
    return [name for name in tensors if name != "head.weight"]


def _shared(name: str, rows: Sequence[int | None]) -> list[int] | slice:
    return sorted(row for row in rows if row is not None) if name == "embedding.weight" else slice(None)


def test_merges_have_the_rows_of_the_first_and_means_of_shared_rows(tmp_path: Path) -> None:
    second_rows: list[int | None] = [4, None, 10, 2, 0, None, 7, 8, 3, None, 6, 5]
    third_rows: list[int | None] = [0, 1, 2, 3, 4, None]
    networks = [TIED.network(), copy_with(second_rows), copy_with(third_rows)]
    paths = [folder(tmp_path / "0", networks[0], TOKENS)]
    for number, rows in ((1, second_rows), (2, third_rows)):
        tokens = [f"new{number}_{at}" if row is None else TOKENS[row] for at, row in enumerate(rows)]
        tensors = TIED.permuted(networks[number], TIED.orders(number))
        paths.append(folder(tmp_path / str(number), tensors, tokens))
    found = rc.merge_checkpoints(paths, model=TIED.source, names=KEEP)
    found.write(tmp_path / "m")
    output = load_file(tmp_path / "m" / "model.safetensors")
    expected = networks[0]["embedding.weight"].clone()
    for row in (0, 2, 3, 4):  # in all three vocabularies
        positions = (row, second_rows.index(row), third_rows.index(row))
        own = [network["embedding.weight"][at] for network, at in zip(networks, positions, strict=True)]
        expected[row] = torch.stack(own).mean(0)
    torch.testing.assert_close(output["embedding.weight"], expected)
    assert torch.equal(output["head.weight"], output["embedding.weight"])
    hidden = torch.stack([network["hidden.weight"] for network in networks]).mean(0)
    torch.testing.assert_close(output["hidden.weight"], hidden)


def test_merges_with_a_base_have_the_rows_of_the_first_too(tmp_path: Path) -> None:
    base = write(tmp_path / "base.safetensors", TIED.network())
    network = copy_with([*range(11), None, None])
    first = write(tmp_path / "a.safetensors", TIED.permuted(network, TIED.orders(1)))
    second = write(tmp_path / "b.safetensors", TIED.permuted(noisy(TIED.network(), 0.02, 5), TIED.orders(2)))
    found = rc.merge_checkpoints(
        [first, second], base=base, method="task_arithmetic", weights=[1, 0], model=TIED.source, names=KEEP
    )
    found.write(tmp_path / "m.safetensors")
    output = load_file(tmp_path / "m.safetensors")
    for name, tensor in network.items():
        torch.testing.assert_close(output[name], tensor)


def test_the_loss_between_networks_of_different_vocabularies_is_not_computed(tmp_path: Path) -> None:
    first = write(tmp_path / "a.safetensors", TIED.network())
    second = write(tmp_path / "b.safetensors", copy_with([*range(11), None]))

    def task(module: torch.nn.Module) -> Task:
        return Task(module, [(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, dtype=torch.int64))])

    with pytest.raises(InvalidInputError, match="another vocabulary"):
        rc.align_checkpoints(first, second, model=TIED.source, names=KEEP, task=task)
    with pytest.raises(InvalidInputError, match="only with alignment"):
        rc.merge_checkpoints([first, second], align=False, names=KEEP)


@pytest.mark.parametrize("count", [14, 9])
def test_the_function_of_the_rows_of_the_model_is_checked(tmp_path: Path, count: int) -> None:
    candidate = TIED.permuted(copy_with([*range(11), None, None, None][:count]), TIED.orders())
    first = write(tmp_path / "a.safetensors", TIED.network())
    second = write(tmp_path / "b.safetensors", candidate)
    axes = TIED.axes["stream"]
    wrong = {name: ["-"] * TIED.network()[name].dim() for name in TIED.network() if name != "head.weight"}
    for name, dim in axes[:-1]:  # without the input of the hidden layer
        if name in wrong:
            wrong[name][dim] = "s"
    module = Tied()
    spec = rc.table_spec({name: ", ".join(parts) for name, parts in wrong.items()}, module)
    with pytest.raises(SpecError, match="changes the function of the model: function NOT kept"):
        rc.align_checkpoints(first, second, model=TIED.source, spec=spec, names=KEEP)


def test_rows_are_omitted_or_repeated_to_fit_the_model() -> None:
    rows = torch.arange(12.0).reshape(4, 3)
    fitted = FittedTensors({"a": rows, "b": rows, "c": rows}, {"a": (2, 3), "b": (7, 3)})
    assert torch.equal(fitted["a"], rows[:2])
    assert torch.equal(fitted["b"], rows[[0, 1, 2, 3, 0, 1, 2]])
    assert fitted["c"] is rows
    assert (list(fitted), len(fitted)) == (["a", "b", "c"], 3)


@pytest.mark.parametrize("where", ["reference", "candidate"])
def test_missing_tensors_can_be_skipped(tmp_path: Path, where: str) -> None:
    copy = noisy(MLP.network(), 0.02)
    candidate = MLP.permuted(copy, MLP.orders())
    reference = MLP.network()
    del (reference if where == "reference" else candidate)["2.bias"]
    first, second = write(tmp_path / "a.safetensors", reference), write(tmp_path / "b.safetensors", candidate)
    with pytest.raises(InvalidInputError, match=r"missing: `2\.bias`"):
        rc.align_checkpoints(first, second, model=MLP.source)
    skipping = NamePolicy(missing="skip")
    with pytest.raises(InvalidInputError, match="skip the check"):
        rc.align_checkpoints(first, second, model=MLP.source, names=skipping)
    found = rc.align_checkpoints(first, second, model=MLP.source, names=skipping, check=False)
    found.write(tmp_path / "c.safetensors")
    output = load_file(tmp_path / "c.safetensors")
    assert output.keys() == candidate.keys()
    assert all(torch.equal(output[name], copy[name]) for name in output)
    assert verify_output(tmp_path / "c.safetensors", first, second) == []
    merged = rc.merge_checkpoints([first, second], model=MLP.source, names=skipping, check=False)
    merged.write(tmp_path / "m.safetensors")
    output = load_file(tmp_path / "m.safetensors")
    assert output.keys() == reference.keys()
    torch.testing.assert_close(output["0.weight"], (reference["0.weight"] + copy["0.weight"]) / 2)
    if where == "candidate":
        assert torch.equal(output["2.bias"], reference["2.bias"])


def test_permuted_dimensions_of_other_lengths_are_an_error(tmp_path: Path) -> None:
    wider = {**MLP.network(), "0.weight": torch.zeros(17, 8)}
    first, second = write(tmp_path / "a.safetensors", MLP.network()), write(tmp_path / "b.safetensors", wider)
    with pytest.raises(InvalidInputError, match=r"`0\.weight`: dimension 0 has 16 and 17 positions"):
        rc.align_checkpoints(first, second, model=MLP.source, names=KEEP)
