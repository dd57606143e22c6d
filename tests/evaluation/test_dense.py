"""Losses of pixels, tokens, weighted classes and users' functions, compared with those of PyTorch."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, final

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.errors import ConfigError, InvalidInputError
from rebasin_core.evaluation import (
    BernoulliLikelihood,
    CategoricalLikelihood,
    GaussianLikelihood,
    HeteroscedasticGaussianLikelihood,
    PoissonLikelihood,
    TargetKind,
    as_likelihood,
)
from rebasin_core.evaluation.loss_likelihood import LossLikelihood


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def labels(*shape: int, classes: int = 4, ignored: float = 0.0, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    found = torch.randint(classes, shape, generator=generator)
    return found.where(torch.rand(shape, generator=generator) >= ignored, -100)


class Given(nn.Module):
    """A model whose outputs are its inputs, multiplied by a parameter."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x


def loss_of(batches: list[tuple[Tensor, Tensor]], likelihood: Any) -> float:
    return rc.score(Given(), rc.Task(Given(), batches, likelihood)).nll


def joined(batches: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Return logits ``[M, K]`` and targets ``[M]`` of all tokens."""
    return torch.cat([x.flatten(0, -2) for x, _ in batches]), torch.cat([y.flatten() for _, y in batches])


PADDED = [(drawn(3, length, 5, seed=length), labels(3, length, ignored=0.4, seed=length)) for length in (7, 2, 4)]
PIXELS = [(drawn(n, 4, 6, 7, seed=n), labels(n, 6, 7, ignored=0.1, seed=n)) for n in (4, 4, 2)]
WEIGHT = torch.tensor([1.0, 2.0, 0.5, 0.0, 3.0])


def test_padded_sequences_of_unequal_lengths() -> None:
    assert loss_of(PADDED, "categorical") == pytest.approx(functional.cross_entropy(*joined(PADDED)).item(), rel=1e-6)


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.2}, {"weight": WEIGHT}, {"ignore_index": 2}])
def test_cross_entropy_with_options_is_that_of_pytorch(options: dict[str, Any]) -> None:
    batches = [(x, y.where(y != -100, 2)) for x, y in PADDED]
    loss = nn.CrossEntropyLoss(**options)
    assert loss_of(batches, loss) == pytest.approx(loss(*joined(batches)).item(), rel=1e-6)


def test_weights_and_smoothing_of_plain_classes() -> None:
    x, y = drawn(20, 5), labels(20, classes=5)
    loss = nn.CrossEntropyLoss(weight=WEIGHT + 0.1)
    assert loss_of([(x[:8], y[:8]), (x[8:], y[8:])], loss) == pytest.approx(loss(x, y).item(), rel=1e-6)
    smooth = nn.CrossEntropyLoss(label_smoothing=0.3)
    assert loss_of([(x, y)], smooth) == pytest.approx(smooth(x, y).item(), rel=1e-6)


def test_probabilities_as_targets() -> None:
    x, q = drawn(20, 5), drawn(20, 5, seed=3).softmax(1)
    found = rc.score(Given(), rc.Task(Given(), [(x, q)]))
    assert found.nll == pytest.approx(functional.cross_entropy(x, q).item(), rel=1e-6)
    assert found.values == {"accuracy": pytest.approx((x.argmax(1) == q.argmax(1)).float().mean().item())}
    pixels, shares = drawn(2, 5, 3, 3), drawn(2, 5, 3, 3, seed=3).softmax(1)
    expected = functional.cross_entropy(pixels, shares).item()
    assert loss_of([(pixels, shares)], "categorical") == pytest.approx(expected, rel=1e-6)


def test_pixels() -> None:
    x = torch.cat([x for x, _ in PIXELS])
    y = torch.cat([y for _, y in PIXELS])
    kept = y != -100
    found = rc.score(Given(), rc.Task(Given(), PIXELS))
    assert found.nll == pytest.approx(functional.cross_entropy(x, y).item(), rel=1e-6)
    assert found.values["accuracy"] == pytest.approx((x.argmax(1) == y)[kept].float().mean().item())
    p = x.softmax(1).movedim(1, -1)[kept]
    expected = {
        "brier": rc.metrics.brier_score(p, y[kept]),
        "ece": rc.metrics.expected_calibration_error(p, y[kept]),
        "entropy": rc.metrics.predictive_entropy(p).mean().item(),
        "mutual_information": 0.0,
    }
    for name, value in expected.items():
        assert found.values[name] == pytest.approx(value, abs=1e-6), name


def test_the_error_from_the_data_treats_the_pixels_of_an_image_as_one() -> None:
    """The standard error is that of image means. The pixels of an image are equal here."""
    x = drawn(30, 4, 1, 1).expand(30, 4, 8, 8)
    y = labels(30, 1, 1).expand(30, 8, 8)
    found = rc.score(Given(), rc.Task(Given(), [(x, y)]))
    single = functional.cross_entropy(x[:, :, 0, 0], y[:, 0, 0], reduction="none")
    assert found.nll_data_stderr == pytest.approx(single.double().std().item() / math.sqrt(30), rel=1e-5)


@pytest.mark.nightly
def test_the_error_of_a_ratio_is_that_of_repeated_data_sets() -> None:
    """Sequences of random lengths whose tokens share a difficulty: the stated error is the standard deviation."""
    generator = torch.Generator().manual_seed(0)
    stated, losses = [], []
    for _ in range(200):
        lengths = torch.randint(1, 12, (40,), generator=generator).tolist()
        difficulty = torch.randn(40, generator=generator)
        batches = [
            (torch.stack([d, -d]).expand(1, n, 2), torch.zeros(1, n).long())
            for n, d in zip(lengths, difficulty, strict=True)
        ]
        estimate = rc.score(Given(), rc.Task(Given(), batches, {"name": "categorical", "class_axis": -1}))
        losses.append(estimate.nll)
        stated.append(estimate.nll_data_stderr)
    # 200 repetitions estimate the standard deviation to 5 %; the linearization is biased downward by a few percent.
    assert torch.tensor(stated).mean().item() == pytest.approx(torch.tensor(losses).std().item(), rel=0.15)


def test_the_error_of_a_weighted_mean_is_that_of_repeated_data_sets() -> None:
    generator = torch.Generator().manual_seed(0)
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 6.0]))
    stated, losses = [], []
    for _ in range(200):
        x = torch.randn(60, 2, generator=generator)
        y = torch.randint(2, (60,), generator=generator)
        estimate = rc.score(Given(), rc.Task(Given(), [(x, y)], loss))
        assert estimate.nll == pytest.approx(loss(x, y).item(), rel=1e-5)
        losses.append(estimate.nll)
        stated.append(estimate.nll_data_stderr)
    assert torch.tensor(stated).mean().item() == pytest.approx(torch.tensor(losses).std().item(), rel=0.15)


def test_next_token() -> None:
    x, y = drawn(3, 6, 5), labels(3, 6, classes=5, ignored=0.2)
    expected = functional.cross_entropy(x[:, :-1].flatten(0, 1), y[:, 1:].flatten()).item()
    assert loss_of([(x, y)], CategoricalLikelihood(next_token=True)) == pytest.approx(expected, rel=1e-6)


def test_the_predictive_of_a_distribution_averages_the_probabilities_of_each_token() -> None:
    networks = rc.posteriors.SamplesPosterior({"scale": torch.tensor([0.5, 1.0, 3.0])})
    task = rc.Task(Given(), PADDED)
    x, y = joined(PADDED)
    average = torch.stack([(s * x).softmax(1) for s in (0.5, 1.0, 3.0)]).mean(0)
    expected = functional.nll_loss(average.log(), y).item()
    for method in ("loop", "vectorized"):
        found = rc.score(networks, task, evaluation=rc.EvaluationOptions(method=method))
        assert found.nll == pytest.approx(expected, rel=1e-5)
    assert found.values["accuracy"] == pytest.approx((average.argmax(1) == y)[y != -100].float().mean().item())
    for metric, value in (("error", 1 - found.values["accuracy"]), ("brier", found.values["brier"])):
        curve = rc.barrier(networks, networks, task, num_points=3, num_samples=3, metric=metric)
        assert curve.loss[0] == pytest.approx(value, rel=1e-5)


def test_training_on_tokens_maximizes_their_likelihood() -> None:
    """With one parameter, the best scale is found by a search with PyTorch's loss."""
    x, y = joined(PADDED)
    scales = torch.linspace(-1, 1, 2001)
    best = scales[torch.stack([functional.cross_entropy(s * x, y) for s in scales]).argmin()].item()
    method = rc.inference.MAPInference(epochs=300, optimizer={"name": "Adam", "lr": 0.01})
    found = method.fit(Given(), [PADDED[0], *PADDED[1:]]).posterior
    assert found.mean["scale"].item() == pytest.approx(best, abs=0.02)


def test_the_constant_prediction_of_tokens_is_their_frequency() -> None:
    task = rc.Task(Given(), PADDED)
    y = joined(PADDED)[1]
    counts = torch.bincount(y[y != -100], minlength=5).double()
    frequencies = counts / counts.sum()
    curve = rc.barrier(Given(), Given(), task, num_points=3)
    assert curve.unit == "nats per element"
    assert curve.baseline == pytest.approx(torch.special.entr(frequencies).sum().item(), rel=1e-5)


def test_binary_labels() -> None:
    x, y = drawn(20, 3), labels(20, 3, classes=2)
    whole = functional.binary_cross_entropy_with_logits(x, y.float()).item()
    assert loss_of([(x, y)], "bernoulli") == pytest.approx(3 * whole, rel=1e-6)
    factor = torch.tensor([2.0, 0.5, 1.0])
    weighted = nn.BCEWithLogitsLoss(pos_weight=factor)
    assert loss_of([(x, y)], weighted) == pytest.approx(3 * weighted(x, y.float()).item(), rel=1e-6)
    one = functional.binary_cross_entropy_with_logits(x[:, 0], y[:, 0].float()).item()
    assert loss_of([(x[:, :1], y[:, 0].bool())], "bernoulli") == pytest.approx(one, rel=1e-6)
    image, mask = drawn(5, 1, 4, 4), labels(5, 4, 4, classes=2)
    expected = functional.binary_cross_entropy_with_logits(image[:, 0], mask.float()).item()
    assert loss_of([(image, mask)], "bernoulli") == pytest.approx(expected, rel=1e-6)


def test_missing_binary_labels_are_ignored() -> None:
    x, y = drawn(20, 3), labels(20, 3, classes=2, ignored=0.5)
    kept = y != -100
    each = functional.binary_cross_entropy_with_logits(x, y.float().where(kept, 0), reduction="none")
    found = rc.score(Given(), rc.Task(Given(), [(x, y)], "bernoulli"))
    assert found.nll == pytest.approx(each.where(kept, 0).sum(1).mean().item(), rel=1e-6)
    correct = ((x > 0) == (y > 0)) & kept
    assert found.values["accuracy"] == pytest.approx((correct.sum(1) / kept.sum(1).clamp_min(1)).mean().item())


def test_counts() -> None:
    x, y = drawn(20, 2), drawn(20, 2, seed=4).abs().mul(3).floor()
    expected = -torch.distributions.Poisson(x.exp()).log_prob(y).sum(1).mean().item()
    assert loss_of([(x, y)], nn.PoissonNLLLoss()) == pytest.approx(expected, rel=1e-6)


def test_dense_regression() -> None:
    x, y = drawn(6, 2, 4), drawn(6, 2, 4, seed=5)
    normal = -torch.distributions.Normal(x, 0.5).log_prob(y).mean().item()
    assert loss_of([(x[:4], y[:4]), (x[4:], y[4:])], GaussianLikelihood(scale=0.5)) == pytest.approx(normal, rel=1e-6)
    one = -torch.distributions.Normal(x[:, 0, 0], 0.5).log_prob(y[:, 0, 0]).mean().item()
    assert loss_of([(x[:, :1, 0], y[:, 0, 0])], GaussianLikelihood(scale=0.5)) == pytest.approx(one, rel=1e-6)
    scale = 1e-3 + functional.softplus(x[:, 1:])
    both = -torch.distributions.Normal(x[:, :1], scale).log_prob(y[:, :1]).mean().item()
    found = rc.score(Given(), rc.Task(Given(), [(x, y[:, :1])], HeteroscedasticGaussianLikelihood()))
    assert found.nll == pytest.approx(both, rel=1e-6)
    assert found.values["rmse"] == pytest.approx((x[:, :1] - y[:, :1]).square().mean().sqrt().item(), rel=1e-6)


def dice(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return one loss per image."""
    p, y = outputs.sigmoid().flatten(1), targets.flatten(1)
    return 1 - 2 * (p * y).sum(1) / (p + y).sum(1)


def test_a_function_with_one_loss_per_example() -> None:
    x, y = drawn(6, 4, 4), labels(6, 4, 4, classes=2)
    found = rc.score(Given(), rc.Task(Given(), [(x[:4], y[:4]), (x[4:], y[4:])], dice))
    assert found.nll == pytest.approx(dice(x, y).mean().item(), rel=1e-6)
    assert found.nll_data_stderr == pytest.approx(dice(x, y).double().std().item() / math.sqrt(6), rel=1e-5)
    assert found.values == {"dice": pytest.approx(found.nll)}
    curve = rc.barrier(Given(), Given(0.5), rc.Task(Given(), [(x, y)], dice), num_points=3)
    assert curve.loss == pytest.approx([dice(s * x, y).mean().item() for s in (1.0, 0.75, 0.5)], rel=1e-5)


def test_losses_of_pytorch_without_a_density() -> None:
    x, y = drawn(6, 3), drawn(6, 3, seed=2)
    for loss in (nn.SmoothL1Loss(), functional.l1_loss, nn.HuberLoss(delta=0.3)):
        assert loss_of([(x, y)], loss) == pytest.approx(loss(x, y).item(), rel=1e-6)


def test_a_function_that_returns_a_mean_needs_a_reduction() -> None:
    def mean(outputs: Tensor, targets: Tensor) -> Tensor:
        return dice(outputs, targets).mean()

    x, y = drawn(6, 4, 4), labels(6, 4, 4, classes=2)
    with pytest.raises(InvalidInputError, match=r'one loss per example.*got one number.*reduction="mean"'):
        loss_of([(x, y)], mean)
    stated = rc.score(Given(), rc.Task(Given(), [(x, y)], as_likelihood(mean, reduction="mean")))
    assert stated.nll == pytest.approx(dice(x, y).mean().item(), rel=1e-6)
    assert stated.nll_data_stderr > 0


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x, _: x[:2].mean(1), "one loss for each of 6 examples, got shape"),
        (lambda x, _: float(x.mean()), "to return a tensor of one loss per example, got float"),
        (lambda x: x, "cannot be called with outputs of shape"),
    ],
)
def test_functions_that_are_not_losses(function: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        loss_of([(drawn(6, 3), drawn(6, 3))], function)


@pytest.mark.parametrize(
    ("x", "y", "likelihood", "message"),
    [
        (drawn(5, 5, 5), labels(5, 5), "categorical", "fit both; set `class_axis`"),
        (drawn(5, 3, 7), labels(5, 4), "categorical", "for pixels or tokens"),
        (drawn(5, 3), torch.full((5,), 3), "categorical", "from 0 to 2"),
        (drawn(5, 3), torch.full((5,), -100), "categorical", "at least one target that is not ignored"),
        (drawn(5, 3), drawn(5, 3), "categorical", "probabilities of the classes that sum to 1"),
        (drawn(5, 3), labels(5, classes=3), CategoricalLikelihood(class_weights=(1, 2)), "one weight for each of 3"),
        (drawn(5, 3), 2 * torch.ones(5, 3), "bernoulli", r"labels in \[0, 1\], got 2 to 2"),
        (drawn(5, 3), labels(5, 2, classes=2), "bernoulli", r"logits \[N, K\] and targets of the same shape"),
        (drawn(5, 3), -torch.ones(5, 3), "poisson", "expected counts"),
        (drawn(5, 3, 2), torch.ones(5, 3), CategoricalLikelihood(next_token=True), r"probabil|class ind"),
    ],
)  # fmt: skip
def test_targets_that_do_not_fit(x: Tensor, y: Tensor, likelihood: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        loss_of([(x, y)], likelihood)


def test_methods_for_one_row_per_example_reject_tokens() -> None:
    posterior = rc.posteriors.DiagonalGaussianPosterior({"scale": torch.tensor(1.0)}, {"scale": torch.tensor(0.1)})
    task = rc.Task(Given(), PADDED)
    with pytest.raises(InvalidInputError, match="`local` is not applicable to dense targets"):
        rc.score(posterior, task, evaluation=rc.EvaluationOptions(method="local"))
    with pytest.raises(InvalidInputError, match="'adaptive' is not applicable to dense targets"):
        rc.score(posterior, task, evaluation=rc.EvaluationOptions(allocation="adaptive"))


def test_predictions_of_tokens_are_not_concatenated_unless_a_metric_needs_them() -> None:
    evaluator = rc.evaluation.Evaluator(rc.Task(Given(), PADDED), rc.as_posterior(Given()))
    found = evaluator.predictions(rc.as_posterior(Given()))
    assert found.prediction.numel() == 0
    kept = int((joined(PADDED)[1] != -100).sum())
    assert evaluator.predictions(rc.as_posterior(Given()), groups=1).prediction.shape == (kept, 5)


@final
class PixelLikelihood(rc.Likelihood):
    """A likelihood of a user with one loss per image, the sum over its pixels, and without elements."""

    targets: ClassVar[TargetKind] = "classes"
    name: Literal["pixel"] = "pixel"

    @override
    def check(self, outputs: Tensor, targets: Tensor) -> None:
        assert outputs.shape[2:] == targets.shape[1:]

    @override
    def log_prob(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return -functional.cross_entropy(outputs, targets, reduction="none").flatten(1).sum(1)

    @override
    def prediction(self, outputs: Tensor) -> Tensor:
        return outputs.softmax(1)

    @override
    def score(self, prediction: Tensor, targets: Tensor) -> Tensor:
        return (prediction.argmax(1) == targets).double().flatten(1).mean(1)

    @property
    @override
    def score_name(self) -> str:
        return "pixel_accuracy"


def test_a_likelihood_of_images_without_elements() -> None:
    x, y = drawn(4, 3, 5, 5), labels(4, 5, 5, classes=3)
    found = rc.score(Given(), rc.Task(Given(), [(x, y)], PixelLikelihood()))
    assert found.nll == pytest.approx(25 * functional.cross_entropy(x, y).item(), rel=1e-6)
    assert found.values == {"pixel_accuracy": pytest.approx((x.argmax(1) == y).double().mean().item())}


def test_loss_functions_are_conversions() -> None:
    assert as_likelihood(functional.binary_cross_entropy_with_logits) == BernoulliLikelihood()
    assert as_likelihood(nn.PoissonNLLLoss()) == PoissonLikelihood()
    assert as_likelihood(nn.NLLLoss(ignore_index=0)) == CategoricalLikelihood(ignore_index=0)
    assert as_likelihood(dice).canonical_json() == LossLikelihood(function=dice, label="dice").canonical_json()
    with pytest.raises(ConfigError):
        CategoricalLikelihood(label_smoothing=1.0)
