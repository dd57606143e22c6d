"""The progress of a coordinate descent, from which it can be continued."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, final

import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError

from rebasin_core.errors import FileFormatError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


@final
class DescentState(BaseModel):
    """Progress of a descent between two steps: in the greedy initialization, or in a sweep."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, validate_assignment=True)

    matched: list[str] = Field(default_factory=list)
    """Groups that the greedy initialization has visited."""

    is_initialized: bool = False
    """Whether the initialization is complete."""

    position: NonNegativeInt = 0
    """Number of groups that the current sweep has visited."""

    changed: bool = False
    """Whether an index has changed in the current sweep."""

    num_sweeps: NonNegativeInt = 0
    """Number of complete sweeps."""

    is_joint: bool = True
    """Whether coupled nested groups are optimized jointly with their outer group in the current sweep."""

    generator: str = ""
    """State of the generator before the order of the current sweep was drawn, in base 64; empty before the first."""

    def remember(self, generator: torch.Generator) -> None:
        """Store the state of a generator.

        Args:
            generator: The generator.
        """
        self.generator = base64.b64encode(generator.get_state().cpu().numpy().tobytes()).decode("ascii")

    def restore(self, generator: torch.Generator) -> None:
        """Set a generator to the stored state, if there is one.

        Args:
            generator: The generator.

        Raises:
            FileFormatError: If the stored state is not that of such a generator.
        """
        if not self.generator:
            return
        try:
            content = base64.b64decode(self.generator, validate=True)
            generator.set_state(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        except (ValueError, RuntimeError, TypeError) as error:
            message = f"the state of the random number generator is damaged: {error}"
            raise FileFormatError(message) from error

    @classmethod
    def of_document(cls, document: Mapping[str, Any], groups: Collection[str]) -> DescentState:
        """Return the state in a JSON document.

        Args:
            document: The document, as from ``model_dump``.
            groups: Names of the groups.

        Returns:
            The state.

        Raises:
            FileFormatError: If entries are missing or invalid, or name other groups.
        """
        try:
            state = cls.model_validate(document)
        except ValidationError as error:
            message = f"not the state of a coordinate descent: {error.errors()[0]['msg']}"
            raise FileFormatError(message) from error
        if not set(state.matched) <= set(groups) or state.position > len(groups):
            message = "the state of a coordinate descent over other groups"
            raise FileFormatError(message)
        return state
