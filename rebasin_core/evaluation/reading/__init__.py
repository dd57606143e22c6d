"""What each weight is to a model: read once, from one execution, whatever the model is made of."""

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
