"""Transport plans between the units of two networks, of equal widths or not."""

from rebasin_core.coupling.coupling import Coupling

__all__ = [
    "Coupling",
]
