"""The laws of adapters, which make posteriors of foreign objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from rebasin_core.posteriors.adapter import AbstractWriteBack
from rebasin_core.tensors.modules import copied
from rebasin_core.testing.law import expect, expect_equal, law, seeded
from rebasin_core.testing.posterior_laws import any_element

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from rebasin_core.posteriors.adapter import PosteriorAdapter


def _parts(example: object) -> tuple[PosteriorAdapter, object, nn.Module | None]:
    """Return the adapter, the foreign object, and the model if the example is a pair of the two."""
    adapter, source = cast("tuple[PosteriorAdapter, object]", example)
    if isinstance(source, tuple):
        return adapter, source[0], source[1]
    return adapter, source, None


@law("posterior_adapter")
def posterior_of_its_own(example: object, folder: Path) -> None:
    """A foreign object becomes a posterior that samples, without being changed."""
    del folder
    adapter, source, model = _parts(example)
    names = {f"{base.__module__}.{base.__qualname__}" for base in type(source).__mro__}
    expect(
        names & set(adapter.handles),
        f"the adapter takes {adapter.handles}, its example is a {type(source).__qualname__}",
    )
    posterior = adapter.to_posterior(source, model=model)
    before = copied(posterior.sample(generator=seeded()))
    for returned in (posterior.mean, posterior.buffers):
        for tensor in returned.values():
            tensor.zero_()
    again = adapter.to_posterior(source, model=model)
    expect_equal(again.sample(generator=seeded()), before, "the object after use")


@law("posterior_adapter")
def what_is_written_is_read(example: object, folder: Path) -> None:
    """An adapter that writes back gives the written posterior again, for a moved posterior, too."""
    del folder
    adapter, source, model = _parts(example)
    if not isinstance(adapter, AbstractWriteBack):
        return
    original = adapter.to_posterior(source, model=model)
    moved = original.permute(any_element(original))
    for written in (moved, original):
        adapter.write_back(source, written, model=model)
        back = adapter.to_posterior(source, model=model)
        expect_equal(back.mean, written.mean, "mean after writing back", tolerance=1e-6)
        expect_equal(back.stddev, written.stddev, "spread after writing back", tolerance=1e-5)
        expect_equal(back.buffers, written.buffers, "buffers after writing back")
