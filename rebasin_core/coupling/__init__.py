"""Transport plans between the units of two networks of equal or different widths."""

from rebasin_core.coupling.coupling import Coupling

__all__ = [
    "Coupling",
]
