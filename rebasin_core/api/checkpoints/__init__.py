"""Functions for checkpoint files of any registered format."""

from rebasin_core.api.checkpoints.adapters import merge_lora, open_adapter
from rebasin_core.api.checkpoints.opening import open_checkpoint

__all__ = ["merge_lora", "open_adapter", "open_checkpoint"]
