"""Alignment of networks with different heads, such as classifiers with different numbers of classes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

import torch
from torch import nn

from rebasin_core.api.matching import match
from rebasin_core.api.tracing import trace_spec
from rebasin_core.errors import InvalidInputError
from rebasin_core.posteriors.point import PointPosterior
from rebasin_core.specs.check import check_spec
from rebasin_core.symmetry.axis import is_fixed
from rebasin_core.symmetry.permutation import Permutation
from rebasin_core.tensors.modules import unwrapped
from rebasin_core.tensors.outputs import output_of, with_output

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from rebasin_core.evaluation.task import Task
    from rebasin_core.matchers.base import Matcher, MatchResult
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.specs.base import PermutationSpec


def head_names(spec: PermutationSpec, reference: Posterior, candidate: Posterior) -> tuple[str, ...]:
    """Return the names of the tensors with different shapes in two networks: their heads.

    Args:
        spec: Permutation symmetries of the reference.
        reference: The reference.
        candidate: The candidate.

    Returns:
        The names; empty if all shapes are the same.

    Raises:
        InvalidInputError: If the networks differ along an axis that is permuted, that is, in a hidden width.
    """
    found: list[str] = []
    first = {**reference.mean, **reference.buffers}
    second = {**candidate.mean, **candidate.buffers}
    for name, tensor in first.items():
        other = second.get(name)
        if other is None or other.shape == tensor.shape:
            continue
        sizes = zip(tensor.shape, other.shape, spec.layout.axes.get(name, (None,) * tensor.dim()), strict=False)
        is_hidden = any(one != two and axis is not None and not is_fixed(axis) for one, two, axis in sizes)
        if is_hidden or tensor.dim() != other.dim():
            message = (
                f"expected networks of the same hidden widths, got `{name}` of shapes {tuple(tensor.shape)} and "
                f"{tuple(other.shape)}; for different widths, use `rebasin_core.matchers.TransportMatcher().couple`"
            )
            raise InvalidInputError(message)
        found.append(name)
    return tuple(found)


@final
@dataclass(frozen=True, slots=True)
class BodyMatch:
    """Two networks with different heads, which are to be matched without them.

    Attributes:
        reference: The reference.
        candidate: The candidate.
        candidate_model: The candidate as a module, from which its symmetries are traced.
        spec: Permutation symmetries of the reference.
        heads: Names of the tensors to ignore, as from `head_names`.
    """

    reference: Posterior
    candidate: Posterior
    candidate_model: object
    spec: PermutationSpec
    heads: tuple[str, ...]

    def solve(self, matcher: Matcher, task: Task, inputs: object, generator: torch.Generator | None) -> MatchResult:
        """Match the networks, and return a permutation of the candidate with its own head.

        Args:
            matcher: The matcher.
            task: The model of the reference, and data.
            inputs: Example inputs of both models.
            generator: Random number generator; seeded with 0 if None.

        Returns:
            The result; its permutation applies to the candidate.

        Raises:
            InvalidInputError: If one of the posteriors is not a single network, the candidate is not a module, the
                matcher also searches over linear maps, or the symmetries of the two networks differ.
            SpecError: If the symmetries of the candidate cannot be traced, or change its outputs.
        """
        module = with_output(self._module(matcher), output_of(task.model))
        own = trace_spec(module, inputs)
        check_spec(own, module, inputs).require()
        sizes = [{name: group.size for name, group in each.layout.groups.items()} for each in (self.spec, own)]
        if sizes[0] != sizes[1]:
            message = f"expected the same symmetries of both networks, got groups of sizes {sizes[0]} and {sizes[1]}"
            raise InvalidInputError(message)
        bodies = self._body(self.reference), self._body(self.candidate)
        found = match(*bodies, self.spec, matcher, task=task, generator=generator)
        return replace(found, permutation=Permutation(own.layout, found.permutation.indices))

    def _module(self, matcher: Matcher) -> nn.Module:
        """Return the module of the candidate; raise if the networks cannot be matched without their heads."""
        are_points = self.reference.is_point and self.candidate.is_point
        if not are_points or not isinstance(self.candidate_model, nn.Module) or matcher.kinds:
            message = (
                "expected single networks, the candidate as a module, and a search over permutations only, because "
                f"the networks have different shapes of {', '.join(f'`{name}`' for name in self.heads)}"
            )
            raise InvalidInputError(message)
        return unwrapped(self.candidate_model)

    def _body(self, posterior: Posterior) -> PointPosterior:
        """Return a network with zeros in the shape of the reference's head, which contribute equally everywhere."""
        like = {**self.reference.mean, **self.reference.buffers}

        def without_head(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: torch.zeros_like(like[name]) if name in self.heads else t for name, t in tensors.items()}

        return PointPosterior(without_head(posterior.mean), buffers=without_head(posterior.buffers))
