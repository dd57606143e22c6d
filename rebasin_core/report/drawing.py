"""What can be drawn on matplotlib axes: matrices of barriers, planes of losses, reliability, similarities."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from rebasin_core.errors import InvalidInputError
from rebasin_core.report.style import COLORS, SEQUENTIAL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from torch import Tensor

_WRITTEN = 10


def draw_barrier_matrix(
    axes: Axes, heights: Tensor, *, labels: Sequence[str] | None = None, largest: float | None = None
) -> None:
    """Draw barriers between all pairs, with the numbers in the cells where there are few.

    Args:
        axes: Matplotlib axes.
        heights: ``[K, K]``.
        labels: One a network; their numbers if not given.
        largest: The end of the colour scale, for matrices side by side; the largest height if not given.

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
    if count <= _WRITTEN:
        for row in range(count):
            for column in range(count):
                value = float(heights[row, column])
                color = "white" if value < top / 2 else "black"
                axes.text(column, row, f"{value:.3f}", ha="center", va="center", color=color, fontsize=8)
    axes.figure.colorbar(image, ax=axes, label="barrier (nats)")


def draw_loss_plane(axes: Axes, u: Tensor, v: Tensor, loss: Tensor, points: Tensor) -> None:
    """Draw the losses of a plane as filled contours, evenly spaced in the logarithm, and the networks on it.

    Args:
        axes: Matplotlib axes.
        u: ``[A]``: coordinates along the first axis.
        v: ``[B]``: along the second.
        loss: ``[B, A]``.
        points: ``[P, 2]``: where networks lie.
    """
    logs = loss.clamp_min(1e-12).log10()
    levels = torch.linspace(float(logs.min()), float(logs.max()) + 1e-9, 15).tolist()
    filled = axes.contourf(u.numpy(), v.numpy(), logs.numpy(), levels=levels, cmap=SEQUENTIAL)
    axes.contour(u.numpy(), v.numpy(), logs.numpy(), levels=levels, colors="white", linewidths=0.4)
    axes.grid(visible=False)
    axes.plot(points[:, 0].numpy(), points[:, 1].numpy(), "o", color=COLORS[1], markeredgecolor="white", markersize=8)
    for number, (x, y) in enumerate(points.tolist()):
        axes.annotate(str(number), (x, y), textcoords="offset points", xytext=(6, 6), color="white")
    axes.set_aspect("equal")
    axes.figure.colorbar(filled, ax=axes, label="log10 of the loss (nats)")


def draw_reliability(axes: Axes, counts: Tensor, confidence: Tensor, accuracy: Tensor, *, label: str = "") -> None:
    """Draw accuracy against confidence, with the share of examples in each bin as grey bars.

    Args:
        axes: Matplotlib axes.
        counts: ``[bins]``, as `reliability` gives them.
        confidence: ``[bins]``.
        accuracy: ``[bins]``.
        label: For the legend.
    """
    there = counts > 0
    edges = (torch.arange(len(counts)) + 0.5) / len(counts)
    axes.bar(edges.numpy(), (counts / counts.sum()).numpy(), width=0.9 / len(counts), color="#cccccc", label="share")
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8)
    axes.plot(
        confidence[there].numpy(), accuracy[there].numpy(), marker="o", color=COLORS[0], label=label or "accuracy"
    )
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xlabel("confidence")
    axes.set_ylabel("accuracy")


def draw_similarity(axes: Axes, similarity: Tensor, *, largest: float = 1.0) -> None:
    """Draw how alike the units of two networks are: of aligned ones, the diagonal stands out.

    Args:
        axes: Matplotlib axes.
        similarity: ``[n, n]`` cosines.
        largest: The end of the colour scale; negative similarities are drawn as zero.
    """
    axes.imshow(similarity.clamp_min(0).numpy(), cmap=SEQUENTIAL, vmin=0.0, vmax=largest)
    axes.grid(visible=False)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel("units of the candidate")
    axes.set_ylabel("units of the reference")
