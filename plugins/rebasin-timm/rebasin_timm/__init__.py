"""Models of timm for checkpoints of rebasin_core."""

from rebasin_timm.source import TimmModelSource

__all__ = ["TimmModelSource"]
