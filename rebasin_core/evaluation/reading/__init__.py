"""Analysis of how a model uses its weights, from one forward pass, for any modules and functions."""

from rebasin_core.evaluation.reading.interception import Interception, Product
from rebasin_core.evaluation.reading.labels import Role
from rebasin_core.evaluation.reading.reader import read
from rebasin_core.evaluation.reading.uses import ModelReading, WeightUse

__all__ = [
    "Interception",
    "ModelReading",
    "Product",
    "Role",
    "WeightUse",
    "read",
]
