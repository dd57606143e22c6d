"""Predictive distributions: the log likelihood of every target under every sample of the parameters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, final, runtime_checkable

import torch
from torch import Tensor

from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.batches import checked_batches
from rebasin_core.evaluation.choice import networks_of
from rebasin_core.evaluation.functional import FunctionalModel
from rebasin_core.evaluation.likelihood import Likelihood
from rebasin_core.tensors.memory import is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rebasin_core.evaluation.allocation import Stratum
    from rebasin_core.evaluation.networks import AbstractNetworks, Sampling
    from rebasin_core.evaluation.task import Batches, Task
    from rebasin_core.posteriors.base import Posterior


@runtime_checkable
class EpochBatches(Protocol):
    """Batches whose order depends on the number of the epoch, so that training can be resumed in the same order."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass, as ``torch.utils.data.DistributedSampler.set_epoch`` does."""


@final
@dataclass(frozen=True, slots=True)
class Predictions:
    """What a posterior predicts on a data set.

    Attributes:
        log_prob: ``[S, N]``: the log likelihood of every target under every sample.
        prediction: ``[N, K]``: probabilities or means, averaged over samples.
        score: ``[N]``: how well the prediction averaged over samples does (`Likelihood.score`).
        score_name: The name of its mean.
        targets: ``[N]`` or ``[N, K]``; None if they were not kept.
        entropy: ``[N]``: the entropy of one network's prediction, averaged over samples; None if unknown.
        groups: ``[G, N, K]``: the prediction of every group of samples, if groups were asked for.
        paired: Whether samples come in pairs of opposite noise.
        outputs: ``[S, N, ...]``: what every network returned, if it was asked for.
        independent: Whether the noise of one example has nothing to do with that of another.
        parts: Where examples have different numbers of samples: the predictions of each stratum; `log_prob` then holds
            the samples that all have.
        is_point: Whether there is one network and nothing random, so that there is no Monte Carlo error.
    """

    log_prob: Tensor
    prediction: Tensor
    score: Tensor
    score_name: str
    targets: Tensor | None = None
    entropy: Tensor | None = None
    groups: Tensor | None = None
    paired: bool = False
    outputs: Tensor | None = None
    independent: bool = False
    parts: tuple[tuple[Stratum, Predictions], ...] = ()
    is_point: bool = False


def held_batches(model: FunctionalModel, data: Batches) -> Sequence[tuple[Tensor, Tensor]]:
    """Return all batches of a data set on the model's device, so that they can be read again and again.

    Args:
        model: Sets device and dtype.
        data: Any iterable of ``(inputs, targets)`` batches, also one that can be read only once.

    Returns:
        The batches.

    Raises:
        InvalidInputError: If there is none, or something else than pairs of tensors.
    """
    batches = [(model.to_device(inputs), model.to_device(targets)) for inputs, targets in checked_batches(data)]
    if not batches:
        message = "expected at least one example, got an empty data set; a generator can be read only once"
        raise InvalidInputError(message)
    return batches


def batch_weights(batches: Sequence[tuple[Tensor, Tensor]]) -> list[float]:
    """Return the weights of batches' means, with which every example counts the same in a pass of gradient steps.

    Args:
        batches: Batches ``(inputs, targets)`` of a pass.

    Returns:
        The number of examples of each, in units of the mean batch; 1 for batches of equal size.
    """
    sizes = [len(targets) for _, targets in batches]
    return [len(sizes) * size / sum(sizes) for size in sizes]


@final
@dataclass(frozen=True, slots=True)
class HeldTask:
    """A task whose model and batches are on the device and in the dtype of the posteriors to evaluate.

    Attributes:
        model: The network, a private copy.
        batches: Batches ``(inputs, targets)``, as from `held_batches`.
        likelihood: Likelihood of the targets.
    """

    model: FunctionalModel
    batches: Sequence[tuple[Tensor, Tensor]]
    likelihood: Likelihood

    @classmethod
    def of(cls, task: Task, like: Posterior) -> HeldTask:
        """Return a task with its model and data on the device of a posterior.

        Args:
            task: The task; its data are iterated once and held.
            like: A posterior on the device and in the dtype of all that will be evaluated.

        Returns:
            The task.

        Raises:
            InvalidInputError: If there are no data, or they are not batches ``(inputs, targets)``.
        """
        model = FunctionalModel(task.model, device=like.device, dtype=like.dtype)
        return cls(model, held_batches(model, task.data), Likelihood.of(task.likelihood))


def predict(
    posterior: Posterior,
    task: HeldTask,
    sampling: Sampling,
    *,
    groups: int = 0,
    keep_outputs: bool = False,
) -> Predictions:
    """Return the predictions of a posterior on held batches.

    Two posteriors of one kind get the same noise from the same seed (common random numbers). A set of equally weighted
    samples that are no more than ``num_samples`` is taken whole, each once. Where memory does not suffice for as many
    networks at once as were planned, half as many are tried.

    Args:
        posterior: A distribution over the model's parameters.
        task: The model, data and likelihood.
        sampling: The posterior samples, and how they are run.
        groups: If positive, the samples are split into as many groups, and the prediction of each is kept.
        keep_outputs: Whether to keep what every network returned.

    Returns:
        The predictions.

    Raises:
        InvalidInputError: If the posterior does not fit the model, the outputs do not fit the targets, the method
            cannot be used, or one network alone does not fit into memory.
    """
    allocation = sampling.options.allocation
    if allocation != "even":
        message = f"`predict` gives all examples equally many samples, got {allocation!r}; use an `Evaluator`"
        raise InvalidInputError(message)
    while True:
        with torch.no_grad():
            networks = networks_of(posterior, task.model, task.batches, sampling)
            collected = _Collected(networks, task.batches, task.likelihood, groups=groups, keep_outputs=keep_outputs)
            if collected.fits(networks):
                found = collected.predictions()
                return replace(
                    found, paired=networks.paired, independent=networks.independent, is_point=posterior.is_point
                )
        if networks.chunk <= networks.least_chunk:
            message = "one network on one batch does not fit into memory; use smaller batches"
            raise InvalidInputError(message)
        smaller = {"chunk_size": max(networks.chunk // 2, networks.least_chunk)}
        sampling = replace(sampling, options=sampling.options.model_copy(update=smaller))


@final
class _Collected:
    """Gathers the outputs of networks into predictions."""

    def __init__(
        self,
        networks: AbstractNetworks,
        batches: Sequence[tuple[Tensor, Tensor]],
        likelihood: Likelihood,
        *,
        groups: int,
        keep_outputs: bool,
    ) -> None:
        self._batches = batches
        self._likelihood = likelihood
        self._samples = networks.count
        self._starts = [0]
        for _, targets in batches:
            self._starts.append(self._starts[-1] + len(targets))
        device = batches[0][1].device
        examples = self._starts[-1]
        self._log_prob = torch.empty((networks.count, examples), dtype=torch.float64, device=device)
        self._entropy = torch.zeros(examples, dtype=torch.float64, device=device)
        # Pairs of opposite noise stay together.
        self._group = torch.arange(networks.count, device=device) // 2 % max(1, min(groups, networks.count // 2))
        self._sums: list[Tensor | None] = [None] * len(batches)
        self._outputs: dict[tuple[int, int], Tensor] | None = {} if keep_outputs else None
        self._keep_groups = groups > 0

    def fits(self, networks: AbstractNetworks) -> bool:
        """Take the outputs of all networks for all batches; return whether the memory sufficed."""
        try:
            for outputs in networks.outputs(self._batches):
                self._add(outputs.first, outputs.batch_index, outputs.values)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return False
        return True

    def _add(self, first: int, batch_index: int, values: Tensor) -> None:
        """Take the outputs of some networks for one batch: ``[c, N, ...]``."""
        if values.dtype in {torch.bfloat16, torch.float16}:
            values = values.float()
        targets = self._batches[batch_index][1]
        networks = len(values)
        self._likelihood.check(values[0], targets)
        where = slice(self._starts[batch_index], self._starts[batch_index + 1])
        rows = values.flatten(0, 1)
        repeated = targets.expand(networks, *targets.shape).flatten(0, 1)
        log_prob, prediction, entropy = self._likelihood.assess(rows, repeated)
        self._log_prob[first : first + networks, where] = log_prob.reshape(networks, -1).double()
        self._entropy[where] += entropy.reshape(networks, -1).double().sum(0)
        prediction = prediction.unflatten(0, (networks, -1))
        sums = self._sums[batch_index]
        if sums is None:
            groups = int(self._group.max().item()) + 1
            sums = self._sums[batch_index] = prediction.new_zeros((groups, *prediction.shape[1:]))
        sums.index_add_(0, self._group[first : first + networks], prediction)
        if self._outputs is not None:
            self._outputs[first, batch_index] = values

    def predictions(self) -> Predictions:
        """Return what was gathered."""
        sums = torch.cat([part for part in self._sums if part is not None], dim=1)
        average = sums.sum(0) / self._samples
        targets = torch.cat([part for _, part in self._batches])
        sizes = torch.bincount(self._group).to(sums)
        return Predictions(
            log_prob=self._log_prob,
            prediction=average,
            score=self._likelihood.score(average, targets).double(),
            score_name=self._likelihood.score_name,
            targets=targets,
            entropy=self._entropy / self._samples,
            groups=sums / sizes.reshape(-1, *[1] * (sums.dim() - 1)) if self._keep_groups else None,
            outputs=None if self._outputs is None else _joined(self._outputs),
        )


def _joined(outputs: dict[tuple[int, int], Tensor]) -> Tensor:
    """Return all networks' outputs for all batches in order."""
    firsts = sorted({first for first, _ in outputs})
    batches = sorted({batch_index for _, batch_index in outputs})
    return torch.cat([torch.cat([outputs[first, number] for number in batches], 1) for first in firsts])
