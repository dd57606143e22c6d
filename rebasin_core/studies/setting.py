"""Objects that all stages of a run share (data, network, symmetries), and the computation of each stage."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, final

import torch

from rebasin_core.api.conversion import load_posterior
from rebasin_core.api.matching import match
from rebasin_core.api.tracing import installed_rules
from rebasin_core.errors import ConfigError, InvalidInputError, MeasurementWarning
from rebasin_core.evaluation.evaluator import Evaluator
from rebasin_core.evaluation.functional import FunctionalModel
from rebasin_core.evaluation.likelihoods import CategoricalLikelihood, GaussianLikelihood
from rebasin_core.evaluation.scores import PredictiveScores
from rebasin_core.evaluation.task import Task
from rebasin_core.plugin.discovery import CORE
from rebasin_core.specs.check import check_spec
from rebasin_core.strategy import strategies_in
from rebasin_core.tensors.digests import digest_of_file, digest_of_tensors
from rebasin_core.tensors.modules import named_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import nn

    from rebasin_core.barriers.base import BarrierEstimator
    from rebasin_core.barriers.curve import LossCurve
    from rebasin_core.config.run import PosteriorSource, RunConfig, Split
    from rebasin_core.data.base import DataSplits
    from rebasin_core.data.examples import TensorBatches
    from rebasin_core.evaluation.likelihood import Likelihood
    from rebasin_core.matchers.base import MatchResult
    from rebasin_core.plugin.registry import Registry
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.specs.base import PermutationSpec

# A permutation that changes the outputs is detected on a few examples.
_NUM_CHECK_EXAMPLES = 4
# Activation statistics of more training examples differ little, and `reset` and `repair` recompute them at each point.
_NUM_CALIBRATION_EXAMPLES = 5000
_NUM_SCORE_SAMPLES = 32


@final
@dataclass(frozen=True, slots=True)
class _Training:
    """An initialized network, and its training data."""

    model: nn.Module
    data: TensorBatches
    validation: TensorBatches | None


@final
class Setting:
    """Data, network and symmetries of a run, and the computation of its stages.

    Args:
        config: The run's configuration.
        registry: Registry of posterior representations and operator rules.

    Raises:
        ConfigError: If the device is not available.
        DataError: If the dataset cannot be read.
    """

    def __init__(self, config: RunConfig, registry: Registry) -> None:
        self._config = config
        self._registry = registry
        self.device = choose_device(config.device)
        self.dtype = torch.float64 if config.dtype == "float64" else torch.float32
        self._architecture = config.architecture
        found = config.data.load()
        self._data: DataSplits = replace(
            found, train=found.train.first(config.num_train), test=found.test.first(config.num_test)
        )

    @cached_property
    def model(self) -> nn.Module:
        """The network that defines the names and shapes of the posteriors' tensors."""
        return self.new_model(seed=0)

    @cached_property
    def spec(self) -> PermutationSpec:
        """The permutation symmetries of the network."""
        if self._config.spec is None:
            return self._architecture.spec(self.model)
        rules = installed_rules(self._registry)
        return self._config.spec.derive(self.model, self._example_inputs, rules=rules)

    @cached_property
    def likelihood(self) -> Likelihood:
        """The likelihood of the run; by default the one that fits the dataset."""
        is_classification = self._data.target.kind == "classification"
        chosen = self._config.likelihood
        if chosen is None:
            noise_scale = self._config.noise_scale
            return CategoricalLikelihood() if is_classification else GaussianLikelihood(scale=noise_scale)
        if is_classification != (chosen.targets == "classes"):
            task = "classification" if chosen.targets == "classes" else "regression"
            message = (
                f"the likelihood `{chosen.name}` is for {task}, the dataset `{self._config.data.name}` for "
                f"{self._data.target.kind}; use `likelihood: auto`"
            )
            raise ConfigError(message)
        return chosen

    @property
    def _example_inputs(self) -> torch.Tensor:
        return self._data.test.inputs[:_NUM_CHECK_EXAMPLES]

    @property
    def config(self) -> RunConfig:
        """The configuration."""
        return self._config

    @cached_property
    def inputs(self) -> Mapping[str, str]:
        """Digests of the contents of all inputs, by name.

        The digest of the network is that of its initial parameters, which detects most changes of the architecture's
        code.
        """
        train, test = self._data.train, self._data.test
        examples = {"x": train.inputs, "y": train.targets, "test x": test.inputs, "test y": test.targets}
        digests = {
            "the dataset": digest_of_tensors(examples),
            "the network": digest_of_tensors(named_tensors(self.model)),
            "the specification": self.spec.layout.fingerprint,
        }
        files = [source.path for source in (self._config.reference, self._config.candidate) if source.path is not None]
        return digests | {str(path): digest_of_file(path) for path in files}

    @cached_property
    def code(self) -> Mapping[str, str]:
        """Versions of the packages whose components the run uses."""
        used = [self._registry.get(s.family, s.registered_name()).status for s in strategies_in(self._config)]
        return {CORE: version(CORE)} | {status.distribution: status.version for status in used}

    def check(self) -> None:
        """Validate the run before any computation and before any file is written.

        Raises:
            SpecError: If the symmetries change the function, or a permuted tensor could not be tested and the run does
                not set ``allow_untested``.
            InvalidInputError: If a posterior to be loaded does not fit the network, or training options do not fit the
                network or the number of steps.
            FileFormatError: If a file to be loaded is missing or damaged.
        """
        report = check_spec(self.spec, self.model, self._example_inputs)
        report.require(allow_untested=self._config.allow_untested)
        for source in (self._config.reference, self._config.candidate):
            if source.path is not None:
                self.load(source.path)
                continue
            problem = self._training(source)
            inference = source.inference or self._config.inference
            inference.check(
                problem.model, problem.data, validation=problem.validation, spec=self.spec, likelihood=self.likelihood
            )

    def new_model(self, *, seed: int) -> nn.Module:
        """Return an initialized network.

        Args:
            seed: Seed of the initialization.

        Returns:
            The network, on the run's device.
        """
        generator = torch.Generator().manual_seed(seed)
        outputs = self.likelihood.num_outputs(self._data.target.output_size)
        model = self._architecture.build(self._data.input_shape, outputs, generator=generator)
        return model.to(self.device, self.dtype)

    def obtain(
        self, source: PosteriorSource, checkpoint: Path, *, label: str, progress: bool
    ) -> tuple[Posterior, dict[str, Any]]:
        """Train or load a posterior.

        Args:
            source: The seed or file of the posterior.
            checkpoint: File of the training state.
            label: Label of the progress bar.
            progress: Whether to show a progress bar.

        Returns:
            The posterior, and metadata as plain JSON.

        Raises:
            InvalidInputError: If the file has changed since the run started.
            RebasinError: If training diverges, or the file does not fit the network.
        """
        if source.path is not None:
            posterior = self.load(source.path)
            if digest_of_file(source.path) != self.inputs[str(source.path)]:
                message = f"{source.path} has changed since the run started; run the same command again"
                raise InvalidInputError(message)
            return posterior, {"loaded_from": str(source.path)}
        seed = source.seed or 0
        inference = source.inference or self._config.inference
        problem = self._training(source)
        result = inference.fit(
            problem.model,
            problem.data,
            validation=problem.validation,
            spec=self.spec,
            likelihood=self.likelihood,
            # A random stream independent of the initialization, which uses the seed itself.
            generator=torch.Generator().manual_seed(seed + 2**32),
            checkpoint=checkpoint,
            progress=progress,
            label=label,
        )
        meta = {"seed": seed, "inference": json.loads(inference.canonical_json()), "history": list(result.history)}
        return result.posterior, meta

    def _training(self, source: PosteriorSource) -> _Training:
        """Return the initialized network and the data to train a posterior."""
        seed = source.seed or 0
        train, validation = self._data.train.split(self._config.validation_fraction)
        return _Training(
            self.new_model(seed=seed),
            train.batches(self._config.batch_size, shuffle_seed=seed),
            validation.batches(self._config.evaluation_batch_size) if len(validation) else None,
        )

    def load(self, path: Path) -> Posterior:
        """Read a posterior and check that it fits the network.

        Args:
            path: File of a posterior, or safetensors checkpoint.

        Returns:
            The posterior, on the run's device and in its dtype.

        Raises:
            InvalidInputError: If tensors are missing, unexpected, of other shapes or not finite.
            FileFormatError: If the file is damaged.
        """
        posterior = load_posterior(path, model=self.model, registry=self._registry)
        FunctionalModel(self.model).check({**posterior.mean, **posterior.buffers}, str(path))
        return posterior.to(device=self.device, dtype=self.dtype)

    def match(
        self, name: str, reference: Posterior, candidate: Posterior, checkpoint: Path, *, progress: bool
    ) -> MatchResult:
        """Match two posteriors with one of the run's matchers.

        Args:
            name: Name of the matcher.
            reference: Posterior to align to.
            candidate: Posterior to permute.
            checkpoint: File for the best permutation of an interrupted search.
            progress: Whether to show a progress bar.

        Returns:
            The result.

        Raises:
            InvalidInputError: If the matcher does not support these posteriors.
        """
        chosen = next(matcher for matcher in self._config.matchers if matcher.name == name)
        return match(
            reference,
            candidate,
            self.spec,
            chosen,
            task=Task(self.model, self._batches("train"), self.likelihood),
            generator=torch.Generator().manual_seed(self._config.seed),
            progress=progress,
            checkpoint=checkpoint,
        )

    def curve(self, split: Split, reference: Posterior, candidate: Posterior, *, progress: bool) -> LossCurve:
        """Estimate the loss curve between two posteriors.

        Args:
            split: Split of the dataset.
            reference: The posterior at t = 0.
            candidate: The posterior at t = 1.
            progress: Whether to show a progress bar.

        Returns:
            The curve. Its notes are stored in the results and not issued as warnings.

        Raises:
            InvalidInputError: If the estimator does not support these posteriors.
        """
        return self._curve(self._config.barrier, split, reference, candidate, progress=progress)

    @property
    def has_means(self) -> bool:
        """Whether the barrier between the means of the posteriors can be estimated as well."""
        return self._config.barrier.of_means() is not None

    def means_curve(self, split: Split, reference: Posterior, candidate: Posterior, *, progress: bool) -> LossCurve:
        """Estimate the loss curve between the means of two posteriors (single networks).

        Args:
            split: Split of the dataset.
            reference: The posterior at t = 0.
            candidate: The posterior at t = 1.
            progress: Whether to show a progress bar.

        Returns:
            The curve.

        Raises:
            InvalidInputError: If there is no such estimator (`has_means`), or it does not support these posteriors.
        """
        estimator = self._config.barrier.of_means()
        if estimator is None:
            message = f"`{self._config.barrier.name}` cannot estimate the barrier between means"
            raise InvalidInputError(message)
        return self._curve(estimator, split, reference, candidate, progress=progress)

    def _curve(
        self, estimator: BarrierEstimator, split: Split, reference: Posterior, candidate: Posterior, *, progress: bool
    ) -> LossCurve:
        calibration = self._data.train.first(_NUM_CALIBRATION_EXAMPLES).batches(self._config.evaluation_batch_size)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MeasurementWarning)
            return estimator.estimate(
                reference,
                candidate,
                Task(self.model, self._batches(split), self.likelihood, calibration),
                generator=torch.Generator().manual_seed(self._config.seed),
                progress=progress,
            )

    def scores(self, split: Split, posterior: Posterior) -> PredictiveScores:
        """Score the predictive distribution of a posterior.

        Args:
            split: Split of the dataset.
            posterior: The posterior.

        Returns:
            The scores.

        Raises:
            InvalidInputError: If a loss is not finite.
        """
        task = Task(self.model, self._batches(split), self.likelihood)
        evaluator = Evaluator(task, posterior, num_samples=_NUM_SCORE_SAMPLES, seed=self._config.seed)
        return PredictiveScores.estimate(evaluator, posterior)

    def _batches(self, split: Split) -> TensorBatches:
        examples = self._data.train if split == "train" else self._data.test
        return examples.batches(self._config.evaluation_batch_size)


def choose_device(name: str) -> torch.device:
    """Return a device.

    Args:
        name: ``auto`` (CUDA if available, else the CPU), or the name of a PyTorch device.

    Returns:
        The device.

    Raises:
        ConfigError: If the device is not available.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        message = f"the device {name!r} is not available ({reason}); expected `auto`, `cpu`, `cuda` or `cuda:<n>`"
        raise ConfigError(message) from error
    return device
