"""A plugin with a matcher, a path, a likelihood, a metric, a posterior and an inference method that returns it."""

import math
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

import rebasin_core as rc
from rebasin_core.posteriors import (
    register_barycenter,
    register_geodesic,
    register_wasserstein,
    squared_moment_distance,
)


class IdentityMatcher(rc.Matcher):
    """Permutes nothing."""

    name: Literal["identity"] = "identity"

    def _match(self, problem: rc.MatchProblem) -> rc.MatchResult:
        identity = rc.Permutation.identity(problem.layout)
        return rc.MatchResult(identity, 0.0, 0.0, rc.MatchOutcome.CONVERGED, (0.0,), {})


class EasedPath(rc.Path):
    """The geodesic with smaller steps near the endpoints."""

    name: Literal["eased"] = "eased"

    strength: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of the smooth step in the change of t."""

    def _between(self, problem):
        geodesic = rc.posteriors.geodesic(problem.reference, problem.candidate)
        return lambda t: geodesic((1 - self.strength) * t + self.strength * t * t * (3 - 2 * t))


class TemperedLikelihood(rc.Likelihood):
    """Classification with logits divided by a temperature."""

    name: Literal["tempered"] = "tempered"

    temperature: PositiveFloat = 2.0
    """Temperature of the softmax."""

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        """Accept everything; the tests use valid targets only."""

    def log_prob(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the log probabilities of the targets."""
        return self._density(outputs).log_prob(targets)

    def prediction(self, outputs: Tensor) -> Tensor:
        """Return the probabilities."""
        return self._density(outputs).probs

    def score(self, prediction: Tensor, targets: Tensor) -> Tensor:
        """Return whether the most probable class is right."""
        return (prediction.argmax(-1) == targets).double()

    @property
    def score_name(self) -> str:
        """The name of the score."""
        return "accuracy"

    @property
    def targets(self) -> str:
        """Classes are scored."""
        return "classes"

    def _density(self, outputs):
        return torch.distributions.Categorical(logits=outputs / self.temperature)


class SphericalMetric(rc.evaluation.AbstractPredictionMetric):
    """One minus the spherical score of the predicted probabilities."""

    label: ClassVar[str] = "spherical loss"

    name: Literal["spherical"] = "spherical"

    def _score(self, prediction, targets):
        return 1 - prediction.gather(1, targets.unsqueeze(1)).squeeze(1) / prediction.norm(dim=1)


class LogisticPosterior(rc.posteriors.AbstractAttachedPosterior):
    """Independent logistic distributions."""

    kind = "logistic"

    def __init__(self, location, scale, *, buffers=None, fixed=None, prior=None) -> None:
        auxiliary = rc.posteriors.AuxiliaryTensors.of(buffers, fixed, prior)
        super().__init__({"location": location, "scale": scale}, auxiliary=auxiliary)

    @property
    def scale(self) -> dict[str, Tensor]:
        """The scales."""
        return {name: tensor.clone() for name, tensor in self._fields["scale"].items()}

    def _mean(self):
        return {name: tensor.clone() for name, tensor in self._fields["location"].items()}

    def _stddev(self):
        return {name: tensor * math.pi / 3**0.5 for name, tensor in self._fields["scale"].items()}

    def draw_noise(self, sample_shape=(), *, generator) -> dict[str, Tensor]:
        """Return standard logistic noise."""
        return {
            name: torch.rand((*sample_shape, *t.shape), generator=generator, device=generator.device).to(t).clamp(1e-6, 1 - 1e-6).logit()
            for name, t in self._fields["location"].items()
        }

    def _from_noise(self, noise):
        location, scale = self._fields["location"], self._fields["scale"]
        return {name: location[name] + scale[name] * noise[name] for name in location}

    @classmethod
    def _rebuild(cls, fields, unattached, auxiliary):
        return cls(fields["location"], fields["scale"], **auxiliary.options)


@register_wasserstein(LogisticPosterior, LogisticPosterior)
def logistic_distance(first, second) -> float:
    """Return the 2-Wasserstein distance of one location-scale family."""
    return squared_moment_distance(first, second) ** 0.5


@register_geodesic(LogisticPosterior, LogisticPosterior)
def logistic_geodesic(first, second):
    """Return the geodesic, along which location and scale are linear."""
    return first.linear_path(second)


@register_barycenter(LogisticPosterior)
def logistic_barycenter(posteriors, weights) -> LogisticPosterior:
    """Return the barycenter: weighted means of location and scale."""
    return LogisticPosterior(weights.mean([q.mean for q in posteriors]), weights.mean([q.scale for q in posteriors]))


class LogisticInference(rc.Inference):
    """Adds logistic noise of one scale to the estimate of another method."""

    name: Literal["logistic"] = "logistic"

    start: rc.Inference = rc.inference.MAPInference(epochs=2)
    """Method that estimates the location."""

    scale: PositiveFloat = 0.01
    """Scale of the noise."""

    def _fit(self, problem):
        found = self.start.solve(problem)
        location = found.posterior.mean
        scale = {name: torch.full_like(tensor, self.scale) for name, tensor in location.items()}
        posterior = LogisticPosterior(location, scale, buffers=found.posterior.buffers)
        return rc.inference.FitResult(posterior, found.history, found.resumed_at)


@rc.hookimpl(specname="rebasin_matchers", tryfirst=True)
def matchers_of_this_package() -> list[type[rc.Matcher]]:
    """Return the matcher."""
    return [IdentityMatcher]


@rc.hookimpl
def rebasin_paths() -> list[type[rc.Path]]:
    """Return the path."""
    return [EasedPath]


@rc.hookimpl
def rebasin_likelihoods() -> list[type[rc.Likelihood]]:
    """Return the likelihood."""
    return [TemperedLikelihood]


@rc.hookimpl
def rebasin_metrics() -> list[type[rc.Metric]]:
    """Return the metric."""
    return [SphericalMetric]


@rc.hookimpl
def rebasin_posteriors() -> list[type[rc.Posterior]]:
    """Return the posterior."""
    return [LogisticPosterior]


@rc.hookimpl
def rebasin_inferences() -> list[type[rc.Inference]]:
    """Return the inference method."""
    return [LogisticInference]
