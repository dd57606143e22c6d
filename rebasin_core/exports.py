"""Public names of the package, each imported when it is first used.

`import rebasin_core` needs milliseconds, and help of the command line needs no PyTorch.
"""

from __future__ import annotations

import sys
from importlib import import_module
from threading import RLock

from rebasin_core.providers import provide_by

NAMES = {
    "rebasin_core.api": (
        "align",
        "align_checkpoints",
        "align_samples",
        "as_posterior",
        "barrier",
        "barrier_matrix",
        "build",
        "discrepancy",
        "fit_center",
        "fit_curve",
        "fit_simplex",
        "fold",
        "function_discrepancy",
        "greedy_soup",
        "hull_losses",
        "instability",
        "load_posterior",
        "loss_plane",
        "match",
        "match_many",
        "match_many_on_data",
        "merge",
        "merge_checkpoints",
        "merge_lora",
        "model_of",
        "open_adapter",
        "open_checkpoint",
        "save_checkpoint",
        "score",
        "simplex_losses",
        "spec_of",
        "star",
        "summarize",
        "trace_spec",
        "untie",
        "write_back",
    ),
    "rebasin_core.architectures": ("Architecture",),
    "rebasin_core.assignment": ("AssignmentSolver",),
    "rebasin_core.barriers": ("BarrierEstimator", "LossCurve", "Path"),
    "rebasin_core.checkpoints": ("Checkpoint", "CheckpointReader", "ModelSource"),
    "rebasin_core.config": ("RunConfig", "StudyConfig"),
    "rebasin_core.data": ("DataSource",),
    "rebasin_core.errors": ("RebasinError", "RebasinWarning"),
    "rebasin_core.evaluation": ("EvaluationOptions", "Likelihood", "Metric", "Task", "metrics"),
    "rebasin_core.executors": ("Executor",),
    "rebasin_core.inference": ("Inference",),
    "rebasin_core.matchers": ("MatchOutcome", "MatchProblem", "MatchResult", "Matcher"),
    "rebasin_core.merging": ("MergeMethod",),
    "rebasin_core.plugin": ("Registry", "default_registry", "hookimpl"),
    "rebasin_core.posteriors": ("Posterior", "PosteriorAdapter", "barycenter", "kl_divergence", "wasserstein_distance"),
    "rebasin_core.specs": (
        "Call",
        "OperatorRules",
        "PermutationSpec",
        "SpecFactory",
        "TableSpec",
        "check_spec",
        "load_spec",
        "save_spec",
        "table_spec",
    ),
    "rebasin_core.strategy": ("Strategy",),
    "rebasin_core.studies": ("Study", "load_run", "load_study", "run"),
    "rebasin_core.symmetry": ("Group", "GroupElement", "Layout", "Permutation", "SymmetryElement", "load_element"),
    "rebasin_core.tracking": ("Tracker",),
}
"""Public names by the module that defines them, without those that are modules."""

_PACKAGE = "rebasin_core"
_MODULES = {name: module for module, names in NAMES.items() for name in names}
# Threads that import modules of one package at the same time can see unfinished modules.
_LOCK = RLock()


def attribute(name: str) -> object:
    """Import an attribute of the package that is not there yet, and keep it.

    Args:
        name: A public name, a module of the package, or ``__version__``.

    Returns:
        The attribute.

    Raises:
        AttributeError: If there is no such name; lists similar names.
    """
    with _LOCK:
        value = _imported(name)
        setattr(sys.modules[_PACKAGE], name, value)
    return value


def attribute_names() -> list[str]:
    """Return the names of the package's attributes, imported or not.

    Returns:
        The names, sorted.
    """
    package = sys.modules[_PACKAGE]
    return sorted({*vars(package), *package.__all__, "__version__"})


def _imported(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import version

        return version("rebasin-core")
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    if name.startswith("_") or not name.isidentifier():  # others ask any module for attributes such as `__path__`
        message = f"module {_PACKAGE!r} has no attribute {name!r}"
        raise AttributeError(message, name=name)
    module = f"{_PACKAGE}.{name}"
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
    from rebasin_core.errors import nearest

    message = f"module {_PACKAGE!r} has no attribute {name!r}; {nearest(name, sys.modules[_PACKAGE].__all__)}"
    raise AttributeError(message, name=name)


def _import_providers() -> None:
    with _LOCK:
        import_module("rebasin_core.api")
        import_module("rebasin_core.plugin")


provide_by(_import_providers)
