"""The interface of matchers."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias, final

import torch

from rebasin_core.errors import InvalidInputError, PriorWarning
from rebasin_core.posteriors.checks import require_same_tensors
from rebasin_core.strategy import Strategy

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn

    from rebasin_core.matchers.result import MatchResult
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.specs.base import PermutationSpec
    from rebasin_core.symmetry.layout import Layout
    from rebasin_core.symmetry.permutation import Permutation


OnInterrupt: TypeAlias = Literal["raise", "return"]


@final
@dataclass(frozen=True, slots=True)
class MatchProblem:
    """What a matcher is asked to solve, already checked.

    Attributes:
        reference: Stays as it is.
        candidate: Is to be moved; on the device and in the dtype of the reference.
        layout: The symmetries; names every tensor of both.
        model: The network, for matchers that run it; else None.
        data: Batches ``(inputs, targets)``, for matchers that need data; else None.
        generator: The source of randomness.
        progress: Whether to show a progress bar.
        initial: Where matchers that improve step by step begin; the identity if None.
        on_interrupt: Whether an interrupted search raises, or returns its best so far.
    """

    reference: Posterior
    candidate: Posterior
    layout: Layout
    model: nn.Module | None
    data: Iterable[tuple[Tensor, Tensor]] | None
    generator: torch.Generator
    progress: bool
    initial: Permutation | None = None
    on_interrupt: OnInterrupt = "raise"

    def starting_at(self, initial: Permutation | None) -> MatchProblem:
        """Return the problem with another beginning.

        Args:
            initial: Where to begin.

        Returns:
            The new problem.
        """
        return replace(self, initial=initial)


class Matcher(Strategy):
    r"""Finds the group element that moves a candidate onto a reference.

    Laws:
        - *Never worse than the identity*: the objective at the result is at least the objective at the identity.
        - *Planted permutation*: a candidate that is a moved copy of a feed-forward reference with generic parameters
          is moved back exactly.
        - *Function kept*: the aligned candidate computes the candidate's function.
        - *Inputs untouched*: reference and candidate are not changed.
        - *Repeatable*: equal inputs and generators in equal states give equal results.
        - *Device and dtype*: the matcher works on the reference's device, in any floating dtype.
    """

    family: ClassVar[str] = "matcher"

    @final
    def match(  # ruff: ignore[too-many-arguments] - the problem's parts, keyword-only after the third
        self,
        reference: Posterior,
        candidate: Posterior,
        spec: PermutationSpec,
        *,
        model: nn.Module | None = None,
        data: Iterable[tuple[Tensor, Tensor]] | None = None,
        generator: torch.Generator | None = None,
        progress: bool = False,
        initial: Permutation | None = None,
        on_interrupt: OnInterrupt = "raise",
    ) -> MatchResult:
        """Return the permutation that moves the candidate onto the reference.

        Args:
            reference: Stays as it is; sets device and dtype.
            candidate: A posterior over the same parameters.
            spec: The symmetries of the network.
            model: The network, for matchers that run it.
            data: Batches ``(inputs, targets)``, for matchers that need data.
            generator: Source of randomness; a fixed seed if not given.
            progress: Whether to show a progress bar.
            initial: Where matchers that improve step by step begin; the identity if not given.
            on_interrupt: ``return``: when the user interrupts a search, its best so far is the result, with the outcome
                `MatchOutcome.INTERRUPTED`; given as ``initial``, it goes on from there. ``raise``: KeyboardInterrupt.

        Returns:
            The result. Not converging is a value of its `outcome`, not an error.

        Raises:
            InvalidInputError: If the posteriors do not fit each other or the specification, or something that this
                matcher needs is missing.
        """
        means = reference.shared_mean(), candidate.shared_mean()
        for posterior, mean, what in zip(
            (reference, candidate), means, ("the reference", "the candidate"), strict=True
        ):
            spec.layout.check({**mean, **posterior.buffers}, what)
        require_same_tensors(*means, "the candidate")
        del means
        if candidate.prior is not None and not candidate.prior.is_exchangeable(spec.layout):
            message = (
                "the candidate's prior is not the same for all units, so that it moves with them: the aligned "
                "posterior is one under another prior"
            )
            warnings.warn(message, PriorWarning, stacklevel=2)
        problem = MatchProblem(
            reference=reference,
            candidate=candidate.to(device=reference.device, dtype=reference.dtype),
            layout=spec.layout,
            model=model,
            data=data,
            generator=generator or torch.Generator().manual_seed(0),
            progress=progress,
            initial=initial,
            on_interrupt=on_interrupt,
        )
        if initial is not None and initial.layout.fingerprint != spec.layout.fingerprint:
            message = "the initial permutation belongs to another specification"
            raise InvalidInputError(message)
        return self.solve(problem)

    @final
    def solve(self, problem: MatchProblem) -> MatchResult:
        """Return the result of a checked problem: for matchers around matchers.

        Args:
            problem: As `match` makes it.

        Returns:
            The result.

        Raises:
            InvalidInputError: If something that this matcher needs is missing.
        """
        with torch.no_grad():
            return self._match(problem)

    @abstractmethod
    def _match(self, problem: MatchProblem) -> MatchResult:
        """Solve a checked problem; the permutation may lie on any device."""
