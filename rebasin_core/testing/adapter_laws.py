"""The laws of adapters, which convert objects of other libraries to posteriors."""

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
    """Return the adapter, the object, and the model if the example is a pair of object and model."""
    adapter, source = cast("tuple[PosteriorAdapter, object]", example)
    if isinstance(source, tuple):
        return adapter, source[0], source[1]
    return adapter, source, None


@law("posterior_adapter")
def no_side_effects(example: object, folder: Path) -> None:
    """The adapter converts the object without changing it; changes of the posterior do not affect the object."""
    del folder
    adapter, source, model = _parts(example)
    names = {f"{base.__module__}.{base.__qualname__}" for base in type(source).__mro__}
    expect(
        names & set(adapter.handles),
        f"the adapter handles {adapter.handles}, its example is a {type(source).__qualname__}",
    )
    posterior = adapter.to_posterior(source, model=model)
    before = copied(posterior.sample(generator=seeded()))
    for returned in (posterior.mean, posterior.buffers):
        for tensor in returned.values():
            tensor.zero_()
    again = adapter.to_posterior(source, model=model)
    expect_equal(again.sample(generator=seeded()), before, "the object after use")


@law("posterior_adapter")
def write_back_round_trip(example: object, folder: Path) -> None:
    """Converting an object after `write_back` gives the written posterior, also a permuted one."""
    del folder
    adapter, source, model = _parts(example)
    if not isinstance(adapter, AbstractWriteBack):
        return
    original = adapter.to_posterior(source, model=model)
    permuted = original.permute(any_element(original))
    for written in (permuted, original):
        adapter.write_back(source, written, model=model)
        back = adapter.to_posterior(source, model=model)
        expect_equal(back.mean, written.mean, "mean after writing back", tolerance=1e-6)
        expect_equal(back.stddev, written.stddev, "standard deviation after writing back", tolerance=1e-5)
        expect_equal(back.buffers, written.buffers, "buffers after writing back")
