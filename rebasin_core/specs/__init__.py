"""Permutation specifications: the axes of a model that must be permuted identically, and their verification."""

from rebasin_core.specs.base import PermutationSpec, SpecFactory
from rebasin_core.specs.check import SpecCheck, check_spec
from rebasin_core.specs.files import FileSpecFactory, GivenSpec, load_spec, save_spec
from rebasin_core.specs.folding import BiasedWeight, Dim, Foldable, Obstacle
from rebasin_core.specs.interchange import GitRebasinSpec, from_git_rebasin, to_git_rebasin
from rebasin_core.specs.kinds.report import GroupKinds
from rebasin_core.specs.operators import Call, OperatorRules
from rebasin_core.specs.rescaling import find_rescalings
from rebasin_core.specs.table import TableSpec, TableSpecFactory, table_spec
from rebasin_core.specs.tracing.coverage import Captured, Coverage, FrozenAxis
from rebasin_core.specs.tracing.factory import TracedSpecFactory
from rebasin_core.specs.tracing.trace import TracedSpec
from rebasin_core.specs.unification.relation import Relation, Sight
from rebasin_core.specs.unit_maps import UnitMaps

__all__ = [
    "BiasedWeight",
    "Call",
    "Captured",
    "Coverage",
    "Dim",
    "FileSpecFactory",
    "Foldable",
    "FrozenAxis",
    "GitRebasinSpec",
    "GivenSpec",
    "GroupKinds",
    "Obstacle",
    "OperatorRules",
    "PermutationSpec",
    "Relation",
    "Sight",
    "SpecCheck",
    "SpecFactory",
    "TableSpec",
    "TableSpecFactory",
    "TracedSpec",
    "TracedSpecFactory",
    "UnitMaps",
    "check_spec",
    "find_rescalings",
    "from_git_rebasin",
    "load_spec",
    "save_spec",
    "table_spec",
    "to_git_rebasin",
]
