"""Rows shared by networks with different vocabularies or numbers of classes, on planted pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.checkpoints.naming import (
    SharedRows,
    Vocabulary,
    layout_for,
    layout_of_shared,
    read_labels,
    read_vocabulary,
    share_rows,
)
from rebasin_core.errors import FileFormatError, InvalidInputError


class Model(nn.Module):
    """A tied embedding, a residual stream and a classifier."""

    def __init__(self, tokens: int, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, 12)
        self.inner = nn.Linear(12, 16)
        self.outer = nn.Linear(16, 12)
        self.output = nn.Linear(12, tokens)
        self.output.weight = self.embedding.weight
        self.classifier = nn.Linear(12, classes)

    @override
    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        stream = self.embedding(tokens)
        stream = torch.add(stream, self.outer(torch.tanh(self.inner(stream))))
        return self.output(stream), self.classifier(stream)


def model(tokens: int, classes: int = 4, seed: int = 0) -> Model:
    torch.manual_seed(seed)
    return Model(tokens, classes).double()


def shapes_of(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def parameters_of(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.named_parameters()}


def aligned_candidate(
    reference: Model, candidate: dict[str, Tensor], vocabularies: Any = (), unnamed: Any = "leading"
) -> tuple[dict[str, Tensor], dict[str, SharedRows]]:
    spec = rc.trace_spec(reference, torch.zeros(1, 3, dtype=torch.int64))
    own = parameters_of(reference)
    shared = share_rows(shapes_of(own), shapes_of(candidate), spec.layout, vocabularies=vocabularies, unnamed=unnamed)
    compared = layout_of_shared(spec.layout, shared)
    left = {n: shared[n].of_reference(own[n]) if n in shared else own[n] for n in compared.axes}
    right = {n: shared[n].of_candidate(candidate[n]) if n in shared else candidate[n] for n in compared.axes}
    found = rc.match(left, right, rc.specs.GivenSpec(compared)).permutation
    layout = layout_for(spec.layout, shapes_of(candidate))
    return rc.Permutation(layout, found.indices).apply(candidate), shared


def planted(network: Model, seed: int) -> dict[str, Tensor]:
    """Return a permuted copy of a network."""
    spec = rc.trace_spec(network, torch.zeros(1, 3, dtype=torch.int64))
    element = rc.Permutation.random(spec.layout, generator=torch.Generator().manual_seed(seed))
    assert not element.is_identity
    return element.apply(parameters_of(network))


def extended(reference: Model, tokens: int, classes: int) -> Model:
    """Return the network with further tokens, and another classifier."""
    network = model(tokens, classes, seed=1)
    with torch.no_grad():
        for name in ("inner", "outer"):
            network.get_submodule(name).load_state_dict(reference.get_submodule(name).state_dict())
        for part in (network.embedding.weight, network.output.bias):
            own = reference.embedding.weight if part.dim() == 2 else reference.output.bias
            part[: len(own)] = own
    return network


def test_a_planted_permutation_is_recovered_from_the_leading_rows() -> None:
    reference = model(20)
    network = extended(reference, tokens=27, classes=9)
    candidate = planted(network, seed=3)
    aligned, shared = aligned_candidate(reference, candidate)
    assert {name: len(rows) for name, rows in shared.items()} == {
        "embedding.weight": 20,
        "output.bias": 20,
        "classifier.weight": 4,
        "classifier.bias": 4,
    }
    expected = parameters_of(network)
    assert all(torch.equal(aligned[name], expected[name]) for name in expected)


def test_the_aligned_candidate_keeps_its_function_and_its_heads() -> None:
    reference = model(20)
    network = extended(reference, tokens=27, classes=9)
    candidate = planted(network, seed=3)
    before = model(27, 9)
    before.load_state_dict(candidate, strict=False)
    after = model(27, 9)
    after.load_state_dict(aligned_candidate(reference, candidate)[0], strict=False)
    tokens = torch.arange(27)[None]
    for one, two in zip(before(tokens), after(tokens), strict=True):
        assert torch.allclose(one, two, rtol=1e-12, atol=1e-12)


def test_unshared_tensors_are_not_compared() -> None:
    reference = model(20)
    candidate = planted(extended(reference, tokens=27, classes=9), seed=3)
    aligned, shared = aligned_candidate(reference, candidate, unnamed="none")
    assert all(len(rows) == 0 for rows in shared.values())
    # The inner layers determine the permutation without the embedding.
    assert torch.equal(aligned["inner.weight"], parameters_of(reference)["inner.weight"])


def test_rows_are_shared_by_token_also_in_vocabularies_of_equal_size() -> None:
    reference = model(20)
    first = Vocabulary({f"token {row}": row for row in range(18)}, 20)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(5))
    network = model(20)
    with torch.no_grad():
        network.embedding.weight.copy_(network.embedding.weight[order])
        network.output.bias.copy_(network.output.bias[order])
    second = Vocabulary({f"token {row}": position for position, row in enumerate(order.tolist()) if row != 7}, 20)
    candidate = planted(network, seed=4)
    aligned, shared = aligned_candidate(reference, candidate, [(first, second)])
    assert set(shared) == {"embedding.weight", "output.bias"}
    assert len(shared["output.bias"]) == 17
    own, expected = parameters_of(reference), parameters_of(network)
    assert all(torch.equal(aligned[name], expected[name]) for name in expected)
    rows = shared["embedding.weight"]
    assert torch.equal(rows.of_candidate(aligned["embedding.weight"]), rows.of_reference(own["embedding.weight"]))


def test_classes_are_shared_by_label() -> None:
    labels = read_labels({"id2label": {"0": "cat", "1": "dog", "2": "owl"}})
    others = read_labels({"id2label": {0: "owl", 1: "cow", 2: "cat", 3: "ant"}})
    assert labels is not None
    assert others is not None
    layout = rc.table_spec({"w": "-, hidden"}, {"w": torch.zeros(3, 5)}).layout
    rows = share_rows({"w": (3, 5)}, {"w": (4, 5)}, layout, vocabularies=[(labels, others)])["w"]
    assert (rows.dim, rows.reference.tolist(), rows.candidate.tolist()) == (0, [0, 2], [2, 0])


def test_equal_vocabularies_are_compared_completely() -> None:
    vocabulary = Vocabulary({"a": 0, "b": 1}, 4)
    layout = rc.table_spec({"w": "-, hidden"}, {"w": torch.zeros(4, 5)}).layout
    assert not share_rows({"w": (4, 5)}, {"w": (4, 5)}, layout, vocabularies=[(vocabulary, vocabulary)])


def test_shared_rows_are_views_where_they_are_consecutive() -> None:
    tensor = torch.randn(6, 3)
    rows = SharedRows(0, torch.arange(1, 4), torch.tensor([5, 0, 2]))
    assert rows.of_reference(tensor).data_ptr() == tensor[1:].data_ptr()
    assert torch.equal(rows.of_candidate(tensor), tensor[[5, 0, 2]])
    assert SharedRows(1, torch.arange(0), torch.arange(0)).of_reference(tensor).shape == (6, 0)


def test_merged_rows_are_written_to_the_shared_rows_only() -> None:
    first, second = torch.randn(4, 3), torch.randn(5, 3, dtype=torch.float64)
    rows = SharedRows(0, torch.tensor([0, 2]), torch.tensor([4, 1]))
    mean = (rows.of_reference(first).double() + rows.of_candidate(second)) / 2
    into_first, into_second = rows.into_reference(first, mean), rows.into_candidate(second, mean)
    assert into_first.dtype == torch.float32
    assert torch.equal(into_first[[1, 3]], first[[1, 3]])
    assert torch.equal(into_second[[0, 2, 3]], second[[0, 2, 3]])
    assert torch.equal(into_first[0].double().float(), into_second[4].float())
    assert torch.equal(into_second[1], (first[2].double() + second[1]) / 2)


LAYOUT = rc.table_spec({"w": "-, hidden", "k": "-, -"}, {"w": torch.zeros(4, 5), "k": torch.zeros(2, 3)}).layout


@pytest.mark.parametrize(
    ("name", "own", "other", "message"),
    [
        ("w", (4, 5), (4, 6), r"`w`: dimension 1 has 5 and 6 positions, and the symmetries permute it"),
        ("w", (4, 5), (4, 5, 1), r"`w`: expected tensors with the same number of dimensions"),
        ("k", (2, 3), (3, 4), r"`k`: expected at most one dimension .* got dimensions \[0, 1\] of the shapes \[2, 3\]"),
    ],
)
def test_other_differences_are_errors(name: str, own: tuple[int, ...], other: tuple[int, ...], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        share_rows({name: own}, {name: other}, LAYOUT)


def test_only_fixed_lengths_of_a_layout_change() -> None:
    assert layout_for(LAYOUT, {"w": (9, 5)}).shape("w") == (9, 5)
    with pytest.raises(InvalidInputError, match="dimension 1 has 5 and 6 positions"):
        layout_for(LAYOUT, {"w": (4, 6)})


def written(folder: Path, files: dict[str, Any]) -> list[Path]:
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name).write_text(text, encoding="utf-8", newline="")
    return [folder / name for name in files]


def test_vocabularies_are_read_from_the_files_of_tokenizers(tmp_path: Path) -> None:
    added = [{"id": 3, "content": "<s>"}]
    files: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
        "bpe": ({"tokenizer.json": {"model": {"vocab": {"a": 0, "b": 2}}, "added_tokens": added}}, {"b": 2, "<s>": 3}),
        "unigram": ({"tokenizer.json": {"model": {"vocab": [["a", -1.5], ["b", -2]]}}}, {"a": 0, "b": 1}),
        "json": ({"vocab.json": {"a": 0}, "added_tokens.json": {"<s>": 1}}, {"a": 0, "<s>": 1}),
        "lines": ({"vocab.txt": "[PAD]\n\u2028\nb\n"}, {"[PAD]": 0, "\u2028": 1, "b": 2}),
        "windows": ({"vocab.txt": "a\r\nb"}, {"a": 0, "b": 1}),
    }
    for name, (content, rows) in files.items():
        (tmp_path / name).mkdir()
        found = read_vocabulary(written(tmp_path / name, content), {"vocab_size": 8})
        assert found is not None
        assert found.size == 8
        assert rows.items() <= found.rows.items()
    assert read_vocabulary([tmp_path / "model.safetensors"]) is None


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", [], "expected an object with a `model`, got a list"),
        ("tokenizer.json", {"model": {"vocab": {"a": "x"}}}, "expected the row of a token as an integer"),
        ("tokenizer.json", {"model": {"vocab": {"a": -1}}}, "at least 0, got -1 for 'a'"),
        ("tokenizer.json", {"model": {"vocab": [3]}}, "expected the vocabulary as pairs"),
        ("tokenizer.json", {"model": {"vocab": {}}, "added_tokens": [3]}, "expected `added_tokens` as a list"),
        ("tokenizer.json", "{", "not JSON"),
        ("vocab.json", [], "expected an object that maps tokens to rows"),
        ("vocab.json", {"a": True}, "got True for 'a'"),
    ],
)
def test_damaged_vocabularies_are_errors(tmp_path: Path, name: str, content: Any, message: str) -> None:
    with pytest.raises(FileFormatError, match=message):
        read_vocabulary(written(tmp_path, {name: content}))


def test_text_that_is_not_unicode_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes(b"\xff\xfe\n")
    with pytest.raises(FileFormatError, match="not UTF-8"):
        read_vocabulary([tmp_path / "vocab.txt"])


def test_numbered_labels_are_no_labels() -> None:
    assert read_labels({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}) is None
    assert read_labels(None) is None
    with pytest.raises(FileFormatError, match="expected `id2label` to map numbers of classes to texts"):
        read_labels({"id2label": {"x": "cat"}})


def test_tokens_with_differently_marked_spaces_are_the_same() -> None:
    byte_level = Vocabulary({"\u0120the": 0, "the": 1, "\u0120a": 2})
    pieces = Vocabulary({"the": 0, "\u2581the": 1, "\u2581b": 2})
    assert byte_level.shared_with(pieces) == [(0, 1), (1, 0)]


def test_every_row_is_shared_once() -> None:
    first = Vocabulary({"a": 0, "b": 0, "c": 1})
    second = Vocabulary({"a": 2, "b": 3, "c": 2})
    assert first.shared_with(second) == [(0, 2)]
