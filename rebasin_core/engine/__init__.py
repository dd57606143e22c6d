"""The engine: composes the interfaces, by hand (`match`, `barrier`) or for a whole run."""

from rebasin_core.engine.align import as_posterior, barrier, build, load_posterior, match
from rebasin_core.engine.run import RunResult, load_run, run

__all__ = ["RunResult", "as_posterior", "barrier", "build", "load_posterior", "load_run", "match", "run"]
