"""Flips of logistic units: the published interatomic potentials, aligned modulo permutations, and flips too.

    python docs/results/logistic_flips.py --checkpoints FOLDER --data DATA

Prints one JSON line for each of the 28 pairs: the error at the midpoint in meV, unaligned, modulo permutations, and
modulo permutations and flips; the number of flipped units; and the largest change of any energy by the alignment, in
meV.
"""

from __future__ import annotations

import json
from itertools import combinations
from typing import TYPE_CHECKING

from families import FAMILIES, Data, load, parser, specification
from verdicts import midpoints, tensors_of

import rebasin_core as rc

if TYPE_CHECKING:
    from torch import Tensor

NAME = "iron_hydrogen"


def flipped(result: rc.MatchResult) -> int:
    """Return the number of units that an alignment flips."""
    maps = () if result.element is None else result.element.maps
    return sum(int((value < 0).sum()) for value in maps if value is not None)


def aligned(first: dict[str, Tensor], second: dict[str, Tensor], data: Data) -> dict[str, dict[str, object]]:
    """Return the measures of the second network, aligned with the first, by group."""
    spec = specification(NAME)
    wide = {name: tensor.double() for name, tensor in second.items()}
    found: dict[str, dict[str, object]] = {}
    for symmetry in ("permutation", "full"):
        result = rc.match(first, second, spec, matcher="weight", symmetry=symmetry)
        moved = {name: tensor.to(second[name].dtype) for name, tensor in result.apply(wide).items()}
        change = data.energies(load(NAME, moved)) - data.energies(load(NAME, second))
        found[symmetry] = {
            **midpoints(NAME, first, moved, data),
            "flips": flipped(result),
            "change": float(change.abs().max()),
        }
    return found


def main() -> None:
    """Print one line per pair."""
    options = parser(__doc__ or "").parse_args()
    data = Data(options.checkpoints, options.data, options.limit)
    tensors = {name: tensors_of(NAME, name, data) for name in FAMILIES[NAME].files}
    for one, other in combinations(FAMILIES[NAME].files, 2):
        first, second = tensors[one], tensors[other]
        unaligned = midpoints(NAME, first, second, data)
        print(
            json.dumps({"pair": [one, other], "unaligned": unaligned, **aligned(first, second, data)}),
            flush=True,
        )


if __name__ == "__main__":
    main()
