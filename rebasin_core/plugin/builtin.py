"""The plugin that registers everything built in, through the same hooks as a third party's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rebasin_core.plugin.hookspecs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rebasin_core.assignment.base import AssignmentSolver
    from rebasin_core.config.architecture import ArchitectureConfig
    from rebasin_core.config.barrier import BarrierConfig
    from rebasin_core.config.dataset import DatasetConfig
    from rebasin_core.config.spec import SpecConfig
    from rebasin_core.evaluation.likelihood import Likelihood
    from rebasin_core.inference.base import Inference
    from rebasin_core.matchers.base import Matcher
    from rebasin_core.posteriors.adapter import PosteriorAdapter
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.specs.operators.base import OperatorRules


@hookimpl
def rebasin_architectures() -> Sequence[type[ArchitectureConfig]]:
    """Return the architectures."""
    from rebasin_core.config import architecture

    return [
        architecture.MLPConfig,
        architecture.VGGConfig,
        architecture.CifarResNetConfig,
        architecture.ResNetConfig,
        architecture.ViTConfig,
        architecture.GPTConfig,
    ]


@hookimpl
def rebasin_specs() -> Sequence[type[SpecConfig]]:
    """Return the ways to get a specification."""
    from rebasin_core.config.spec import FileSpecConfig, TableSpecConfig, TracedSpecConfig

    return [TableSpecConfig, TracedSpecConfig, FileSpecConfig]


@hookimpl
def rebasin_operator_rules() -> Sequence[type[OperatorRules]]:
    """Return the rules for the operators of PyTorch and torchvision."""
    from rebasin_core.specs.operators.catalogue import BUILT_IN_FAMILIES

    return BUILT_IN_FAMILIES


@hookimpl
def rebasin_datasets() -> Sequence[type[DatasetConfig]]:
    """Return the data sets."""
    from rebasin_core.config import dataset

    return [
        dataset.DigitsConfig,
        dataset.MNISTConfig,
        dataset.FashionMNISTConfig,
        dataset.CIFAR10Config,
        dataset.UCIConfig,
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
def rebasin_barriers() -> Sequence[type[BarrierConfig]]:
    """Return the barrier estimators."""
    from rebasin_core.config import barrier

    return [
        barrier.MarginalizedBarrierConfig,
        barrier.PointwiseBarrierConfig,
        barrier.ResetBarrierConfig,
        barrier.RepairBarrierConfig,
        barrier.CurvedBarrierConfig,
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
