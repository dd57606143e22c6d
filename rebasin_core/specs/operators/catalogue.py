"""The built-in operator rules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rebasin_core.specs.operators.attention import AttentionRules
from rebasin_core.specs.operators.contraction import ContractionRules
from rebasin_core.specs.operators.convolution import ConvolutionRules
from rebasin_core.specs.operators.creation import CreationRules
from rebasin_core.specs.operators.elementwise import ElementwiseRules
from rebasin_core.specs.operators.fourier import FourierRules
from rebasin_core.specs.operators.indexing import IndexingRules
from rebasin_core.specs.operators.matrix import MatrixRules
from rebasin_core.specs.operators.normalization import NormalizationRules
from rebasin_core.specs.operators.pooling import PoolingRules
from rebasin_core.specs.operators.recurrent import RecurrentRules
from rebasin_core.specs.operators.reduction import ReductionRules
from rebasin_core.specs.operators.shape import ShapeRules
from rebasin_core.specs.operators.slicing import SlicingRules
from rebasin_core.specs.operators.vision import VisionRules
from rebasin_core.specs.operators.writing import WritingRules
from rebasin_core.tensors.frozen import FrozenMapping

if TYPE_CHECKING:
    from rebasin_core.specs.operators.base import OperatorRules, Rules

BUILT_IN_FAMILIES: Final[tuple[type[OperatorRules], ...]] = (
    AttentionRules,
    ContractionRules,
    ConvolutionRules,
    CreationRules,
    ElementwiseRules,
    FourierRules,
    IndexingRules,
    MatrixRules,
    NormalizationRules,
    PoolingRules,
    RecurrentRules,
    ReductionRules,
    ShapeRules,
    SlicingRules,
    VisionRules,
    WritingRules,
)
"""Rules for the operators of PyTorch and torchvision, by family."""

BUILT_IN_RULES: Final[Rules] = FrozenMapping({
    name: rule for family in BUILT_IN_FAMILIES for name, rule in family.rules.items()
})
"""All built-in rules, by operator name."""
