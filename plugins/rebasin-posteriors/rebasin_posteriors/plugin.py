"""The hooks of this plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rebasin_core import hookimpl

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rebasin_core import Inference, PosteriorAdapter


@hookimpl
def rebasin_inferences() -> Sequence[type[Inference]]:
    """Return the inference methods."""
    from rebasin_posteriors.inference import PosteriorsSGHMC, PosteriorsSGLD, PosteriorsVI

    return [PosteriorsSGLD, PosteriorsSGHMC, PosteriorsVI]


@hookimpl
def rebasin_posterior_adapters() -> Sequence[type[PosteriorAdapter]]:
    """Return the adapter of states."""
    from rebasin_posteriors.adapter import StateAdapter

    return [StateAdapter]


@hookimpl
def rebasin_examples(kind: type[object], folder: Path) -> Sequence[object] | None:
    """Return small instances for the conformance kit."""
    del folder
    from rebasin_posteriors.adapter import StateAdapter
    from rebasin_posteriors.inference import PosteriorsSGHMC, PosteriorsSGLD, PosteriorsVI

    if kind is PosteriorsSGLD:
        return [PosteriorsSGLD(epochs=30, burn_in=20, learning_rate=0.05)]
    if kind is PosteriorsSGHMC:
        return [PosteriorsSGHMC(epochs=30, burn_in=20, learning_rate=0.05)]
    if kind is PosteriorsVI:
        return [PosteriorsVI(epochs=30, learning_rate=0.02)]
    if kind is not StateAdapter:
        return None
    from rebasin_posteriors.examples import states

    return states()[:2]  # states with momenta cannot be written back
