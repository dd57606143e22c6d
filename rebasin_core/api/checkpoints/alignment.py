"""Alignment of two checkpoints of any size and format."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.analysis.distances import NetworkDistances, network_distances
from rebasin_core.api.checkpoints.models import model_of, spec_of
from rebasin_core.api.checkpoints.network import CheckpointNetwork
from rebasin_core.api.checkpoints.opening import open_checkpoint
from rebasin_core.api.checkpoints.shuffled import shuffled_network
from rebasin_core.api.checkpoints.verdict import Verdict
from rebasin_core.api.matching import as_matcher
from rebasin_core.api.resumption import search_with_checkpoint
from rebasin_core.checkpoints.checkpoint import Checkpoint
from rebasin_core.checkpoints.function_check import FunctionDifference, function_difference
from rebasin_core.checkpoints.naming import NamePolicy
from rebasin_core.errors import InvalidInputError, SpecError
from rebasin_core.matchers.channel import AbstractChannelMatcher
from rebasin_core.symmetry.action import act

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from rebasin_core.checkpoints.model_source import ModelSource, SourcedModel
    from rebasin_core.matchers.base import Matcher, MatchResult
    from rebasin_core.specs.base import ExampleInputs, PermutationSpec
    from rebasin_core.symmetry.permutation import Permutation
_MATCHER = "weight"


@final
@dataclass(frozen=True, eq=False)
class CheckpointAlignment:
    """Alignment of a candidate checkpoint with a reference; returned by `align_checkpoints`.

    Attributes:
        reference: The reference.
        candidate: The candidate, not permuted.
        spec: Permutation symmetries of the model.
        result: Result of the matcher.
        distances: Distances between the networks before and after alignment.
        chance: Distances between a shuffled copy of the reference and the candidate, before and after they were
            aligned in the same way; None if not computed.
        function: Difference between the outputs of the candidate and of the aligned candidate; None if not computed.
        seed: Seed of the matcher and of the shuffled copy.
    """

    reference: CheckpointNetwork
    candidate: CheckpointNetwork
    spec: PermutationSpec
    result: MatchResult
    distances: NetworkDistances
    chance: NetworkDistances | None
    function: FunctionDifference | None
    seed: int

    @property
    def permutation(self) -> Permutation:
        """The permutation that aligns the candidate."""
        return self.result.permutation

    @cached_property
    def verdict(self) -> Verdict:
        """What the alignment means: whether the networks are related, and whether it is better than chance."""
        return Verdict.of(self.permutation, self.distances, self.chance)

    def tensor(self, name: str) -> Tensor:
        """Return a tensor of the aligned candidate.

        Args:
            name: Name of a parameter or buffer of the model.

        Returns:
            A new tensor, in the dtype of the candidate's file.
        """
        return aligned_tensor(self.permutation, self.candidate.tensors, name)


def aligned_tensor(permutation: Permutation, tensors: Mapping[str, Tensor], name: str) -> Tensor:
    """Return one permuted tensor of a network.

    Args:
        permutation: The permutation.
        tensors: The network.
        name: Name of a tensor.

    Returns:
        The permuted tensor; the tensor itself if the layout does not contain it.
    """
    layout = permutation.layout
    if name not in layout.axes:
        return tensors[name]
    return act(layout, permutation.indices, tensors[name], layout.axes[name])
