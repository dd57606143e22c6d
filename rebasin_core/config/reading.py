"""Validation of a document; errors have file, line and the nearest valid name."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from pydantic import ValidationError

from rebasin_core.errors import ConfigError
from rebasin_core.problems import messages
from rebasin_core.strategy import Lookup, Options

if TYPE_CHECKING:
    from rebasin_core.config.document import Document

# Further problems are counted, not listed, to keep the message readable.
_MAX_LISTED = 20

Config = TypeVar("Config", bound=Options)


def read_config(options: type[Config], document: Document, lookup: Lookup) -> Config:
    """Validate a document.

    Components are given by registered name, or as mappings with ``name`` and options.

    Args:
        options: The class of the options.
        document: The document.
        lookup: Returns the class of a component from its family and name.

    Returns:
        The options.

    Raises:
        ConfigError: If options are unknown, missing or out of range; lists all problems with their lines.
    """
    try:
        return options.model_validate(document.content, context={"lookup": lookup})
    except ValidationError as error:
        problems = error.errors()
    listed = zip(problems, messages(problems), strict=True)
    lines = [f"{document.where(problem['loc'])}: {sentence}" for problem, sentence in listed]
    more = [f"and {len(lines) - _MAX_LISTED} more problems"] if len(lines) > _MAX_LISTED else []
    raise ConfigError("\n".join(lines[:_MAX_LISTED] + more))
