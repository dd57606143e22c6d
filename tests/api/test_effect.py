"""With data, the loss at the midpoint is evaluated before and after alignment; a harmful alignment gives a warning."""

from __future__ import annotations

import math
import warnings
from typing import Any, Literal, cast, final

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

import rebasin_core as rc
from rebasin_core.errors import AlignmentWarning, InvalidInputError

X = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)).double()


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    return model


MODEL = network(0)
Y = MODEL(X).argmax(-1)
TASK = rc.Task(MODEL, [(X[:25], Y[:25]), (X[25:], Y[25:])])
SPEC = rc.trace_spec(MODEL, X)
SHUFFLE = SPEC.random_permutation(generator=torch.Generator().manual_seed(3))


@final
class Fixed(rc.Matcher):
    """A matcher that always returns the same permutation, or its inverse."""

    name: Literal["fixed"] = "fixed"

    inverse: bool = False
    """Whether to return the inverse."""

    @override
    def _match(self, problem: rc.MatchProblem) -> rc.MatchResult:
        found = SHUFFLE.inverse() if self.inverse else SHUFFLE
        return rc.MatchResult(found, 1.0, 0.0, rc.MatchOutcome.BUDGET, (0.0, 1.0), {})


def loss_at_midpoint(first: nn.Module, second: nn.Module) -> tuple[float, float]:
    tensors: dict[str, Tensor] = {n: (p + dict(second.named_parameters())[n]) / 2 for n, p in first.named_parameters()}
    outputs = cast("Tensor", torch.func.functional_call(MODEL, tensors, (X,)))
    return functional.cross_entropy(outputs, Y).item(), (outputs.argmax(-1) == Y).double().mean().item()


def test_a_harmful_alignment_is_rejected_with_a_warning() -> None:
    with pytest.warns(AlignmentWarning, match=r"raised the loss at the midpoint.* Returned the unpermuted candidate"):
        result = rc.align(MODEL, MODEL, TASK, spec=SPEC, matcher=Fixed())
    assert result.match.permutation.is_identity
    assert result.match.objective == result.match.identity_objective == 0.0
    assert result.found.permutation == SHUFFLE
    assert torch.equal(result.aligned.mean["0.weight"], dict(MODEL.named_parameters())["0.weight"])
    effect = result.effect
    assert effect is not None
    assert effect.harmed
    assert effect.is_meaningful
    assert result.helped is False
    before = loss_at_midpoint(MODEL, MODEL)
    after = loss_at_midpoint(MODEL, SHUFFLE.apply(MODEL))
    assert (effect.unaligned, effect.unaligned_score) == pytest.approx(before)
    assert (effect.aligned, effect.aligned_score) == pytest.approx(after)
    assert effect.reference == effect.candidate == pytest.approx(functional.cross_entropy(MODEL(X), Y).item())
    shares = torch.bincount(Y) / len(Y)
    assert effect.baseline == pytest.approx(-(shares * shares.log()).sum().item())


def test_keep_aligned_returns_a_harmful_alignment() -> None:
    with pytest.warns(AlignmentWarning, match="Returned the alignment"):
        result = rc.align(MODEL, MODEL, TASK, spec=SPEC, matcher=Fixed(), keep="aligned")
    assert result.match.permutation == SHUFFLE
    wrong: Any = "both"
    with pytest.raises(InvalidInputError, match="expected `keep` among"):
        rc.align(MODEL, MODEL, TASK, spec=SPEC, keep=wrong)


def test_the_effect_of_a_helpful_alignment() -> None:
    candidate = SHUFFLE.apply(MODEL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = rc.align(MODEL, candidate, TASK, spec=SPEC)
    assert result.helped
    assert result.effect is not None
    assert result.effect.aligned == pytest.approx(result.effect.reference)
    assert "difference -" in str(result.effect)
    differences = functional.cross_entropy(MODEL(X), Y, reduction="none") - functional.cross_entropy(
        cast(
            "Tensor",
            torch.func.functional_call(
                MODEL, {n: (p + dict(candidate.named_parameters())[n]) / 2 for n, p in MODEL.named_parameters()}, (X,)
            ),
        ),
        Y,
        reduction="none",
    )
    assert result.effect.difference_stderr == pytest.approx(differences.std().item() / math.sqrt(len(Y)))


def test_merging_rejects_harmful_alignments() -> None:
    with pytest.warns(AlignmentWarning):
        merged = rc.merge([MODEL, MODEL], SPEC, matcher=Fixed(), task=TASK)
    assert merged.effects[0] is None
    assert merged.effects[1] is not None
    assert merged.effects[1].harmed
    assert torch.equal(merged.posterior.mean["0.weight"], dict(MODEL.named_parameters())["0.weight"])
    with pytest.warns(AlignmentWarning):
        given = rc.merge([MODEL, MODEL], SPEC, matcher=Fixed(), task=TASK, keep="aligned")
    assert given.permutations[1] == SHUFFLE
    # Without data the loss cannot be evaluated.
    assert rc.merge([MODEL, MODEL], SPEC, matcher=Fixed()).effects == (None, None)


def test_a_chain_returns_the_best_of_its_steps_with_a_warning() -> None:
    candidate = SHUFFLE.apply(MODEL)
    matchers = [rc.matchers.WeightMatcher(), Fixed()]
    chain = rc.matchers.ChainMatcher(matchers=matchers)
    with pytest.warns(AlignmentWarning, match=r"budget exhausted.* the permutation of `weight` is returned"):
        found = rc.match(MODEL, candidate, SPEC, chain, task=TASK)
    assert found.permutation == SHUFFLE.inverse()
    with pytest.warns(AlignmentWarning, match="the identity is returned"):
        found = rc.match(MODEL, MODEL, SPEC, rc.matchers.ChainMatcher(matchers=[Fixed()]), task=TASK)
    assert found.permutation.is_identity
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        good = rc.matchers.ChainMatcher(matchers=[Fixed(), Fixed(inverse=True)])
        assert rc.match(MODEL, candidate, SPEC, good, task=TASK).permutation == SHUFFLE.inverse()
        assert rc.match(MODEL, MODEL, SPEC, chain).permutation == SHUFFLE  # no data, no loss


def test_alignments_of_networks_worse_than_a_constant_prediction_are_not_rejected() -> None:
    # Both networks predict these labels wrongly, so a lower loss at the midpoint does not indicate a better alignment.
    task = rc.Task(MODEL, [(X, (Y + 1) % 3)])
    flat = {n: p / 10 for n, p in MODEL.named_parameters()}
    permuted = SHUFFLE.apply(flat)
    with pytest.warns(AlignmentWarning, match=r"ignores the inputs.* Returned the alignment"):
        found = rc.align(flat, permuted, task, spec=SPEC, keep="best", matcher=Fixed(inverse=True))
    assert found.effect is not None
    assert not found.effect.is_meaningful
    assert found.match.permutation == SHUFFLE.inverse()
    assert "not both better than the best prediction that ignores the inputs" in str(found.effect)


def test_targets_that_do_not_fit_the_likelihood_give_no_effect() -> None:
    task = rc.Task(MODEL, [(X, torch.zeros(60))])
    result = rc.align(MODEL, SHUFFLE.apply(MODEL), task, spec=SPEC, matcher="activation")
    assert result.effect is None
    assert result.helped is None
    assert result.match.permutation == SHUFFLE.inverse()


def test_the_effect_of_distributions_is_that_of_their_barycenter() -> None:
    mean = {n: p.detach() for n, p in MODEL.named_parameters()}
    gaussian = rc.posteriors.DiagonalGaussianPosterior(mean, {n: torch.full_like(t, 0.05) for n, t in mean.items()})
    result = rc.align(gaussian, SHUFFLE.apply(gaussian), TASK, spec=SPEC)
    assert result.helped
    assert result.effect is not None
    assert result.effect.aligned == pytest.approx(result.effect.reference)
