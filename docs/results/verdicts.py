"""Measure how alignments of related, independently trained and random networks differ from alignments by chance.

    python docs/results/verdicts.py --checkpoints FOLDER --data DATA --limit 2000 > verdicts.jsonl
    python docs/results/verdicts.py --checkpoints FOLDER --data DATA --held-out > held_out.jsonl
    python docs/results/verdict_tables.py verdicts.jsonl

Pairs are: all published pairs (`families.py`), the same network twice (identical), copies with noise, permuted copies
with noise (planted), networks trained further with Adam for 100 steps (fine-tuned), two networks with random initial
weights (random), and a trained network with one of them (untrained). The standard deviation of the noise is relative to
that of each tensor. Every pair is aligned by `weight` matching. For comparison, the candidate is aligned to shuffled
copies of the reference, in which each axis of each tensor is permuted independently (chance).

Each line has, over all tensors with a permuted axis: the cosine similarity before and after alignment, by chance also
(median over the shuffles); the share of the squared distance that alignment removes (``explained``); the shares of
permuted units and, for planted permutations, of recovered units; and the measure of `families.py` at the midpoint
before and after alignment, and with recomputed batch statistics (``reset``). ``excess`` is ``(c - chance) / (1 -
chance)`` for the cosine ``c``: 0 is chance, and 1 are equal networks. ``verdict`` is derived from these statistics
alone, without data. Its thresholds were chosen on the pairs above; ``--held-out`` has others.
"""

from __future__ import annotations

import copy
import json
import time
from dataclasses import dataclass
from itertools import combinations
from statistics import median
from typing import TYPE_CHECKING, Any

import published
import torch
from families import FAMILIES, Data, load, parser, specification
from torch import Tensor, nn
from torch.nn import functional

import rebasin_core as rc

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Tensors = dict[str, Tensor]

NOISES = (0.0, 0.1, 0.5, 1.0)
RATES = (1e-4, 1e-3)
STEPS = 100
SHUFFLES = 3
HELD_OUT_SEEDS = 5
HELD_OUT_NOISE = 0.3

EQUAL = 1e-3  # of the relative distance; the rounding of sums in single precision
RELATED_BEFORE = 0.2  # of the excess before alignment
SMALL_SHARE = 0.02  # of the removed share of the squared distance
RELATED_AFTER = 0.8  # of the excess after alignment
BETTER_THAN_CHANCE = 0.01  # likewise


@dataclass(frozen=True)
class Case:
    """A pair of networks, and its known relation.

    Attributes:
        kind: The relation.
        pair: Names of the networks.
        reference: Parameters and buffers of the reference.
        candidate: Parameters and buffers of the candidate.
        strength: Relative noise, or the learning rate.
        planted: The permutation of the candidate, if one was planted.
    """

    kind: str
    pair: tuple[str, str]
    reference: Tensors
    candidate: Tensors
    strength: float = 0.0
    planted: rc.Permutation | None = None


def shuffled(tensors: Tensors, generator: torch.Generator) -> Tensors:
    """Return tensors with independently permuted axes."""
    result = {}
    for name, tensor in tensors.items():
        values = tensor
        for axis, size in enumerate(tensor.shape):
            values = values.index_select(axis, torch.randperm(size, generator=generator))
        result[name] = values
    return result


def noisy(tensors: Tensors, noise: float, generator: torch.Generator) -> Tensors:
    """Return tensors with normal noise relative to their standard deviations."""
    return {
        name: tensor + noise * tensor.std(correction=0) * torch.randn(tensor.shape, generator=generator)
        if tensor.is_floating_point() and not name.endswith(("running_mean", "running_var"))
        else tensor
        for name, tensor in tensors.items()
    }


def fine_tuned(name: str, model: nn.Module, data: Data, rate: float) -> Tensors:
    """Return the tensors of a network after more training."""
    model = copy.deepcopy(model).train()
    generator = torch.Generator().manual_seed(0)
    inputs, targets = data.sets(name)[0]
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    for _ in range(STEPS):
        rows = torch.randint(len(inputs), (100,), generator=generator)
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs[rows]), targets[rows]).backward()
        optimizer.step()
    return {key: value.detach().clone() for key, value in model.state_dict().items()}


def cases(name: str, spec: rc.PermutationSpec, data: Data) -> Iterator[Case]:
    """Yield all pairs of one family."""
    family = FAMILIES[name]
    for first, second in family.pairs:
        kind = "related" if (first, second) in family.related else "independent"
        yield Case(kind, (first, second), tensors_of(name, first, data), tensors_of(name, second, data))
    file = family.files[0]
    reference = tensors_of(name, file, data)
    yield Case("identical", (file, file), reference, reference)
    for seed, noise in enumerate(NOISES):
        generator = torch.Generator().manual_seed(seed)
        copied = noisy(reference, noise, generator)
        permutation = spec.random_permutation(generator=generator)
        if noise:
            yield Case("noisy", (file, "noisy"), reference, copied, noise)
        yield Case("planted", (file, "planted"), reference, permutation.apply(copied), noise, permutation)
    if family.kind not in {"pendulum", "energy"}:  # these have no data for training
        for rate in RATES:
            tuned = fine_tuned(name, load(name, reference), data, rate)
            yield Case("fine-tuned", (file, "fine-tuned"), reference, tuned, rate)
    torch.manual_seed(0)
    first, second = [getattr(published, name)().state_dict() for _ in range(2)]
    yield Case("random", ("random", "random"), first, second)
    yield Case("untrained", (file, "random"), reference, second)


def held_out_cases(name: str, spec: rc.PermutationSpec, data: Data) -> Iterator[Case]:
    """Yield pairs that are not in `cases`, which were not used to choose the thresholds."""
    family = FAMILIES[name]
    for first, second in set(combinations(family.files, 2)) - set(family.pairs):
        yield Case("independent", (first, second), tensors_of(name, first, data), tensors_of(name, second, data))
    file = family.files[-1]
    reference = tensors_of(name, file, data)
    for seed in range(100, 100 + HELD_OUT_SEEDS):
        generator = torch.Generator().manual_seed(seed)
        copied = noisy(reference, HELD_OUT_NOISE, generator)
        yield Case("noisy", (file, "noisy"), reference, copied, HELD_OUT_NOISE)
        permutation = spec.random_permutation(generator=generator)
        yield Case("planted", (file, "planted"), reference, permutation.apply(copied), HELD_OUT_NOISE, permutation)
        torch.manual_seed(seed)
        first, second = [getattr(published, name)().state_dict() for _ in range(2)]
        yield Case("random", ("random", "random"), first, second)
        yield Case("untrained", (file, "random"), reference, second)


def tensors_of(name: str, file: str, data: Data) -> Tensors:
    """Return the parameters and buffers of a published network."""
    return load(name, data.read(file)).state_dict()


def point(tensors: Tensors, parameters: set[str]) -> rc.posteriors.PointPosterior:
    """Return a network with its buffers."""
    buffers = {key: value for key, value in tensors.items() if key not in parameters}
    means = {key: value for key, value in tensors.items() if key in parameters}
    return rc.posteriors.PointPosterior(means, buffers=buffers)


def midpoints(name: str, first: Tensors, second: Tensors, data: Data) -> dict[str, float]:
    """Return the measure at the midpoint, also with recomputed batch statistics if there are any."""
    mean = {key: (a + second[key]) / 2 if a.is_floating_point() else a for key, a in first.items()}
    model = load(name, mean)
    if FAMILIES[name].kind == "energy":
        energies = [data.energies(load(name, tensors)) for tensors in (first, second)]
        return {"midpoint": data.midpoint_error(model, energies)}
    result = {"midpoint": data.measure(name, model)}
    norms = [layer for layer in model.modules() if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d))]
    if norms:
        for layer in norms:
            layer.reset_running_stats()
            layer.momentum = None  # the mean over all batches
            layer.train()
        with torch.no_grad():
            for batch in data.sets(name)[0][0][:1000].split(500):
                model(batch)
        result["midpoint_reset"] = data.measure(name, model.eval())
    return result


@dataclass(frozen=True)
class Alignment:
    """The alignment of a candidate, and the statistics of it."""

    result: rc.MatchResult
    distances: rc.analysis.NetworkDistances
    seconds: float

    @property
    def statistics(self) -> dict[str, float]:
        """Statistics over all tensors with a permuted axis."""
        total = self.distances.permuted
        return {
            "cosine_before": total.cosine_before,
            "cosine_after": total.cosine_after,
            "distance_before": total.unaligned,
            "distance_after": total.aligned,
            "explained": total.explained,
            "permuted": share(self.result.permutation),
        }


def aligned(
    reference: rc.posteriors.PointPosterior, candidate: rc.posteriors.PointPosterior, spec: rc.PermutationSpec
) -> Alignment:
    """Align a candidate by its weights."""
    start = time.perf_counter()
    result = rc.match(reference, candidate, spec, matcher="weight")
    seconds = time.perf_counter() - start
    distances = rc.analysis.network_distances(spec.layout, reference.mean, candidate.mean, result.permutation)
    return Alignment(result, distances, seconds)


def share(permutation: rc.Permutation) -> float:
    """Return the share of permuted units."""
    return sum(permutation.moved.values()) / sum(indices.numel() for indices in permutation.indices.values())


def excess(cosine: float, chance: float) -> float:
    """Return a cosine on a scale from 0, that of chance, to 1."""
    return (cosine - chance) / (1 - chance) if chance < 1 else float("nan")


def verdict(line: Mapping[str, Any]) -> str:
    """Return how two networks are related, from the statistics of a line."""
    if line["distance_after"] < EQUAL:
        return "equal"
    if line["excess_before"] > RELATED_BEFORE:
        return "already aligned" if line["explained"] < SMALL_SHARE else "partly aligned"
    if line["excess_after"] > RELATED_AFTER:
        return "related"
    difference = line["cosine_after"] - line["chance_cosine_after"]
    is_better = line["excess_after"] > BETTER_THAN_CHANCE and difference > line["chance_range"]
    return "better than chance" if is_better else "no better than chance"


def by_chance(alignments: list[Alignment]) -> dict[str, float]:
    """Return the medians of the statistics of alignments to shuffled references, and the range of the cosine."""
    found = [alignment.statistics for alignment in alignments]
    cosines = [values["cosine_after"] for values in found]
    result = {f"chance_{key}": median(values[key] for values in found) for key in found[0]}
    return result | {"chance_range": max(cosines) - min(cosines)}


def record(name: str, case: Case, spec: rc.PermutationSpec, data: Data, *, evaluate: bool) -> dict[str, object]:
    """Return the line of one pair."""
    parameters = {key for key, _ in getattr(published, name)().named_parameters()}
    reference, candidate = point(case.reference, parameters), point(case.candidate, parameters)
    found = aligned(reference, candidate, spec)
    generators = [torch.Generator().manual_seed(seed) for seed in range(SHUFFLES)]
    references = [point(shuffled(reference.mean, g) | reference.buffers, parameters) for g in generators]
    chances = [aligned(reference, candidate, spec) for reference in references]
    line: dict[str, object] = {"family": name, "kind": case.kind, "pair": case.pair, "strength": case.strength}
    line |= found.statistics | by_chance(chances)
    for when in ("before", "after"):
        chance = median(alignment.statistics[f"cosine_{when}"] for alignment in chances)
        line[f"excess_{when}"] = excess(found.statistics[f"cosine_{when}"], chance)
    if case.planted is not None:
        line["recovered"] = 1 - share(case.planted.compose(found.result.permutation))
    groups: dict[str, list[float]] = {}
    for group in spec.layout.groups:
        here = found.distances.of_group(group)
        chance = median(alignment.distances.of_group(group).cosine_after for alignment in chances)
        groups[group] = [here.cosine_before, here.cosine_after, chance]
    line |= {"groups": groups, "seconds": found.seconds}
    line["verdict"] = verdict(line)
    if evaluate and case.kind in {"independent", "related", "fine-tuned", "planted"}:
        permuted = found.result.apply(candidate)
        candidates = {"before": case.candidate, "after": {**permuted.mean, **permuted.buffers}}
        for when, tensors in candidates.items():
            measures = midpoints(name, case.reference, tensors, data)
            line |= {f"{key}_{when}": value for key, value in measures.items()}
    return line


def main() -> None:
    """Print one line per pair."""
    options = parser((__doc__ or "").splitlines()[0])
    options.add_argument("--held-out", action="store_true", help="other pairs, without midpoints")
    arguments = options.parse_args()
    data = Data(arguments.checkpoints, arguments.data, arguments.limit)
    torch.set_num_threads(1)
    for name in arguments.families:
        spec = specification(name)
        for case in (held_out_cases if arguments.held_out else cases)(name, spec, data):
            line = record(name, case, spec, data, evaluate=not arguments.held_out)
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
