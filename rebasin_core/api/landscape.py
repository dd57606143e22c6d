"""Barriers of several networks: between all pairs, and from the barycenter to each network."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import torch
from tqdm import tqdm
from typing_extensions import override

from rebasin_core.api.conversion import PosteriorLike, as_posterior, as_posteriors
from rebasin_core.api.evaluation import barrier
from rebasin_core.api.matching import match
from rebasin_core.barriers.drawing import new_axes
from rebasin_core.barriers.plots import plot_curves
from rebasin_core.errors import FileFormatError, InvalidInputError
from rebasin_core.evaluation.task import require_task
from rebasin_core.posteriors.barycenters import barycenter_or_moments
from rebasin_core.report.drawing import draw_barrier_matrix
from rebasin_core.tensors.files import read_tensors, write_tensors
from rebasin_core.tensors.frames import data_frame
from rebasin_core.tensors.reading import shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from torch import Tensor

    from rebasin_core.barriers.base import BarrierEstimator
    from rebasin_core.barriers.curve import LossCurve
    from rebasin_core.evaluation.task import Task
    from rebasin_core.matchers.base import Matcher
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.specs.base import PermutationSpec

# Kind of the files of barrier matrices.
_MATRIX = "barrier_matrix"


@final
@dataclass(frozen=True, slots=True)
class BarrierMatrix:
    """Barriers between all pairs of K networks or posteriors.

    Attributes:
        unaligned: Symmetric ``[K, K]`` matrix of barriers before alignment; zero on the diagonal.
        unaligned_stderr: ``[K, K]``: Monte Carlo standard errors of ``unaligned``.
        aligned: Symmetric ``[K, K]`` matrix of barriers after aligning the second network of each pair with the first;
            None without a specification.
        aligned_stderr: ``[K, K]``: Monte Carlo standard errors of ``aligned``; None without a specification.
    """

    unaligned: Tensor
    unaligned_stderr: Tensor
    aligned: Tensor | None
    aligned_stderr: Tensor | None

    def to_frame(self) -> pd.DataFrame:
        """Return a pandas data frame with a row for each pair: indices, barriers and standard errors.

        Raises:
            PluginError: If pandas is not installed.
        """
        pairs = list(combinations(range(len(self.unaligned)), 2))
        columns: dict[str, list[float]] = {"first": [i for i, _ in pairs], "second": [j for _, j in pairs]}
        for name in ("unaligned", "unaligned_stderr", "aligned", "aligned_stderr"):
            values = getattr(self, name)
            if values is not None:
                columns[name] = [values[pair].item() for pair in pairs]
        return data_frame(columns)

    def save(self, path: Path | str) -> None:
        """Write the matrices to a safetensors file, atomically.

        Args:
            path: Path of the file, which is replaced if it exists.

        Raises:
            StorageError: If it cannot be written.
        """
        every = {name: getattr(self, name) for name in self.__slots__}
        write_tensors(path, {n: t for n, t in every.items() if t is not None}, kind=_MATRIX, document={})

    @classmethod
    def load(cls, path: Path | str) -> BarrierMatrix:
        """Read matrices written by `save`.

        Args:
            path: Path of the file.

        Returns:
            Equal matrices.

        Raises:
            FileFormatError: If the file is missing or damaged, or of another kind.
        """
        tensors, _ = read_tensors(path, kind=_MATRIX)
        names = ("unaligned", "unaligned_stderr", "aligned", "aligned_stderr")
        if not set(names[:2]) <= tensors.keys() <= set(names):
            message = f"{shown(Path(path))}: expected the tensors {names}, got {sorted(tensors)}"
            raise FileFormatError(message)
        first, second = names[:2]
        return cls(tensors[first], tensors[second], tensors.get("aligned"), tensors.get("aligned_stderr"))

    def plot(self, axes: Axes | None = None, *, labels: Sequence[str] | None = None) -> Axes:
        """Plot the barriers after alignment, or before alignment if there was no specification.

        Args:
            axes: Matplotlib axes; those of a new figure if None.
            labels: Label of each network; their indices if None.

        Returns:
            The axes.

        Raises:
            PluginError: If matplotlib is not installed.
        """
        axes = new_axes() if axes is None else axes
        draw_barrier_matrix(axes, self.unaligned if self.aligned is None else self.aligned, labels=labels)
        return axes

    @override
    def __str__(self) -> str:
        """Return the mean and the largest barrier over all pairs, before and after alignment."""
        pairs = torch.triu_indices(len(self.unaligned), len(self.unaligned), offset=1)
        matrices = {"unaligned": self.unaligned, "aligned": self.aligned}
        parts = {name: matrix[pairs[0], pairs[1]] for name, matrix in matrices.items() if matrix is not None}
        return "\n".join(
            f"{name}: mean barrier {values.mean().item():.4g}, largest {values.max().item():.4g} ({len(values)} pairs)"
            for name, values in parts.items()
        )


def barrier_matrix(
    networks: Sequence[PosteriorLike],
    task: Task,
    *,
    spec: PermutationSpec | None = None,
    matcher: Matcher | str | Mapping[str, object] = "wasserstein",
    estimator: BarrierEstimator | str | Mapping[str, object] | None = None,
    progress: bool = False,
    **options: Any,  # ruff: ignore[any-type] - those of `barrier`
) -> BarrierMatrix:
    """Estimate the barriers between all pairs, before and, with a specification, after alignment.

    Args:
        networks: At least two networks or posteriors; anything that `as_posterior` accepts.
        task: Model, data and likelihood; matchers that need data use its calibration data.
        spec: Permutation symmetries; None for unaligned barriers only.
        matcher: A registered name, a mapping with ``name`` and options, or an instance. It aligns the second network of
            each pair with the first.
        estimator: As for `barrier`.
        progress: Whether to show a progress bar.
        **options: Further arguments of `barrier`: ``num_points``, ``num_samples``, ``path``, ``metric``.

    Returns:
        The matrices.

    Raises:
        InvalidInputError: If there are fewer than two networks, or they do not fit each other.
    """
    require_task(task)
    posteriors = as_posteriors(networks, model=task.model)
    if len(posteriors) < 2:
        message = f"expected at least two networks, got {len(posteriors)}"
        raise InvalidInputError(message)
    held = task.held()
    count = len(posteriors)
    matrices = {label: torch.zeros((2, count, count), dtype=torch.float64) for label in ("unaligned", "aligned")}

    def record(label: str, i: int, j: int, curve: LossCurve) -> None:
        values = torch.tensor([curve.height, curve.height_stderr], dtype=torch.float64)
        matrices[label][:, i, j] = matrices[label][:, j, i] = values

    pairs = list(combinations(range(count), 2))
    for i, j in tqdm(pairs, desc="pairs", leave=False, disable=not progress):
        first = posteriors[i]
        second = posteriors[j]
        record("unaligned", i, j, barrier(first, second, held, estimator=estimator, **options))
        if spec is not None:
            aligned = match(first, second, spec, matcher, task=held).apply(second)
            record("aligned", i, j, barrier(first, aligned, held, estimator=estimator, **options))
    heights = matrices["aligned"] if spec is not None else (None, None)
    return BarrierMatrix(matrices["unaligned"][0], matrices["unaligned"][1], heights[0], heights[1])


@final
@dataclass(frozen=True, slots=True)
class Star:
    """Loss curves from the center of several posteriors to each of them.

    Attributes:
        center: The barycenter, or the given center.
        curves: The loss curve from the center (t = 0) to each posterior (t = 1).
        is_barycenter: Whether `center` is the 2-Wasserstein barycenter. If none is registered for these classes of
            posteriors, it is false and `center` is their `moment_barycenter`. Also false if a center was given.
    """

    center: Posterior
    curves: tuple[LossCurve, ...]
    is_barycenter: bool = True

    def plot(self, axes: Axes | None = None, *, labels: Sequence[str] | None = None, excess: bool = False) -> Axes:
        """Plot all curves in one figure.

        Args:
            axes: Matplotlib axes; those of a new figure if None.
            labels: Label of each posterior; their indices if None.
            excess: Whether to plot the excess over the linear interpolation of the endpoint losses, not the loss.

        Returns:
            The axes.

        Raises:
            PluginError: If matplotlib is not installed.
        """
        names = [str(index) for index in range(len(self.curves))] if labels is None else labels
        return plot_curves(dict(zip(names, self.curves, strict=True)), axes, excess=excess)


def star(
    networks: Sequence[PosteriorLike],
    task: Task,
    *,
    center: PosteriorLike | None = None,
    estimator: BarrierEstimator | str | Mapping[str, object] | None = None,
    **options: Any,  # ruff: ignore[any-type] - those of `barrier`
) -> Star:
    """Estimate the loss along the paths from a center of aligned posteriors to each of them.

    Args:
        networks: At least one network or posterior, already aligned with each other.
        task: Model, data and likelihood.
        center: The center, such as one of `fit_center`; the barycenter of the posteriors if None.
        estimator: As for `barrier`.
        **options: Further arguments of `barrier`.

    Returns:
        The center and the curves.

    Raises:
        InvalidInputError: If the networks do not fit each other, the model or the data.
    """
    require_task(task)
    posteriors = as_posteriors(networks, model=task.model)
    middle, is_barycenter = _center(posteriors, center, task)
    held = task.held()
    curves = [barrier(middle, q, held, estimator=estimator, **options) for q in posteriors]
    return Star(middle, tuple(curves), is_barycenter)


def _center(posteriors: Sequence[Posterior], center: PosteriorLike | None, task: Task) -> tuple[Posterior, bool]:
    """Return the given center or the barycenter, and whether it is the 2-Wasserstein barycenter."""
    if center is None:
        return barycenter_or_moments(posteriors)
    return as_posterior(center, model=task.model), False
