"""Permutation specifications: which axes of a model must move together, and whether that is so."""

from rebasin_core.specs.base import PermutationSpec, SpecFactory
from rebasin_core.specs.check import SpecCheck, check_spec
from rebasin_core.specs.table import TableSpec, TableSpecFactory, table_spec

__all__ = ["PermutationSpec", "SpecCheck", "SpecFactory", "TableSpec", "TableSpecFactory", "check_spec", "table_spec"]
