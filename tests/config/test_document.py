from __future__ import annotations

from pathlib import Path

import pytest

from rebasin_core.config.document import Document
from rebasin_core.errors import ConfigError


def test_every_entry_has_its_line() -> None:
    document = Document.parse("a: 1\nb:\n  - x\n  - {c: 2}\n", "f")
    assert document.where(("a",)) == "f:1"
    assert document.where(("b", 1, "c")) == "f:4"
    assert document.where(("b", 1, "nothing", "deeper")) == "f:4"
    assert document.where(()) == "f:1"


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("1.5E+2", 150.0), ("5", 5), (".inf", float("inf")), ("1_000", 1000)],
)
def test_numbers_are_numbers(text: str, value: object) -> None:
    assert Document.parse(f"a: {text}", "f").content == {"a": value}


def test_json_with_tabs() -> None:
    document = Document.parse('{\n\t"a": [1,\t2],\n\t"b": {"c": true}\n}', "f")
    assert document.content == {"a": [1, 2], "b": {"c": True}}
    assert document.where(("b", "c")) == "f:3"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", r"^f:3: duplicate key 'a' \(first on line 1\)"),
        ("a: [1\nb: 2", "f:2"),
        ("a: 1\n\tb: 2", "f:2"),
        ("!!python/object/apply:os.system [echo]", "could not determine a constructor"),
        ("a: *nothing", "undefined alias"),
    ],
)
def test_invalid_documents_are_errors(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Document.parse(text, "f")


def test_missing_and_binary_files(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"\xff\xfe\x00")
    for name in ("nothing", "b"):
        with pytest.raises(ConfigError, match="cannot read"):
            Document.read(tmp_path / name)
