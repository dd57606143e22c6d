"""The straight-through estimator of Git Re-Basin: weight matching to trainable weights."""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, final

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from tqdm import tqdm
from typing_extensions import override

from rebasin_core.bilinear.coordinate_descent import CoordinateDescent
from rebasin_core.evaluation.likelihood import Likelihood
from rebasin_core.evaluation.likelihoods import CategoricalLikelihood
from rebasin_core.evaluation.predictive import batch_weights
from rebasin_core.matchers.base import Matcher, MatchOutcome, MatchProblem
from rebasin_core.matchers.midpoint import BY_LOSS, MidpointLoss
from rebasin_core.matchers.search import BestSoFar, interruptible
from rebasin_core.symmetry.permutation import Permutation

if TYPE_CHECKING:
    from torch import Tensor

    from rebasin_core.matchers.base import MatchResult


@final
class StraightThroughMatcher(Matcher):
    r"""Minimizes the loss at the midpoint over trainable weights $\hat\theta$, to which the candidate is matched.

    $$ P = \operatorname*{argmax}_P \langle \hat\theta, P \theta_1 \rangle, \qquad
       \hat\theta \leftarrow \hat\theta - \eta \nabla_{\hat\theta}\,
       L\left(\tfrac12 \theta_0 + \tfrac12 (P\theta_1 + \hat\theta - \mathrm{stop}(\hat\theta))\right) $$

    with $\hat\theta = \theta_0$ at first. $P$ is found by weight matching, initialized at the previous $P$. After every
    epoch the loss at the midpoint is evaluated on all data, and the best permutation is kept. For distributions, every
    step uses a sample of the posterior at the midpoint; standard deviations are permuted with the means. Batch
    normalization uses the statistics of each batch.

    Raises:
        ConfigError: If an option is invalid.
        InvalidInputError: On matching, without a model and data.

    References:
        S. Ainsworth, J. Hayase, S. Srinivasa (2023), "Git Re-Basin", ICLR, arXiv 2209.04836, algorithm 3.

    Examples:
        >>> StraightThroughMatcher(epochs=2)
        StraightThroughMatcher(epochs=2)
    """

    exempt_laws: ClassVar[Mapping[str, str]] = {"planted_permutation": BY_LOSS, "device_and_dtype": BY_LOSS}

    name: Literal["straight_through"] = "straight_through"

    epochs: PositiveInt = 5
    """Number of passes over the data."""

    learning_rate: Annotated[PositiveFloat, Field(allow_inf_nan=False)] = 1e-3
    """Learning rate of Adam."""

    sweeps: PositiveInt = 1
    """Number of sweeps of coordinate descent after each step."""

    likelihood: Likelihood = CategoricalLikelihood()
    """Likelihood of the targets given the network's outputs."""

    @override
    def _match(self, problem: MatchProblem) -> MatchResult:
        start = perf_counter()
        loss = MidpointLoss(problem, self.likelihood)
        best = BestSoFar(problem, lambda permutation: -loss.of(permutation))
        trained = {name: tensor.clone().requires_grad_() for name, tensor in loss.reference.items()}
        optimizer = torch.optim.Adam(list(trained.values()), lr=self.learning_rate)
        current = self._projected(problem, loss, trained, problem.initial, sweeps=100)
        best.update(current)
        weights = batch_weights(loss.batches)
        with interruptible(problem) as interruption:
            for _ in tqdm(range(self.epochs), desc="straight-through", leave=False, disable=not problem.progress):
                for (inputs, targets), weight in zip(loss.batches, weights, strict=True):
                    with torch.enable_grad():
                        permuted = current.apply(loss.candidate)
                        through = {n: tensor + trained[n] - trained[n].detach() for n, tensor in permuted.items()}
                        optimizer.zero_grad()
                        (weight * loss.at(through, current, inputs, targets)).backward()
                    optimizer.step()
                    current = self._projected(problem, loss, trained, current, sweeps=self.sweeps)
                best.update(current)
        return best.result(interruption.outcome(MatchOutcome.BUDGET), {"total": perf_counter() - start})

    @staticmethod
    def _projected(
        problem: MatchProblem,
        loss: MidpointLoss,
        trained: Mapping[str, Tensor],
        initial: Permutation | None,
        *,
        sweeps: int,
    ) -> Permutation:
        """Return the weight matching of the candidate to the trained weights; initialized greedily by default."""
        sides = ({name: t.detach().unsqueeze(0) for name, t in side.items()} for side in (trained, loss.candidate))
        solver = CoordinateDescent(problem.layout, *sides, initial=None if initial is None else initial.indices)
        if initial is None:
            solver.initialize_greedily()
        solver.run(problem.generator, sweeps)
        return Permutation(problem.layout, solver.indices)
