"""The plugin that registers the built-in components, through the same hooks as third-party plugins.

Each hook returns the concrete classes in ``__all__`` of the module of its family: exporting a strategy registers it.
Modules are imported inside the hooks, when their family is first requested.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rebasin_core.plugin.hookspecs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from rebasin_core.specs.operators.base import OperatorRules


def _exported(module: ModuleType, interface: type[Any]) -> list[type[Any]]:
    """Return the concrete classes of a family that a module exports; concrete classes are marked with `final`."""
    exported = [getattr(module, name) for name in module.__all__]
    classes = [kind for kind in exported if isinstance(kind, type) and issubclass(kind, interface)]
    return [kind for kind in classes if getattr(kind, "__final__", False)]


@hookimpl
def rebasin_architectures() -> Sequence[type[Any]]:
    """Return the architectures."""
    from rebasin_core import architectures

    return _exported(architectures, architectures.Architecture)


@hookimpl
def rebasin_specs() -> Sequence[type[Any]]:
    """Return the specification factories."""
    from rebasin_core import specs

    return _exported(specs, specs.SpecFactory)


@hookimpl
def rebasin_operator_rules() -> Sequence[type[OperatorRules]]:
    """Return the rules for the operators of PyTorch and torchvision."""
    from rebasin_core.specs.operators.catalogue import BUILT_IN_FAMILIES

    return BUILT_IN_FAMILIES


@hookimpl
def rebasin_datasets() -> Sequence[type[Any]]:
    """Return the datasets."""
    from rebasin_core import data

    return _exported(data, data.DataSource)


@hookimpl
def rebasin_inferences() -> Sequence[type[Any]]:
    """Return the inference methods."""
    from rebasin_core import inference

    return _exported(inference, inference.Inference)


@hookimpl
def rebasin_assignments() -> Sequence[type[Any]]:
    """Return the assignment solvers."""
    from rebasin_core import assignment

    return _exported(assignment, assignment.AssignmentSolver)


@hookimpl
def rebasin_likelihoods() -> Sequence[type[Any]]:
    """Return the likelihoods."""
    from rebasin_core import evaluation

    return _exported(evaluation, evaluation.Likelihood)


@hookimpl
def rebasin_metrics() -> Sequence[type[Any]]:
    """Return the metrics."""
    from rebasin_core.evaluation import Metric, metrics

    return _exported(metrics, Metric)


@hookimpl
def rebasin_matchers() -> Sequence[type[Any]]:
    """Return the matchers."""
    from rebasin_core import matchers

    return _exported(matchers, matchers.Matcher)


@hookimpl
def rebasin_barriers() -> Sequence[type[Any]]:
    """Return the barrier estimators."""
    from rebasin_core import barriers

    return _exported(barriers, barriers.BarrierEstimator)


@hookimpl
def rebasin_paths() -> Sequence[type[Any]]:
    """Return the paths between posteriors."""
    from rebasin_core.barriers import paths

    return _exported(paths, paths.Path)


@hookimpl
def rebasin_posteriors() -> Sequence[type[Any]]:
    """Return the representations of posteriors."""
    from rebasin_core import posteriors

    return _exported(posteriors, posteriors.Posterior)


@hookimpl
def rebasin_posterior_adapters() -> Sequence[type[Any]]:
    """Return the adapters of foreign objects."""
    from rebasin_core import posteriors

    return _exported(posteriors, posteriors.PosteriorAdapter)


@hookimpl
def rebasin_merge_methods() -> Sequence[type[Any]]:
    """Return the merge methods."""
    from rebasin_core import merging

    return _exported(merging, merging.MergeMethod)


@hookimpl
def rebasin_trackers() -> Sequence[type[Any]]:
    """Return the trackers."""
    from rebasin_core import tracking

    return _exported(tracking, tracking.Tracker)


@hookimpl
def rebasin_executors() -> Sequence[type[Any]]:
    """Return the executors."""
    from rebasin_core import executors

    return _exported(executors, executors.Executor)


@hookimpl
def rebasin_checkpoint_readers() -> Sequence[type[Any]]:
    """Return the readers of checkpoint files."""
    from rebasin_core import checkpoints

    return _exported(checkpoints, checkpoints.CheckpointReader)


@hookimpl
def rebasin_model_sources() -> Sequence[type[Any]]:
    """Return the sources of models."""
    from rebasin_core import checkpoints

    return _exported(checkpoints, checkpoints.ModelSource)
