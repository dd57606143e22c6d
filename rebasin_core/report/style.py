"""The one style of all figures: colours that colour-blind readers can tell apart, and files that repeat."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from rebasin_core.errors import PluginError
from rebasin_core.tensors.files import replacing

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from matplotlib.figure import Figure

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's colours."""

UNALIGNED_COLOR = "#666666"
"""Grey, for what was not aligned."""

LINES = ("-", "--", "-.", ":")
"""Line styles, so that curves differ in print too."""

SEQUENTIAL = "cividis"
"""The map of values that start at nothing: even in lightness, and the same to colour-blind readers."""

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
    """Give an empty figure in the style of the project.

    Args:
        width: In inches.
        height: In inches.

    Yields:
        The figure, to be drawn on and saved within the block.

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


def save_figure(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write a figure as PNG and SVG; the same figure gives the same bytes.

    Args:
        figure: The figure.
        folder: Where.
        name: Without suffix.

    Returns:
        The two files.

    Raises:
        StorageError: If they cannot be written.
    """
    paths = [folder / f"{name}.{suffix}" for suffix in ("png", "svg")]
    for path in paths:
        with replacing(path) as temporary:
            # Without a date the same curves give the same bytes.
            metadata = {"Date": None} if path.suffix == ".svg" else None
            figure.savefig(temporary, format=path.suffix[1:], dpi=150, metadata=metadata)
    return paths
