"""The engine: composes the interfaces, by hand (`match`, `barrier`, `trace_spec`) or for a whole run."""

from rebasin_core.engine.align import as_posterior, barrier, build, load_posterior, match
from rebasin_core.engine.run import RunResult, load_run, run
from rebasin_core.engine.trace import trace_spec

__all__ = [
    "RunResult",
    "as_posterior",
    "barrier",
    "build",
    "load_posterior",
    "load_run",
    "match",
    "run",
    "trace_spec",
]
