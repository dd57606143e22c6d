"""The two things most users do: align, and measure what is left."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from rebasin_core.api.conversion import PosteriorLike, as_posterior
from rebasin_core.api.resumption import resumed
from rebasin_core.api.tracing import with_installed_rules
from rebasin_core.barriers.base import BarrierEstimator
from rebasin_core.matchers.base import Matcher
from rebasin_core.plugin.registry import Registry, default_registry

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch
    from torch import nn

    from rebasin_core.barriers.curve import LossCurve
    from rebasin_core.barriers.paths.base import Path as PosteriorPath
    from rebasin_core.evaluation.likelihood import Likelihood
    from rebasin_core.evaluation.metric import Metric
    from rebasin_core.evaluation.predictive import Batches
    from rebasin_core.matchers.base import OnInterrupt
    from rebasin_core.matchers.result import MatchResult
    from rebasin_core.specs.base import PermutationSpec
    from rebasin_core.symmetry.permutation import Permutation


def build(family: str, name: str, *, registry: Registry | None = None, **options: Any) -> Any:  # ruff: ignore[any-type]
    """Return any registered strategy.

    Args:
        family: ``matcher``, ``barrier``, ``inference``, ``architecture``, ``dataset`` or ``spec``.
        name: Its name there.
        registry: Where to look; everything installed if not given.
        **options: Its options.

    Returns:
        The strategy.

    Raises:
        UnknownNameError: If there is no such family or name.
        ConfigError: If an option is unknown or out of range.
        PluginError: If two distributions offer the name.

    Example:
        >>> build("matcher", name="weight", max_sweeps=50)  # doctest: +ELLIPSIS
        <rebasin_core.matchers.weight.WeightMatcher object at ...>
    """
    strategy = (registry or default_registry()).build(family, {"name": name, **options})
    return with_installed_rules(strategy, registry) if family == "spec" else strategy


def as_matcher(matcher: Matcher | str | Mapping[str, object]) -> Matcher:
    """Return a matcher, looked up with its options if it is not one already.

    Args:
        matcher: A registered name, a mapping with ``name`` and options, or an instance.

    Returns:
        The matcher.

    Raises:
        UnknownNameError: If there is no such matcher.
        ConfigError: If its options are not valid.
    """
    if isinstance(matcher, Matcher):
        return matcher
    built: Matcher = default_registry().build("matcher", matcher)
    return built


def match(  # ruff: ignore[too-many-arguments] - the problem's parts, keyword-only after the third
    reference: PosteriorLike,
    candidate: PosteriorLike,
    spec: PermutationSpec,
    matcher: Matcher | str | Mapping[str, object] = "wasserstein",
    *,
    model: nn.Module | None = None,
    data: Batches | None = None,
    generator: torch.Generator | None = None,
    progress: bool = False,
    initial: Permutation | None = None,
    on_interrupt: OnInterrupt = "raise",
    checkpoint: Path | str | None = None,
) -> MatchResult:
    """Return the permutation that moves a candidate onto a reference.

    Args:
        reference: Stays as it is: a posterior, or anything that `as_posterior` takes.
        candidate: Is moved; the same.
        spec: The symmetries of the network.
        matcher: A registered name, a mapping with ``name`` and options, or an instance.
        model: The network, for matchers that run it.
        data: Batches ``(inputs, targets)``, for matchers that need data.
        generator: Source of randomness; a fixed seed if not given.
        progress: Whether to show a progress bar.
        initial: Where matchers that improve step by step begin.
        on_interrupt: ``return``: an interrupted search returns its best so far, from which ``initial`` goes on.
        checkpoint: Where an interrupted search leaves its best so far (a permutation's file), whatever ``on_interrupt``
            says: the same call goes on from there; removed when the search ends by itself.

    Returns:
        The result; ``result.apply(candidate)`` is the aligned candidate.

    Raises:
        InvalidInputError: If the networks do not fit each other or the specification.
        UnknownNameError: If there is no such matcher.
        ConfigError: If its options are not valid.
        FileFormatError: If the checkpoint is damaged, or of another specification.

    Example:
        >>> import torch
        >>> from rebasin_core import match, table_spec
        >>> a = {"in": torch.tensor([[1.0], [2.0]]), "out": torch.tensor([[1.0, 2.0]])}
        >>> b = {"in": torch.tensor([[2.0], [1.0]]), "out": torch.tensor([[2.0, 1.0]])}
        >>> spec = table_spec({"in": "hidden, -", "out": "-, hidden"}, a)
        >>> match(a, b, spec, matcher="weight").apply(b)["in"].flatten().tolist()
        [1.0, 2.0]
    """
    search = partial(
        as_matcher(matcher).match,
        as_posterior(reference, model=model),
        as_posterior(candidate, model=model),
        spec,
        model=model,
        data=data,
        generator=generator,
        progress=progress,
    )
    if checkpoint is None:
        return search(initial=initial, on_interrupt=on_interrupt)
    return resumed(search, spec.layout, checkpoint, initial=initial, on_interrupt=on_interrupt)


def barrier(  # ruff: ignore[too-many-arguments] - the problem's parts, keyword-only after the second
    reference: PosteriorLike,
    candidate: PosteriorLike,
    *,
    model: nn.Module,
    data: Batches,
    estimator: BarrierEstimator | str | Mapping[str, object] | None = None,
    likelihood: Likelihood | str = "categorical",
    calibration: Batches | None = None,
    num_points: int | None = None,
    num_samples: int | None = None,
    path: PosteriorPath | str | Mapping[str, object] | None = None,
    metric: Metric | str | Mapping[str, object] | None = None,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> LossCurve:
    """Return the loss along the path between two posteriors, and the barrier on it.

    Args:
        reference: The posterior at t = 0, or anything that `as_posterior` takes.
        candidate: The posterior at t = 1; the same.
        model: The network.
        data: Any iterable of ``(inputs, targets)`` batches.
        estimator: A registered name, a mapping with ``name`` and options, or an instance. If not given, ``pointwise``
            between two single networks and ``marginalized`` otherwise.
        likelihood: An instance or a registered name.
        calibration: Training data, for estimators that compute normalization statistics or activations (``reset``,
            ``repair``); the data themselves if not given.
        num_points: Shorthand for that option of the estimator, or of the one that it wraps (as all shorthands).
        num_samples: Shorthand for that option. Without effect on estimators of single networks, which need one sample.
        path: Shorthand for that option.
        metric: Shorthand for that option.
        generator: Source of randomness; a fixed seed if not given.
        progress: Whether to show a progress bar.

    Returns:
        The curve: ``curve.t``, ``curve.loss``, ``curve.stderr``, ``curve.height``, ``curve.plot()``, ...

    Raises:
        InvalidInputError: If the posteriors, the model and the data do not fit each other.
        UnknownNameError: If there is no such estimator.
        ConfigError: If its options are not valid.

    Example:
        >>> import torch
        >>> from rebasin_core import barrier
        >>> model = torch.nn.Linear(1, 2)
        >>> data = [(torch.ones(4, 1), torch.tensor([0, 1, 0, 1]))]
        >>> barrier(model, model, model=model, data=data, num_points=3).height
        0.0
    """
    ends = as_posterior(reference, model=model), as_posterior(candidate, model=model)
    points = all(end.is_point for end in ends)
    chosen = BarrierEstimator.of(estimator or ("pointwise" if points else "marginalized"))
    shorthands = {"num_points": num_points, "num_samples": num_samples, "path": path, "metric": metric}
    options = {name: value for name, value in shorthands.items() if value is not None}
    return chosen.with_options(**options).estimate(
        *ends,
        model=model,
        data=data,
        likelihood=likelihood,
        calibration=calibration,
        generator=generator,
        progress=progress,
    )
