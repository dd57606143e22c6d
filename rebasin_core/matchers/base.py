"""Interface of matchers: `MatchProblem`, `Matcher` and `MatchResult`."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeAlias, TypeVar, final, overload

import torch
from typing_extensions import override

from rebasin_core.errors import InvalidInputError, PriorWarning
from rebasin_core.evaluation.likelihood import Likelihood
from rebasin_core.evaluation.task import model_of
from rebasin_core.posteriors.checks import require_posteriors, require_same_tensors
from rebasin_core.specs.base import require_spec
from rebasin_core.strategy import Strategy
from rebasin_core.symmetry.linear import Symmetry
from rebasin_core.symmetry.permutation import Permutation
from rebasin_core.symmetry.symmetry_element import SymmetryElement
from rebasin_core.tensors.frames import data_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import pandas as pd
    from torch import Tensor, nn

    from rebasin_core.evaluation.task import Task
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.specs.base import PermutationSpec
    from rebasin_core.symmetry.kind import Kind
    from rebasin_core.symmetry.layout import Layout
    from rebasin_core.symmetry.permutation import GroupElement

    T = TypeVar("T")


OnInterrupt: TypeAlias = Literal["raise", "return"]


class SearchRecord(Protocol):
    """Storage for the state of a long search, from which it can be continued after the process was killed.

    The state is a permutation and a JSON document of the matcher's own. A search that continues from a state has
    the result of the uninterrupted search, up to rounding.
    """

    def saved(self) -> tuple[Permutation, Mapping[str, Any]] | None:
        """Return the state that an earlier search for the same problem has saved; None if there is none."""

    def save(self, state: Callable[[], tuple[Permutation, Mapping[str, Any]]]) -> None:
        """Save a state, unless the last one was saved a moment ago.

        Args:
            state: Returns the state.
        """


@final
@dataclass(frozen=True, slots=True)
class MatchProblem:
    """A validated matching problem, as `Matcher` passes it to `_match`.

    Attributes:
        reference: Posterior to align to.
        candidate: Posterior to permute, on the device and in the dtype of the reference.
        layout: The groups, and the axes of all tensors of both posteriors.
        model: The network module, or None; required by matchers that run the network.
        data: Batches ``(inputs, targets)``, or None; required by matchers that use data.
        generator: Random number generator.
        progress: Whether to show a progress bar.
        initial: Permutation to start from, for iterative matchers; their own initialization if None.
        on_interrupt: On Ctrl-C, ``"raise"`` KeyboardInterrupt or ``"return"`` the best result so far.
        likelihood: Likelihood of the targets in the data; None without data.
        record: Storage for the state of a long search, which continues from it. Matchers may ignore it.
        given_symmetry: The linear symmetries; none if None.
        device: Device to compute on, to which slices of the posteriors' tensors are copied; that of the posteriors if
            None. Only for matchers with `Matcher.uses_slices`.
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
    likelihood: Likelihood | None = None
    record: SearchRecord | None = None
    device: torch.device | None = None
    given_symmetry: Symmetry | None = None

    @property
    def symmetry(self) -> Symmetry:
        """The linear symmetries that both posteriors admit; none unless given."""
        return self.given_symmetry or Symmetry(self.layout)

    def starting_at(self, initial: Permutation | None) -> MatchProblem:
        """Return a copy of the problem with another initial permutation.

        Args:
            initial: Permutation to start from; the matcher's own initialization if None.

        Returns:
            The new problem.
        """
        return replace(self, initial=initial)


@final
class MatchOutcome(Enum):
    """Why a matcher stopped."""

    CONVERGED = "converged: the matcher's stopping criterion was met"
    MAX_SWEEPS = "stopped: maximum number of sweeps reached; a larger `max_sweeps` may improve the objective"
    INTERRUPTED = "interrupted; resume with `initial=result.group_element`"
    BUDGET = "stopped: step or time budget exhausted; a larger budget may improve the objective"


@final
@dataclass(frozen=True, slots=True)
class MatchResult:
    """The permutation that a matcher found, and its objective.

    Attributes:
        permutation: The permutation that aligns the candidate with the reference.
        objective: The matcher's objective at the permutation; larger is better.
        identity_objective: The objective at the identity, or at the initial group element if that has linear maps; at
            most ``objective``.
        outcome: Why the matcher stopped.
        trace: The objective at the start and after each sweep, epoch or step of the search.
        seconds: Wall-clock time in seconds, by part of the algorithm.
        upper_bound: Upper bound on the objective over all permutations, or None if the matcher computes none. Tensors
            on which one group acts contribute their best assignment, other tensors the product of their norms.
        element: The group element that aligns the candidate, for matchers that also search over linear maps; None if
            it is the permutation.
    """

    permutation: Permutation
    objective: float
    identity_objective: float
    outcome: MatchOutcome
    trace: tuple[float, ...]
    seconds: Mapping[str, float]
    upper_bound: float | None = None
    element: SymmetryElement | None = None

    @property
    def gap(self) -> float | None:
        """Optimality gap: ``upper_bound - objective``; 0 proves global optimality, None without a bound."""
        return None if self.upper_bound is None else max(0.0, self.upper_bound - self.objective)

    @property
    def group_element(self) -> GroupElement:
        """The group element that `apply` applies: ``element`` if there is one, else the permutation."""
        return self.permutation if self.element is None else self.element

    @property
    def moved(self) -> Mapping[str, int]:
        """Number of permuted units (those that are not fixed points) of each group."""
        return self.permutation.moved

    @property
    def sweeps(self) -> int:
        """Number of sweeps over the groups, or other steps in ``trace``."""
        return len(self.trace) - 1

    @override
    def __str__(self) -> str:
        """Return the number of permuted units, the objective, and why the matcher stopped."""
        units = sum(index.numel() for index in self.permutation.indices.values())
        bound = "" if self.gap is None else f", at most {self.gap:.4g} below the optimum"
        permuted = sum(self.moved.values())
        return (
            f"{permuted} of {units} units permuted; objective {self.objective:.6g} (identity "
            f"{self.identity_objective:.6g}{bound}); {self.outcome.value}"
        )

    def to_frame(self) -> pd.DataFrame:
        """Return a pandas data frame with a row for each group: its name, its units, and the number permuted.

        The units of a nested group are those of all blocks.

        Raises:
            PluginError: If pandas is not installed.
        """
        units = {name: index.numel() for name, index in self.permutation.indices.items()}
        permuted = [self.moved[name] for name in units]
        return data_frame({"group": list(units), "units": list(units.values()), "permuted": permuted})

    def at_identity(self, layout: Layout) -> MatchResult:
        """Return a result with the identity permutation and its objective.

        Args:
            layout: The groups on which the permutation acts.

        Returns:
            The result; its outcome, times and bound are those of this result.
        """
        trace = (self.identity_objective,)
        identity = Permutation.identity(layout)
        return replace(self, permutation=identity, element=None, objective=self.identity_objective, trace=trace)

    def after(self, first: SymmetryElement) -> MatchResult:
        """Return the result for a candidate that was transformed before it was matched.

        Args:
            first: The element that was applied to the candidate before.

        Returns:
            The result with the composition of both elements; ``identity_objective`` remains that of ``first``.
        """
        element = first.compose(self.group_element)
        return replace(self, permutation=element.permutation, element=element, upper_bound=None)

    @overload
    def apply(self, candidate: Mapping[str, Tensor]) -> dict[str, Tensor]: ...
    @overload
    def apply(self, candidate: T) -> T: ...
    def apply(self, candidate: Any) -> Any:
        """Return the aligned candidate.

        Args:
            candidate: The network or posterior that was matched: a mapping of tensors, a module, a posterior, or an
                object of another library, as for `Permutation.apply`.

        Returns:
            A permuted copy of the same type.

        Raises:
            InvalidInputError: If the candidate does not fit the specification.
        """
        return self.group_element.apply(candidate)


class Matcher(Strategy):
    r"""Algorithm that finds a permutation aligning a candidate with a reference.

    Laws:
        - *No worse than the identity*: the returned objective is at least that of the identity.
        - *Planted permutation*: if the candidate is a permuted copy of a feed-forward reference with generic
          parameters, the permutation is recovered exactly.
        - *Function preserved*: the aligned candidate computes the candidate's function.
        - *No side effects*: reference and candidate are not changed.
        - *Reproducibility*: equal inputs and generator states give equal results.
        - *Task*: with ``uses_task = False``, the result is the same with and without a task.
        - *Device and dtype*: runs on the reference's device, in any floating-point dtype.
    """

    family: ClassVar[str] = "matcher"

    @property
    def uses_task(self) -> bool:
        """Whether the result depends on the model or the data. If not, results are reused when the data change."""
        return True

    @property
    def kinds(self) -> frozenset[Kind]:
        """Kinds of linear maps over which it searches, in addition to permutations; none unless overridden."""
        return frozenset()

    @property
    def uses_slices(self) -> bool:
        """Whether the matcher can compute on another device than that of the posteriors, in slices of their tensors."""
        return False

    @final
    def match(  # ruff: ignore[too-many-arguments] - the problem's parts, keyword-only after the third
        self,
        reference: Posterior,
        candidate: Posterior,
        spec: PermutationSpec,
        *,
        task: Task | None = None,
        generator: torch.Generator | None = None,
        progress: bool = False,
        initial: GroupElement | None = None,
        on_interrupt: OnInterrupt = "raise",
        record: SearchRecord | None = None,
        device: torch.device | None = None,
    ) -> MatchResult:
        """Find the permutation that aligns a candidate with a reference.

        Args:
            reference: Posterior to align to; its device and dtype are used.
            candidate: Posterior to permute, over the same parameters.
            spec: Permutation symmetries of the network.
            task: Network module and data; required by matchers that run the network.
            generator: Random number generator; seeded with 0 if None.
            progress: Whether to show a progress bar.
            initial: Permutation to start from, for iterative matchers; their own initialization if None. With another
                group element, the search is for a further element that is applied after it.
            on_interrupt: On Ctrl-C, ``"raise"`` KeyboardInterrupt, or ``"return"`` the best result so far, with the
                outcome `MatchOutcome.INTERRUPTED`. Pass its `MatchResult.group_element` as ``initial`` to resume.
            record: Storage for the state of a long search, which continues from it.
            device: Device to compute on, to which slices of tensors are copied when they are used; that of the
                reference if None. For posteriors that do not fit into the memory of the device.

        Returns:
            The result. A search that did not converge is reported as its `outcome`, not as an error.

        Raises:
            NotClosedError: If the candidate is not closed under the initial group element.
            InvalidInputError: If the posteriors do not fit each other or the specification, the initial element
                belongs to another specification, a required input is missing, or the matcher cannot compute on another
                device than that of the reference.
        """
        require_spec(spec)
        require_posteriors(reference, candidate)
        reference = reference.named_as(spec.layout.names)
        candidate = candidate.named_as(spec.layout.names)
        self._require_device(reference, device)
        means = reference.shared_mean(), candidate.shared_mean()
        for posterior, mean, role in zip(
            (reference, candidate), means, ("the reference", "the candidate"), strict=True
        ):
            spec.layout.check({**mean, **posterior.buffers}, role)
        require_same_tensors(*means, "the candidate")
        if candidate.prior is not None and not candidate.prior.is_exchangeable(spec.layout):
            message = (
                "the candidate's prior differs between units of a group; the aligned posterior refers to the permuted "
                "prior"
            )
            warnings.warn(message, PriorWarning, stacklevel=2)
        problem = MatchProblem(
            reference=reference,
            candidate=candidate.to(device=reference.device, dtype=reference.dtype),
            layout=spec.layout,
            model=model_of(task),
            data=None if task is None else task.fitting_data,
            generator=generator or torch.Generator().manual_seed(0),
            progress=progress,
            on_interrupt=on_interrupt,
            likelihood=None if task is None else Likelihood.of(task.likelihood),
            record=record,
            given_symmetry=spec.symmetry_of(
                *({**mean, **p.buffers} for mean, p in zip(means, (reference, candidate), strict=True))
            ),
            device=device,
        )
        if initial is not None and initial.layout.fingerprint != spec.layout.fingerprint:
            message = "the initial group element belongs to another specification"
            raise InvalidInputError(message)
        return self.solve(problem, initial=initial)

    def _require_device(self, reference: Posterior, device: torch.device | None) -> None:
        """Raise if the matcher cannot compute on a device, because it is not that of the reference."""
        if device is not None and device != reference.device and not self.uses_slices:
            message = (
                f"the matcher {self.name!r} computes on the device of the reference, {reference.device}, not on "
                f"{device}; copy the posteriors to that device, or use `weight`"
            )
            raise InvalidInputError(message)

    @final
    def solve(self, problem: MatchProblem, *, initial: GroupElement | None = None) -> MatchResult:
        """Solve a validated problem; for matchers that run other matchers.

        Args:
            problem: The problem that `match` constructed.
            initial: Group element to start from; the initial permutation of the problem if None.

        Returns:
            The result.

        Raises:
            InvalidInputError: If an input that this matcher requires is missing.
            NotClosedError: If the candidate is not closed under the initial group element.
        """
        with torch.no_grad():
            if isinstance(initial, SymmetryElement):
                # Every matcher can start there: it aligns the transformed candidate, from the identity.
                moved = replace(
                    problem,
                    candidate=initial.apply(problem.candidate),
                    initial=Permutation.identity(problem.layout),
                )
                return self._match(moved).after(initial)
            return self._match(problem if initial is None else problem.starting_at(initial.permutation))

    @abstractmethod
    def _match(self, problem: MatchProblem) -> MatchResult:
        """Solve a validated problem. Gradients are disabled.

        Args:
            problem: Two posteriors on one device, their layout, and the options of the call.

        Returns:
            The permutation, on any device, with its objective and that of the identity.
        """
