"""Mixtures of posteriors: multi-SWAG, mixtures of Laplace approximations, ensembles of posteriors."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, final

import torch
from typing_extensions import override

from rebasin_core.errors import FileFormatError, InvalidInputError, UnknownNameError, nearest
from rebasin_core.posteriors.averaging import normalized_weights
from rebasin_core.posteriors.base import Posterior
from rebasin_core.posteriors.capabilities import AbstractLogDensity, AbstractMixture
from rebasin_core.posteriors.checks import require_same_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Self

    from torch import Tensor

    from rebasin_core.symmetry.permutation import GroupElement, Permutation
    from rebasin_core.symmetry.symmetry_element import SymmetryElement
    from rebasin_core.tensors.names import TensorNames

_CHOICE = "component"


@final
class MixturePosterior(AbstractMixture):
    r"""Mixture $\sum_k w_k q_k$ of posteriors over the same parameters, with any representations.

    Components of the same class and noise shapes use the same noise tensors. A sample of the mixture then costs about
    as much as a sample of one component.

    Args:
        components: Posteriors $q_k$, at least one, with the same parameters and buffers; not mixtures themselves.
        weights: Weights $w_k$, ``[K]``, nonnegative, normalized to sum 1; equal if None.

    Raises:
        InvalidInputError: If the tensors of the components differ, a component is a mixture, or the weights are
            invalid.

    Examples:
        >>> import torch
        >>> from rebasin_core.posteriors.point import PointPosterior
        >>> q = MixturePosterior([PointPosterior({"w": torch.zeros(1)}), PointPosterior({"w": 2 * torch.ones(1)})])
        >>> q.mean["w"].item(), q.stddev["w"].item()
        (1.0, 1.0)
    """

    kind: ClassVar[str] = "mixture"

    def __init__(self, components: Sequence[Posterior], *, weights: Tensor | None = None) -> None:
        if not components:
            message = "expected at least one component, got none"
            raise InvalidInputError(message)
        for index, component in enumerate(components):
            if isinstance(component, MixturePosterior):
                message = f"expected components that are not mixtures, got a mixture as component {index}"
                raise InvalidInputError(message)
            require_same_tensors(components[0].mean, component.mean, f"component {index}")
            require_same_tensors(components[0].buffers, component.buffers, f"the buffers of component {index}")
        count = len(components)
        weights = torch.full((count,), 1 / count) if weights is None else weights.detach()
        self._components = tuple(components)
        self._weights = normalized_weights(weights, count)
        generator = torch.Generator().manual_seed(0)
        signatures = [_noise_signature(component, generator) for component in components]
        # For each component, the index of the first component with the same noise tensors.
        self._noise_index = [signatures.index(signature) for signature in signatures]

    @property
    @override
    def components(self) -> tuple[Posterior, ...]:
        return self._components

    @property
    @override
    def weights(self) -> Tensor:
        return self._weights.clone()

    @property
    @override
    def mean(self) -> dict[str, Tensor]:
        return self._average([component.mean for component in self._components])

    @property
    @override
    def stddev(self) -> dict[str, Tensor]:
        mean = self.mean
        second = [
            {name: s.square() + (m[name] - mean[name]).square() for name, s in component.stddev.items()}
            for component in self._components
            for m in (component.mean,)
        ]
        return {name: variance.sqrt() for name, variance in self._average(second).items()}

    @property
    @override
    def buffers(self) -> dict[str, Tensor]:
        every = [component.buffers for component in self._components]
        floating = self._average([{n: t for n, t in b.items() if t.is_floating_point()} for b in every])
        return {**every[0], **floating}

    @override
    def _named_as(self, names: TensorNames) -> MixturePosterior:
        named = [component.named_as(names) for component in self._components]
        if all(new is old for new, old in zip(named, self._components, strict=True)):
            return self
        return MixturePosterior(named, weights=self._weights)

    @override
    def draw_noise(self, sample_shape: Sequence[int] = (), *, generator: torch.Generator) -> dict[str, Tensor]:
        noise = {_CHOICE: torch.rand((*sample_shape, 1), generator=generator, device=generator.device)}
        for first in sorted(set(self._noise_index)):
            own = self._components[first].draw_noise(sample_shape, generator=generator)
            noise |= {f"{first}/{name}": tensor for name, tensor in own.items()}
        return noise

    @override
    def at_quantiles(self, noise: Mapping[str, Tensor], quantiles: Tensor) -> dict[str, Tensor]:
        return {**noise, _CHOICE: quantiles.unsqueeze(-1).to(noise[_CHOICE].device)}

    @override
    def from_noise(self, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        uniform = noise[_CHOICE].squeeze(-1)
        shape = uniform.shape
        # By rounding, the last cumulative weight may be less than 1 and than the noise: clamped to the last component.
        cumulative = self._weights.cumsum(0).to(uniform)
        chosen = torch.searchsorted(cumulative, uniform.reshape(-1), right=True).clamp_max(len(self._components) - 1)
        samples: dict[str, Tensor] = {}
        for index, component in enumerate(self._components):
            rows = (chosen == index).nonzero().squeeze(-1)
            if not len(rows):
                continue
            own = {
                name: tensor.reshape(len(chosen), *tensor.shape[len(shape) :])[rows.to(tensor.device)]
                for name, tensor in self._noise_of(index, noise).items()
            }
            for name, tensor in component.from_noise(own).items():
                whole = samples.setdefault(name, tensor.new_empty((len(chosen), *tensor.shape[1:])))
                whole[rows.to(whole.device)] = tensor
        return {name: tensor.reshape((*shape, *tensor.shape[1:])) for name, tensor in samples.items()}

    def _noise_of(self, index: int, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        prefix = f"{self._noise_index[index]}/"
        return {name.removeprefix(prefix): tensor for name, tensor in noise.items() if name.startswith(prefix)}

    @override
    def permute_noise(self, permutation: Permutation, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self._noise_after(permutation, noise)

    @override
    def _transform_noise(self, element: SymmetryElement, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return self._noise_after(element, noise)

    def _noise_after(self, element: GroupElement, noise: Mapping[str, Tensor]) -> dict[str, Tensor]:
        transformed = dict(noise)
        for first in set(self._noise_index):
            own = self._components[first].transform_noise(element, self._noise_of(first, noise))
            transformed |= {f"{first}/{name}": tensor for name, tensor in own.items()}
        return transformed

    @override
    def permute(self, permutation: Permutation) -> Self:
        return self.permute_each([permutation] * len(self._components))

    @override
    def permute_each(self, permutations: Sequence[Permutation]) -> Self:
        return self.transform_each(permutations)

    @override
    def _transform(self, element: SymmetryElement) -> Self:
        return self.transform_each([element] * len(self._components))

    @override
    def transform_each(self, elements: Sequence[GroupElement]) -> Self:
        if len(elements) != len(self._components):
            message = f"expected {len(self._components)} permutations, got {len(elements)}"
            raise InvalidInputError(message)
        transformed = [q.transform(element) for q, element in zip(self._components, elements, strict=True)]
        return type(self)(transformed, weights=self._weights)

    @override
    def to(self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        return type(self)([q.to(device=device, dtype=dtype) for q in self._components], weights=self._weights)

    def log_prob(self, parameters: Mapping[str, Tensor]) -> Tensor:
        r"""Return the log density $\log \sum_k w_k q_k(\theta)$.

        Args:
            parameters: All random parameters, each ``[*lead, *s]``.

        Returns:
            Log densities ``[*lead]``, in nats.

        Raises:
            InvalidInputError: If a component has no density.
        """
        densities: list[Tensor] = []
        for component in self._components:
            if not isinstance(component, AbstractLogDensity):
                message = f"expected components with a density, got one of kind {component.kind!r}"
                raise InvalidInputError(message)
            densities.append(component.log_prob(parameters))
        stacked = torch.stack(densities)
        log_weights = self._weights.to(stacked).log().reshape(-1, *[1] * (stacked.dim() - 1))
        return (stacked + log_weights).logsumexp(0)

    @override
    def as_tensors(self) -> dict[str, Tensor]:
        tensors = {"weights": self._weights}
        for index, component in enumerate(self._components):
            tensors |= {f"{index}:{component.kind}/{key}": tensor for key, tensor in component.as_tensors().items()}
        return tensors

    @classmethod
    @override
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        parts: dict[tuple[int, str], dict[str, Tensor]] = {}
        try:
            for key, tensor in tensors.items():
                if key != "weights":
                    component, _, rest = key.partition("/")
                    index, _, kind = component.partition(":")
                    parts.setdefault((int(index), kind), {})[rest] = tensor
            weights = tensors["weights"]
        except (KeyError, ValueError) as error:
            message = f"expected the components of a mixture and its weights, got {sorted(tensors)[:4]}"
            raise FileFormatError(message) from error
        return cls([_kinds(kind).from_tensors(part) for (_, kind), part in sorted(parts.items())], weights=weights)

    def _average(self, parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        return {
            name: torch.stack([
                w.to(part[name]) * part[name] for w, part in zip(self._weights, parts, strict=True)
            ]).sum(0)
            for name in parts[0]
        }

    @override
    def __repr__(self) -> str:
        """Return the class and the components."""
        return f"MixturePosterior({', '.join(map(repr, self._components))})"


def _noise_signature(component: Posterior, generator: torch.Generator) -> object:
    """Return the class of a component and the shapes of its noise; components with equal signatures share noise."""
    empty = component.draw_noise((0,), generator=generator)
    return type(component), {name: tuple(tensor.shape) for name, tensor in empty.items()}


def _kinds(kind: str) -> type[Posterior]:
    """Return the class of a representation among the imported subclasses of `Posterior`."""
    known: dict[str, type[Posterior]] = {}
    classes = Posterior.__subclasses__()
    while classes:
        subclass = classes.pop()
        classes += subclass.__subclasses__()
        if hasattr(subclass, "kind"):
            known[subclass.kind] = subclass
    if kind not in known:
        message = f"unknown representation {kind!r} of a component; {nearest(kind, known)}"
        raise UnknownNameError(message)
    return known[kind]
