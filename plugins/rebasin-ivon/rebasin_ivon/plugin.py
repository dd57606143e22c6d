"""The hooks of this plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rebasin_core import hookimpl

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rebasin_core import Inference


@hookimpl
def rebasin_inferences() -> Sequence[type[Inference]]:
    """Return the inference method."""
    from rebasin_ivon.inference import IVONInference

    return [IVONInference]


@hookimpl
def rebasin_examples(kind: type[object], folder: Path) -> Sequence[object] | None:
    """Return small instances for the conformance kit."""
    del folder
    from rebasin_ivon.inference import IVONInference

    return [IVONInference(epochs=20, initial_hessian=0.1)] if kind is IVONInference else None
