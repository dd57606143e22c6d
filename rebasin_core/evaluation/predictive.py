"""Predictive distributions: log likelihoods and predictions under posterior samples."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol, final, runtime_checkable

import torch
from torch import Tensor

from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.batches import checked_batches
from rebasin_core.evaluation.choice import networks_of
from rebasin_core.evaluation.dense import DenseOutputs
from rebasin_core.evaluation.functional import FunctionalModel
from rebasin_core.evaluation.likelihood import Likelihood
from rebasin_core.tensors.memory import is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rebasin_core.evaluation.allocation import Stratum
    from rebasin_core.evaluation.batches import Batch, Batches
    from rebasin_core.evaluation.networks import AbstractNetworks, Sampling
    from rebasin_core.evaluation.task import Task
    from rebasin_core.posteriors.base import Posterior


_ELEMENT_SCORES = ("confidence", "predictive_entropy", "brier")


@runtime_checkable
class EpochBatches(Protocol):
    """Batches whose order is a function of the epoch, so that resumed training sees the same order."""

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration, as `torch.utils.data.DistributedSampler.set_epoch` does."""


@final
@dataclass(frozen=True, slots=True)
class Predictions:
    """Predictions of a posterior on a dataset, for S samples and N examples.

    For dense targets (`Likelihood.is_dense`), all attributes have one row for each element, such as a pixel or a token,
    instead of each example.

    Attributes:
        log_prob: ``[S, N]``: log likelihood of each target under each sample.
        prediction: ``[N, K]``: class probabilities or means, averaged over samples. Empty for dense targets if neither
            groups nor outputs were requested.
        score: ``[N]``: score of the averaged prediction (`Likelihood.score`).
        score_name: Name of the mean score.
        targets: ``[N]`` or ``[N, K]``; None if not available.
        entropy: ``[N]``: entropy of the prediction of a single network, averaged over samples; None if unknown.
        groups: ``[G, N, K]``: averaged prediction of each group of samples; None if not requested.
        paired: Whether consecutive samples form antithetic pairs.
        outputs: ``[S, N, ...]``: outputs of each network; None if not requested.
        independent: Whether noise is independent across examples.
        parts: For adaptive allocation, the strata with their predictions; `log_prob` then holds as many samples as the
            smallest stratum has. Otherwise empty.
        is_point: Whether these are the predictions of a single network, without Monte Carlo error.
        examples: ``[N]``: index of the example of each element of dense targets; None if rows are examples.
        weights: ``[N]``: weights of the elements, with mean 1; None if they are equal.
        element_scores: For dense classification, the ``confidence``, ``predictive_entropy`` and ``brier`` score of each
            element, each ``[N]``; empty otherwise.
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
    examples: Tensor | None = None
    weights: Tensor | None = None
    element_scores: Mapping[str, Tensor] = field(default_factory=dict)

    def weighted(self, values: Tensor) -> Tensor:
        """Return values multiplied by the weights of their elements, if there are weights.

        Args:
            values: ``[..., N]``.

        Returns:
            ``[..., N]``; the mean over the last dimension is the weighted mean.
        """
        return values if self.weights is None else values * self.weights


def held_batches(model: FunctionalModel, data: Batches) -> Sequence[Batch]:
    """Return all batches of a dataset in a list, on the model's device.

    Args:
        model: Sets device and dtype.
        data: Any iterable of batches ``(inputs, targets)``; iterated once.

    Returns:
        The batches.

    Raises:
        InvalidInputError: If there are no examples, or an item is not a pair of tensors.
    """
    batches = [(model.to_device(inputs), model.to_device(targets)) for inputs, targets in checked_batches(data)]
    if not batches:
        message = "expected at least one example, got an empty dataset; a generator can be iterated only once"
        raise InvalidInputError(message)
    return batches


def batch_weights(batches: Sequence[Batch]) -> list[float]:
    """Return the weights of the batch losses with which each example has the same weight in an epoch.

    Args:
        batches: Batches ``(inputs, targets)`` of an epoch.

    Returns:
        Size of each batch divided by the mean batch size.
    """
    sizes = [len(targets) for _, targets in batches]
    return [len(sizes) * size / sum(sizes) for size in sizes]


@final
@dataclass(frozen=True, slots=True)
class HeldTask:
    """A task with its data in memory, on the device and in the dtype of the posteriors to evaluate.

    Attributes:
        model: A copy of the network module as a function of its parameters.
        batches: Batches ``(inputs, targets)``, as from `held_batches`.
        likelihood: Likelihood of the targets.
    """

    model: FunctionalModel
    batches: Sequence[Batch]
    likelihood: Likelihood

    @classmethod
    def of(cls, task: Task, like: Posterior) -> HeldTask:
        """Return a task with its model and data on the device of a posterior.

        Args:
            task: The task; its data are iterated once.
            like: A posterior on the device and in the dtype of all posteriors to evaluate.

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
    """Return the predictions of a posterior on the data of a task.

    Posteriors of one class receive the same noise for equal seeds (common random numbers). If the posterior is a
    mixture of at most ``num_samples`` equally weighted single networks, each is used exactly once. If a batch of
    networks does not fit into memory, the number of networks is halved and the evaluation retried.

    Args:
        posterior: A distribution over the model's parameters.
        task: The model, data and likelihood.
        sampling: Number and seed of the posterior samples, and how they are evaluated.
        groups: Number of groups of samples whose averaged predictions are kept, at most half the number of samples
            (fewer are formed if it is larger); 0 for none.
        keep_outputs: Whether to keep the outputs of each network.

    Returns:
        The predictions.

    Raises:
        InvalidInputError: If the posterior does not match the model, the outputs do not match the targets, the method
            is not applicable, or a single network does not fit into memory.
    """
    allocation = sampling.options.allocation
    if allocation != "even":
        message = f"expected allocation='even' in `predict`, got {allocation!r}; use an `Evaluator`"
        raise InvalidInputError(message)
    is_dense = any(task.likelihood.is_dense(targets) for _, targets in task.batches)
    while True:
        with torch.no_grad():
            networks = networks_of(posterior, task.model, task.batches, sampling, allow_local=not is_dense)
            collected: _Collected | DenseOutputs
            if is_dense:
                collected = DenseOutputs(task.batches, task.likelihood, groups=groups, keep=keep_outputs)
            else:
                collected = _Collected(networks, task.batches, task.likelihood, groups=groups, keep=keep_outputs)
            if collected.fits(networks):
                return replace(
                    _dense_predictions(collected, task.likelihood)
                    if isinstance(collected, DenseOutputs)
                    else collected.predictions(),
                    paired=networks.paired,
                    independent=networks.independent and not is_dense,
                    is_point=posterior.is_point,
                )
        if networks.chunk <= networks.min_chunk:
            message = "one network on one batch does not fit into memory; use smaller batches"
            raise InvalidInputError(message)
        smaller = {"chunk_size": max(networks.chunk // 2, networks.min_chunk)}
        sampling = replace(sampling, options=sampling.options.model_copy(update=smaller))


def _dense_predictions(collected: DenseOutputs, likelihood: Likelihood) -> Predictions:
    parts = collected.parts()
    score = parts["score"]
    return Predictions(
        log_prob=parts["log_prob"],
        prediction=parts.get("prediction", score.new_empty(0)),
        score=score,
        score_name=likelihood.score_name,
        targets=parts.get("targets"),
        entropy=parts["entropy"],
        groups=parts.get("groups"),
        outputs=parts.get("outputs"),
        examples=parts["examples"],
        weights=parts.get("weights"),
        element_scores={name: parts[name] for name in _ELEMENT_SCORES if name in parts},
    )


@final
class _Collected:
    """Accumulates the outputs of networks into predictions."""

    def __init__(
        self,
        networks: AbstractNetworks,
        batches: Sequence[Batch],
        likelihood: Likelihood,
        *,
        groups: int,
        keep: bool,
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
        # Antithetic pairs stay in one group.
        self._group = torch.arange(networks.count, device=device) // 2 % max(1, min(groups, networks.count // 2))
        self._sums: list[Tensor | None] = [None] * len(batches)
        self._outputs: dict[tuple[int, int], Tensor] | None = {} if keep else None
        self._keep_groups = groups > 0

    def fits(self, networks: AbstractNetworks) -> bool:
        """Add the outputs of all networks for all batches; return whether they fit into memory."""
        try:
            for outputs in networks.outputs(self._batches):
                self._add(outputs.first, outputs.batch_index, outputs.values)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return False
        return True

    def _add(self, first: int, batch_index: int, values: Tensor) -> None:
        """Add the outputs ``[c, N, ...]`` of c networks for one batch."""
        if values.dtype in {torch.bfloat16, torch.float16}:
            values = values.float()
        targets = self._batches[batch_index][1]
        networks = len(values)
        self._likelihood.check(values[0], targets)
        columns = slice(self._starts[batch_index], self._starts[batch_index + 1])
        rows = values.flatten(0, 1)
        repeated = targets.expand(networks, *targets.shape).flatten(0, 1)
        log_prob, prediction, entropy = self._likelihood.assess(rows, repeated)
        self._log_prob[first : first + networks, columns] = log_prob.reshape(networks, -1).double()
        self._entropy[columns] += entropy.reshape(networks, -1).double().sum(0)
        prediction = prediction.unflatten(0, (networks, -1))
        sums = self._sums[batch_index]
        if sums is None:
            groups = int(self._group.max().item()) + 1
            sums = self._sums[batch_index] = prediction.new_zeros((groups, *prediction.shape[1:]))
        sums.index_add_(0, self._group[first : first + networks], prediction)
        if self._outputs is not None:
            self._outputs[first, batch_index] = values

    def predictions(self) -> Predictions:
        """Return the accumulated predictions."""
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
    """Return the outputs ``[S, N, ...]`` of all networks for all batches, in order."""
    firsts = sorted({first for first, _ in outputs})
    batches = sorted({batch_index for _, batch_index in outputs})
    return torch.cat([torch.cat([outputs[first, batch_index] for batch_index in batches], 1) for first in firsts])
