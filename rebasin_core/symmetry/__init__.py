"""The symmetry group: the axis algebra, layouts, permutations and their action on tensors."""

from rebasin_core.symmetry.axis import Atom, Axis, Concat, Group, Product, concat, product
from rebasin_core.symmetry.cell import cells
from rebasin_core.symmetry.layout import Layout
from rebasin_core.symmetry.linear import Kind, LinearSymmetry, Slot, Symmetry
from rebasin_core.symmetry.permutation import Permutable, Permutation
from rebasin_core.symmetry.rescaling import Rescaling, UnitScaling

__all__ = [
    "Atom",
    "Axis",
    "Concat",
    "Group",
    "Kind",
    "Layout",
    "LinearSymmetry",
    "Permutable",
    "Permutation",
    "Product",
    "Rescaling",
    "Slot",
    "Symmetry",
    "UnitScaling",
    "cells",
    "concat",
    "product",
]
