"""The search for an alignment of two checkpoints, which continues after the process was killed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.analysis.distances import NetworkDistances, network_distances
from rebasin_core.api.checkpoints.network import as_point
from rebasin_core.api.checkpoints.progress import phase
from rebasin_core.api.checkpoints.shuffled import shuffled_network
from rebasin_core.api.resumption import search_with_checkpoint

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from rebasin_core.api.checkpoints.network import CheckpointNetwork
    from rebasin_core.evaluation.task import Task
    from rebasin_core.matchers.base import Matcher, MatchResult
    from rebasin_core.posteriors.point import PointPosterior
    from rebasin_core.specs.base import PermutationSpec
    from rebasin_core.symmetry.permutation import Permutation

_STATE = "match.safetensors"
_STATE_BY_CHANCE = "chance.safetensors"
_SHUFFLED = "shuffled.safetensors"
# Number of shuffled copies, for networks of at most this number of entries.
_COPIES = 3
_SMALL = 10**7


@final
@dataclass(frozen=True, eq=False)
class CheckpointSearch:
    """A matcher, and a folder for its state.

    Attributes:
        spec: Permutation symmetries of the model.
        matcher: The matcher.
        folder: Folder for temporary files and the state of the search.
        seed: Seed of the matcher and of the shuffled copy.
        progress: Whether to show a progress bar.
    """

    spec: PermutationSpec
    matcher: Matcher
    folder: Path
    seed: int
    progress: bool

    def align(
        self, reference: CheckpointNetwork, candidate: CheckpointNetwork, *, task: Task | None = None
    ) -> MatchResult:
        """Align a candidate with a reference, or continue an interrupted search for the same files.

        Args:
            reference: The reference.
            candidate: The candidate.
            task: Model and data, for matchers that need them.

        Returns:
            The result.

        Raises:
            KeyboardInterrupt: If the search is interrupted; its state is in the folder.
            StorageError: If the folder cannot be written.
        """
        return self._run(_STATE, reference.posterior, candidate, self._problem(reference, candidate), task)

    def align_by_chance(
        self, reference: CheckpointNetwork, candidate: CheckpointNetwork
    ) -> tuple[NetworkDistances, float]:
        """Align a candidate with shuffled copies of the reference: three for small networks, one for large ones.

        Args:
            reference: The reference.
            candidate: The candidate.

        Returns:
            Distances between a shuffled copy and the candidate before and after this alignment: those with the median
            cosine similarity after alignment. And the range of this similarity over the copies.

        Raises:
            KeyboardInterrupt: If the search is interrupted; its state is in the folder.
            StorageError: If the folder cannot be written.
        """
        entries = sum(tensor.numel() for tensor in reference.tensors.values())
        count = _COPIES if entries <= _SMALL else 1
        found = [self._by_chance(reference, candidate, self.seed * _COPIES + number) for number in range(count)]
        found.sort(key=lambda each: each.permuted.cosine_after)
        spread = found[-1].permuted.cosine_after - found[0].permuted.cosine_after
        return found[count // 2], spread

    def _by_chance(self, reference: CheckpointNetwork, candidate: CheckpointNetwork, seed: int) -> NetworkDistances:
        file = self.folder / _SHUFFLED
        copy = shuffled_network(reference.tensors, file, seed=seed)
        network = as_point(copy, candidate.posterior.buffers)
        problem = f"{self._problem(reference, candidate)}-{seed}"
        result = self._run(_STATE_BY_CHANCE, network, candidate, problem, None)
        distances = self.distances(copy, candidate.tensors, result.permutation)
        file.unlink(missing_ok=True)
        return distances

    def distances(
        self, reference: Mapping[str, Tensor], candidate: Mapping[str, Tensor], permutation: Permutation
    ) -> NetworkDistances:
        """Return the distances between the parameters of two networks before and after a permutation of the second.

        Args:
            reference: Tensors of the reference.
            candidate: Tensors of the candidate.
            permutation: The permutation.

        Returns:
            The distances. Buffers are not compared: running variances can be larger than all parameters.
        """
        layout = self.spec.layout
        buffers = layout.names.buffers or ()
        parameters = {name: tensor for name, tensor in reference.items() if name not in buffers}
        with phase("compare", parameters, shown=self.progress) as done:
            return network_distances(layout, parameters, candidate, permutation, progress=done)

    def _run(
        self, state: str, reference: PointPosterior, candidate: CheckpointNetwork, problem: str, task: Task | None
    ) -> MatchResult:
        search = partial(
            self.matcher.match,
            reference,
            candidate.posterior,
            self.spec,
            task=task,
            generator=torch.Generator().manual_seed(self.seed),
            progress=self.progress,
        )
        return search_with_checkpoint(search, self.spec.layout, self.folder / state, problem=problem)

    def _problem(self, reference: CheckpointNetwork, candidate: CheckpointNetwork) -> str:
        """Return a digest of everything that determines the result of the search."""
        parts = {
            "matcher": json.loads(self.matcher.canonical_json()),
            "files": [dict(network.checkpoint.digests()) for network in (reference, candidate)],
            "names": [dict(network.match.names) for network in (reference, candidate)],
            "layout": self.spec.layout.fingerprint,
            "seed": self.seed,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
