"""Reference networks, each with its permutation specification."""

from rebasin_core.architectures.base import Architecture
from rebasin_core.architectures.mlp import ActivationName, MLPArchitecture, MLPSpec

__all__ = ["ActivationName", "Architecture", "MLPArchitecture", "MLPSpec"]
