"""Vocabularies and labels in the folder of a checkpoint: which row of an embedding or output belongs to which token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from rebasin_core.errors import FileFormatError
from rebasin_core.tensors.reading import read_bounded, read_json, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

_MAX_BYTES = 64 * 2**20
# Byte-level BPE and SentencePiece mark the space before a word differently.
_SPACES = ("\u0120", "\u2581")


@final
@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The rows of tokens, or of the labels of classes.

    Attributes:
        rows: Row of every token, counted from 0.
        size: Number of rows of the tensors, which can have unused rows after the last token; None if unknown.

    Raises:
        FileFormatError: On construction, if a row is not an integer from 0 to ``size - 1``.
    """

    rows: Mapping[str, int]
    size: int | None = None

    def __post_init__(self) -> None:
        """Check the rows."""
        for token, row in self.rows.items():
            if type(row) is not int or row < 0 or (self.size is not None and row >= self.size):
                limit = "" if self.size is None else f" less than {self.size}"
                message = f"expected the row of a token as an integer of at least 0{limit}, got {shown(row)} for "
                raise FileFormatError(message + shown(token))

    @property
    def num_rows(self) -> int:
        """The number of rows up to the last token."""
        return max(self.rows.values(), default=-1) + 1

    def shared_with(self, other: Vocabulary) -> list[tuple[int, int]]:
        """Return the rows of the tokens that both have.

        A space before a word is the same character in both, although tokenizers write it differently.

        Args:
            other: The other vocabulary.

        Returns:
            Pairs of the row here and the row there, sorted.
        """
        own = {_with_spaces(token, self.rows): row for token, row in self.rows.items()}
        others = {_with_spaces(token, other.rows): row for token, row in other.rows.items()}
        pairs = sorted((row, others[token]) for token, row in own.items() if token in others)
        # Several tokens can have one row; each row is used once.
        seen: set[int] = set()
        unique = {}
        for first, second in pairs:
            if first not in unique and second not in seen:
                unique[first] = second
                seen.add(second)
        return [*unique.items()]


def read_vocabulary(files: Iterable[Path], config: Mapping[str, Any] | None = None) -> Vocabulary | None:
    """Read the vocabulary of a tokenizer from the files of a folder.

    The files ``tokenizer.json``, ``vocab.json`` (with ``added_tokens.json``) and ``vocab.txt`` are tried in this order.
    No code in the folder is executed.

    Args:
        files: Files of the folder, such as the companions of a checkpoint.
        config: Content of ``config.json``; its ``vocab_size`` is the number of rows.

    Returns:
        The vocabulary; None if there is none of the files.

    Raises:
        FileFormatError: If a file is damaged, or too large.
    """
    by_name = {path.name: path for path in files}
    rows = None
    for name, read in (("tokenizer.json", _tokenizer_rows), ("vocab.json", _json_rows), ("vocab.txt", _line_rows)):
        if name in by_name and rows is None:
            rows = read(by_name[name])
    if rows is None:
        return None
    added = by_name.get("added_tokens.json")
    found = Vocabulary({**rows, **(_json_rows(added) if added is not None else {})})
    size = _size(config)
    return found if size is None or size < found.num_rows else Vocabulary(found.rows, size)


def read_labels(config: Mapping[str, Any] | None) -> Vocabulary | None:
    """Return the labels of classes in a configuration.

    Args:
        config: Content of ``config.json``.

    Returns:
        The rows of the labels in ``id2label``; None if there are none, or only numbered ones (``LABEL_0``).

    Raises:
        FileFormatError: If an entry of ``id2label`` is not a text with the number of a class.
    """
    labels = (config or {}).get("id2label")
    if not isinstance(labels, Mapping) or not labels:
        return None
    rows: dict[str, int] = {}
    for number, label in labels.items():
        if not str(number).isdecimal() or not isinstance(label, str):
            message = f"expected `id2label` to map numbers of classes to texts, got {shown(number)}: {shown(label)}"
            raise FileFormatError(message)
        rows.setdefault(label, int(number))
    if all(label == f"LABEL_{row}" for label, row in rows.items()):
        return None
    return Vocabulary(rows, len(labels))


def _with_spaces(token: str, every: Mapping[str, int]) -> str:
    """Return a token with its marked space as a space, unless the vocabulary has that token as well."""
    if not token.startswith(_SPACES):
        return token
    plain = f" {token[1:]}"
    others = [mark + token[1:] for mark in (" ", *_SPACES) if mark != token[0]]
    return token if any(other in every for other in others) else plain


def _size(config: Mapping[str, Any] | None) -> int | None:
    for owner in (config or {}, (config or {}).get("text_config")):
        size = owner.get("vocab_size") if isinstance(owner, Mapping) else None
        if type(size) is int:
            return size
    return None


def _tokenizer_rows(path: Path) -> dict[str, Any] | None:
    """Return the rows in a ``tokenizer.json``; None if its model has no vocabulary."""
    document = read_json(path)
    model = document.get("model") if isinstance(document, dict) else None
    if not isinstance(model, dict):
        message = f"{shown(path)}: expected an object with a `model`, got {shown(document)}"
        raise FileFormatError(message)
    rows = _rows_of_model(model.get("vocab"), path)
    if rows is None:
        return None
    added = document.get("added_tokens", [])
    if not isinstance(added, list) or not all(
        isinstance(token, dict) and isinstance(token.get("content"), str) for token in added
    ):
        message = f"{shown(path)}: expected `added_tokens` as a list of tokens, got {shown(added)}"
        raise FileFormatError(message)
    return {**rows, **{token["content"]: token.get("id") for token in added}}


def _rows_of_model(vocabulary: object, path: Path) -> dict[str, Any] | None:
    if isinstance(vocabulary, dict):  # BPE, WordPiece and WordLevel
        return vocabulary
    if isinstance(vocabulary, list):  # Unigram: pairs of a token and its score
        if not all(isinstance(pair, list) and pair and isinstance(pair[0], str) for pair in vocabulary):
            message = f"{shown(path)}: expected the vocabulary as pairs of a token and its score"
            raise FileFormatError(message)
        return _numbered([pair[0] for pair in vocabulary])
    return None


def _json_rows(path: Path) -> dict[str, Any]:
    document = read_json(path)
    if not isinstance(document, dict):
        message = f"{shown(path)}: expected an object that maps tokens to rows, got {shown(document)}"
        raise FileFormatError(message)
    return document


def _line_rows(path: Path) -> dict[str, Any]:
    try:
        # Not `splitlines`: some tokens are other line separators of Unicode.
        lines = read_bounded(path, _MAX_BYTES).decode("utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        message = f"{shown(path)}: not UTF-8: {error}"
        raise FileFormatError(message) from error
    return _numbered([line.removesuffix("\r") for line in lines])


def _numbered(tokens: Sequence[str]) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for row, token in enumerate(tokens):
        rows.setdefault(token, row)
    return rows
