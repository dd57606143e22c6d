"""The plugin that registers everything built in, through the same hooks as a third party's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rebasin_core.plugin.hookspecs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rebasin_core.architectures.base import Architecture
    from rebasin_core.assignment.base import AssignmentSolver
    from rebasin_core.barriers.base import BarrierEstimator
    from rebasin_core.barriers.paths.base import Path
    from rebasin_core.data.base import DataSource
    from rebasin_core.evaluation.likelihood import Likelihood
    from rebasin_core.evaluation.metric import Metric
    from rebasin_core.inference.base import Inference
    from rebasin_core.matchers.base import Matcher
    from rebasin_core.posteriors.adapter import PosteriorAdapter
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.specs.base import SpecFactory
    from rebasin_core.specs.operators.base import OperatorRules


@hookimpl
def rebasin_architectures() -> Sequence[type[Architecture]]:
    """Return the architectures."""
    from rebasin_core import architectures

    return [
        architectures.MLPArchitecture,
        architectures.VGGArchitecture,
        architectures.CifarResNetArchitecture,
        architectures.ResNetArchitecture,
        architectures.ViTArchitecture,
        architectures.GPTArchitecture,
    ]


@hookimpl
def rebasin_specs() -> Sequence[type[SpecFactory]]:
    """Return the specification factories."""
    from rebasin_core.specs import FileSpecFactory, TableSpecFactory, TracedSpecFactory

    return [TableSpecFactory, TracedSpecFactory, FileSpecFactory]


@hookimpl
def rebasin_operator_rules() -> Sequence[type[OperatorRules]]:
    """Return the rules for the operators of PyTorch and torchvision."""
    from rebasin_core.specs.operators.catalogue import BUILT_IN_FAMILIES

    return BUILT_IN_FAMILIES


@hookimpl
def rebasin_datasets() -> Sequence[type[DataSource]]:
    """Return the datasets."""
    from rebasin_core import data

    return [
        data.DigitsSource,
        data.MNISTSource,
        data.FashionMNISTSource,
        data.CIFAR10Source,
        data.UCISource,
    ]


@hookimpl
def rebasin_inferences() -> Sequence[type[Inference]]:
    """Return the inference methods."""
    from rebasin_core import inference

    return [
        inference.MAPInference,
        inference.MeanFieldVI,
        inference.DeepEnsemble,
        inference.SnapshotEnsemble,
        inference.SWAG,
        inference.SGLD,
        inference.SGHMC,
        inference.MCDropout,
    ]


@hookimpl
def rebasin_assignments() -> Sequence[type[AssignmentSolver]]:
    """Return the assignment solvers."""
    from rebasin_core.assignment import AuctionAssignment, AutoAssignment, CompiledAssignment, ScipyAssignment

    return [AutoAssignment, ScipyAssignment, CompiledAssignment, AuctionAssignment]


@hookimpl
def rebasin_likelihoods() -> Sequence[type[Likelihood]]:
    """Return the likelihoods."""
    from rebasin_core import evaluation

    return [
        evaluation.CategoricalLikelihood,
        evaluation.GaussianLikelihood,
        evaluation.HeteroscedasticGaussianLikelihood,
    ]


@hookimpl
def rebasin_metrics() -> Sequence[type[Metric]]:
    """Return the metrics."""
    from rebasin_core.evaluation import metrics

    return [
        metrics.NLLMetric,
        metrics.GibbsMetric,
        metrics.ErrorMetric,
        metrics.BrierMetric,
        metrics.SquaredErrorMetric,
    ]


@hookimpl
def rebasin_matchers() -> Sequence[type[Matcher]]:
    """Return the matchers."""
    from rebasin_core import matchers

    return [
        matchers.WeightMatcher,
        matchers.WassersteinMatcher,
        matchers.KLMatcher,
        matchers.FisherMatcher,
        matchers.ActivationMatcher,
        matchers.GradientMatcher,
        matchers.FrankWolfeMatcher,
        matchers.TransportMatcher,
        matchers.StraightThroughMatcher,
        matchers.SinkhornMatcher,
        matchers.AnnealingMatcher,
        matchers.RestartsMatcher,
        matchers.ChainMatcher,
        matchers.PortfolioMatcher,
    ]


@hookimpl
def rebasin_barriers() -> Sequence[type[BarrierEstimator]]:
    """Return the barrier estimators."""
    from rebasin_core import barriers

    return [
        barriers.MarginalizedBarrier,
        barriers.PointwiseBarrier,
        barriers.ResetBarrier,
        barriers.RepairBarrier,
        barriers.CurvedBarrier,
    ]


@hookimpl
def rebasin_paths() -> Sequence[type[Path]]:
    """Return the paths between posteriors."""
    from rebasin_core.barriers import paths

    return [
        paths.AutoPath,
        paths.WassersteinPath,
        paths.CoupledPath,
        paths.MomentsPath,
        paths.SamplesPath,
        paths.MixturePath,
    ]


@hookimpl
def rebasin_posteriors() -> Sequence[type[Posterior]]:
    """Return the representations of posteriors."""
    from rebasin_core import posteriors

    return [
        posteriors.PointPosterior,
        posteriors.DiagonalGaussianPosterior,
        posteriors.LowRankGaussianPosterior,
        posteriors.KroneckerGaussianPosterior,
        posteriors.FullGaussianPosterior,
        posteriors.SamplesPosterior,
        posteriors.MixturePosterior,
        posteriors.MultiplicativeNoisePosterior,
    ]


@hookimpl
def rebasin_posterior_adapters() -> Sequence[type[PosteriorAdapter]]:
    """Return the adapters of foreign objects."""
    from rebasin_core.posteriors import AveragedModelAdapter, IVONAdapter, ModuleAdapter, PyroGuideAdapter

    return [ModuleAdapter, AveragedModelAdapter, IVONAdapter, PyroGuideAdapter]
