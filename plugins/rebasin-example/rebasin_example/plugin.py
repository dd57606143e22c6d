"""The hooks, which return the classes of this package. Each hook imports its classes when it is called."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from rebasin_core import hookimpl

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rebasin_core import Architecture, Matcher, OperatorRules


@hookimpl
def rebasin_architectures() -> Sequence[type[Architecture]]:
    """Return the architectures."""
    from rebasin_example.architecture import ConvNetArchitecture

    return [ConvNetArchitecture]


@hookimpl
def rebasin_operator_rules() -> Sequence[type[OperatorRules]]:
    """Return the rules for operators."""
    from rebasin_example.operators import DecayRules

    return [DecayRules]


@hookimpl
def rebasin_examples(kind: type[object], folder: Path) -> Sequence[object] | None:
    """Return networks on which the conformance kit tests the rules."""
    del folder
    from rebasin_example.operators import DecayNet, DecayRules

    return [(DecayNet(), torch.randn(2, 5, 3))] if kind is DecayRules else None


@hookimpl
def rebasin_matchers() -> Sequence[type[Matcher]]:
    """Return the matchers."""
    from rebasin_example.matcher import RankMatcher

    return [RankMatcher]
