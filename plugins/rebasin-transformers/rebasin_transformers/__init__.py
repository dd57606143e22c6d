"""Models of Hugging Face transformers for checkpoints of rebasin_core."""

from rebasin_transformers.source import TransformersModelSource

__all__ = ["TransformersModelSource"]
