"""Inference: methods that fit a posterior to data."""

from rebasin_core.inference.augmentation import Augmentation
from rebasin_core.inference.base import FitProblem, FitResult, Inference
from rebasin_core.inference.deep_ensemble import DeepEnsemble
from rebasin_core.inference.gradient import AbstractGradientInference, AbstractOptimizedInference
from rebasin_core.inference.hamiltonian.base import AbstractHamiltonianInference
from rebasin_core.inference.hmc import HMC
from rebasin_core.inference.maximum_a_posteriori import MAPInference
from rebasin_core.inference.mc_dropout import MCDropout
from rebasin_core.inference.mean_field_vi import MeanFieldVI
from rebasin_core.inference.nuts import NUTS
from rebasin_core.inference.objective import AbstractObjective
from rebasin_core.inference.optimizer import OptimizerSpec, ScheduleSpec
from rebasin_core.inference.sampler_statistics import SamplerStatistics
from rebasin_core.inference.sghmc import SGHMC
from rebasin_core.inference.sgld import SGLD
from rebasin_core.inference.snapshot_ensemble import SnapshotEnsemble
from rebasin_core.inference.stochastic_gradient_mcmc import AbstractStochasticGradientMCMC
from rebasin_core.inference.subspace import SubspaceInference
from rebasin_core.inference.svgd import SVGD
from rebasin_core.inference.swag import SWAG
from rebasin_core.inference.training import Optimization

__all__ = [
    "HMC",
    "NUTS",
    "SGHMC",
    "SGLD",
    "SVGD",
    "SWAG",
    "AbstractGradientInference",
    "AbstractHamiltonianInference",
    "AbstractObjective",
    "AbstractOptimizedInference",
    "AbstractStochasticGradientMCMC",
    "Augmentation",
    "DeepEnsemble",
    "FitProblem",
    "FitResult",
    "Inference",
    "MAPInference",
    "MCDropout",
    "MeanFieldVI",
    "Optimization",
    "OptimizerSpec",
    "SamplerStatistics",
    "ScheduleSpec",
    "SnapshotEnsemble",
    "SubspaceInference",
]
