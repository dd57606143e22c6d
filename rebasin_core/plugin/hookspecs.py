"""The hooks that a plugin may implement: one a family."""

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
    from rebasin_core.data.base import DataSource
    from rebasin_core.evaluation.likelihood import Likelihood
    from rebasin_core.evaluation.metric import Metric
    from rebasin_core.inference.base import Inference
    from rebasin_core.matchers.base import Matcher
    from rebasin_core.posteriors.adapter import PosteriorAdapter
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.specs.base import SpecFactory
    from rebasin_core.specs.operators.base import OperatorRules

PROJECT = "rebasin_core"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a function of a plugin as the implementation of the hook of the same name."""


# mypy: disable-error-code=empty-body
# A hook specification is a signature and a docstring; the empty bodies are the point.
class HookSpecs:
    """All hooks. A plugin is a module (or object) with functions of these names, marked with `hookimpl`.

    A hook is called when its family is first asked for. Import strategies inside the hook, so that asking for matchers
    does not import anything else.
    """

    @hookspec
    def rebasin_architectures(self) -> Sequence[type[Architecture]]:
        """Return the classes of architectures."""

    @hookspec
    def rebasin_specs(self) -> Sequence[type[SpecFactory]]:
        """Return the classes of specification factories."""

    @hookspec
    def rebasin_operator_rules(self) -> Sequence[type[OperatorRules]]:
        """Return families of rules for operators of your own, so that models that use them can be traced."""

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
        """Return the classes of posteriors, so that their files can be read."""

    @hookspec
    def rebasin_posterior_adapters(self) -> Sequence[type[PosteriorAdapter]]:
        """Return the classes of adapters that turn foreign objects into posteriors."""

    @hookspec
    def rebasin_examples(self, kind: type[object], folder: Path) -> Sequence[object] | None:
        """Return small instances of one of your own classes, for the conformance kit.

        Needed for what cannot be made from its defaults, or is too large with them.

        Args:
            kind: A configuration, posterior, adapter or rules class that this plugin registers.
            folder: An empty folder; a data set may write small files there and point at them.

        Returns:
            Configurations, posteriors, for adapters the foreign objects, for rules pairs of a module and its
            inputs; None for a class that is not yours.
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
}
"""For every family, the hook that gives it."""

KNOWN_HOOKS: tuple[str, ...] = (*HOOKS.values(), "rebasin_examples")
"""The names of all hooks."""
