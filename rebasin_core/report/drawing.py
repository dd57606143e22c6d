"""Plots on matplotlib axes: barrier matrices, loss planes, reliability diagrams and unit similarities."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from rebasin_core.errors import InvalidInputError
from rebasin_core.report.style import COLORS, SEQUENTIAL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage
    from torch import Tensor

# Larger matrices have no numbers in their cells.
_MAX_ANNOTATED = 10


def draw_barrier_matrix(
    axes: Axes, heights: Tensor, *, labels: Sequence[str] | None = None, largest: float | None = None
) -> None:
    """Plot a matrix of barriers; up to 10 networks, the values are written in the cells.

    Args:
        axes: Matplotlib axes.
        heights: ``[K, K]``: barriers in nats per example.
        labels: Label of each network; their indices if None.
        largest: Upper limit of the color scale, to compare matrices; the largest height if None.

    Raises:
        InvalidInputError: If the matrix is not square.
    """
    if heights.dim() != 2 or heights.shape[0] != heights.shape[1]:
        message = f"expected a square matrix of heights, got shape {list(heights.shape)}"
        raise InvalidInputError(message)
    count = len(heights)
    top = largest if largest is not None else max(float(heights.max()), 1e-12)
    image = axes.imshow(heights.numpy(), cmap=SEQUENTIAL, vmin=0.0, vmax=top)
    axes.grid(visible=False)
    names = list(labels) if labels is not None else [str(k) for k in range(count)]
    axes.set_xticks(range(count), names)
    axes.set_yticks(range(count), names)
    if count <= _MAX_ANNOTATED:
        for row in range(count):
            for column in range(count):
                value = float(heights[row, column])
                color = "white" if value < top / 2 else "black"
                axes.text(column, row, f"{value:.3f}", ha="center", va="center", color=color, fontsize=8)
    axes.figure.colorbar(image, ax=axes, label="barrier (nats)")


def draw_loss_plane(axes: Axes, u: Tensor, v: Tensor, loss: Tensor, points: Tensor) -> None:
    """Plot the loss on a plane as filled contours, with levels equally spaced in log10, and mark the networks.

    Args:
        axes: Matplotlib axes.
        u: ``[A]``: coordinates along the first axis.
        v: ``[B]``: coordinates along the second axis.
        loss: ``[B, A]``: loss in nats per example.
        points: ``[P, 2]``: coordinates (u, v) of the networks.
    """
    logs = loss.clamp_min(1e-12).log10()
    levels = torch.linspace(float(logs.min()), float(logs.max()) + 1e-9, 15).tolist()
    filled = axes.contourf(u.numpy(), v.numpy(), logs.numpy(), levels=levels, cmap=SEQUENTIAL)
    axes.contour(u.numpy(), v.numpy(), logs.numpy(), levels=levels, colors="white", linewidths=0.4)
    axes.grid(visible=False)
    axes.plot(points[:, 0].numpy(), points[:, 1].numpy(), "o", color=COLORS[1], markeredgecolor="white", markersize=8)
    for index, (x, y) in enumerate(points.tolist()):
        axes.annotate(str(index), (x, y), textcoords="offset points", xytext=(6, 6), color="white")
    axes.set_aspect("equal")
    axes.figure.colorbar(filled, ax=axes, label="log10 loss (nats)")


def draw_reliability(axes: Axes, counts: Tensor, confidence: Tensor, accuracy: Tensor, *, label: str = "") -> None:
    """Plot a reliability diagram: accuracy against confidence, and the fraction of examples in each bin as gray bars.

    Args:
        axes: Matplotlib axes.
        counts: ``[bins]``: number of examples in each bin, as returned by `reliability`.
        confidence: ``[bins]``: mean confidence in each bin.
        accuracy: ``[bins]``: accuracy in each bin.
        label: Legend label of the curve; ``accuracy`` if empty.
    """
    filled = counts > 0
    centers = (torch.arange(len(counts)) + 0.5) / len(counts)
    fractions = counts / counts.sum()
    axes.bar(centers.numpy(), fractions.numpy(), width=0.9 / len(counts), color="#cccccc", label="fraction of examples")
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8)
    # Not clipped: an accuracy of 1 is at the upper edge.
    points = confidence[filled].numpy(), accuracy[filled].numpy()
    axes.plot(*points, marker="o", color=COLORS[0], label=label or "accuracy", clip_on=False)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("confidence")
    axes.set_ylabel("accuracy")


def draw_similarity(axes: Axes, similarity: Tensor, *, largest: float = 1.0) -> AxesImage:
    """Plot a matrix of unit similarities; after alignment, its diagonal is dominant.

    Args:
        axes: Matplotlib axes.
        similarity: ``[n, n]``: cosine similarities of reference units (rows) and candidate units (columns).
        largest: Upper limit of the color scale; negative similarities are shown as zero.

    Returns:
        The image, for a color bar.
    """
    image = axes.imshow(similarity.clamp_min(0).numpy(), cmap=SEQUENTIAL, vmin=0.0, vmax=largest)
    axes.grid(visible=False)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel("candidate units")
    axes.set_ylabel("reference units")
    return image
