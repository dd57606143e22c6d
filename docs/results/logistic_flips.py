"""Flips of logistic units: the published interatomic potentials, aligned in the parametrization by tanh.

    python docs/results/logistic_flips.py --checkpoints FOLDER --data DATA

Logistic units are tanh units in other coordinates: with s(u) = 1/2 + tanh(u/2)/2, incoming weights and biases are
divided by two, and half of each outgoing weight is added to the next bias. These coordinates are linear in the
parameters: the line between two networks is the same in both. In them, the flips s(-u) = 1 - s(u) are signs.
Prints one JSON line for each of the 28 pairs: the error at the midpoint in meV, unaligned, modulo permutations, and
modulo permutations and signs; and the largest change of any energy by the conversion and the alignment, in meV.
"""

from __future__ import annotations

import json
from itertools import combinations, pairwise
from typing import TYPE_CHECKING

import torch
from families import FAMILIES, Data, load, parser
from torch import nn
from verdicts import midpoints, tensors_of

import rebasin_core as rc

if TYPE_CHECKING:
    from torch import Tensor

NAME = "iron_hydrogen"
CHAINS = [[f"{element}.{layer}" for layer in (0, 2, 4)] for element in ("Fe", "H")]

Tensors = dict[str, "Tensor"]


def to_tanh(logistic: Tensors) -> Tensors:
    """Return the parameters of the network with tanh units that has the same function."""
    found = {name: tensor.clone() for name, tensor in logistic.items()}
    for chain in CHAINS:
        for layer, following in pairwise(chain):
            for name in (f"{layer}.weight", f"{layer}.bias", f"{following}.weight"):
                found[name] /= 2
            found[f"{following}.bias"] += found[f"{following}.weight"].sum(1)
    return found


def to_logistic(tanh: Tensors) -> Tensors:
    """Return the parameters of the network with logistic units that has the same function; undoes `to_tanh`."""
    found = {name: tensor.clone() for name, tensor in tanh.items()}
    for chain in CHAINS:
        for layer, following in reversed(list(pairwise(chain))):
            found[f"{following}.bias"] -= found[f"{following}.weight"].sum(1)
            for name in (f"{layer}.weight", f"{layer}.bias", f"{following}.weight"):
                found[name] *= 2
    return found


def with_tanh(model: nn.Module) -> nn.Module:
    """Replace logistic by tanh units."""
    for network in model.children():
        for name, unit in network.named_children():
            if isinstance(unit, nn.Sigmoid):
                setattr(network, name, nn.Tanh())
    return model


def main() -> None:
    """Print one line per pair."""
    options = parser(__doc__ or "").parse_args()
    data = Data(options.checkpoints, options.data, options.limit)
    tensors = {name: tensors_of(NAME, name, data) for name in FAMILIES[NAME].files}
    model = with_tanh(load(NAME, next(iter(tensors.values()))))
    spec = rc.trace_spec(model, torch.randn(4, *FAMILIES[NAME].shape))
    for one, other in combinations(FAMILIES[NAME].files, 2):
        first, second = tensors[one], tensors[other]
        found: dict[str, object] = {"pair": [one, other], "unaligned": midpoints(NAME, first, second, data)}
        for symmetry in ("permutation", "full"):
            wide = [to_tanh({name: tensor.double() for name, tensor in side.items()}) for side in (first, second)]
            result = rc.match(wide[0], wide[1], spec, {"name": "weight", "symmetry": symmetry})
            aligned = {name: t.to(second[name].dtype) for name, t in to_logistic(result.apply(wide[1])).items()}
            change = data.energies(load(NAME, aligned)) - data.energies(load(NAME, second))
            found[symmetry] = {**midpoints(NAME, first, aligned, data), "change": float(change.abs().max())}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
