"""Training by the optimizer IVON in rebasin_core."""

from rebasin_ivon.inference import IVONInference

__all__ = ["IVONInference"]
