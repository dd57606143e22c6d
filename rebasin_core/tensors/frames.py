"""Data frames of results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rebasin_core.errors import PluginError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd


def data_frame(columns: Mapping[str, Sequence[Any]]) -> pd.DataFrame:
    """Return a pandas data frame.

    Args:
        columns: Values by the name of the column.

    Returns:
        The data frame.

    Raises:
        PluginError: If pandas is not installed.
    """
    try:
        import pandas as pd  # ruff: ignore[import-outside-top-level] - an extra
    except ImportError as error:
        message = "data frames need pandas; install it with: pip install 'rebasin-core[frames]'"
        raise PluginError(message) from error
    return pd.DataFrame(dict(columns))
