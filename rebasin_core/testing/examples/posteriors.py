"""Small posteriors of every built-in representation, for the conformance kit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from rebasin_core.posteriors import (
    DiagonalGaussianPosterior,
    FullGaussianPosterior,
    GaussianPrior,
    KroneckerGaussianPosterior,
    LowRankGaussianPosterior,
    MixturePosterior,
    MultiplicativeNoisePosterior,
    PointPosterior,
    SamplesPosterior,
    UnitNoise,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

_SHAPES = {"weight": (3, 2), "bias": (3,), "scale": ()}


def _tensors(seed: int, *lead: int, shapes: dict[str, tuple[int, ...]] | None = None) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn((*lead, *shape), generator=generator, dtype=torch.float64)
        for name, shape in (shapes or _SHAPES).items()
    }


def _positive(seed: int, *lead: int) -> dict[str, Tensor]:
    return {name: tensor.abs() + 0.1 for name, tensor in _tensors(seed, *lead).items()}


def _buffers() -> dict[str, Tensor]:
    return {"running_mean": torch.arange(3, dtype=torch.float64), "steps": torch.tensor(7)}


def _fixed() -> dict[str, Tensor]:
    return _tensors(8, shapes={"frozen": (3, 3)})


def _prior() -> GaussianPrior:
    return GaussianPrior(_tensors(5), {**_positive(6), "scale": torch.tensor(2.0, dtype=torch.float64)})


def _points() -> Sequence[object]:
    return [PointPosterior(_tensors(0), buffers=_buffers())]


def _diagonal() -> DiagonalGaussianPosterior:
    return DiagonalGaussianPosterior(_tensors(0), _positive(1), buffers=_buffers(), fixed=_fixed(), prior=_prior())


def _low_rank(seed: int = 0) -> LowRankGaussianPosterior:
    parts = _tensors(seed), _positive(1), _tensors(2, 2)
    return LowRankGaussianPosterior(*parts, buffers=_buffers(), fixed=_fixed(), prior=_prior())


def _full() -> FullGaussianPosterior:
    return FullGaussianPosterior(_tensors(0), _tensors(1, 12), buffers=_buffers(), fixed=_fixed(), prior=_prior())


def _kronecker() -> KroneckerGaussianPosterior:
    shapes: dict[str, tuple[int, ...]] = {"weight": (3, 2), "kernel": (3, 2, 2), "bias": (3,), "scale": ()}
    factors: dict[str, list[Tensor]] = {"scale": []}
    for name, rows in {"weight": (3, 2), "kernel": (3, 4), "bias": (3,)}.items():
        roots = [_tensors(k, shapes={"root": (n, n)})["root"] for k, n in enumerate(rows)]
        factors[name] = [root @ root.T for root in roots]
    return KroneckerGaussianPosterior.from_precision_factors(
        _tensors(0, shapes=shapes), factors, prior_precision=0.5, buffers=_buffers(), fixed=_fixed()
    )


def _samples() -> Sequence[object]:
    own = {"running_var": torch.rand(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)}
    chains = torch.tensor([0, 0, 0, 1, 1, 1])
    return [
        SamplesPosterior(_tensors(0, 6), buffers=_buffers(), fixed=_fixed(), prior=_prior(), chains=chains),
        SamplesPosterior(_tensors(0, 6), sample_buffers=own),
    ]


def _mixtures() -> Sequence[object]:
    weights = torch.tensor([0.2, 0.5, 0.3])
    same = [_low_rank(0), _low_rank(3), _low_rank(4)]
    return [MixturePosterior(same, weights=weights), MixturePosterior([_diagonal(), _low_rank(), _full()])]


def _multiplicative() -> Sequence[object]:
    keep = UnitNoise((("weight", 1),), "bernoulli", torch.tensor([0.5, 0.8], dtype=torch.float64))
    shared = UnitNoise((("weight", 0), ("bias", 0)), "gaussian", torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64))
    return [MultiplicativeNoisePosterior(_tensors(0), [keep, shared], buffers=_buffers(), fixed=_fixed())]


POSTERIORS: dict[type[object], Callable[[], Sequence[object]]] = {
    PointPosterior: _points,
    DiagonalGaussianPosterior: lambda: [_diagonal()],
    LowRankGaussianPosterior: lambda: [_low_rank()],
    KroneckerGaussianPosterior: lambda: [_kronecker()],
    FullGaussianPosterior: lambda: [_full()],
    SamplesPosterior: _samples,
    MixturePosterior: _mixtures,
    MultiplicativeNoisePosterior: _multiplicative,
}
"""The function that creates the examples of each representation."""
