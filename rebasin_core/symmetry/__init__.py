"""The symmetry group: the axis algebra, layouts, permutations and their action on tensors."""

from rebasin_core.symmetry.axis import Atom, Axis, Concat, Group, Product, concat, product
from rebasin_core.symmetry.cell import cells
from rebasin_core.symmetry.layout import Layout
from rebasin_core.symmetry.permutation import Permutable, Permutation
from rebasin_core.symmetry.rescaling import Rescaling, UnitScaling

__all__ = [
    "Atom",
    "Axis",
    "Concat",
    "Group",
    "Layout",
    "Permutable",
    "Permutation",
    "Product",
    "Rescaling",
    "UnitScaling",
    "cells",
    "concat",
    "product",
]
