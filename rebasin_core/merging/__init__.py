"""Methods that merge aligned networks, one tensor at a time."""

from rebasin_core.merging.base import MergeMethod, Weighting
from rebasin_core.merging.dare import DAREMerge
from rebasin_core.merging.karcher import KarcherMerge
from rebasin_core.merging.mean import MeanMerge
from rebasin_core.merging.model_stock import ModelStockMerge
from rebasin_core.merging.problem import MergeProblem
from rebasin_core.merging.slerp import SLERPMerge
from rebasin_core.merging.streaming import StreamingMerge
from rebasin_core.merging.task_arithmetic import TaskArithmeticMerge
from rebasin_core.merging.ties import TIESMerge

__all__ = [
    "DAREMerge",
    "KarcherMerge",
    "MeanMerge",
    "MergeMethod",
    "MergeProblem",
    "ModelStockMerge",
    "SLERPMerge",
    "StreamingMerge",
    "TIESMerge",
    "TaskArithmeticMerge",
    "Weighting",
]
