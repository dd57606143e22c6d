"""Alignment of published pairs by permutations only, and modulo the whole symmetry group.

    python docs/results/full_group.py --checkpoints FOLDER --data DATA [--families NAME ...] [--limit N]

Prints one JSON line per pair: distances and midpoints without alignment, after weight matching over permutations, and
after weight matching with ``symmetry="full"``. The measures are those of `families.py`; ``midpoint_reset`` is that with
recomputed batch statistics. No pair has normalizations that would have to be folded.
"""

from __future__ import annotations

import json
from collections import Counter
from time import process_time
from typing import TYPE_CHECKING

from families import FAMILIES, Data, parser, specification
from verdicts import midpoints, tensors_of

import rebasin_core as rc

if TYPE_CHECKING:
    from torch import Tensor

OPTIONS = ("permutation", "full")


def distance(first: dict[str, Tensor], second: dict[str, Tensor], names: tuple[str, ...]) -> float:
    """Return the distance of the tensors on which groups act, relative to the norm of the first network."""
    difference = sum(float((first[name] - second[name]).square().sum()) for name in names)
    return (difference / sum(float(first[name].square().sum()) for name in names)) ** 0.5


def compare(name: str, pair: tuple[str, str], spec: rc.PermutationSpec, data: Data) -> dict[str, object]:
    """Return distances and midpoints of one pair."""
    first, second = (tensors_of(name, file, data) for file in pair)
    moved = tuple(tensor for tensor in spec.layout.moved if not tensor.endswith(("_mean", "_var")))
    found: dict[str, object] = {
        "family": name,
        "pair": pair,
        "unaligned": {"distance": distance(first, second, moved), **midpoints(name, first, second, data)},
    }
    for option in OPTIONS:
        start = process_time()
        result = rc.match(first, second, spec, matcher={"name": "weight", "symmetry": option})
        seconds = process_time() - start
        aligned = result.apply(second)
        found[option] = {
            "distance": distance(first, aligned, moved),
            **midpoints(name, first, aligned, data),
            "seconds": round(seconds, 2),
            "sweeps": result.sweeps,
        }
    return found


def main() -> None:
    """Print one line per pair."""
    options = parser(__doc__ or "").parse_args()
    data = Data(options.checkpoints, options.data, options.limit)
    for name in options.families or FAMILIES:
        if len(FAMILIES[name].files) < 2:
            continue
        spec = specification(name)
        kinds = Counter(str(linear.kind) for linear in spec.symmetry.linear)
        print(json.dumps({"family": name, "kinds": kinds, "dimension": spec.symmetry.dimension}), flush=True)
        for pair in FAMILIES[name].pairs:
            print(json.dumps(compare(name, pair, spec, data)), flush=True)


if __name__ == "__main__":
    main()
