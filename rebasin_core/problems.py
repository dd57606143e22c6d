"""Pydantic validation errors of options, rewritten as error messages of this project."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError

from rebasin_core.errors import nearest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from pydantic_core import ErrorDetails

REWRITTEN = "rebasin"
"""Type of the problems that are already rewritten."""

_TEMPLATE = "{sentence}"
_LONGEST = 1000


def messages(problems: Iterable[ErrorDetails]) -> list[str]:
    """Return one message for each problem that validation reported.

    Args:
        problems: As pydantic reports them.

    Returns:
        Messages such as ``max_sweeps: expected a value greater than or equal to 1, got 0``.
    """
    found: list[str] = []
    for problem in problems:
        location = _cut(format_location(problem["loc"]))
        sentence = _cut(problem["msg"].removeprefix("Value error, "))
        found.append(f"{location}: {sentence}" if location else sentence)
    return found


def _cut(text: str) -> str:
    """Truncate a text to `_LONGEST` characters, since names and values in documents can be arbitrarily long."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def without_consequences(problems: Sequence[ErrorDetails]) -> list[ErrorDetails]:
    """Remove problems that follow from others: pydantic also reports a list with invalid items as too short.

    Args:
        problems: As pydantic reports them.

    Returns:
        The problems that the user has to correct.
    """
    inside = {problem["loc"][:length] for problem in problems for length in range(len(problem["loc"]))}
    return [problem for problem in problems if problem["type"] != "too_short" or problem["loc"] not in inside]


def format_location(location: Iterable[str | int]) -> str:
    """Format a location in a document, for example ``matchers[1].max_sweeps``.

    Args:
        location: Keys and indices, from the top level.

    Returns:
        The text; empty for the top level.
    """
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")


def custom_error(sentence: str) -> PydanticCustomError:
    """Return a validation error with a message of this project.

    Args:
        sentence: The message.

    Returns:
        The error that a validator has to raise.
    """
    return PydanticCustomError(REWRITTEN, _TEMPLATE, {"sentence": sentence})


def rewritten(options: Collection[str], problem: ErrorDetails) -> InitErrorDetails:
    """Rewrite a problem as a message of this project.

    Args:
        options: Names of the options of the class.
        problem: As pydantic reports it.

    Returns:
        The rewritten problem.
    """
    sentence = problem["msg"] if problem["type"] == REWRITTEN else _sentence(options, problem)
    return {"type": custom_error(sentence), "loc": problem["loc"], "input": problem["input"]}


def _sentence(options: Collection[str], problem: ErrorDetails) -> str:
    """Return the message for one problem."""
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
    for start, replacement in (
        ("Input should be greater", "expected a value greater"),
        ("Input should be less", "expected a value less"),
    ):
        text = text.replace(start, replacement)
    text = text.replace("Input should be", "expected")
    return f"{text[:1].lower()}{text[1:]}, got {problem['input']!r}"


def problem_at(location: tuple[str | int, ...], sentence: str) -> ValidationError:
    """Return a validation error at a location.

    Args:
        location: Location of the problem, relative to the validated value.
        sentence: The message.

    Returns:
        The error that a validator has to raise.
    """
    detail: InitErrorDetails = {"type": custom_error(sentence), "loc": location, "input": None}
    return ValidationError.from_exception_data("options", [detail])
