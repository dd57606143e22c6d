"""Stage of training: fits a posterior to the training data."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal, final

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt
from typing_extensions import override

from rebasin_core.evaluation.likelihood import Likelihood
from rebasin_core.inference.base import Inference
from rebasin_core.studies.kinds.base import Context, Product, Work
from rebasin_core.studies.kinds.names import POSTERIOR
from rebasin_core.studies.kinds.network import spec_in
from rebasin_core.studies.kinds.options import NetworkOptions

if TYPE_CHECKING:
    from rebasin_core.data.examples import Examples, TensorBatches
    from rebasin_core.specs.base import PermutationSpec


@final
class TrainWork(Work):
    """Trains a posterior from a seed. Training that is interrupted resumes from its last checkpoint."""

    kind: Literal["train"] = "train"

    network: NetworkOptions
    """The network."""

    likelihood: Likelihood
    """Likelihood of the targets given the network's outputs."""

    inference: Inference
    """The inference method."""

    seed: NonNegativeInt
    """Seed of the initialization, the batch order and the noise of training."""

    initialization_seed: NonNegativeInt | None = None
    """Seed of the initialization, if it is another one."""

    batch_size: PositiveInt
    """Batch size."""

    validation_fraction: NonNegativeFloat = 0.0
    """Fraction of the training examples held out for early stopping."""

    validation_batch_size: PositiveInt | None = None
    """Batch size for validation; None if no examples are held out."""

    compiled: bool = False
    """Whether the network is compiled."""

    @property
    def _initialization(self) -> int:
        """Seed of the initialization."""
        return self.seed if self.initialization_seed is None else self.initialization_seed

    def batches(self, examples: Examples) -> tuple[TensorBatches, TensorBatches | None]:
        """Return batches of the training and the held-out examples.

        Args:
            examples: The training examples of the dataset.

        Returns:
            Shuffled training batches, and validation batches or None.
        """
        train, validation = examples.split(self.validation_fraction)
        held_out = None if self.validation_batch_size is None else validation.batches(self.validation_batch_size)
        return train.batches(self.batch_size, shuffle_seed=self.seed), held_out

    def check(self, device: torch.device, examples: Examples, spec: PermutationSpec) -> None:
        """Raise if training options do not fit the network or the data, before any training.

        Args:
            device: Device of the network.
            examples: The training examples of the dataset.
            spec: Permutation symmetries of the network.

        Raises:
            InvalidInputError: If an option does not fit.
        """
        data, validation = self.batches(examples)
        model = self.network.build(device, seed=self._initialization)
        self.inference.check(model, data, validation=validation, spec=spec, likelihood=self.likelihood)

    @override
    def compute(self, context: Context) -> Product:
        data, validation = self.batches(context.examples("train"))
        model = self.network.build(context.device, seed=self._initialization)
        if context.reads("start"):
            first = context.posterior("start", self.network)
            model.load_state_dict({**first.mean, **first.buffers})
        result = self.inference.fit(
            model,
            data,
            validation=validation,
            spec=spec_in(context.artifact("network")) if context.reads("network") else None,
            likelihood=self.likelihood,
            # A random stream independent of the initialization, which uses the seed itself.
            generator=torch.Generator().manual_seed(self.seed + 2**32),
            checkpoint=context.scratch / "training.safetensors",
            progress=context.workspace.progress,  # lines, if there is no terminal
            compiled=self.compiled,
            label=context.stage.label,
        )
        path = context.folder / POSTERIOR
        history = {"history": list(result.history), "validation": list(result.validation)}
        inference = json.loads(self.inference.canonical_json())
        result.posterior.save(path, meta={"seed": self.seed, "inference": inference, "history": history["history"]})
        return Product({"training": history}, {POSTERIOR: path})
