"""A plugin whose hook fails when it is called."""

from rebasin_core import hookimpl


@hookimpl
def rebasin_barriers() -> list[type]:
    """Fail."""
    raise RuntimeError("the sky is falling")
