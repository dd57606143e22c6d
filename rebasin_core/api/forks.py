"""Instability analysis: the barrier between two trainings that share their first steps."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, final

import torch
from torch import nn
from tqdm import tqdm

from rebasin_core.api.evaluation import barrier
from rebasin_core.api.matching import match
from rebasin_core.barriers.drawing import new_axes
from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.batches import checked_batches
from rebasin_core.evaluation.predictive import EpochBatches
from rebasin_core.evaluation.task import require_task
from rebasin_core.inference.base import Inference
from rebasin_core.tensors.modules import unwrapped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from matplotlib.axes import Axes

    from rebasin_core.barriers.base import BarrierEstimator
    from rebasin_core.barriers.curve import LossCurve
    from rebasin_core.evaluation.batches import Batch, Batches
    from rebasin_core.evaluation.task import Task
    from rebasin_core.matchers.base import Matcher
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.specs.base import PermutationSpec


@final
@dataclass(frozen=True, slots=True, eq=False)
class Instability:
    """Barriers between the two children of a training, by the step at which they were forked.

    Attributes:
        steps: Number of shared steps of each pair, increasing.
        curves: Loss curve between the two children of each pair. Its ``height`` is the instability.
        aligned: Loss curves after alignment of the second child with the first; empty without a specification.
        children: The two posteriors of each pair.
    """

    steps: tuple[int, ...]
    curves: tuple[LossCurve, ...]
    aligned: tuple[LossCurve, ...]
    children: tuple[tuple[Posterior, Posterior], ...]

    @property
    def heights(self) -> tuple[float, ...]:
        """The barrier of each pair, before alignment."""
        return tuple(curve.height for curve in self.curves)

    def plot(self, axes: Axes | None = None) -> Axes:
        """Plot the barriers against the number of shared steps.

        Args:
            axes: Matplotlib axes; those of a new figure if None.

        Returns:
            The axes.

        Raises:
            PluginError: If matplotlib is not installed.
        """
        axes = new_axes() if axes is None else axes
        for curves, label in ((self.curves, "unaligned"), (self.aligned, "aligned")):
            if curves:
                errors = [2 * curve.height_stderr for curve in curves]
                axes.errorbar(self.steps, [curve.height for curve in curves], errors, marker="o", label=label)
        # Steps grow by factors, and 0 is one of them.
        axes.set_xscale("symlog", linthresh=1)
        axes.set_xlabel("shared steps")
        axes.set_ylabel(f"barrier ({self.curves[0].unit})" if self.curves[0].unit else "barrier")
        axes.legend()
        return axes


def instability(  # ruff: ignore[too-many-arguments] - the parts of the experiment, keyword-only after the third
    model: nn.Module,
    task: Task,
    batches: Callable[[int], Batches],
    *,
    steps: Sequence[int],
    inference: Inference | str | Mapping[str, object] = "map",
    seeds: tuple[int, int, int] = (0, 1, 2),
    spec: PermutationSpec | None = None,
    matcher: Matcher | str | Mapping[str, object] = "wasserstein",
    estimator: BarrierEstimator | str | Mapping[str, object] | None = None,
    progress: bool = False,
    **options: Any,  # ruff: ignore[any-type] - those of `barrier`
) -> Instability:
    """Train two networks that share their first k steps, and estimate the barrier between them, for several k.

    Both children start at the network after k steps of a training, and are trained up to the same total number of steps
    with two orders of the data (and two streams of noise and augmentation). The k from which on the barrier vanishes is
    the onset of linear mode connectivity. Optimizers and learning-rate schedules restart at the fork, and standard
    deviations of posteriors are initialized there.

    Args:
        model: The network at initialization; not changed.
        task: Model, data and likelihood of the barrier; matchers that need data use its calibration data.
        batches: Returns the training batches for a seed of their order, such as
            ``lambda seed: data.train.batches(64, shuffle_seed=seed)``.
        steps: Numbers k of shared steps (batches), at least 0 and less than the total number of steps.
        inference: Inference method with ``epochs``, which is the total number of passes over the data: an instance, a
            name, or a mapping with ``name`` and options.
        seeds: Seeds of the data order and of the noise: of the shared steps, and of the two children.
        spec: Permutation symmetries; None for unaligned barriers only.
        matcher: Aligns the second child with the first.
        estimator: As for `barrier`.
        progress: Whether to show progress bars.
        **options: Further arguments of `barrier`: ``num_points``, ``num_samples``, ``path``, ``metric``.

    Returns:
        The loss curves by the number of shared steps.

    Raises:
        InvalidInputError: If a number of steps is out of range, the two children have the same seed, or model and data
            do not fit each other.
        ConfigError: If the method has no ``epochs``.
        DivergenceError: If training diverges.

    References:
        J. Frankle et al. (2020), "Linear mode connectivity and the lottery ticket hypothesis", ICML, arXiv 1912.05671,
        section 2.

    Examples:
        >>> import torch
        >>> from rebasin_core import Task, data, instability
        >>> examples = data.Examples(torch.randn(8, 2), torch.arange(8) % 2)
        >>> model = torch.nn.Linear(2, 2)
        >>> task = Task(model, examples.batches(8))
        >>> method = {"name": "map", "epochs": 2}
        >>> found = instability(model, task, lambda seed: examples.batches(4, shuffle_seed=seed), steps=[0, 3],
        ...     inference=method, num_points=3)
        >>> found.steps, len(found.children)
        ((0, 3), 2)
    """
    require_task(task)
    if len(set(seeds[1:])) < 2:
        message = f"expected different seeds of the two children, got {seeds!r}"
        raise InvalidInputError(message)
    training = _Training(model, task, batches, Inference.of(inference))
    chosen = training.checked(steps)
    held = task.held()
    children: list[tuple[Posterior, Posterior]] = []
    curves: list[LossCurve] = []
    aligned: list[LossCurve] = []
    for count in tqdm(chosen, desc="forks", leave=False, disable=not progress):
        start = training.shared(count, seeds[0], progress=progress)
        first = training.child(start, count, seeds[1], progress=progress)
        second = training.child(start, count, seeds[2], progress=progress)
        children.append((first, second))
        curves.append(barrier(first, second, held, estimator=estimator, **options))
        if spec is not None:
            matched = match(first, second, spec, matcher, task=held).apply(second)
            aligned.append(barrier(first, matched, held, estimator=estimator, **options))
    return Instability(tuple(chosen), tuple(curves), tuple(aligned), tuple(children))


def _batches_of(batches: object) -> object:
    """Return the batches for seed 0; raise if there is no function that returns them."""
    expected = "expected a function of a seed that returns training batches as `batches`"
    if not callable(batches):
        message = f"{expected}, got {batches!r}"
        raise InvalidInputError(message)
    try:
        found: object = batches(0)
    except TypeError as error:
        message = f"{expected}, got {batches!r}, which raises {error}"
        raise InvalidInputError(message) from error
    return found


@final
class _Training:
    """A training whose first steps are shared.

    Args:
        model: The network at initialization.
        task: The task; gives the likelihood.
        batches: Returns the batches for a seed.
        inference: The inference method.
    """

    def __init__(self, model: nn.Module, task: Task, batches: Callable[[int], Batches], inference: Inference) -> None:
        self._model = unwrapped(model)
        self._likelihood = task.likelihood
        self._batches = batches
        first = _batches_of(batches)
        self._inference = inference
        inference.replace(epochs=1)  # raises an error if the method has no epochs
        self._epochs = int(inference.model_dump()["epochs"])
        sizes = [len(targets) for _, targets in checked_batches(first)]
        if not sizes:
            message = "expected at least one training batch, got an empty dataset"
            raise InvalidInputError(message)
        self._per_epoch = len(sizes)
        self._num_examples = sum(sizes)

    def checked(self, steps: Sequence[int]) -> list[int]:
        """Return the numbers of shared steps in increasing order; raise if one is out of range."""
        total = self._epochs * self._per_epoch
        given: object = steps
        counts = list(given) if isinstance(given, Iterable) and not isinstance(given, torch.Tensor) else []
        if not counts or not all(count in range(total) for count in counts):
            message = (
                f"expected numbers of shared steps from 0 to {total - 1} ({self._epochs} epochs of {self._per_epoch} "
                f"batches), got {steps!r}"
            )
            raise InvalidInputError(message)
        return sorted({int(count) for count in counts})

    def shared(self, count: int, seed: int, *, progress: bool) -> nn.Module:
        """Return the network after a number of steps."""
        if not count:
            return self._model
        stream = _Stream(self._batches(seed), count)
        return self._loaded(self._fitted(self._model, stream, 1, seed, progress=progress))

    def child(self, start: nn.Module, count: int, seed: int, *, progress: bool) -> Posterior:
        """Return the posterior after the remaining steps."""
        done, partial = divmod(count, self._per_epoch)
        remaining = _Remaining(self._batches(seed), done, partial)
        return self._fitted(start, remaining, self._epochs - done, seed, progress=progress)

    def _fitted(self, model: nn.Module, data: Batches, epochs: int, seed: int, *, progress: bool) -> Posterior:
        return (
            self._inference
            .replace(epochs=epochs)
            .fit(
                model,
                data,
                likelihood=self._likelihood,
                num_examples=self._num_examples,
                generator=torch.Generator().manual_seed(seed),
                progress=progress,
            )
            .posterior
        )

    def _loaded(self, posterior: Posterior) -> nn.Module:
        model = copy.deepcopy(self._model)
        model.load_state_dict({**posterior.mean, **posterior.buffers}, strict=False)
        return model


@final
class _Stream:
    """The first batches of a training as one pass, over one or several epochs."""

    def __init__(self, data: Batches, count: int) -> None:
        self._data = data
        self._count = count

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches."""
        left = self._count
        epoch = 0
        while left:
            _set_epoch(self._data, epoch)
            for batch in islice(self._data, left):
                yield batch
                left -= 1
            epoch += 1


@final
class _Remaining:
    """The epochs of a training from a step on; the first pass is the rest of its epoch."""

    def __init__(self, data: Batches, done: int, partial: int) -> None:
        self._data = data
        self._done = done
        self._partial = partial
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch since the fork."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches of the epoch."""
        _set_epoch(self._data, self._done + self._epoch)
        yield from islice(self._data, 0 if self._epoch else self._partial, None)


def _set_epoch(data: Batches, epoch: int) -> None:
    if isinstance(data, EpochBatches):
        data.set_epoch(epoch)
