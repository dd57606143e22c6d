"""The workspace of a worker: store, device, and caches of data, networks and posteriors."""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import TYPE_CHECKING, TypeVar, final

from rebasin_core.api.conversion import load_posterior
from rebasin_core.errors import DataError
from rebasin_core.evaluation.functional import FunctionalModel
from rebasin_core.plugin.registry import Registry, default_registry
from rebasin_core.studies.kinds.names import POSTERIOR
from rebasin_core.studies.kinds.options import DataOptions, NetworkOptions
from rebasin_core.tensors.device import choose_device
from rebasin_core.tensors.digests import digest_of_tensors

if TYPE_CHECKING:
    from torch import nn

    from rebasin_core.data.base import DataSplits
    from rebasin_core.data.examples import Examples
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.studies.stage import Stage
    from rebasin_core.studies.store import Artifact, Store

Key = TypeVar("Key")
Value = TypeVar("Value")

# Stages that follow each other usually share a posterior or the data; more would only occupy memory.
_NUM_DATASETS = 4
_NUM_POSTERIORS = 8
_NUM_ARTIFACTS = 256


def digest_of_examples(examples: Examples) -> str:
    """Return the digest of examples, which identifies the stage of a dataset."""
    return digest_of_tensors({"inputs": examples.inputs, "targets": examples.targets})


@final
class Workspace:
    """Store, device and caches, with which one process computes stages.

    Args:
        store: The store of results.
        registry: Registry of components; all installed plugins if None.
        device: ``auto`` (CUDA if available, else the CPU), or the name of a PyTorch device.
        progress: Whether stages show their progress.

    Attributes:
        store: The store of results.
        registry: Registry of components.
        device: The device.
        progress: Whether stages show their progress.

    Raises:
        ConfigError: If the device is not available.
    """

    def __init__(
        self, store: Store, *, registry: Registry | None = None, device: str = "auto", progress: bool = False
    ) -> None:
        self.store = store
        self.registry = registry or default_registry()
        self.device = choose_device(device)
        self.progress = progress
        self._loaded: OrderedDict[str, DataSplits] = OrderedDict()
        self._verified: set[str] = set()
        self._models: dict[NetworkOptions, nn.Module] = {}
        self._posteriors: OrderedDict[tuple[str, NetworkOptions], Posterior] = OrderedDict()
        self._artifacts: OrderedDict[str, Artifact] = OrderedDict()

    def artifact(self, identity: str) -> Artifact:
        """Return a stored result.

        Raises:
            MissingArtifactError: If it is not stored.
            DamagedArtifactError: If it is damaged.
        """
        found = self._artifacts.get(identity)
        return found or _kept(self._artifacts, identity, self.store.read(identity), _NUM_ARTIFACTS)

    def examples(self, stage: Stage) -> Examples:
        """Return the examples of a dataset's stage.

        Raises:
            DataError: If the dataset has changed since the stage was planned, or differs on this machine.
        """
        work = _data_in(stage)
        found = self.unverified(work)
        if stage.id not in self._verified:
            if digest_of_examples(found) != dict(stage.inputs)["examples"]:
                message = (
                    f"the {work.split} examples of `{work.source.name}` differ from those of this run: they "
                    "changed, or this machine has others. Run the command again"
                )
                raise DataError(message)
            self._verified.add(stage.id)
        return found

    def unverified(self, work: DataOptions) -> Examples:
        """Return the examples of a dataset without comparing their digest."""
        splits = self._splits(work)
        return (splits.train if work.split == "train" else splits.test).first(work.count)

    def model(self, options: NetworkOptions) -> nn.Module:
        """Return the network that defines names and shapes of parameters and buffers."""
        if options not in self._models:
            self._models[options] = options.build(self.device, seed=0)
        return self._models[options]

    def posterior(self, artifact: Artifact, options: NetworkOptions) -> Posterior:
        """Return a stored posterior, on the device and in the dtype of a network.

        Raises:
            InvalidInputError: If it does not fit the network.
            DamagedArtifactError: If it is damaged.
        """
        key = (artifact.id, options)
        if key in self._posteriors:
            self._posteriors.move_to_end(key)
            return self._posteriors[key]
        path = self.store.fetch(artifact, POSTERIOR)
        model = self.model(options)
        found = load_posterior(path, model=model, registry=self.registry)
        FunctionalModel(model).check({**found.mean, **found.buffers}, str(path))
        return _kept(self._posteriors, key, found.to(device=self.device, dtype=options.torch_dtype), _NUM_POSTERIORS)

    def _splits(self, work: DataOptions) -> DataSplits:
        key = work.source.canonical_json()
        return self._loaded.get(key) or _kept(self._loaded, key, work.source.load(), _NUM_DATASETS)


def _data_in(stage: Stage) -> DataOptions:
    """Return where the examples of a dataset's stage are."""
    return DataOptions.model_validate(json.loads(stage.work)["data"])


def _kept(cache: OrderedDict[Key, Value], key: Key, value: Value, limit: int) -> Value:
    """Add a value to a cache; remove the oldest ones beyond the limit."""
    cache[key] = value
    while len(cache) > limit:
        cache.popitem(last=False)
    return value
