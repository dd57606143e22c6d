"""A loss curve along a path, and the barrier on it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from typing_extensions import override

from rebasin_core.barriers.chord import excess_over_chord, interior_maximum
from rebasin_core.barriers.curve_json import KIND, VERSION, checked_attributes
from rebasin_core.barriers.drawing import draw_band, new_axes
from rebasin_core.barriers.notes import curve_notes
from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.metric import Metric
from rebasin_core.evaluation.trust import degrees_of_freedom, interval
from rebasin_core.tensors.files import write_json
from rebasin_core.tensors.frames import data_frame
from rebasin_core.tensors.reading import checked_record, read_json
from rebasin_core.tensors.statistics import mean_stderr

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd
    import torch
    from matplotlib.axes import Axes

    from rebasin_core.evaluation.loss import LossEstimate


# Names of attributes in files of earlier versions.
_FORMER = {"above": "excess", "above_stderr": "excess_stderr"}
# Derived values: written for those who read the files, ignored by `from_json`.
_DERIVED = ("interior_excess", "interior_excess_stderr", "interior_location")


@final
@dataclass(frozen=True, slots=True)
class LossCurve:
    r"""The loss along a path $q_t$ between two posteriors, and the barrier on it.

    $$ B = \max_t \; L(q_t) - \left[(1-t) L(q_0) + t L(q_1)\right]. $$

    Attributes:
        t: Interpolation coefficients, from 0 to 1.
        loss: Predictive loss at each t, nats per example; or another metric.
        stderr: Monte Carlo standard error of ``loss``; NaN for a single sample, 0 for single networks.
        data_stderr: Standard error of ``loss`` from the finite dataset.
        excess: $L(q_t) - [(1 - t) L(q_0) + t L(q_1)]$.
        excess_stderr: Monte Carlo standard error of ``excess``, paired over samples (common random numbers).
        gibbs: Gibbs loss: the mean over samples of the loss of a single network, nats per example.
        bias: Estimated upward bias of ``loss`` due to the finite number of samples; ``loss - bias`` is corrected.
        score: Score of the averaged prediction, such as the accuracy or the mean squared error.
        score_name: Name of the score.
        height: The barrier $B$, at least 0 because the endpoints are on the path: the interior excess, or 0 if that is
            negative.
        height_stderr: Monte Carlo standard error of the interior excess, paired over samples.
        height_data_stderr: Standard error of the interior excess from the finite dataset, paired over examples.
        location: The $t$ at which the excess is largest; 0 or 1 if it is negative at all interior points.
        metric: Name of the metric that is reported as the loss.
        height_bias: Estimated upward bias of the interior excess due to the finite number of samples;
            ``interior_excess - height_bias`` is corrected.
        label: Name of the metric in figures, such as ``Brier score``.
        unit: Unit of the metric; empty if it has none.
        degrees: Degrees of freedom of ``height_stderr``: 0 for single networks, NaN if unknown.
        effective_samples: Effective number of samples $(\sum_s p_s)^2 / \sum_s p_s^2$ of the loss of an example: the
            median over examples, at each t. Empty for metrics other than the predictive loss.
        least_effective_samples: The minimum over examples instead of the median.
        baseline: The metric of the best constant prediction (for classification, the class frequencies); NaN if
            unknown.
        notes: Caveats: endpoints that are no better than the baseline, worse than the midpoint, or copies of one
            network; standard errors that cannot be trusted.

    References:
        S. Ainsworth, J. Hayase, S. Srinivasa (2023), arXiv 2209.04836, definition 2.2 (for networks of equal loss);
        S. Rossi, A. Singh, T. Hannagan (2023), arXiv 2310.10171 (marginalized).
    """

    t: tuple[float, ...]
    loss: tuple[float, ...]
    stderr: tuple[float, ...]
    data_stderr: tuple[float, ...]
    excess: tuple[float, ...]
    excess_stderr: tuple[float, ...]
    gibbs: tuple[float, ...]
    bias: tuple[float, ...]
    score: tuple[float, ...]
    score_name: str
    height: float
    height_stderr: float
    height_data_stderr: float
    location: float
    metric: str = "nll"
    height_bias: float = math.nan
    label: str = "loss"
    unit: str = "nats per example"
    degrees: float = math.nan
    effective_samples: tuple[float, ...] = ()
    least_effective_samples: tuple[float, ...] = ()
    baseline: float = math.nan
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        t: Sequence[float],
        estimates: Sequence[LossEstimate],
        *,
        random: bool,
        metric: Metric | str = "nll",
        baseline: float = math.nan,
    ) -> LossCurve:
        """Return the curve through loss estimates that share noise and data.

        Args:
            t: Interpolation coefficients, increasing from 0 to 1.
            estimates: One estimate for each t, all with the same noise and the same examples.
            random: Whether these are Monte Carlo estimates; if not, all Monte Carlo errors are set to zero.
            metric: The metric that was estimated: an instance or a registered name.
            baseline: The metric of the best constant prediction; NaN if unknown.

        Returns:
            The curve.

        Raises:
            InvalidInputError: If t does not increase from 0 to 1.
        """
        if not t or (t[0], t[-1]) != (0.0, 1.0) or list(t) != sorted(t):
            message = f"expected interpolation coefficients that increase from 0 to 1, got {list(t)}"
            raise InvalidInputError(message)
        metric = Metric.of(metric)
        first = estimates[0]
        last = estimates[-1]

        def excess(part: str, point: float, at: LossEstimate) -> torch.Tensor:
            return excess_over_chord(part, point, at, first, last)

        pairs = list(zip(t, estimates, strict=True))
        heights = [excess("loss", *pair).item() for pair in pairs]
        top = interior_maximum(heights)
        influence = excess("sample_influence", *pairs[top])
        errors = [mean_stderr(excess("sample_influence", *pair)).item() if random else 0.0 for pair in pairs]
        return cls(
            t=tuple(t),
            **_along(estimates, random=random),
            excess=tuple(heights),
            excess_stderr=tuple(errors),
            score_name=first.score_name,
            height=max(heights[top], 0.0),
            height_stderr=errors[top],
            height_data_stderr=mean_stderr(excess("example_losses", *pairs[top])).item(),
            location=t[max(range(len(t)), key=heights.__getitem__)],
            metric=metric.name,
            height_bias=excess("bias", *pairs[top]).item(),
            label=metric.title,
            unit=metric.unit.replace("per example", "per element") if first.is_dense else metric.unit,
            degrees=degrees_of_freedom(influence, independent=estimates[top].independent) if random else 0.0,
            baseline=baseline,
            notes=curve_notes(t, estimates, top, random=random, baseline=baseline),
        )

    @property
    def interior_excess(self) -> float:
        """The largest excess at the interior points, signed; the height is its positive part."""
        return self.excess[interior_maximum(self.excess)]

    @property
    def interior_excess_stderr(self) -> float:
        """The Monte Carlo standard error of the interior excess, paired over samples."""
        return self.excess_stderr[interior_maximum(self.excess)]

    @property
    def interior_location(self) -> float:
        """The t at which the interior excess occurs."""
        return self.t[interior_maximum(self.excess)]

    @property
    def is_random(self) -> bool:
        """Whether the losses are Monte Carlo estimates; False for single networks."""
        return any(self.stderr)

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Return the Monte Carlo confidence interval of the interior excess: Student's t, corrected for the bias.

        Args:
            level: Nominal coverage probability, in (0, 1).

        Returns:
            Lower and upper limit; NaN if the error or its degrees of freedom are unknown.

        Raises:
            InvalidInputError: If the level is not in (0, 1).
        """
        bias = self.height_bias if math.isfinite(self.height_bias) else 0.0
        if not self.is_random:
            return self.interior_excess, self.interior_excess
        return interval(self.interior_excess - bias, self.interior_excess_stderr, self.degrees, level)

    @property
    def chord(self) -> tuple[float, ...]:
        """The linear interpolation of the endpoint losses, at every t."""
        return tuple((1 - t) * self.loss[0] + t * self.loss[-1] for t in self.t)

    def as_json(self) -> dict[str, Any]:
        """Return all attributes, and the interior excess with its error and location, as JSON; NaN becomes null."""
        return {name: _plain(getattr(self, name)) for name in (*self.__slots__, *_DERIVED)}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> LossCurve:
        """Return the curve written by `as_json`.

        Args:
            document: The parsed JSON.

        Returns:
            An equal curve (NaN for null).

        Raises:
            FileFormatError: If the document is not an object, or has another type or version.
            InvalidInputError: If attributes are missing, unknown or invalid.
        """
        document = checked_record(document, KIND, VERSION, unmarked=True)
        if "label" not in document and document.get("metric", "nll") != "nll":  # an earlier version wrote neither
            document = {**document, "label": document["metric"], "unit": ""}
        values = {_FORMER.get(name, name): _parsed(value) for name, value in document.items()}
        return cls(**checked_attributes(cls, {n: value for n, value in values.items() if n not in _DERIVED}))

    def save(self, path: Path | str) -> None:
        """Write the curve to a JSON file, atomically.

        Args:
            path: Path of the file, which is replaced if it exists.

        Raises:
            StorageError: If it cannot be written.
        """
        write_json(path, {"kind": KIND, "version": VERSION, **self.as_json()})

    @classmethod
    def load(cls, path: Path | str) -> LossCurve:
        """Read a curve written by `save`.

        Args:
            path: Path of the file.

        Returns:
            An equal curve.

        Raises:
            FileFormatError: If the file is missing or damaged, or has another type or version.
            InvalidInputError: If attributes are missing, unknown or invalid.
        """
        return cls.from_json(read_json(path))

    def to_frame(self) -> pd.DataFrame:
        """Return a pandas data frame with a row for each t: loss, excess, score and their errors.

        Raises:
            PluginError: If pandas is not installed.
        """
        names = ("t", "loss", "stderr", "data_stderr", "excess", "excess_stderr", "gibbs", "bias")
        columns = {name: list(getattr(self, name)) for name in names}
        return data_frame({**columns, self.score_name: list(self.score)})

    @override
    def __str__(self) -> str:
        """Return the barrier with its errors, the losses and scores at endpoints and midpoint, and the notes."""
        unit = f" {self.unit}" if self.unit else ""
        errors = [f"± {self.height_stderr:.2g} (Monte Carlo)"] if self.is_random else []
        errors.append(f"± {self.height_data_stderr:.2g} (data)")
        points = sorted({0, self.t.index(self.interior_location), len(self.t) - 1})
        lines = [
            f"barrier {self.height:.4g} {' '.join(errors)}{unit}, largest excess at t = {self.interior_location:.2g}",
            "  ".join(f"{self.label} {self.loss[k]:.4g} (t = {self.t[k]:.2g})" for k in points),
            "  ".join(f"{self.score_name} {self.score[k]:.4g} (t = {self.t[k]:.2g})" for k in points),
        ]
        return "\n".join([*lines, *self.notes])

    def plot(
        self,
        axes: Axes | None = None,
        *,
        excess: bool = False,
        label: str | None = None,
        color: str | None = None,
        style: str = "-",
    ) -> Axes:
        """Draw the curve with a band of two standard errors.

        Args:
            axes: Matplotlib axes; those of a new figure if None.
            excess: Whether to draw the excess over the linear interpolation of the endpoint losses, not the loss.
            label: Label in the legend.
            color: Matplotlib color; the next of the color cycle if None.
            style: Matplotlib line style.

        Returns:
            The axes.

        Raises:
            PluginError: If matplotlib is not installed.
        """
        axes = new_axes() if axes is None else axes
        values = self.excess if excess else self.loss
        stderr = self.excess_stderr if excess else self.stderr
        draw_band(axes, self.t, values, stderr, label=label, color=color, style=style)
        name = f"{self.label} ({self.unit})" if self.unit else self.label
        axes.set_xlabel("interpolation coefficient $t$")
        axes.set_ylabel(f"excess {name}" if excess else name)
        return axes


def _along(estimates: Sequence[LossEstimate], *, random: bool) -> dict[str, tuple[float, ...]]:
    """Return the attributes of a curve that hold one number for each estimate."""
    effective = [e.effective_samples for e in estimates if e.effective_samples is not None]
    return {
        "loss": tuple(e.loss for e in estimates),
        "stderr": tuple(e.stderr if random else 0.0 for e in estimates),
        "data_stderr": tuple(e.data_stderr for e in estimates),
        "gibbs": tuple(e.gibbs for e in estimates),
        "bias": tuple(e.bias for e in estimates),
        "score": tuple(e.score for e in estimates),
        "effective_samples": tuple(values.median().item() for values in effective),
        "least_effective_samples": tuple(values.min().item() for values in effective),
    }


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and value != value else value  # ruff: ignore[comparison-with-itself] - only NaN differs from itself


def _parsed(value: object) -> Any:  # ruff: ignore[any-type] - JSON
    if isinstance(value, list):
        return tuple(_parsed(item) for item in value)
    return float("nan") if value is None else value
