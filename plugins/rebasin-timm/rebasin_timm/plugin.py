"""The hooks of this plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rebasin_core import hookimpl

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rebasin_core import ModelSource


@hookimpl
def rebasin_model_sources() -> Sequence[type[ModelSource]]:
    """Return the source of models."""
    from rebasin_timm.source import TimmModelSource

    return [TimmModelSource]


@hookimpl
def rebasin_examples(kind: type[object], folder: Path) -> Sequence[object] | None:
    """Return small random models of two architectures, for the conformance kit."""
    from rebasin_timm.source import TimmModelSource

    if kind is not TimmModelSource:
        return None
    from rebasin_timm.examples import examples

    return examples(folder)
