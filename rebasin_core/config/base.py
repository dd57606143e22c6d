"""What the configuration of every strategy has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from rebasin_core.errors import ConfigError


class StrategyConfig(BaseModel, ABC):
    """The options of one strategy, by which it is named in run files.

    A subclass gives its registry name as the only value of `name` (``name: Literal["weight"] = "weight"``), one field
    an option, and `build`. Unknown options are refused.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    family: ClassVar[str]
    """The family: ``matcher``, ``barrier``, ... Set by the family's own base class."""

    exempt_laws: ClassVar[Mapping[str, str]] = {}
    """Laws of the conformance kit that this strategy cannot keep, each with the reason why."""

    name: str

    @classmethod
    def registry_name(cls) -> str:
        """Return the name under which the strategy is registered.

        Returns:
            The default of the field `name`.

        Raises:
            ConfigError: If the class does not give one.
        """
        default = cls.model_fields["name"].default
        if not isinstance(default, str):
            message = f"{cls.__name__} gives no registry name; add a field: name: Literal['...'] = '...'"
            raise ConfigError(message)
        return default

    @abstractmethod
    def build(self) -> object:
        """Return the strategy with these options."""


FAMILIES: tuple[str, ...] = ("architecture", "spec", "dataset", "inference", "assignment", "matcher", "barrier")
"""The families of strategies that are configured by name."""


def family_of(config: type[StrategyConfig]) -> str:
    """Return the family of a configuration class.

    Args:
        config: A subclass of one of the families' base classes.

    Returns:
        One of `FAMILIES`.

    Raises:
        ConfigError: If it derives from no family.
    """
    family = getattr(config, "family", None)
    if family not in FAMILIES:
        message = f"{config.__name__} belongs to no family; derive it from MatcherConfig, BarrierConfig or another one"
        raise ConfigError(message)
    return str(family)
