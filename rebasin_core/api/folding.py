"""Folding of normalizations: networks and posteriors with equal functions that admit rotations."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar, final, overload

import torch
from torch import Tensor, nn

from rebasin_core.analysis.folding.plan import FoldingParts
from rebasin_core.analysis.folding.posteriors import fold_posterior, unfold_posterior
from rebasin_core.analysis.folding.report import FoldingReport
from rebasin_core.api.conversion import as_posterior
from rebasin_core.api.tracing import trace_spec
from rebasin_core.api.untying import separated_names, untied_posterior
from rebasin_core.api.untying import untie as untied_copy
from rebasin_core.checkpoints.function_check import function_difference
from rebasin_core.errors import InvalidInputError, SpecError
from rebasin_core.posteriors.base import Posterior
from rebasin_core.posteriors.capabilities import AbstractMixture
from rebasin_core.posteriors.foreign.adapters import bayesian_layout
from rebasin_core.specs.base import require_spec
from rebasin_core.tensors.arguments import raise_wrong_type
from rebasin_core.tensors.modules import named_tensors, unwrapped
from rebasin_core.tensors.trees import tree_map

if TYPE_CHECKING:
    from collections.abc import Callable

    from rebasin_core.analysis.folding.folding import Folding
    from rebasin_core.analysis.folding.posteriors import FoldedPosterior
    from rebasin_core.checkpoints.function_check import FunctionDifference
    from rebasin_core.specs.base import ExampleInputs, PermutationSpec

T = TypeVar("T")


@final
@dataclass(frozen=True, eq=False)
class Folded(Generic[T]):
    """A network or posterior whose normalizations are folded.

    Attributes:
        network: The folded network or posterior, of the type that was given; it computes the same function.
        spec: Its specification: the given one, or that of the untied model.
        foldings: The map of every network: one for a single network or a Gaussian, one for each of several samples.
        report: The folded parts, and reasons for the others.
    """

    network: T
    spec: PermutationSpec
    foldings: tuple[Folding, ...]
    report: FoldingReport

    @property
    def folding(self) -> Folding:
        """The map of a single network, for `Folding.save`.

        Raises:
            InvalidInputError: If there are several.
        """
        if len(self.foldings) != 1:
            message = f"expected a single network, got {len(self.foldings)}; use the items of `foldings`"
            raise InvalidInputError(message)
        return self.foldings[0]

    def undo(self, network: Any) -> Any:  # ruff: ignore[any-type] - a value of the same type
        """Return a network with the scales, shifts and means that this one had before it was folded.

        It has the function of the given network, whichever that is: each step of a folding leaves the function
        unchanged for all values of the other tensors. If this is the reference of an alignment, the aligned network
        is returned in the coordinates of the original reference; paths between the two have the losses of those between
        the folded networks.

        Args:
            network: The folded network, or another one whose scales are one: a module, a mapping of tensors or a
                posterior.

        Returns:
            A network of the same type.

        Raises:
            InvalidInputError: If the network does not fit, or its scales are not one.
        """
        return _transformed(network, self.spec, lambda posterior: unfold_posterior(posterior, self.foldings))


@overload
def fold(
    network: Mapping[str, Tensor],
    spec: PermutationSpec,
    *,
    scales: bool = True,
    shifts: bool = False,
    center: bool = False,
    untie: bool = False,
    model: nn.Module | None = None,
    example_inputs: object = None,
    kwargs: Mapping[str, Any] | None = None,
) -> Folded[dict[str, Tensor]]: ...
@overload
def fold(
    network: T,
    spec: PermutationSpec,
    *,
    scales: bool = True,
    shifts: bool = False,
    center: bool = False,
    untie: bool = False,
    model: nn.Module | None = None,
    example_inputs: object = None,
    kwargs: Mapping[str, Any] | None = None,
) -> Folded[T]: ...
def fold(  # ruff: ignore[too-many-arguments] - all but two have defaults
    network: Any,
    spec: PermutationSpec,
    *,
    scales: bool = True,
    shifts: bool = False,
    center: bool = False,
    untie: bool = False,
    model: nn.Module | None = None,
    example_inputs: object = None,
    kwargs: Mapping[str, Any] | None = None,
) -> Folded[Any]:
    r"""Fold the normalizations of a network into neighboring weights, without changing its function.

    The scale $\gamma$ and the shift $\beta$ after a normalization $n(x)$ are used by the next layers, $W (\gamma \odot
    n(x) + \beta) + c$. They are folded to $W' n(x) + c'$ with $W' = W \operatorname{diag}(\gamma)$ and $c' = c + W
    \beta$. The residual streams of transformers that normalize before each layer then admit rotations
    (`PermutationSpec.folded_symmetry`), which only unequal scales break. Scales of residual branches (LayerScale) are
    folded likewise. A layer normalization also subtracts the mean of $x$: the components along the vector of ones of
    the weights that write to $x$, and of $W'$, have no effect, and can be removed.

    A tensor is kept, with the reason in the report, if the function would change: the scale of a normalization whose
    output is also added to something else (normalization after the residual sum), the last scale if the output layer is
    tied to the embedding, a shift before a layer without bias, a scale with a zero.

    Args:
        network: Module, mapping of tensors, or posterior; it is not changed. Every sample of a posterior is folded by a
            map of its own. A Gaussian is folded if its scales are not random; its shifts and means are kept.
        spec: Its specification, from `trace_spec`.
        scales: Fold scales, which rotations need.
        shifts: Fold shifts. They rotate with the stream, so alignment does not need it.
        center: Subtract means that no layer sees. Alignment does not need it, either.
        untie: First make tied weights separate tensors (see `untie`). The result belongs to another model, with more
            parameters; its specification is in the result.
        model: The module, for ``untie`` or the check of the function if ``network`` is not one.
        example_inputs: Small batch, or tuple of positional inputs, for the check and for ``untie``; by default inputs
            with the shapes of those that were traced: normally distributed, and ones if they are integers.
        kwargs: Keyword inputs.

    Returns:
        The folded network, with the maps that reverse it and a report. If there is a module, the outputs before and
        after are compared in double precision.

    Raises:
        InvalidInputError: If the network does not fit the specification, or ``untie`` is impossible.
        SpecError: If the outputs differ by more than rounding; then the specification is wrong.

    Examples:
        >>> import torch
        >>> from rebasin_core import fold, trace_spec
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 2))
        >>> _ = model[1].weight.data.uniform_(1, 2)
        >>> inputs = torch.randn(5, 3)
        >>> folded = fold(model, trace_spec(model, inputs), shifts=True)
        >>> folded.network[1].weight.tolist(), folded.network[1].bias.tolist()
        ([1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0])
        >>> torch.allclose(folded.network(inputs), model(inputs), atol=1e-6)
        True
    """
    require_spec(spec)
    module = _module_of(network, model)
    inputs = _inputs(spec, example_inputs, kwargs)
    names: dict[str, str] = {}
    if untie:
        if module is None or inputs is None:
            missing = "the module as `model`" if module is None else "`example_inputs`"
            message = f"expected {missing}: untying makes another model, which is traced again"
            raise InvalidInputError(message)
        names = separated_names(module)
        network = untied_copy(network) if isinstance(network, nn.Module) else _untied(network, spec, names)
        module = network if isinstance(network, nn.Module) else untied_copy(module)
        spec = trace_spec(module, inputs[0], kwargs=inputs[1])
    parts = FoldingParts(scales=scales, shifts=shifts, center=center)
    results: list[FoldedPosterior] = []

    def folded(posterior: Posterior) -> Posterior:
        results.append(fold_posterior(posterior, spec, parts))
        return results[-1].posterior

    changed = _transformed(network, spec, folded)
    difference = None
    if module is not None and inputs is not None:
        tensors = _first_network(network, spec)
        difference = _difference(module, tensors, results[0].foldings[0], inputs)
    report = FoldingReport.of(spec, results[0].plans, difference)
    return Folded(changed, spec, results[0].foldings, report)


def _module_of(network: object, model: nn.Module | None) -> nn.Module | None:
    if model is not None and not isinstance(model, nn.Module):
        raise_wrong_type(model, "a torch.nn.Module as `model`")
    return unwrapped(network) if isinstance(network, nn.Module) else None if model is None else unwrapped(model)


def _untied(network: object, spec: PermutationSpec, names: Mapping[str, str]) -> object:
    """Return a mapping or posterior over the parameters of the untied model."""
    separate = untied_posterior(as_posterior(network, spec=spec), names)
    return {**separate.mean, **separate.buffers} if isinstance(network, Mapping) else separate


def _transformed(network: Any, spec: PermutationSpec, function: Callable[[Posterior], Posterior]) -> Any:  # ruff: ignore[any-type]
    """Return a module, mapping or posterior after a function of the posterior with the names of a specification."""
    if not isinstance(network, nn.Module | Mapping | Posterior):
        raise_wrong_type(
            network, "a module, a mapping of tensors or a posterior", "`as_posterior` converts other objects"
        )
    if isinstance(network, nn.Module) and bayesian_layout(network) is not None:
        raise_wrong_type(network, "a deterministic module", "`as_posterior` returns the posterior of Bayesian layers")
    posterior = as_posterior(network, spec=spec)
    spec.layout.check({**posterior.mean, **posterior.buffers}, "the network")
    changed = function(posterior)
    if isinstance(network, Posterior):
        return changed
    tensors = {**changed.mean, **changed.buffers}
    if isinstance(network, Mapping):
        known = spec.layout.names.resolved(network, "the network")
        return {name: tensors[known[name]] if name in known else t.detach().clone() for name, t in network.items()}
    copied = copy.deepcopy(network)
    with torch.no_grad():
        for name, tensor in named_tensors(copied).items():
            tensor.copy_(tensors[spec.layout.names.of(name) or name])
    return copied


def _first_network(network: object, spec: PermutationSpec) -> dict[str, Tensor]:
    """Return the tensors of the network to which the first map belongs."""
    posterior = as_posterior(network, spec=spec)
    while isinstance(posterior, AbstractMixture):
        posterior = posterior.components[0]
    return {**posterior.mean, **posterior.buffers}


def _inputs(spec: PermutationSpec, example_inputs: object, kwargs: Mapping[str, Any] | None) -> ExampleInputs | None:
    """Return given inputs, or inputs with the shapes of those that were traced."""
    if example_inputs is not None or kwargs:
        given = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
        return (() if example_inputs is None else given), dict(kwargs or {})
    if spec.example_inputs is None:
        return None
    generator = torch.Generator().manual_seed(0)

    def drawn(leaf: object) -> object:
        if not isinstance(leaf, Tensor):
            return leaf
        if not leaf.is_floating_point():
            return torch.ones(leaf.shape, dtype=leaf.dtype)
        return torch.randn(leaf.shape, generator=generator, dtype=torch.float64).to(leaf.dtype)

    args, named = tree_map(drawn, spec.example_inputs)
    return tuple(args), dict(named)


def _difference(
    module: nn.Module, tensors: Mapping[str, Tensor], folding: Folding, inputs: ExampleInputs
) -> FunctionDifference:
    """Return the difference of the outputs in double precision; raise if it is larger than rounding."""
    found = function_difference(
        module, tensors, lambda name: folding.folded(name, tensors), inputs, dtype=torch.float64
    )
    if not found.is_kept and not found.reason:
        message = (
            f"folding changed the function of {type(module).__name__}: {found}. Check the specification (`check_spec`)"
        )
        raise SpecError(message)
    return found
