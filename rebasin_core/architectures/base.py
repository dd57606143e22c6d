"""The interface of architectures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.errors import InvalidInputError, SpecError
from rebasin_core.tensors.modules import named_tensors

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rebasin_core.specs.base import PermutationSpec


class Architecture(ABC):
    """Builds networks of one kind, and knows their symmetries.

    Laws:
        - *Shapes*: a network takes batches ``[N, *input_shape]`` and returns ``[N, output_size]``, or
          ``[N, output_size, ...]`` with one score for every place of a sequence or picture.
        - *Seeded*: equal generators in equal states give equal networks, different ones different networks, and the
          global generator is left as it was.
        - *Spec fits*: the specification names every parameter and buffer, and every group element keeps the function.
    """

    @final
    def build(
        self, input_shape: tuple[int, ...], output_size: int, *, generator: torch.Generator | None = None
    ) -> nn.Module:
        """Return a freshly initialised network.

        Args:
            input_shape: Shape of one example.
            output_size: Number of outputs, at least 1.
            generator: Source of randomness; a fixed seed if not given.

        Returns:
            The network, on the CPU.

        Raises:
            InvalidInputError: If a size is less than 1.
        """
        if output_size < 1 or any(length < 1 for length in input_shape):
            message = f"expected positive sizes, got input shape {input_shape} and {output_size} outputs"
            raise InvalidInputError(message)
        return self._build(tuple(input_shape), output_size, generator or torch.Generator().manual_seed(0))

    @final
    def example_inputs(
        self,
        input_shape: tuple[int, ...],
        output_size: int,
        *,
        count: int = 2,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return random inputs of the kind that its networks take.

        Args:
            input_shape: Shape of one example.
            output_size: Number of outputs.
            count: Number of examples.
            generator: Source of randomness; a fixed seed if not given.

        Returns:
            ``[count, *input_shape]``.
        """
        generator = generator or torch.Generator().manual_seed(0)
        return self._example_inputs(tuple(input_shape), output_size, count, generator)

    @final
    def spec(self, model: nn.Module) -> PermutationSpec:
        """Return the symmetries of a network of this architecture.

        Args:
            model: A network that `build` returned, or one with the same tensors.

        Returns:
            The specification.

        Raises:
            SpecError: If the model is not of this architecture.
        """
        spec = self._spec(model)
        if set(spec.axes) != set(named_tensors(model)):
            odd = sorted(set(spec.axes) ^ set(named_tensors(model)))
            message = f"the model is not a {type(self).__name__}: they differ in {odd}"
            raise SpecError(message)
        return spec

    def _example_inputs(  # ruff: ignore[no-self-use] - for subclasses to override
        self, input_shape: tuple[int, ...], output_size: int, count: int, generator: torch.Generator
    ) -> Tensor:
        """Return random inputs; normal ones unless overridden (tokens, say, are whole numbers)."""
        del output_size
        return torch.randn(count, *input_shape, generator=generator)

    @abstractmethod
    def _build(self, input_shape: tuple[int, ...], output_size: int, generator: torch.Generator) -> nn.Module:
        """Return a network; draw its parameters from the generator and from nothing else."""

    @abstractmethod
    def _spec(self, model: nn.Module) -> PermutationSpec:
        """Return the specification of a network."""
