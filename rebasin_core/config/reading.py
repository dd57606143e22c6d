"""From a document to validated options, with every problem named by file, line and nearest name."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from pydantic import ValidationError

from rebasin_core.errors import ConfigError
from rebasin_core.problems import sentences
from rebasin_core.strategy import Lookup, Options

if TYPE_CHECKING:
    from rebasin_core.config.document import Document

# More than a person mends at once.
_MOST = 20

Config = TypeVar("Config", bound=Options)


def read_config(options: type[Config], document: Document, lookup: Lookup) -> Config:
    """Return the options that a document holds.

    Strategies are given by their names, or as mappings with ``name`` and options.

    Args:
        options: The class of the options.
        document: The document.
        lookup: Finds the classes of strategies.

    Returns:
        The options.

    Raises:
        ConfigError: If options are unknown, missing or out of range; all problems, each with its line.
    """
    try:
        return options.model_validate(document.content, context={"lookup": lookup})
    except ValidationError as error:
        problems = error.errors()
    listed = zip(problems, sentences(problems), strict=True)
    lines = [f"{document.where(problem['loc'])}: {sentence}" for problem, sentence in listed]
    more = [f"and {len(lines) - _MOST} more problems"] if len(lines) > _MOST else []
    raise ConfigError("\n".join(lines[:_MOST] + more))
