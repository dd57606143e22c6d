"""The command `rebasin`."""

from rebasin_core.cli.main import main

__all__ = ["main"]
