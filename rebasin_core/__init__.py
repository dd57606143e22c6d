"""Align neural networks, and Bayesian posteriors over networks, modulo their symmetries, and estimate loss barriers.

This module has the main functions, their argument and result types, and the interfaces that plugins implement. Concrete
components and functions of one topic are in submodules: ``rebasin_core.matchers.WeightMatcher``,
``rebasin_core.posteriors.PointPosterior``, ``rebasin_core.metrics.brier_score``.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Type checkers and editors read these imports. At run time, `exports` imports a name when it is first used.
    from rebasin_core import (
        analysis,
        architectures,
        assignment,
        barriers,
        bilinear,
        checkpoints,
        coupling,
        data,
        errors,
        executors,
        inference,
        landscapes,
        matchers,
        merging,
        posteriors,
        report,
        specs,
        symmetry,
        tracking,
    )
    from rebasin_core.api import (
        align,
        align_checkpoints,
        align_samples,
        as_posterior,
        barrier,
        barrier_matrix,
        build,
        discrepancy,
        fit_center,
        fit_curve,
        fit_simplex,
        fold,
        function_discrepancy,
        greedy_soup,
        hull_losses,
        instability,
        load_posterior,
        loss_plane,
        match,
        match_many,
        merge,
        merge_checkpoints,
        merge_lora,
        model_of,
        open_adapter,
        open_checkpoint,
        save_checkpoint,
        score,
        simplex_losses,
        spec_of,
        star,
        summarize,
        trace_spec,
        untie,
        write_back,
    )
    from rebasin_core.architectures import Architecture
    from rebasin_core.assignment import AssignmentSolver
    from rebasin_core.barriers import BarrierEstimator, LossCurve, Path
    from rebasin_core.checkpoints import Checkpoint, CheckpointReader, ModelSource
    from rebasin_core.config import RunConfig, StudyConfig
    from rebasin_core.data import DataSource
    from rebasin_core.errors import RebasinError, RebasinWarning
    from rebasin_core.evaluation import EvaluationOptions, Likelihood, Metric, Task, metrics
    from rebasin_core.executors import Executor
    from rebasin_core.inference import Inference
    from rebasin_core.matchers import Matcher, MatchOutcome, MatchProblem, MatchResult
    from rebasin_core.merging import MergeMethod
    from rebasin_core.plugin import Registry, default_registry, hookimpl
    from rebasin_core.posteriors import Posterior, PosteriorAdapter, barycenter, kl_divergence, wasserstein_distance
    from rebasin_core.specs import (
        Call,
        OperatorRules,
        PermutationSpec,
        SpecFactory,
        TableSpec,
        check_spec,
        load_spec,
        save_spec,
        table_spec,
    )
    from rebasin_core.strategy import Strategy
    from rebasin_core.studies import Study, load_run, load_study, run
    from rebasin_core.symmetry import Group, GroupElement, Layout, Permutation, SymmetryElement, load_element
    from rebasin_core.tracking import Tracker

    __version__: str
else:
    from rebasin_core.exports import attribute as __getattr__  # ruff: ignore[unused-import] - Python calls it
    from rebasin_core.exports import attribute_names as __dir__  # ruff: ignore[unused-import] - likewise

__all__ = [
    "Architecture",
    "AssignmentSolver",
    "BarrierEstimator",
    "Call",
    "Checkpoint",
    "CheckpointReader",
    "DataSource",
    "EvaluationOptions",
    "Executor",
    "Group",
    "GroupElement",
    "Inference",
    "Layout",
    "Likelihood",
    "LossCurve",
    "MatchOutcome",
    "MatchProblem",
    "MatchResult",
    "Matcher",
    "MergeMethod",
    "Metric",
    "ModelSource",
    "OperatorRules",
    "Path",
    "Permutation",
    "PermutationSpec",
    "Posterior",
    "PosteriorAdapter",
    "RebasinError",
    "RebasinWarning",
    "Registry",
    "RunConfig",
    "SpecFactory",
    "Strategy",
    "Study",
    "StudyConfig",
    "SymmetryElement",
    "TableSpec",
    "Task",
    "Tracker",
    "align",
    "align_checkpoints",
    "align_samples",
    "analysis",
    "architectures",
    "as_posterior",
    "assignment",
    "barrier",
    "barrier_matrix",
    "barriers",
    "barycenter",
    "bilinear",
    "build",
    "check_spec",
    "checkpoints",
    "coupling",
    "data",
    "default_registry",
    "discrepancy",
    "errors",
    "executors",
    "fit_center",
    "fit_curve",
    "fit_simplex",
    "fold",
    "function_discrepancy",
    "greedy_soup",
    "hookimpl",
    "hull_losses",
    "inference",
    "instability",
    "kl_divergence",
    "landscapes",
    "load_element",
    "load_posterior",
    "load_run",
    "load_spec",
    "load_study",
    "loss_plane",
    "match",
    "match_many",
    "matchers",
    "merge",
    "merge_checkpoints",
    "merge_lora",
    "merging",
    "metrics",
    "model_of",
    "open_adapter",
    "open_checkpoint",
    "posteriors",
    "report",
    "run",
    "save_checkpoint",
    "save_spec",
    "score",
    "simplex_losses",
    "spec_of",
    "specs",
    "star",
    "summarize",
    "symmetry",
    "table_spec",
    "trace_spec",
    "tracking",
    "untie",
    "wasserstein_distance",
    "write_back",
]
