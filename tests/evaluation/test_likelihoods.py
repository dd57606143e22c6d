"""The laws of likelihoods hold for correct densities and detect wrong ones."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import pytest
import torch
from torch import Tensor
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation import TargetKind
from rebasin_core.testing import LAWS


def violated_laws(likelihood: rc.Likelihood, folder: Path) -> set[str]:
    violated: set[str] = set()
    for law in LAWS["likelihood"]:
        try:
            law.trial(likelihood, folder)
        except rc.RebasinError:
            violated.add(law.name)
    return violated


class PoissonLikelihood(rc.Likelihood):
    targets: ClassVar[TargetKind] = "counts"

    name: Literal["poisson"] = "poisson"

    @override
    def check(self, outputs: Tensor, targets: Tensor) -> None:
        if outputs.shape != targets.shape or outputs.dim() != 2:
            message = "expected rates and counts of one shape"
            raise InvalidInputError(message)

    @override
    def log_prob(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return -torch.nn.functional.poisson_nll_loss(outputs, targets, reduction="none").sum(-1) - (
            targets + 1
        ).lgamma().sum(-1)

    @override
    def prediction(self, outputs: Tensor) -> Tensor:
        return outputs.exp()

    @override
    def score(self, prediction: Tensor, targets: Tensor) -> Tensor:
        return (prediction - targets).square().mean(-1)

    @property
    @override
    def score_name(self) -> str:
        return "mean_squared_error"


class MislabeledLikelihood(rc.Likelihood):
    """Classification with a fraction `share` of random labels."""

    targets: ClassVar[TargetKind] = "classes"

    name: Literal["mislabeled"] = "mislabeled"

    share: float = 0.1

    @override
    def check(self, outputs: Tensor, targets: Tensor) -> None:
        rc.evaluation.CategoricalLikelihood().check(outputs, targets)

    @override
    def log_prob(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.prediction(outputs).gather(1, targets.unsqueeze(1)).squeeze(1).log()

    @override
    def prediction(self, outputs: Tensor) -> Tensor:
        return (1 - self.share) * outputs.softmax(-1) + self.share / outputs.shape[1]

    @override
    def score(self, prediction: Tensor, targets: Tensor) -> Tensor:
        return (prediction.argmax(-1) == targets).to(prediction.dtype)

    @property
    @override
    def score_name(self) -> str:
        return "accuracy"


class Unnormalized(PoissonLikelihood):
    @override
    def log_prob(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return super().log_prob(outputs, targets) + 0.01


class WrongEntropy(PoissonLikelihood):
    @override
    def entropy(self, outputs: Tensor) -> Tensor:
        return torch.zeros(len(outputs), dtype=outputs.dtype)


class WrongTogether(PoissonLikelihood):
    @override
    def assess(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        log_prob, prediction, entropy = super().assess(outputs, targets)
        return log_prob, 2 * prediction, entropy


class WrongPrediction(PoissonLikelihood):
    @override
    def prediction(self, outputs: Tensor) -> Tensor:
        return outputs


class BatchDependent(PoissonLikelihood):
    @override
    def log_prob(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return super().log_prob(outputs - outputs.mean(0), targets)


class WithoutCheck(PoissonLikelihood):
    @override
    def check(self, outputs: Tensor, targets: Tensor) -> None:
        pass


class Detached(PoissonLikelihood):
    @override
    def log_prob(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return super().log_prob(outputs, targets).float()


def test_any_classification_likelihood_has_the_scores_of_classification(tmp_path: Path) -> None:
    likelihood = MislabeledLikelihood(share=0.3)
    assert not violated_laws(likelihood, tmp_path)
    model = torch.nn.Linear(2, 3)
    data = [(torch.zeros(3, 2), torch.arange(3))]
    found = rc.score(model, rc.Task(model, data, likelihood=likelihood))
    assert {"accuracy", "brier", "ece"} <= found.values.keys()


def test_the_laws_sum_over_counts(tmp_path: Path) -> None:
    assert not violated_laws(PoissonLikelihood(), tmp_path)


def test_counts_have_the_score_of_their_likelihood() -> None:
    model = torch.nn.Linear(2, 1)
    inputs, counts = torch.ones(3, 2), torch.tensor([[0.0], [1.0], [2.0]])
    found = rc.score(model, rc.Task(model, [(inputs, counts)], likelihood=PoissonLikelihood()))
    expected = (model(inputs).exp() - counts).square().mean().item()
    assert found.values == {"mean_squared_error": pytest.approx(expected)}
    assert found.bins is None


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_the_laws_integrate_densities_of_any_width(scale: float, tmp_path: Path) -> None:
    assert not violated_laws(rc.evaluation.GaussianLikelihood(scale=scale), tmp_path)


@pytest.mark.parametrize(
    ("wrong", "law"),
    [
        (Unnormalized, "normalized"),
        (WrongEntropy, "entropy"),
        (WrongTogether, "joint_assessment"),
        (WrongPrediction, "prediction"),
        (BatchDependent, "per_example"),
        (WithoutCheck, "invalid_targets"),
        (Detached, "gradients"),
    ],
)
def test_a_wrong_likelihood_violates_a_law(wrong: type[rc.Likelihood], law: str, tmp_path: Path) -> None:
    assert law in violated_laws(wrong(name="poisson"), tmp_path)


def test_number_of_outputs() -> None:
    assert rc.evaluation.CategoricalLikelihood().num_outputs(10) == 10
    assert rc.evaluation.GaussianLikelihood().num_outputs(2) == 2
    assert rc.evaluation.HeteroscedasticGaussianLikelihood().num_outputs(2) == 4
