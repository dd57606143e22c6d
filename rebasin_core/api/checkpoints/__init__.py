"""Functions for checkpoint files of any registered format."""

from rebasin_core.api.checkpoints.opening import open_checkpoint

__all__ = ["open_checkpoint"]
