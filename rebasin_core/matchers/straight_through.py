"""The straight-through matcher of Git Re-Basin: weight matching onto weights that are learned."""

from __future__ import annotations

import math
from time import perf_counter
from typing import TYPE_CHECKING, final

import torch
from tqdm import tqdm
from typing_extensions import override

from rebasin_core.bilinear.coordinate_descent import CoordinateDescent
from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.likelihoods import as_likelihood
from rebasin_core.matchers.base import Matcher, MatchProblem
from rebasin_core.matchers.midpoint import MidpointLoss
from rebasin_core.matchers.result import MatchOutcome
from rebasin_core.matchers.search import BestSoFar, interruptible
from rebasin_core.symmetry.permutation import Permutation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from rebasin_core.evaluation.likelihood import Likelihood
    from rebasin_core.matchers.result import MatchResult


@final
class StraightThroughMatcher(Matcher):
    r"""Minimises the loss half-way by learning weights $\hat\theta$ onto which the candidate is matched.

    $$ P = \operatorname*{argmax}_P \langle \hat\theta, P \theta_1 \rangle, \qquad
       \hat\theta \leftarrow \hat\theta - \eta \nabla_{\hat\theta}\,
       L\left(\tfrac12 \theta_0 + \tfrac12 (P\theta_1 + \hat\theta - \mathrm{stop}(\hat\theta))\right) $$

    from $\hat\theta = \theta_0$ on, where $P$ is that of weight matching. The matching goes on from the one before, by
    a few sweeps. After every epoch the loss half-way is taken on all data; the best permutation is kept. Of
    distributions, networks are drawn between the two at every step, standard deviations moved along. Batch
    normalisations take the statistics of each batch.

    Args:
        epochs: Passes over the data, at least 1.
        learning_rate: Of Adam, positive.
        sweeps: Sweeps of coordinate descent a step, at least 1.
        likelihood: An instance or a name.

    Raises:
        InvalidInputError: If an option is out of range; on matching, without a model and data.

    References:
        S. Ainsworth, J. Hayase, S. Srinivasa (2023), "Git Re-Basin", ICLR, arXiv 2209.04836, algorithm 3.

    Example:
        >>> StraightThroughMatcher(epochs=2)  # doctest: +ELLIPSIS
        <...StraightThroughMatcher object at ...>
    """

    def __init__(
        self,
        *,
        epochs: int = 5,
        learning_rate: float = 1e-3,
        sweeps: int = 1,
        likelihood: Likelihood | str = "categorical",
    ) -> None:
        if epochs < 1 or sweeps < 1 or not (learning_rate > 0 and math.isfinite(learning_rate)):
            message = (
                f"expected epochs and sweeps of at least 1 and a positive learning rate, got {epochs!r}, {sweeps!r} "
                f"and {learning_rate!r}"
            )
            raise InvalidInputError(message)
        self._epochs, self._learning_rate, self._sweeps = epochs, learning_rate, sweeps
        self._likelihood = as_likelihood(likelihood)

    @override
    def _match(self, problem: MatchProblem) -> MatchResult:
        start = perf_counter()
        loss = MidpointLoss(problem, self._likelihood)
        best = BestSoFar(problem, lambda permutation: -loss.of(permutation))
        learned = {name: tensor.clone().requires_grad_() for name, tensor in loss.reference.items()}
        optimizer = torch.optim.Adam(list(learned.values()), lr=self._learning_rate)
        current = self._projected(problem, loss, learned, problem.initial, sweeps=100)
        best.offer(current)
        with interruptible(problem) as interruption:
            for _ in tqdm(range(self._epochs), desc="straight-through", leave=False, disable=not problem.progress):
                for inputs, targets in loss.batches:
                    with torch.enable_grad():
                        moved = current.apply(loss.candidate)
                        through = {n: tensor + learned[n] - learned[n].detach() for n, tensor in moved.items()}
                        optimizer.zero_grad()
                        loss.at(through, current, inputs, targets).backward()
                    optimizer.step()
                    current = self._projected(problem, loss, learned, current, sweeps=self._sweeps)
                best.offer(current)
        return best.result(interruption.outcome(MatchOutcome.BUDGET), {"total": perf_counter() - start})

    @staticmethod
    def _projected(
        problem: MatchProblem,
        loss: MidpointLoss,
        learned: Mapping[str, Tensor],
        initial: Permutation | None,
        *,
        sweeps: int,
    ) -> Permutation:
        """Return the weight matching of the candidate onto the learned weights, from a permutation (or the data) on."""
        sides = ({name: t.detach().unsqueeze(0) for name, t in side.items()} for side in (learned, loss.candidate))
        solver = CoordinateDescent(problem.layout, *sides, initial=None if initial is None else initial.indices)
        if initial is None:
            solver.initialize_greedily()
        solver.run(problem.generator, sweeps)
        return Permutation(problem.layout, solver.indices)
