"""What an alignment of two checkpoints means, in one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, final

from typing_extensions import override

if TYPE_CHECKING:
    from rebasin_core.analysis.distances import NetworkDistances
    from rebasin_core.symmetry.permutation import Permutation
