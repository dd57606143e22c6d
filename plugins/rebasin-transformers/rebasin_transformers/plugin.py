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
    from rebasin_transformers.source import TransformersModelSource

    return [TransformersModelSource]


@hookimpl
def rebasin_examples(kind: type[object], folder: Path) -> Sequence[object] | None:
    """Return small random models of several architectures, for the conformance kit."""
    from rebasin_transformers.source import TransformersModelSource

    if kind is not TransformersModelSource:
        return None
    from rebasin_transformers.examples import examples

    return examples(folder)
