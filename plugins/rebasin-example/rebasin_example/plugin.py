"""The hooks: what this package adds. Strategies are imported inside them, when their family is first asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rebasin_core import hookimpl

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rebasin_core import ArchitectureConfig, MatcherConfig


@hookimpl
def rebasin_architectures() -> Sequence[type[ArchitectureConfig]]:
    """Return the architectures."""
    from rebasin_example.config import ConvNetConfig

    return [ConvNetConfig]


@hookimpl
def rebasin_matchers() -> Sequence[type[MatcherConfig]]:
    """Return the matchers."""
    from rebasin_example.config import RankMatcherConfig

    return [RankMatcherConfig]
