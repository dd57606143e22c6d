"""What validation finds wrong with options, in the words of this project."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic_core import InitErrorDetails, PydanticCustomError

from rebasin_core.errors import nearest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from pydantic_core import ErrorDetails

REWORDED = "rebasin"
"""The type of problems that are already in the words of this project."""

_TEMPLATE = "{sentence}"
_LONGEST = 1000


def sentences(problems: Iterable[ErrorDetails]) -> list[str]:
    """Return one sentence for each problem that validation found.

    Args:
        problems: As pydantic reports them.

    Returns:
        Sentences such as ``max_sweeps: expected a value greater than or equal to 1, got 0``.
    """
    found: list[str] = []
    for problem in problems:
        place = _cut(located(problem["loc"]))
        sentence = _cut(problem["msg"].removeprefix("Value error, "))
        found.append(f"{place}: {sentence}" if place else sentence)
    return found


def _cut(text: str) -> str:
    """Return a text of bounded length: names and values in documents may have any."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def without_echoes(problems: Sequence[ErrorDetails]) -> list[ErrorDetails]:
    """Return problems without those that merely follow from others: a list whose items are invalid is too short, too.

    Args:
        problems: As pydantic reports them.

    Returns:
        The problems that need a change.
    """
    inside = {problem["loc"][:length] for problem in problems for length in range(len(problem["loc"]))}
    return [problem for problem in problems if problem["type"] != "too_short" or problem["loc"] not in inside]


def located(location: Iterable[str | int]) -> str:
    """Return a location in a document: ``matchers[1].max_sweeps``.

    Args:
        location: Keys and indices from the top.

    Returns:
        The text; empty for the top.
    """
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")


def problem_of(sentence: str) -> PydanticCustomError:
    """Return a problem that is already in the words of this project.

    Args:
        sentence: What is wrong.

    Returns:
        What validators raise.
    """
    return PydanticCustomError(REWORDED, _TEMPLATE, {"sentence": sentence})


def reworded(options: Collection[str], problem: ErrorDetails) -> InitErrorDetails:
    """Return a problem in the words of this project.

    Args:
        options: The options that the class has.
        problem: As pydantic reports it.

    Returns:
        The same problem.
    """
    sentence = problem["msg"] if problem["type"] == REWORDED else _sentence(options, problem)
    return {"type": problem_of(sentence), "loc": problem["loc"], "input": problem["input"]}


def _sentence(options: Collection[str], problem: ErrorDetails) -> str:
    """Return one problem in the words of this project."""
    if problem["type"] == "extra_forbidden":
        known = [name for name in options if name != "name"]
        return f"unknown option; {nearest(str(problem['loc'][-1]), known)}"
    if problem["type"] == "missing":
        return "is missing"
    if problem["type"] in {"model_type", "model_attributes_type"}:
        return f"expected a mapping with options among {sorted(options)}, got {problem['input']!r}"
    text = problem["msg"].removeprefix("Value error, ")
    if problem["type"] in {"value_error", "assertion_error"}:
        return text
    for start, ours in (
        ("Input should be greater", "expected a value greater"),
        ("Input should be less", "expected a value less"),
    ):
        text = text.replace(start, ours)
    text = text.replace("Input should be", "expected")
    return f"{text[:1].lower()}{text[1:]}, got {problem['input']!r}"
