"""The hooks that a plugin can implement: one per family, and one for examples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rebasin_core.architectures.base import Architecture
    from rebasin_core.assignment.base import AssignmentSolver
    from rebasin_core.barriers.base import BarrierEstimator
    from rebasin_core.barriers.paths.base import Path as PosteriorPath
    from rebasin_core.checkpoints.base import CheckpointReader
    from rebasin_core.checkpoints.model_source import ModelSource
    from rebasin_core.data.base import DataSource
    from rebasin_core.evaluation.likelihood import Likelihood
    from rebasin_core.evaluation.metric import Metric
    from rebasin_core.executors.base import Executor
    from rebasin_core.inference.base import Inference
    from rebasin_core.matchers.base import Matcher
    from rebasin_core.merging.base import MergeMethod
    from rebasin_core.posteriors.adapter import PosteriorAdapter
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.specs.base import SpecFactory
    from rebasin_core.specs.operators.base import OperatorRules
    from rebasin_core.tracking.base import Tracker

PROJECT = "rebasin_core"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a function of a plugin as the implementation of the hook of the same name."""


# mypy: disable-error-code=empty-body
# A hook specification consists of a signature and a docstring; its body is empty.
class HookSpecs:
    """All hooks. A plugin is a module or object with functions of these names, marked with `hookimpl`.

    A hook is called when its family is first requested. Import classes inside the hook: then a request for matchers
    imports matchers only.
    """

    @hookspec
    def rebasin_architectures(self) -> Sequence[type[Architecture]]:
        """Return the classes of architectures."""

    @hookspec
    def rebasin_specs(self) -> Sequence[type[SpecFactory]]:
        """Return the classes of specification factories."""

    @hookspec
    def rebasin_operator_rules(self) -> Sequence[type[OperatorRules]]:
        """Return classes of rules for additional operators, which make models with these operators traceable."""

    @hookspec
    def rebasin_datasets(self) -> Sequence[type[DataSource]]:
        """Return the classes of datasets."""

    @hookspec
    def rebasin_inferences(self) -> Sequence[type[Inference]]:
        """Return the classes of inference methods."""

    @hookspec
    def rebasin_assignments(self) -> Sequence[type[AssignmentSolver]]:
        """Return the classes of assignment solvers."""

    @hookspec
    def rebasin_matchers(self) -> Sequence[type[Matcher]]:
        """Return the classes of matchers."""

    @hookspec
    def rebasin_likelihoods(self) -> Sequence[type[Likelihood]]:
        """Return the classes of likelihoods."""

    @hookspec
    def rebasin_metrics(self) -> Sequence[type[Metric]]:
        """Return the classes of metrics."""

    @hookspec
    def rebasin_barriers(self) -> Sequence[type[BarrierEstimator]]:
        """Return the classes of barrier estimators."""

    @hookspec
    def rebasin_paths(self) -> Sequence[type[PosteriorPath]]:
        """Return the classes of paths between posteriors."""

    @hookspec
    def rebasin_posteriors(self) -> Sequence[type[Posterior]]:
        """Return the classes of posteriors; files of these posteriors can then be read."""

    @hookspec
    def rebasin_posterior_adapters(self) -> Sequence[type[PosteriorAdapter]]:
        """Return the classes of adapters that convert objects of other libraries to posteriors."""

    @hookspec
    def rebasin_merge_methods(self) -> Sequence[type[MergeMethod]]:
        """Return the classes of merge methods."""

    @hookspec
    def rebasin_trackers(self) -> Sequence[type[Tracker]]:
        """Return the classes of trackers."""

    @hookspec
    def rebasin_executors(self) -> Sequence[type[Executor]]:
        """Return the classes of executors."""

    @hookspec
    def rebasin_checkpoint_readers(self) -> Sequence[type[CheckpointReader]]:
        """Return the classes of readers of checkpoint files."""

    @hookspec
    def rebasin_model_sources(self) -> Sequence[type[ModelSource]]:
        """Return the classes of sources of models."""

    @hookspec
    def rebasin_examples(self, kind: type[object], folder: Path) -> Sequence[object] | None:
        """Return small instances of a class of this plugin, for the conformance kit.

        Needed for classes that have no defaults, or that are slow with them.

        Args:
            kind: A registered class: a strategy, posterior, adapter or family of operator rules.
            folder: An empty folder, in which a dataset may write small files.

        Returns:
            Instances of a strategy or posterior; for an adapter, objects that it converts; for operator rules, pairs of
            a module and its inputs; for a checkpoint reader, pairs of an instance and the path of a file that it reads;
            for a model source, pairs of an instance and a checkpoint; None for a class of another plugin.
        """


HOOKS: dict[str, str] = {
    "architecture": "rebasin_architectures",
    "spec": "rebasin_specs",
    "operator_rules": "rebasin_operator_rules",
    "dataset": "rebasin_datasets",
    "inference": "rebasin_inferences",
    "assignment": "rebasin_assignments",
    "likelihood": "rebasin_likelihoods",
    "metric": "rebasin_metrics",
    "matcher": "rebasin_matchers",
    "barrier": "rebasin_barriers",
    "path": "rebasin_paths",
    "posterior": "rebasin_posteriors",
    "posterior_adapter": "rebasin_posterior_adapters",
    "executor": "rebasin_executors",
    "merge_method": "rebasin_merge_methods",
    "tracker": "rebasin_trackers",
    "checkpoint_reader": "rebasin_checkpoint_readers",
    "model_source": "rebasin_model_sources",
}
"""The name of the hook of every family."""

KNOWN_HOOKS: tuple[str, ...] = (*HOOKS.values(), "rebasin_examples")
"""The names of all hooks."""
