"""Predictive distributions: the log likelihood of every target under every sample of the parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias, final, runtime_checkable

import torch
from torch import Tensor

from rebasin_core.errors import InvalidInputError
from rebasin_core.posteriors.samples import SamplesPosterior

if TYPE_CHECKING:
    from rebasin_core.evaluation.functional import FunctionalModel
    from rebasin_core.evaluation.likelihood import Likelihood
    from rebasin_core.posteriors.base import Posterior

Batches: TypeAlias = Iterable[tuple[Tensor, Tensor]]


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
    """

    log_prob: Tensor
    prediction: Tensor
    score: Tensor
    score_name: str


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
    batches: list[tuple[Tensor, Tensor]] = []
    for batch in data:
        try:
            inputs, targets = batch
            batches.append((model.to_device(inputs), model.to_device(targets)))
        except (TypeError, ValueError, AttributeError) as error:
            message = f"expected batches (inputs, targets) of tensors, got {type(batch).__name__}: {error}"
            raise InvalidInputError(message) from error
    if not any(len(targets) for _, targets in batches):
        message = "expected at least one example, got an empty data set; a generator can be read only once"
        raise InvalidInputError(message)
    return batches


def predict(
    posterior: Posterior,
    model: FunctionalModel,
    batches: Sequence[tuple[Tensor, Tensor]],
    likelihood: Likelihood,
    *,
    num_samples: int,
    seed: int,
) -> Predictions:
    """Return the predictions of a posterior on held batches.

    Samples are drawn one after the other from a generator with the given seed, so that two posteriors of one kind get
    the same noise (common random numbers), and only one sample is in memory at a time. A set of equally weighted
    samples that are no more than ``num_samples`` is taken whole, each once.

    Args:
        posterior: A distribution over the model's parameters.
        model: The network.
        batches: As from `held_batches`.
        likelihood: Scores outputs against targets.
        num_samples: Number of samples S, at least 1.
        seed: Seed of the noise.

    Returns:
        The predictions.

    Raises:
        InvalidInputError: If the posterior does not fit the model, or the outputs do not fit the targets.
    """
    generator = torch.Generator().manual_seed(seed)
    log_probs: list[Tensor] = []
    averages: list[Tensor] = []
    with torch.no_grad():
        draws = _draws(posterior, num_samples, generator)
        for index, tensors in enumerate(draws):
            if index == 0:
                model.check(tensors, "the posterior")
            row: list[Tensor] = []
            for place, (inputs, targets) in enumerate(batches):
                outputs = model(tensors, inputs)
                if index == 0:
                    likelihood.check(outputs, targets)
                    averages.append(torch.zeros_like(outputs))
                row.append(likelihood.log_prob(outputs, targets))
                averages[place] += likelihood.prediction(outputs)
            log_probs.append(torch.cat(row).double())
        averages = [average / len(log_probs) for average in averages]
        score = torch.cat([likelihood.score(a, targets) for a, (_, targets) in zip(averages, batches, strict=True)])
    return Predictions(torch.stack(log_probs), torch.cat(averages), score.double(), likelihood.score_name)


def _draws(posterior: Posterior, count: int, generator: torch.Generator) -> Iterator[dict[str, Tensor]]:
    """Yield samples one after the other; of a set of equally weighted ones that are no more than asked, each once."""
    if isinstance(posterior, SamplesPosterior) and posterior.num_samples <= count and posterior.is_uniform:
        for index in range(posterior.num_samples):
            member = posterior.member(index)
            yield {**member.mean, **member.buffers}
        return
    for _ in range(count):
        yield posterior.sample(generator=generator)
