"""The symmetry group: the axis algebra, layouts, permutations and their action on tensors."""

from rebasin_core.symmetry.axis import Atom, Axis, Concat, Group, Product, concat, product
from rebasin_core.symmetry.cell import cells
from rebasin_core.symmetry.layout import Layout
from rebasin_core.symmetry.linear import Kind, LinearSymmetry, Shift, Slot, Symmetry
from rebasin_core.symmetry.linear_action import act_linearly
from rebasin_core.symmetry.linear_maps import LinearMaps
from rebasin_core.symmetry.pairs import Pairs
from rebasin_core.symmetry.permutation import GroupElement, Permutable, Permutation, Transformable
from rebasin_core.symmetry.stack import Stack
from rebasin_core.symmetry.symmetry_element import SymmetryElement, load_element, recentered
from rebasin_core.symmetry.unit_map import UnitMap

__all__ = [
    "Atom",
    "Axis",
    "Concat",
    "Group",
    "GroupElement",
    "Kind",
    "Layout",
    "LinearMaps",
    "LinearSymmetry",
    "Pairs",
    "Permutable",
    "Permutation",
    "Product",
    "Shift",
    "Slot",
    "Stack",
    "Symmetry",
    "SymmetryElement",
    "Transformable",
    "UnitMap",
    "act_linearly",
    "cells",
    "concat",
    "load_element",
    "product",
    "recentered",
]
