"""The hooks of this plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rebasin_core import hookimpl

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rebasin_core import PosteriorAdapter


@hookimpl
def rebasin_posterior_adapters() -> Sequence[type[PosteriorAdapter]]:
    """Return the adapter of fitted Laplace objects."""
    from rebasin_laplace.adapter import LaplaceAdapter

    return [LaplaceAdapter]


@hookimpl
def rebasin_examples(kind: type[object], folder: Path) -> Sequence[object] | None:
    """Return small fitted objects of every structure, for the conformance kit."""
    del folder
    from rebasin_laplace.adapter import LaplaceAdapter

    if kind is not LaplaceAdapter:
        return None
    from rebasin_laplace.examples import fitted

    return fitted()
