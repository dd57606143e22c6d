"""The stages of one cell: one dataset, network and inference method, and everything that is computed with them."""

from __future__ import annotations

import json
from functools import cached_property
from typing import TYPE_CHECKING, Any, final

import torch

from rebasin_core.errors import ConfigError
from rebasin_core.evaluation.likelihoods import CategoricalLikelihood, GaussianLikelihood
from rebasin_core.studies.kinds.align import AlignWork
from rebasin_core.studies.kinds.curve import CurveWork
from rebasin_core.studies.kinds.data import DataWork
from rebasin_core.studies.kinds.load import LoadWork
from rebasin_core.studies.kinds.match import MatchWork
from rebasin_core.studies.kinds.network import NetworkWork
from rebasin_core.studies.kinds.options import ANY_DEVICE, DataOptions, NetworkOptions
from rebasin_core.studies.kinds.scores import ScoresWork
from rebasin_core.studies.kinds.similarities import SimilaritiesWork
from rebasin_core.studies.kinds.train import TrainWork
from rebasin_core.studies.planning.contents import Contents, is_point_file, with_paths
from rebasin_core.studies.stage import Entries, Stage, entries
from rebasin_core.tensors.digests import canonical_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rebasin_core.barriers.base import BarrierEstimator
    from rebasin_core.config.run import PosteriorSource, RunConfig, Split
    from rebasin_core.evaluation.likelihood import Likelihood
    from rebasin_core.matchers.base import Matcher
    from rebasin_core.studies.graph import Graph
    from rebasin_core.studies.kinds.base import Work


@final
class Prepared:
    """A computation that many stages share: its options as JSON, and the code that it runs, computed once.

    Args:
        work: The computation.
        contents: Digests of contents.
        code: Versions of packages that the computation uses in addition to those of its strategies.
    """

    def __init__(self, work: Work, contents: Contents, code: Mapping[str, str] | None = None) -> None:
        self.kind = work.kind_name()
        self.work = json.dumps(_with_absolute_paths(work))
        self.options = _identity_of(work, contents)
        self.code: Entries = entries({**(code or {}), **contents.code(work, without=work.located)})

    def stage(
        self, label: str, *, reads: Mapping[str, Stage] | None = None, inputs: Mapping[str, str] | None = None
    ) -> Stage:
        """Return a stage of this computation.

        Args:
            label: Text for messages.
            reads: Stages whose results it reads, by role.
            inputs: Digests of contents that it reads, by name.

        Returns:
            The stage.
        """
        found = {role: stage.id for role, stage in (reads or {}).items()}
        return Stage(self.kind, self.options, self.work, entries(found), entries(inputs or {}), self.code, label)


@final
class CellPlan:
    """Adds the stages of one cell to a graph: posteriors, matches, curves and scores.

    Args:
        config: The run configuration of the cell; its posteriors are not used.
        graph: Graph to which stages are added.
        contents: Digests of contents.

    Attributes:
        config: The configuration.
        origins: For the identity of the stage of each posterior, the stage that trains or loads it. Another one only if
            its samples are then aligned.

    Raises:
        ConfigError: If the likelihood does not fit the dataset.
        DataError: If the dataset cannot be read.
    """

    def __init__(self, config: RunConfig, graph: Graph, contents: Contents) -> None:
        self.config = config
        self.origins: dict[str, Stage] = {}
        self._graph = graph
        self._contents = contents
        self._facts = contents.data(config.data, config.num_train, config.num_test)
        # By identity of the strategy, which is much faster than its hash; the value keeps the strategy alive.
        self._prepared: dict[tuple[object, ...], tuple[Prepared, object]] = {}
        self._splits: dict[tuple[Split, int | None], Stage] = {}

    @cached_property
    def likelihood(self) -> Likelihood:
        """The likelihood of the configuration; by default the one that fits the dataset."""
        config = self.config
        target = self._facts.target
        is_classification = target.kind == "classification"
        chosen = config.likelihood
        if chosen is None:
            return CategoricalLikelihood() if is_classification else GaussianLikelihood(scale=config.noise_scale)
        if is_classification != (chosen.targets == "classes"):
            task = "classification" if chosen.targets == "classes" else "regression"
            message = (
                f"the likelihood `{chosen.name}` is for {task}, the dataset `{config.data.name}` for {target.kind}; "
                "use `likelihood: auto`"
            )
            raise ConfigError(message)
        return chosen

    @cached_property
    def options(self) -> NetworkOptions:
        """The network and the numerical settings."""
        device = self.config.device
        return NetworkOptions(
            architecture=self.config.architecture,
            input_shape=self._facts.input_shape,
            num_outputs=self.likelihood.num_outputs(self._facts.target.output_size),
            dtype=self.config.dtype,
            device=ANY_DEVICE if device == "auto" else device.partition(":")[0],
            precision=torch.get_float32_matmul_precision(),
        )

    def data(self, split: Split, count: int | None = None) -> Stage:
        """Add the stage of a split of the dataset.

        Args:
            split: The split.
            count: Number of examples, from the first; all of the configuration if None.

        Returns:
            The stage. Stages of equal examples are equal.
        """
        key = (split, count)
        if key not in self._splits:
            options = self._data(split, count)
            work = Prepared(DataWork(data=options), self._contents)
            digest = self._contents.examples(self.config.data, split, options.count)
            self._splits[key] = self._add(work.stage(f"{split} data", inputs={"examples": digest}))
        return self._splits[key]

    @cached_property
    def network(self) -> Stage:
        """The stage of the network and its symmetries."""
        work = NetworkWork(network=self.options, spec=self.config.spec, data=self._data("test"))
        code = {} if self.config.spec is None else self._contents.code_of_rules()
        stage = Prepared(work, self._contents, code).stage("network", inputs={"examples": self._facts.inputs})
        return self._add(stage)

    def posterior(self, source: PosteriorSource, label: str) -> Stage:
        """Add the stages of a posterior: it is trained or loaded, and its samples are aligned if this is configured.

        Args:
            source: Its seed or file.
            label: Text for messages, such as ``reference``.

        Returns:
            The last stage.

        Raises:
            ConfigError: If the samples of a single network are to be aligned.
            FileFormatError: If the file cannot be read.
        """
        origin = self._origin(source, label)
        matcher = self.config.align_samples
        found = origin if matcher is None else self._aligned(matcher, source, origin, label)
        self.origins[found.id] = origin
        return found

    def _origin(self, source: PosteriorSource, label: str) -> Stage:
        """Add the stage that trains or loads a posterior."""
        if source.path is not None:
            path = source.path.absolute()
            work = LoadWork(network=self.options, path=path)
            digest = self._contents.checkpoint(path)
            return self._add(
                Prepared(work, self._contents, self._contents.code_of_file(path)).stage(
                    f"load {label}", inputs={"file": digest}
                )
            )
        training = self.training(source)
        if self.config.start is None:
            return self._trained(training, f"train {label}")
        own = training.seed if self.config.start_seed is None else self.config.start_seed
        first = training.model_copy(update={"inference": self.config.start, "seed": own})
        return self._trained(training, f"train {label}", start=self._trained(first, f"train start of {label}"))

    def _trained(self, training: TrainWork, label: str, *, start: Stage | None = None) -> Stage:
        """Add the stage that trains a posterior, from random values or from the mean of another one."""
        prepared = self._once(f"train {training.seed}", lambda: training, training.inference)
        reads = {"train": self.data("train")}
        if start is not None:
            reads["start"] = start
        if training.inference.uses_spec:
            reads["network"] = self.network
        return self._add(prepared.stage(label, reads=reads))

    def _aligned(self, matcher: Matcher, source: PosteriorSource, origin: Stage, label: str) -> Stage:
        """Add the stage that aligns the samples of a posterior with each other."""
        if self.is_point(source):
            message = (
                f"`align_samples` needs posteriors with several samples, but {label} is a single network; remove the "
                "option"
            )
            raise ConfigError(message)
        prepared = self._once("align", lambda: AlignWork(matcher=matcher, **self._matching(matcher)), matcher)
        reads = {"network": self.network, "posterior": origin, **self._matching_data(matcher)}
        return self._add(prepared.stage(f"align samples of {label}", reads=reads))

    def is_point(self, source: PosteriorSource) -> bool:
        """Return whether a posterior is a single network."""
        if source.path is not None:
            return is_point_file(source.path)
        return self.training(source).inference.is_point

    def training(self, source: PosteriorSource) -> TrainWork:
        """Return the training of a posterior from a seed."""
        config = self.config
        return TrainWork(
            network=self.options,
            likelihood=self.likelihood,
            inference=source.inference or config.inference,
            seed=source.seed or 0,
            initialization_seed=config.start_seed if config.start is None else None,
            batch_size=config.batch_size,
            validation_fraction=config.validation_fraction,
            validation_batch_size=config.evaluation_batch_size if config.validation_fraction else None,
            compiled=config.compiled,
        )

    def match(self, matcher: Matcher, reference: Stage, candidate: Stage, label: str) -> Stage:
        """Add the stage of a match.

        Args:
            matcher: The matcher.
            reference: Stage of the reference.
            candidate: Stage of the candidate.
            label: Text for messages.

        Returns:
            The stage.
        """
        prepared = self._once("match", lambda: MatchWork(matcher=matcher, **self._matching(matcher)), matcher)
        pair = {"reference": reference, "candidate": candidate}
        reads = {"network": self.network, **pair, **self._matching_data(matcher)}
        return self._add(prepared.stage(f"match {label}", reads=reads))

    def _matching(self, matcher: Matcher) -> dict[str, Any]:
        """Return the options of a computation with a matcher, apart from the matcher."""
        return {
            "network": self.options,
            "seed": self.config.seed,
            "likelihood": self.likelihood if matcher.uses_task else None,
            "batch_size": self.config.evaluation_batch_size if matcher.uses_task else None,
        }

    def _matching_data(self, matcher: Matcher) -> dict[str, Stage]:
        """Return the data of a matcher that runs the network; empty for others."""
        return {"train": self.data("train", self.config.num_match)} if matcher.uses_task else {}

    def similarities(self, match: Stage, reference: Stage, candidate: Stage, label: str) -> Stage:
        """Add the stage of the unit similarities before and after a match.

        Args:
            match: Stage of the match.
            reference: Stage of the reference.
            candidate: Stage of the candidate.
            label: Text for messages.

        Returns:
            The stage.
        """
        prepared = self._once("similarities", lambda: SimilaritiesWork(network=self.options))
        reads = {"network": self.network, "match": match, "reference": reference, "candidate": candidate}
        return self._add(prepared.stage(f"similarities {label}", reads=reads))

    def curve(
        self,
        barrier: BarrierEstimator,
        split: Split,
        reference: Stage,
        candidate: Stage,
        *,
        match: Stage | None,
        label: str,
    ) -> Stage:
        """Add the stage of a loss curve.

        Args:
            barrier: The barrier estimator.
            split: Split of the dataset.
            reference: Stage of the reference.
            candidate: Stage of the candidate.
            match: Stage of the match that aligns the candidate; None for the unaligned candidate.
            label: Text for messages.

        Returns:
            The stage.
        """
        config = self.config
        prepared = self._once(
            "curve",
            lambda: CurveWork(
                network=self.options,
                likelihood=self.likelihood,
                barrier=barrier,
                seed=config.seed,
                batch_size=config.evaluation_batch_size,
            ),
            barrier,
        )
        reads = {"data": self.data(split), "reference": reference, "candidate": candidate}
        if barrier.uses_calibration:
            reads["calibration"] = self.data("train", config.num_calibration)
        if match is not None:
            reads |= {"network": self.network, "match": match}
        return self._add(prepared.stage(f"curve {label}", reads=reads))

    def scores(self, split: Split, posterior: Stage, label: str) -> Stage:
        """Add the stage of the scores of a posterior.

        Args:
            split: Split of the dataset.
            posterior: Stage of the posterior.
            label: Text for messages.

        Returns:
            The stage.
        """
        config = self.config
        prepared = self._once(
            "scores",
            lambda: ScoresWork(
                network=self.options,
                likelihood=self.likelihood,
                seed=config.seed,
                num_samples=config.num_score_samples,
                batch_size=config.evaluation_batch_size,
                target_scale=self._facts.target.scale if self.likelihood.targets == "numbers" else (),
            ),
        )
        reads = {"data": self.data(split), "posterior": posterior}
        return self._add(prepared.stage(f"scores {label}", reads=reads))

    def _data(self, split: Split, count: int | None = None) -> DataOptions:
        counts = [self.config.num_train if split == "train" else self.config.num_test, count]
        smallest = min((number for number in counts if number is not None), default=None)
        return DataOptions(source=self.config.data, split=split, count=smallest)

    def _once(self, kind: str, make: Callable[[], Work], strategy: object = None) -> Prepared:
        """Return the prepared computation of a kind with a strategy; make it on the first call."""
        key = (kind, id(strategy))
        if key not in self._prepared:
            self._prepared[key] = (Prepared(make(), self._contents), strategy)
        return self._prepared[key][0]

    def _add(self, stage: Stage) -> Stage:
        return self._graph.add(stage)


def _with_absolute_paths(work: Work) -> Any:  # ruff: ignore[any-type] - JSON
    """Return the options of a computation as JSON, with absolute paths: workers can run in other folders."""
    return with_paths(work, json.loads(work.canonical_json()), lambda path: str(path.absolute()))


def _identity_of(work: Work, contents: Contents) -> str:
    """Return the options that determine the result as canonical JSON, with digests instead of paths."""
    document = json.loads(work.canonical_json())
    for name in ("kind", *work.located):
        document.pop(name, None)
    return canonical_json(with_paths(work, document, contents.path))
