"""Matching of two networks or posteriors, and construction of registered components by name."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import TYPE_CHECKING, Any

from rebasin_core.api.conversion import PosteriorLike, as_posteriors
from rebasin_core.api.resumption import search_with_checkpoint
from rebasin_core.errors import ConfigError
from rebasin_core.evaluation.task import model_of
from rebasin_core.matchers.base import Matcher
from rebasin_core.plugin.registry import Registry, default_registry
from rebasin_core.tensors.digests import digest_of_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch

    from rebasin_core.evaluation.task import Task
    from rebasin_core.matchers.base import MatchResult, OnInterrupt
    from rebasin_core.matchers.map_search import SymmetryOption
    from rebasin_core.specs.base import PermutationSpec
    from rebasin_core.symmetry.permutation import GroupElement


def build(family: str, name: str, *, registry: Registry | None = None, **options: Any) -> Any:  # ruff: ignore[any-type]
    """Construct a registered component from its family and name.

    Args:
        family: ``matcher``, ``barrier``, ``inference``, ``architecture``, ``dataset``, ``spec`` or another family.
        name: Registered name in the family.
        registry: Registry of components; all installed plugins if None.
        **options: Options of the component.

    Returns:
        The component.

    Raises:
        UnknownNameError: If there is no such family or name.
        ConfigError: If an option is unknown or out of range.
        PluginError: If two distributions register the name.

    Examples:
        >>> build("matcher", name="weight", max_sweeps=50)
        WeightMatcher(max_sweeps=50)
    """
    return (registry or default_registry()).build(family, {"name": name, **options})


def as_matcher(matcher: Matcher | str | Mapping[str, object], symmetry: SymmetryOption | None = None) -> Matcher:
    """Return a matcher instance.

    Args:
        matcher: A registered name, a mapping with ``name`` and options, or an instance.
        symmetry: Another value of the matcher's option ``symmetry``; its own if None.

    Returns:
        The matcher.

    Raises:
        UnknownNameError: If no matcher has that name.
        ConfigError: If options are invalid, or the matcher has no option ``symmetry``.
    """
    built: Matcher = matcher if isinstance(matcher, Matcher) else default_registry().build("matcher", matcher)
    if symmetry is None:
        return built
    if "symmetry" not in type(built).model_fields:
        message = (
            "`symmetry` is an option of the matchers `weight`, `wasserstein`, `activation` and `frank_wolfe`, and the "
            f"matcher is {built.name!r}; give it as an option of the matcher inside"
        )
        raise ConfigError(message)
    return built.replace(symmetry=symmetry)


def match(  # ruff: ignore[too-many-arguments] - a long search has to be started, watched, stopped and resumed
    reference: PosteriorLike,
    candidate: PosteriorLike,
    spec: PermutationSpec,
    matcher: Matcher | str | Mapping[str, object] = "wasserstein",
    *,
    symmetry: SymmetryOption | None = None,
    task: Task | None = None,
    generator: torch.Generator | None = None,
    progress: bool = False,
    initial: GroupElement | None = None,
    on_interrupt: OnInterrupt = "raise",
    checkpoint: Path | str | None = None,
) -> MatchResult:
    r"""Find the permutation that aligns a candidate network or posterior with a reference.

    Matchers differ in their objective. The default ``wasserstein`` minimizes the 2-Wasserstein distance
    $W_2(q_0, g_\# q_1)$ of independent Gaussians over the permutations $g$ of the specification; for single networks
    this is weight matching (Git Re-Basin). The problem is NP-hard in general, so results are local optima unless
    ``result.gap`` is 0.

    Args:
        reference: Network or posterior to align to; anything that `as_posterior` accepts. It is not changed.
        candidate: Network or posterior to permute, with the same parameters as the reference. It is not changed.
        spec: Permutation symmetries of the network. They are not checked here; see `check_spec` and `align`.
        matcher: A registered name, a mapping with ``name`` and options, or a `Matcher` instance.
        symmetry: The symmetries to align modulo, for matchers with the option ``symmetry``: ``permutation``, ``full``,
            or a tuple of kinds. If None, the matcher's own option.
        task: Network module and data, for matchers that run the network, and for inputs that need the module in
            `as_posterior`.
        generator: Random number generator; seeded with 0 if None.
        progress: Whether to show a progress bar.
        initial: Permutation to start from, for iterative matchers; their own initialization if None. With another group
            element, the search is for a further element that is applied after it.
        on_interrupt: On Ctrl-C, ``"raise"`` KeyboardInterrupt, or ``"return"`` the best result so far.
        checkpoint: File for the best group element found, written when the search is interrupted (for either
            ``on_interrupt``). If the file exists, the search resumes from it; it is deleted when the search completes.

    Returns:
        The result. ``result.apply(candidate)`` is the aligned candidate.

    Raises:
        InvalidInputError: If the networks do not fit each other or the specification.
        UnknownNameError: If no matcher has that name.
        ConfigError: If options of the matcher are invalid, or it has no option ``symmetry``.
        FileFormatError: If the checkpoint is damaged, or belongs to another specification, other networks or another
            matcher.

    Examples:
        >>> import torch
        >>> from rebasin_core import match, table_spec
        >>> a = {"in": torch.tensor([[1.0], [2.0]]), "out": torch.tensor([[1.0, 2.0]])}
        >>> b = {"in": torch.tensor([[2.0], [1.0]]), "out": torch.tensor([[2.0, 1.0]])}
        >>> spec = table_spec({"in": "hidden, -", "out": "-, hidden"}, a)
        >>> match(a, b, spec, matcher="weight").apply(b)["in"].flatten().tolist()
        [1.0, 2.0]
    """
    model = model_of(task)
    strategy = as_matcher(matcher, symmetry)
    first, second = as_posteriors([reference, candidate], model=model, spec=spec)
    search = partial(
        strategy.match,
        first,
        second,
        spec,
        task=task,
        generator=generator,
        progress=progress,
    )
    if checkpoint is None:
        return search(initial=initial, on_interrupt=on_interrupt)
    parts = (strategy.canonical_json(), digest_of_tensors(first.as_tensors()), digest_of_tensors(second.as_tensors()))
    problem = hashlib.sha256("/".join(parts).encode()).hexdigest()
    return search_with_checkpoint(
        search, spec.layout, checkpoint, problem=problem, initial=initial, on_interrupt=on_interrupt
    )
