"""Sinkhorn matching: soft permutations, optimized by gradient descent."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Literal, TypeAlias, final

import torch
from pydantic import PositiveFloat, PositiveInt
from tqdm import tqdm
from typing_extensions import override

from rebasin_core.assignment import solve_assignment
from rebasin_core.coupling.nested_groups import families_of
from rebasin_core.evaluation.likelihood import Likelihood
from rebasin_core.evaluation.likelihoods import CategoricalLikelihood
from rebasin_core.matchers.base import Matcher, MatchOutcome, MatchProblem
from rebasin_core.matchers.midpoint import MidpointLoss
from rebasin_core.matchers.search import BestSoFar, interruptible
from rebasin_core.symmetry.action import act_softly
from rebasin_core.symmetry.cell import map_cells
from rebasin_core.symmetry.permutation import Permutation
from rebasin_core.tensors.optimal_transport import squared_distance
from rebasin_core.tensors.precision import widened, working_dtype
from rebasin_core.tensors.sinkhorn import sinkhorn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from rebasin_core.matchers.base import MatchResult
    from rebasin_core.symmetry.axis import Atom
    from rebasin_core.tensors.inputs import AnyInputs

SinkhornLoss: TypeAlias = Literal["weights", "midpoint", "random"]


@final
class SinkhornMatcher(Matcher):
    r"""Optimizes one soft permutation per group: a doubly stochastic matrix, the Sinkhorn normalization of logits.

    Adam minimizes, by the option ``loss``: ``weights``, the squared distance
    $\lVert \theta_0 - X \theta_1 \rVert^2$; ``midpoint``, the loss at the midpoint; ``random``, the loss at a uniformly
    random $t$. After every epoch the matrices are rounded to permutations by linear assignment, and the best
    permutation, evaluated after rounding, is kept. Normalizations are differentiated implicitly, so their iterations
    need no memory. Each head of the reference has its own matrix for the width within it, which acts on the candidate
    head that is matched to it. Losses use the batch statistics of batch normalization.

    Raises:
        ConfigError: If an option is invalid.
        InvalidInputError: On matching by ``midpoint`` or ``random``, without a model and data.

    References:
        F. Guerrero Pena et al. (2023), "Re-basin via implicit Sinkhorn differentiation", CVPR, arXiv 2212.12042,
        equations 6 to 9.

    Examples:
        >>> SinkhornMatcher(loss="weights", epochs=2)
        SinkhornMatcher(epochs=2)
    """

    name: Literal["sinkhorn"] = "sinkhorn"

    loss: SinkhornLoss = "weights"
    """Objective to minimize: ``weights``, ``midpoint`` or ``random``, see above."""

    epochs: PositiveInt = 10
    """Number of passes over the data; for ``weights``, of 20 steps each."""

    learning_rate: PositiveFloat = 0.1
    """Learning rate of Adam for the logits."""

    temperature: PositiveFloat = 1.0
    r"""Temperature $\tau$ of the normalization; smaller values are nearer to permutations."""

    iterations: PositiveInt = 20
    """Maximum number of Sinkhorn iterations; they stop earlier if all rows and columns sum to 1.

    After the maximum, rows sum to 1 only approximately. This affects the search, but not the results, which are
    permutations.
    """

    likelihood: Likelihood = CategoricalLikelihood()
    """Likelihood of the targets given the network's outputs."""

    @property
    @override
    def uses_task(self) -> bool:
        return self.loss != "weights"

    @override
    def _match(self, problem: MatchProblem) -> MatchResult:
        start = perf_counter()
        soft = _Soft(problem, self.temperature, self.iterations)
        objective = _Distance(problem) if self.loss == "weights" else _Between(problem, self.likelihood, self.loss)
        best = BestSoFar(problem, lambda element: objective.hard(element.permutation))
        initial = problem.initial or Permutation.identity(problem.layout)
        optimizer = torch.optim.Adam(list(soft.logits.values()) or [torch.zeros(1)], lr=self.learning_rate)
        with interruptible(problem) as interruption:
            for _ in tqdm(range(self.epochs), desc="sinkhorn", leave=False, disable=not problem.progress):
                for batch in objective.batches:
                    with torch.enable_grad():
                        optimizer.zero_grad()
                        loss = objective.soft(soft.permuted(objective.candidate), initial, batch)
                        if loss.requires_grad:
                            loss.backward()
                    optimizer.step()
                best.update(soft.rounded())
        return best.result(interruption.outcome(MatchOutcome.BUDGET), {"total": perf_counter() - start})


Batch: TypeAlias = "tuple[AnyInputs, Tensor] | None"
_STEPS = 20


@final
class _Soft:
    """Soft permutations: one matrix for every group; for a nested group, one for each unit of its outer group."""

    def __init__(self, problem: MatchProblem, temperature: float, iterations: int) -> None:
        layout, like = problem.layout, problem.reference
        dtype = working_dtype(like.dtype)
        self._layout = layout
        self._temperature = temperature
        self._iterations = iterations
        self._initial = problem.initial or Permutation.identity(layout)
        self.logits: dict[str, Tensor] = {}
        within = {name for inner in families_of(layout).values() for name in inner}
        for name, group in layout.groups.items():
            if group.within is None or name in within:
                matrix = torch.eye(group.size, dtype=dtype, device=like.device)
                self.logits[name] = matrix[self._initial.indices[name].to(like.device)].requires_grad_()

    def _matrices(self) -> dict[str, Tensor]:
        """Return all matrices. Those of one size are normalized in one batch, since small ones cost mainly overhead."""
        found: dict[str, Tensor] = {}
        for size in {logits.shape for logits in self.logits.values()}:
            names = [name for name, logits in self.logits.items() if logits.shape == size]
            stacked = torch.stack([self.logits[name] for name in names])
            normalized = sinkhorn(
                stacked, temperature=self._temperature, iterations=self._iterations, unconverged="allow"
            )
            found |= dict(zip(names, normalized, strict=True))
        return found

    def permuted(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return softly permuted tensors, differentiable in the logits."""
        own = self._matrices()
        outer_groups = {name: self._layout.groups[name].within for name in own}
        matrices = {
            name: matrix if outer is None else own[outer][:, None, :, None] * matrix[:, :, None]
            for (name, matrix), outer in zip(own.items(), outer_groups.values(), strict=True)
        }

        def act(cell: Tensor, atoms: tuple[Atom, ...]) -> Tensor:
            return act_softly(self._layout, matrices, cell, atoms)

        stacked = self._layout.stacked(tensors)
        permuted = {name: map_cells(tensor, self._layout.axes[name], act) for name, tensor in stacked.items()}
        return self._layout.unstacked(permuted)

    def rounded(self) -> Permutation:
        """Return the permutations nearest to the matrices."""
        indices = dict(self._initial.indices)
        for name, matrix in self._matrices().items():
            indices[name] = solve_assignment(matrix.detach()).cpu()
        return Permutation(self._layout, indices)


@final
class _Distance:
    """The squared distance between the weights."""

    def __init__(self, problem: MatchProblem) -> None:
        self._reference = widened(problem.reference.mean)
        self.candidate = widened(problem.candidate.mean)
        self.batches: list[Batch] = [None] * _STEPS

    def soft(self, permuted: Mapping[str, Tensor], permutation: Permutation, batch: Batch) -> Tensor:
        """Return the squared distance to softly permuted weights."""
        del permutation, batch
        return torch.stack([(t - permuted[name]).square().sum() for name, t in self._reference.items()]).sum()

    def hard(self, permutation: Permutation) -> float:
        """Return minus the squared distance after a permutation."""
        return -squared_distance(self._reference, permutation.apply(self.candidate))


@final
class _Between:
    """The loss at the midpoint, or at a random point between the networks."""

    def __init__(self, problem: MatchProblem, likelihood: Likelihood, kind: SinkhornLoss) -> None:
        self.loss = MidpointLoss(problem, likelihood)
        self.candidate = self.loss.candidate
        self._generator = problem.generator
        self._kind = kind
        self.batches: list[Batch] = list(self.loss.batches)
        # All examples have equal weight, although batches may differ in size.
        self._weight = len(self.batches) / sum(len(targets) for _, targets in self.loss.batches)

    def soft(self, permuted: Mapping[str, Tensor], permutation: Permutation, batch: Batch) -> Tensor:
        """Return the loss on a batch with softly permuted weights."""
        assert batch is not None  # ruff: ignore[assert] - these batches hold data
        uniform = torch.rand((), generator=self._generator, device=self._generator.device).item()
        weight = self._weight * len(batch[1])
        return weight * self.loss.at(permuted, permutation, *batch, t=uniform if self._kind == "random" else 0.5)

    def hard(self, permutation: Permutation) -> float:
        """Return minus the loss at the midpoint on all data, after a permutation."""
        return -self.loss.of(permutation)
