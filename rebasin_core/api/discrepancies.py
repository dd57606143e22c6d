"""Maximum mean discrepancy between two posteriors: of parameters modulo symmetries, and of functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias, final, get_args

import torch
from tqdm import tqdm

from rebasin_core.analysis.canonical import canonical_form
from rebasin_core.analysis.discrepancy import Discrepancy, maximum_mean_discrepancy
from rebasin_core.api.conversion import PosteriorLike, as_posterior
from rebasin_core.api.matching import as_matcher
from rebasin_core.api.samples import SamplesLike, as_mixture
from rebasin_core.errors import InvalidInputError
from rebasin_core.evaluation.batches import as_inputs
from rebasin_core.evaluation.functional import FunctionalModel
from rebasin_core.evaluation.task import require_task
from rebasin_core.posteriors.capabilities import AbstractEmpirical
from rebasin_core.posteriors.samples import SamplesPosterior
from rebasin_core.specs.base import require_spec
from rebasin_core.symmetry.kind import Kind
from rebasin_core.symmetry.subgroups import restricted_to

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor, nn

    from rebasin_core.evaluation.task import Task
    from rebasin_core.matchers.base import Matcher
    from rebasin_core.matchers.map_search import SymmetryOption
    from rebasin_core.posteriors.base import Posterior
    from rebasin_core.specs.base import PermutationSpec
    from rebasin_core.symmetry.permutation import GroupElement

AlignmentMethod: TypeAlias = Literal["match", "canonical"]
"""How `discrepancy` removes symmetries: by matching with a reference, or by canonical forms."""

DistributionLike: TypeAlias = PosteriorLike | SamplesLike
"""A posterior or anything that `as_posterior` converts to one, or a sequence of networks."""


def discrepancy(  # ruff: ignore[too-many-arguments] - two posteriors, their alignment, and the test
    first: DistributionLike,
    second: DistributionLike,
    spec: PermutationSpec | None = None,
    *,
    method: AlignmentMethod = "match",
    symmetry: SymmetryOption | None = None,
    matcher: Matcher | str | Mapping[str, object] = "weight",
    reference: PosteriorLike | None = None,
    task: Task | None = None,
    num_samples: int = 100,
    bandwidth: float | Sequence[float] | None = None,
    block_length: int | None = None,
    num_permutations: int = 999,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> Discrepancy:
    r"""Return the maximum mean discrepancy (MMD) between two posteriors of parameters, modulo symmetries.

    Two posteriors over the same functions can have different parameters. With a specification, every draw of both
    posteriors is aligned with one reference network, or transformed to its canonical form, and the MMD is that of the
    transformed draws. This is a fixed map of each draw. Therefore the estimate is unbiased for independent draws, and
    the permutation test is exact. See `maximum_mean_discrepancy` for the estimate, its standard error and the test.

    Alignment is approximate, and depends on the reference. A canonical form is exact, but not continuous: for two
    units of similar norms, small changes of the weights exchange their order. `function_discrepancy` needs neither.

    Args:
        first: A posterior, or a sequence of independent networks, such as an ensemble. All equally weighted samples of
            an empirical posterior are used, with its chains; other posteriors are sampled.
        second: Another one, with the same parameters.
        spec: Symmetries of the network. If None, parameters are compared as they are.
        method: ``match`` aligns every draw with the reference, ``canonical`` transforms it to its canonical form (see
            `rebasin_core.analysis.canonical_form`).
        symmetry: The symmetries to align modulo: ``permutation``, ``full``, or a tuple of kinds. If None, the matcher's
            own option, and permutations for canonical forms.
        matcher: A registered name, a mapping with ``name`` and options, or an instance.
        reference: The network to align with; a randomly selected draw of both posteriors if None, which is then omitted
            from the draws.
        task: Network module and data, for matchers that run the network.
        num_samples: Number of draws of each posterior that is sampled, at least 3.
        bandwidth: Bandwidth of the kernel, or several; the median distance of all draws if None.
        block_length: Minimum number of consecutive draws of a chain per block; from their autocorrelation if None.
        num_permutations: Number of random permutations in the test; no test if 0.
        generator: Random number generator; seeded with 0 if None.
        progress: Whether to show a progress bar.

    Returns:
        The discrepancy, its standard error and p-value.

    Raises:
        InvalidInputError: If the posteriors have different parameters or too few draws, or an option is out of range.
        ConfigError: If the matcher has no option ``symmetry``.

    References:
        O. Laurent, E. Aldea, G. Franchi (2024), "A symmetry-aware exploration of Bayesian neural network posteriors",
        ICLR, arXiv 2310.08287 (they sort units instead of matching them); A. Gretton et al. (2012), "A kernel
        two-sample test", JMLR 13.

    Examples:
        >>> from rebasin_core import table_spec
        >>> from rebasin_core.posteriors import DiagonalGaussianPosterior
        >>> stddev = {"in": torch.full((2, 1), 0.1), "out": torch.full((1, 2), 0.1)}
        >>> a = DiagonalGaussianPosterior({"in": torch.tensor([[1.0], [2.0]]), "out": torch.ones(1, 2)}, stddev)
        >>> b = DiagonalGaussianPosterior({"in": torch.tensor([[2.0], [1.0]]), "out": torch.ones(1, 2)}, stddev)
        >>> spec = table_spec({"in": "hidden, -", "out": "-, hidden"}, a.mean)
        >>> discrepancy(a, b).p_value < 0.01, discrepancy(a, b, spec).p_value > 0.05
        (True, True)
    """
    if method not in get_args(AlignmentMethod):
        message = f"expected `method` among {get_args(AlignmentMethod)}, got {method!r}"
        raise InvalidInputError(message)
    if spec is not None:
        require_spec(spec)
    if task is not None:
        require_task(task)
        task = task.held()
    generator = generator or torch.Generator().manual_seed(0)
    draws = [_Draws.of(source, spec, num_samples, generator) for source in (first, second)]
    if spec is not None:
        if method == "canonical":
            element_of = _canonical(spec, symmetry)
        else:
            target = _select_reference(draws, generator) if reference is None else as_posterior(reference, spec=spec)
            element_of = _matching(spec, as_matcher(matcher, symmetry), target, task, generator)
        draws = [each.transformed(element_of, disable=not progress) for each in draws]
    return maximum_mean_discrepancy(
        draws[0].tensors(),
        draws[1].tensors(),
        chains=(draws[0].chains, draws[1].chains),
        bandwidth=bandwidth,
        block_length=block_length,
        num_permutations=num_permutations,
        generator=generator,
    )


def function_discrepancy(  # ruff: ignore[too-many-arguments] - two posteriors, the function, and the test
    first: DistributionLike,
    second: DistributionLike,
    model: nn.Module,
    inputs: object,
    *,
    transform: Callable[[Tensor], Tensor] | None = None,
    num_samples: int = 100,
    bandwidth: float | Sequence[float] | None = None,
    block_length: int | None = None,
    num_permutations: int = 999,
    generator: torch.Generator | None = None,
) -> Discrepancy:
    r"""Return the maximum mean discrepancy (MMD) between two posteriors in function space.

    The draws are the outputs of the model on given inputs, for every draw of the parameters. No symmetry changes them,
    so no alignment is necessary, and posteriors of different architectures can be compared by their outputs with
    `maximum_mean_discrepancy`.

    Args:
        first: A posterior, or a sequence of independent networks, as for `discrepancy`.
        second: Another one.
        model: The network module, in evaluation mode.
        inputs: A batch of inputs: a tensor, a tuple of positional inputs, or a mapping of keyword inputs.
        transform: Function of the outputs to compare instead, such as ``lambda logits: logits.log_softmax(-1)`` for
            classifiers, whose logits admit a shift.
        num_samples: Number of draws of each posterior that is sampled, at least 3.
        bandwidth: Bandwidth of the kernel, or several; the median distance of all draws if None.
        block_length: Minimum number of consecutive draws of a chain per block; from their autocorrelation if None.
        num_permutations: Number of random permutations in the test; no test if 0.
        generator: Random number generator; seeded with 0 if None.

    Returns:
        The discrepancy, its standard error and p-value.

    Raises:
        InvalidInputError: If the posteriors do not fit the model or have too few draws, or an option is out of range.

    Examples:
        >>> model = torch.nn.Linear(1, 1)
        >>> networks = [{"weight": torch.tensor([[w]]), "bias": torch.zeros(1)} for w in (0.0, 0.1, 0.2, 5.0, 5.1, 5.2)]
        >>> found = function_discrepancy(networks[:3], networks[3:], model, torch.ones(4, 1))
        >>> found.squared > 5 * found.stderr
        True
    """
    batch = as_inputs(inputs)
    generator = generator or torch.Generator().manual_seed(0)
    found: list[tuple[dict[str, Tensor], Tensor | None]] = []
    for source in (first, second):
        draws = _Draws.of(source, None, num_samples, generator, model)
        dtype = next((t.dtype for t in draws.networks[0].mean.values() if t.is_floating_point()), torch.float32)
        function = FunctionalModel(model, device=batch.device, dtype=dtype)
        tensors = [{**network.mean, **network.buffers} for network in draws.networks]
        for each in tensors:
            function.check(each, "a draw")
        outputs = [function(each, batch) for each in tensors]
        rows = torch.stack(outputs if transform is None else [transform(output) for output in outputs])
        found.append(({"outputs": rows}, draws.chains))
    return maximum_mean_discrepancy(
        found[0][0],
        found[1][0],
        chains=(found[0][1], found[1][1]),
        bandwidth=bandwidth,
        block_length=block_length,
        num_permutations=num_permutations,
        generator=generator,
    )


@final
@dataclass(frozen=True, slots=True)
class _Draws:
    """Draws of a posterior, and the chain of each; None for independent draws."""

    networks: list[Posterior]
    chains: Tensor | None

    @classmethod
    def of(
        cls,
        source: DistributionLike,
        spec: PermutationSpec | None,
        num_samples: int,
        generator: torch.Generator,
        model: nn.Module | None = None,
    ) -> _Draws:
        """Return all equally weighted samples of an empirical posterior, or draws of another one."""
        if num_samples < 3:
            message = f"expected `num_samples` of at least 3, got {num_samples!r}"
            raise InvalidInputError(message)
        is_sequence = isinstance(source, list | tuple)
        given = as_mixture(source, spec, None) if isinstance(source, list | tuple) else source
        posterior = as_posterior(given, spec=spec, model=model)
        if posterior.is_point:
            message = "expected two distributions over networks, got a single network; give several networks as a list"
            raise InvalidInputError(message)
        if isinstance(posterior, AbstractEmpirical) and posterior.is_uniform:
            return cls(list(posterior.components), None if is_sequence else posterior.chains)
        drawn = SamplesPosterior.from_posterior(posterior, num_samples, generator=generator)
        return cls(list(drawn.components), None)

    def transformed(self, element_of: Callable[[Posterior], GroupElement], *, disable: bool) -> _Draws:
        """Return every draw transformed by its element."""
        bar = tqdm(self.networks, desc="align draws", leave=False, disable=disable)
        return _Draws([element_of(network).apply(network) for network in bar], self.chains)

    def without(self, index: int) -> _Draws:
        """Return all draws but one."""
        kept = [k for k in range(len(self.networks)) if k != index]
        return _Draws([self.networks[k] for k in kept], None if self.chains is None else self.chains[kept])

    def tensors(self) -> dict[str, Tensor]:
        """Return the parameters of all draws, each ``[n, *s]``."""
        means = [network.mean for network in self.networks]
        return {name: torch.stack([mean[name] for mean in means]) for name in means[0]}


def _matching(
    spec: PermutationSpec, matcher: Matcher, reference: Posterior, task: Task | None, generator: torch.Generator
) -> Callable[[Posterior], GroupElement]:
    """Return the function that finds the element that aligns a network with a reference."""

    def element_of(network: Posterior) -> GroupElement:
        return matcher.match(reference, network, spec, task=task, generator=generator).group_element.to("cpu")

    return element_of


def _canonical(spec: PermutationSpec, option: SymmetryOption | None) -> Callable[[Posterior], GroupElement]:
    """Return the function that finds the element that maps a network to its canonical form."""

    def element_of(network: Posterior) -> GroupElement:
        tensors = {**network.mean, **network.buffers}
        symmetry = spec.symmetry_of(tensors)
        if option != "full":
            kinds = () if option is None or option == "permutation" else option
            symmetry = restricted_to(symmetry, tuple(Kind(kind) for kind in kinds))
        return canonical_form(tensors, spec, symmetry).element

    return element_of


def _select_reference(draws: list[_Draws], generator: torch.Generator) -> Posterior:
    """Remove a random one of all draws, and return it."""
    counts = [len(each.networks) for each in draws]
    index = int(torch.randint(sum(counts), (), generator=generator, device=generator.device))
    side, at = (0, index) if index < counts[0] else (1, index - counts[0])
    network = draws[side].networks[at]
    draws[side] = draws[side].without(at)
    return network
