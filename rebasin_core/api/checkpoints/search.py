"""The search for an alignment of two checkpoints, which continues after the process was killed."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.analysis.distances import NetworkDistances, network_distances
from rebasin_core.api.checkpoints.placement import Placement
from rebasin_core.api.checkpoints.progress import phase
from rebasin_core.api.checkpoints.shuffled import shuffled_network
from rebasin_core.api.resumption import search_with_checkpoint
from rebasin_core.errors import FileFormatError
from rebasin_core.evaluation.batches import checked_batches
from rebasin_core.matchers.base import MatchOutcome, MatchResult
from rebasin_core.symmetry.symmetry_element import SymmetryElement, load_element
from rebasin_core.tensors.device import CPU
from rebasin_core.tensors.digests import digest_of_tensors
from rebasin_core.tensors.files import read_tensors
from rebasin_core.tensors.inputs import input_tensors
from rebasin_core.tensors.reading import exists

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from rebasin_core.api.checkpoints.compared import ComparedPair
    from rebasin_core.evaluation.batches import Batches
    from rebasin_core.evaluation.task import Task
    from rebasin_core.matchers.base import Matcher
    from rebasin_core.symmetry.layout import Layout
    from rebasin_core.symmetry.permutation import GroupElement

_ON_CPU = Placement()
_ALIGNED = "aligned"
_BY_CHANCE = "chance"
_SHUFFLED = "shuffled.safetensors"
_RESULT = "result"
_NAME_LENGTH = 16
# Number of shuffled copies, for networks of at most this number of entries.
_COPIES = 3
_SMALL = 10**7


@final
@dataclass(frozen=True, eq=False)
class CheckpointSearch:
    """A matcher, and a folder for its state.

    The names of files in the folder contain a digest of the matcher and of the checkpoints. Therefore, searches for
    other checkpoints, or with other options, neither continue from them nor change them.

    Attributes:
        matcher: The matcher.
        folder: Folder for temporary files and the state of the search.
        seed: Seed of the matcher and of the shuffled copy.
        progress: Whether to show a progress bar.
        placement: Device of the computations.
    """

    matcher: Matcher
    folder: Path
    seed: int
    progress: bool
    placement: Placement = _ON_CPU

    def align(self, pair: ComparedPair, *, task: Task | None = None) -> MatchResult:
        """Align a candidate with a reference, or continue an interrupted search for the same files.

        Args:
            pair: The reference and the candidate.
            task: Model and data, for matchers that need them.

        Returns:
            The result.

        Raises:
            KeyboardInterrupt: If the search is interrupted; its state is in the folder.
            StorageError: If the folder cannot be written.
        """
        return self._run(_ALIGNED, pair.reference_tensors, pair, self._problem(pair, task), task)

    def align_by_chance(self, pair: ComparedPair) -> tuple[NetworkDistances, float]:
        """Align a candidate with shuffled copies of the reference: three for small networks, one for large ones.

        Args:
            pair: The reference and the candidate.

        Returns:
            Distances between a shuffled copy and the candidate before and after this alignment: those with the median
            cosine similarity after alignment. And the range of this similarity over the copies.

        Raises:
            KeyboardInterrupt: If the search is interrupted; its state is in the folder.
            StorageError: If the folder cannot be written.
        """
        entries = sum(tensor.numel() for tensor in pair.reference_tensors.values())
        count = _COPIES if entries <= _SMALL else 1
        seeds = range(self.seed * _COPIES, self.seed * _COPIES + count)
        found = [self._align_with_copy(pair, seed) for seed in seeds]
        found.sort(key=lambda each: each.permuted.cosine_after)
        extent = found[-1].permuted.cosine_after - found[0].permuted.cosine_after
        return found[count // 2], extent

    def _align_with_copy(self, pair: ComparedPair, seed: int) -> NetworkDistances:
        file = self.folder / _SHUFFLED
        copy = shuffled_network(pair.reference_tensors, file, seed=seed)
        # The state of the search is that of this copy.
        problem = f"{self._problem(pair, None)}-{seed}"
        result = self._run(f"{_BY_CHANCE}-{seed}", copy, pair, problem, None)
        distances = self._distances(pair, copy, result.group_element)
        file.unlink(missing_ok=True)
        return distances

    def distances(self, pair: ComparedPair, element: GroupElement) -> NetworkDistances:
        """Return the distances between the parameters of two networks before and after alignment of the second.

        Args:
            pair: The reference and the candidate.
            element: The permutation, or another group element, of the compared tensors.

        Returns:
            The distances. Buffers are not compared: running variances can be larger than all parameters.
        """
        return self._distances(pair, pair.reference_tensors, element)

    def _distances(
        self, pair: ComparedPair, reference: Mapping[str, Tensor], element: GroupElement
    ) -> NetworkDistances:
        layout = pair.spec.layout
        buffers = layout.names.buffers or ()
        parameters = {name: tensor for name, tensor in reference.items() if name not in buffers}
        with phase("compare", parameters, shown=self.progress) as done:
            return network_distances(
                layout, parameters, pair.candidate_tensors, element, device=self.placement.device, progress=done
            )

    def _run(
        self, kind: str, reference: Mapping[str, Tensor], pair: ComparedPair, problem: str, task: Task | None
    ) -> MatchResult:
        """Return the result of a search; that of the file if the search was completed by a killed process."""
        state = self.folder / f"{kind}-{problem[:_NAME_LENGTH]}.safetensors"
        completed = state.with_suffix(f".completed{state.suffix}")
        if exists(completed):
            found = _read_result(completed, pair.spec.layout)
            if found is not None:
                return found
        search = partial(
            self.matcher.match,
            self.placement.network(reference, pair.buffers),
            self.placement.network(pair.candidate_tensors, pair.buffers),
            pair.spec,
            task=task,
            generator=torch.Generator().manual_seed(self.seed),
            progress=self.progress,
            device=self.placement.of_slices,
        )
        found = search_with_checkpoint(search, pair.spec.layout, state, problem=problem)
        element = None if found.element is None else found.element.to(CPU)
        result = replace(found, permutation=found.permutation.to(CPU), element=element)
        _write_result(completed, result)
        return result

    def _problem(self, pair: ComparedPair, task: Task | None) -> str:
        """Return a digest of everything that determines the result of the search."""
        networks = pair.reference, pair.candidate
        rows = {
            f"{name}.{role}": getattr(shared, role)
            for name, shared in pair.rows.items()
            for role in ("reference", "candidate")
        }
        parts = {
            "matcher": json.loads(self.matcher.canonical_json()),
            "files": [dict(network.checkpoint.digests()) for network in networks],
            "entries": [list(network.checkpoint.entry) for network in networks],
            "names": [dict(network.match.names) for network in networks],
            "rows": digest_of_tensors(rows),
            "layout": pair.spec.layout.fingerprint,
            "seed": self.seed,
            "device": self.placement.device.type,  # on which rounding depends
            "data": _digest_of_data(task) if task is not None and self.matcher.uses_task else None,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _digest_of_data(task: Task) -> list[str]:
    """Return digests of the batches of a task that holds them."""

    def digests(batches: Batches) -> list[str]:
        return [
            digest_of_tensors({**{f"inputs {k}": t for k, t in enumerate(input_tensors(inputs))}, "targets": targets})
            for inputs, targets in checked_batches(batches)
        ]

    return [*digests(task.data), "calibration", *digests(task.calibration or ())]


def _write_result(path: Path, result: MatchResult) -> None:
    """Write a completed result, unless it has numbers that JSON cannot represent."""
    numbers = [result.objective, result.identity_objective, *result.trace]
    if result.upper_bound is not None:
        numbers.append(result.upper_bound)
    if all(map(math.isfinite, numbers)):
        record = {
            "objective": result.objective,
            "identity_objective": result.identity_objective,
            "outcome": result.outcome.name,
            "trace": list(result.trace),
            "seconds": dict(result.seconds),
            "upper_bound": result.upper_bound,
        }
        result.group_element.save(path, meta={_RESULT: record})


def _read_result(path: Path, layout: Layout) -> MatchResult | None:
    """Return a completed result; None if the file is damaged."""
    try:
        element = load_element(path, layout)
        _, document = read_tensors(path)
        record = document[_RESULT]
        return MatchResult(
            permutation=element.permutation,
            element=element if isinstance(element, SymmetryElement) else None,
            objective=float(record["objective"]),
            identity_objective=float(record["identity_objective"]),
            outcome=MatchOutcome[record["outcome"]],
            trace=tuple(map(float, record["trace"])),
            seconds=dict(record["seconds"]),
            upper_bound=None if record["upper_bound"] is None else float(record["upper_bound"]),
        )
    except (FileFormatError, KeyError, TypeError, ValueError):
        return None
