"""A plugin with a hook that does not exist."""

from rebasin_core import hookimpl


@hookimpl
def rebasin_machers() -> list[type]:
    """Return no classes; this hook is never called."""
    return []
