"""Common style of all figures: colorblind-safe colors and reproducible files."""

from __future__ import annotations

from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any, cast

from rebasin_core.barriers.drawing import COLORS, LINES, UNALIGNED_COLOR
from rebasin_core.errors import PluginError
from rebasin_core.tensors.files import replacing

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

    from matplotlib.figure import Figure

__all__ = ["COLORS", "LINES", "SEQUENTIAL", "UNALIGNED_COLOR", "save_figure", "styled_figure"]

SEQUENTIAL = "cividis"
"""Color map of nonnegative values: perceptually uniform, also with color vision deficiency."""

# By default matplotlib writes the date into these files.
_UNDATED: dict[str, dict[str, Any]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
_STYLE: dict[str, Any] = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "font.size": 10,
    "legend.frameon": False,
    "svg.hashsalt": "rebasin_core",
}


@contextmanager
def styled_figure(width: float, height: float) -> Generator[Figure]:
    """Create an empty figure in the style of the project.

    Args:
        width: Width in inches.
        height: Height in inches.

    Yields:
        The figure; draw on it and save it within the block.

    Raises:
        PluginError: If matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context  # ruff: ignore[import-outside-top-level] - an extra
        from matplotlib.figure import Figure  # ruff: ignore[import-outside-top-level] - an extra
    except ImportError as error:
        message = "figures need matplotlib; install it with: pip install 'rebasin-core[plot]'"
        raise PluginError(message) from error
    with rc_context(cast("Any", _STYLE)):  # its keys are typed one by one
        yield Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Figure, folder: Path, name: str, *, formats: Sequence[str] = ("png", "svg")) -> list[Path]:
    """Write a figure in several formats; equal figures give identical files.

    Args:
        figure: The figure.
        folder: Output folder.
        name: File name without suffix.
        formats: Suffixes of the files among ``png``, ``svg`` and ``pdf``.

    Returns:
        The files, in the order of the formats.

    Raises:
        StorageError: If they cannot be written.
    """
    paths = [folder / f"{name}.{suffix}" for suffix in formats]
    for path in paths:
        with replacing(path) as temporary:
            figure.savefig(temporary, format=path.suffix[1:], dpi=150, metadata=_UNDATED.get(path.suffix[1:]))
    return paths


def svg_of(figure: Figure) -> bytes:
    """Return a figure as SVG; equal figures give identical bytes.

    Args:
        figure: The figure.

    Returns:
        The content of an SVG file.
    """
    buffer = BytesIO()
    figure.savefig(buffer, format="svg", metadata=_UNDATED["svg"])
    return buffer.getvalue()
