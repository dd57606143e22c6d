"""Joint alignment of many networks by the loss of their random averages."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch
from tqdm import tqdm

from rebasin_core.api.many import ManyMatch, mean_squared_distance
from rebasin_core.api.volumes import training_of
from rebasin_core.bilinear.coordinate_descent import CoordinateDescent
from rebasin_core.errors import InvalidInputError
from rebasin_core.landscapes.fitting import batch_loss, require_finite_loss, weighted_batches
from rebasin_core.landscapes.growth import FitOptions
from rebasin_core.landscapes.points import weighted_sum
from rebasin_core.landscapes.simplex import uniform_weights
from rebasin_core.specs.base import require_spec
from rebasin_core.symmetry.permutation import Permutation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from rebasin_core.api.conversion import PosteriorLike
    from rebasin_core.evaluation.predictive import HeldTask
    from rebasin_core.evaluation.task import Task
    from rebasin_core.posteriors.point import PointPosterior
    from rebasin_core.specs.base import PermutationSpec


def match_many_on_data(  # ruff: ignore[too-many-arguments] - options of the training, keyword-only after the third
    networks: Sequence[PosteriorLike],
    spec: PermutationSpec,
    task: Task,
    *,
    epochs: int = 5,
    learning_rate: float = 1e-3,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> ManyMatch:
    r"""Jointly align many networks by the straight-through estimator: minimize the loss of their random averages.

    The first network stays fixed. Each other network $k$ is matched to trainable weights $\hat\theta_k$, which are
    $\theta_1$ at first:

    $$ P_k = \operatorname*{argmax}_P \langle \hat\theta_k, P \theta_k \rangle, \qquad
       \min_{\hat\theta} \; \mathbb E_w\, L\Big(\sum_k w_k \big(P_k \theta_k + \hat\theta_k -
       \mathrm{stop}(\hat\theta_k)\big)\Big) $$

    with $w$ uniform on the simplex. After each epoch, the loss of the mean of the permuted networks is evaluated on the
    data; the best permutations are returned.

    Args:
        networks: Networks, at least two; of posteriors, the means.
        spec: Permutation symmetries of the network.
        task: Model, data and likelihood. Its calibration data are used, which should be training data.
        epochs: Number of passes over the data.
        learning_rate: Initial learning rate of Adam; it decreases to zero along a half cosine.
        generator: Random number generator; seeded with 0 if None.
        progress: Whether to show a progress bar.

    Returns:
        The permutations, the permuted networks, and the loss of their mean after each epoch. ``trace`` has the mean
        squared distance to the barycenter before and after; it can increase.

    Raises:
        InvalidInputError: If there are fewer than two networks, or they, the specification, the model and the data do
            not fit each other.
        ConfigError: If an option is out of range.
        DivergenceError: If training diverges.

    References:
        A. Ito, M. Yamada, A. Kumagai (2025), "Linear mode connectivity between multiple models modulo permutation
        symmetries", ICML, PMLR 267 (STE-MM); S. Ainsworth, J. Hayase, S. Srinivasa (2023), "Git Re-Basin", ICLR, arXiv
        2209.04836, algorithm 3.

    Examples:
        >>> import torch
        >>> from rebasin_core import Task, match_many_on_data, trace_spec
        >>> models = [torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)) for _ in "abc"]
        >>> task = Task(models[0], [(torch.ones(4, 1), torch.tensor([0, 1, 0, 1]))])
        >>> found = match_many_on_data(models, trace_spec(models[0], torch.ones(1, 1)), task, epochs=1)
        >>> found.permutations[0].is_identity, len(found.posteriors), len(found.losses)
        (True, 3, 2)
    """
    require_spec(spec)
    options = FitOptions(epochs=epochs, learning_rate=learning_rate)
    points, held = training_of(networks, task)
    if len(points) < 2:
        message = f"expected at least two networks, got {len(points)}"
        raise InvalidInputError(message)
    spec.require_fit({**points[0].mean, **points[0].buffers}, "the specification")
    generator = generator or torch.Generator().manual_seed(0)
    with torch.no_grad():
        search = _StraightThrough(points, spec, held, options, generator)
        search.run(progress=progress)
    uniform = [1 / len(points)] * len(points)
    posteriors = tuple(p.apply(q) for p, q in zip(search.best, points, strict=True))
    trace = mean_squared_distance(points, uniform), mean_squared_distance(posteriors, uniform)
    return ManyMatch(tuple(search.best), posteriors, trace, tuple(search.losses))


@final
class _StraightThrough:
    """Permutations that are matched to trained weights.

    Args:
        points: The networks, the first of which stays fixed.
        spec: Permutation symmetries.
        task: Model, training data and likelihood.
        options: Number of epochs and learning rate.
        generator: Random number generator.
    """

    def __init__(
        self,
        points: Sequence[PointPosterior],
        spec: PermutationSpec,
        task: HeldTask,
        options: FitOptions,
        generator: torch.Generator,
    ) -> None:
        self._layout = spec.layout
        self._task = task
        self._options = options
        self._generator = generator
        self._tensors = [{**point.mean, **point.buffers} for point in points]
        first = points[0].mean
        self._trained = [{n: t.clone().requires_grad_() for n, t in first.items()} for _ in points[1:]]
        matched = [self._matched(index, None, sweeps=100) for index in range(1, len(points))]
        self._current = [spec.identity(), *matched]
        self.best = list(self._current)
        self.losses = [self._loss_of_mean()]

    def run(self, *, progress: bool) -> None:
        """Train, and keep the permutations with the smallest loss of the mean."""
        epochs = self._options.epochs
        leaves = [tensor for weights in self._trained for tensor in weights.values()]
        optimizer = torch.optim.Adam(leaves, lr=self._options.learning_rate)
        steps = max(1, epochs * len(self._task.batches))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in tqdm(range(epochs), desc="match many", unit="epoch", leave=False, disable=not progress):
            for batch, weight in weighted_batches(self._task):
                with torch.enable_grad():
                    optimizer.zero_grad()
                    loss = weight * batch_loss(self._task, self._random_average(), batch)
                    loss.backward()
                require_finite_loss(loss.item(), "weights")
                optimizer.step()
                schedule.step()
                for index in range(1, len(self._current)):
                    self._current[index] = self._matched(index, self._current[index], sweeps=1)
            loss_of_mean = self._loss_of_mean()
            if loss_of_mean < min(self.losses):
                self.best = list(self._current)
            self.losses.append(loss_of_mean)

    def _permuted(self) -> list[dict[str, Tensor]]:
        return [p.apply(tensors) for p, tensors in zip(self._current, self._tensors, strict=True)]

    def _random_average(self) -> dict[str, Tensor]:
        """Return a random average of the permuted networks, with the gradient of the trained weights."""
        permuted = self._permuted()
        through = [permuted[0]]
        for tensors, trained in zip(permuted[1:], self._trained, strict=True):
            gradients = {name: tensor - tensor.detach() for name, tensor in trained.items()}
            through.append({n: t + gradients[n] if n in gradients else t for n, t in tensors.items()})
        return weighted_sum(through, uniform_weights(1, len(through), generator=self._generator)[0].tolist())

    def _loss_of_mean(self) -> float:
        permuted = self._permuted()
        mean = weighted_sum(permuted, [1 / len(permuted)] * len(permuted))
        losses = [weight * batch_loss(self._task, mean, batch).item() for batch, weight in weighted_batches(self._task)]
        return sum(losses) / len(losses)

    def _matched(self, index: int, initial: Permutation | None, *, sweeps: int) -> Permutation:
        """Return the weight matching of a network to its trained weights."""
        trained: Mapping[str, Tensor] = self._trained[index - 1]
        own = self._tensors[index]
        reference = {name: tensor.detach().unsqueeze(0) for name, tensor in trained.items()}
        candidate = {name: own[name].unsqueeze(0) for name in trained}
        solver = CoordinateDescent(
            self._layout, reference, candidate, initial=None if initial is None else initial.indices
        )
        if initial is None:
            solver.initialize_greedily()
        solver.run(self._generator, sweeps)
        return Permutation(self._layout, solver.indices)
