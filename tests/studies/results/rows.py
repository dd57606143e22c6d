"""Rows made by hand, and random ones."""

from __future__ import annotations

import random
from itertools import combinations

from rebasin_core.studies.results import Row
from rebasin_core.studies.results.row import Scalar


def row(
    pair: tuple[str, str], alignment: str, height: float, *, split: str = "test", barrier: str = "m", **factors: Scalar
) -> Row:
    """Return a row; ``__`` in the name of a factor is replaced by a dot."""
    return Row(
        factors={name.replace("__", "."): level for name, level in factors.items()},
        reference=pair[0],
        candidate=pair[1],
        split=split,
        barrier=barrier,
        alignment=alignment,
        height=height,
        interior_excess=height - 0.1,
        reference_loss=0.2,
        midpoint_loss=0.3 + height,
        candidate_loss=0.4,
        score_name="accuracy",
        midpoint_score=0.9,
    )


def study(seeds: int = 4, splits: tuple[str, ...] = ("test",), barriers: tuple[str, ...] = ("m",)) -> list[Row]:
    """Return the rows of a study with two factors and two alignments."""
    generator = random.Random(0)
    return [
        row(pair, alignment, generator.random(), split=split, barrier=barrier, inference__kl_weight=weight, width=width)
        for weight in (0.05, 1.0)
        for width in ("narrow", "wide")
        for pair in combinations([str(seed + 1) for seed in range(seeds)], 2)
        for split in splits
        for barrier in barriers
        for alignment in ("unaligned", "weight")
    ]
