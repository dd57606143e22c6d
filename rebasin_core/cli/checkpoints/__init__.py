"""Commands for checkpoints: `rebasin align`, `merge`, `barrier`, `diff`, `fold`, `apply`, `invert` and `recipe`."""

from rebasin_core.cli.checkpoints.align import align
from rebasin_core.cli.checkpoints.apply import apply, invert
from rebasin_core.cli.checkpoints.barrier import barrier
from rebasin_core.cli.checkpoints.diff import diff
from rebasin_core.cli.checkpoints.fold import fold
from rebasin_core.cli.checkpoints.merge import merge
from rebasin_core.cli.checkpoints.recipe import recipe

__all__ = ["align", "apply", "barrier", "diff", "fold", "invert", "merge", "recipe"]
