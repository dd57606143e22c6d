"""Interface of architectures."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, final

import torch

from rebasin_core.errors import InvalidInputError, SpecError
from rebasin_core.strategy import Strategy
from rebasin_core.tensors.modules import named_tensors

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rebasin_core.specs.base import PermutationSpec


class Architecture(Strategy):
    """A family of networks, with their permutation specification.

    Laws:
        - *Shapes*: a network maps batches ``[N, *input_shape]`` to ``[N, output_size]``, or to
          ``[N, output_size, ...]`` with one score for every position of a sequence or image.
        - *Seeded initialization*: the parameters depend only on the state of the given generator; the global generator
          is not used.
        - *Function preserved*: the specification contains every parameter and buffer, and every group element preserves
          the function.
    """

    family: ClassVar[str] = "architecture"

    @final
    def build(
        self, input_shape: tuple[int, ...], output_size: int, *, generator: torch.Generator | None = None
    ) -> nn.Module:
        """Create a network with random initial parameters.

        Args:
            input_shape: Shape of one example, without the batch dimension.
            output_size: Number of outputs, at least 1.
            generator: Random number generator; seeded with 0 if None.

        Returns:
            The network, on the CPU.

        Raises:
            InvalidInputError: If a size is less than 1.
        """
        if output_size < 1 or any(length < 1 for length in input_shape):
            message = f"expected positive sizes, got `input_shape` {input_shape} and `output_size` {output_size}"
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
        """Return random inputs for networks of this architecture.

        Args:
            input_shape: Shape of one example, without the batch dimension.
            output_size: Number of outputs; for token models, the size of the vocabulary.
            count: Number of examples.
            generator: Random number generator; seeded with 0 if None.

        Returns:
            ``[count, *input_shape]``.
        """
        generator = generator or torch.Generator().manual_seed(0)
        return self._example_inputs(tuple(input_shape), output_size, count, generator)

    @final
    def spec(self, model: nn.Module) -> PermutationSpec:
        """Return the permutation specification of a network.

        Args:
            model: A network from `build`, or one with the same tensors.

        Returns:
            The specification.

        Raises:
            SpecError: If the model has other tensors than a network of this architecture.
        """
        spec = self._spec(model)
        if set(spec.layout.tensors) != set(named_tensors(model)):
            different = sorted(set(spec.layout.tensors) ^ set(named_tensors(model)))
            message = f"expected a model of `{type(self).__name__}`, got different tensors: {different}"
            raise SpecError(message)
        return spec

    def _example_inputs(  # ruff: ignore[no-self-use] - for subclasses to override
        self, input_shape: tuple[int, ...], output_size: int, count: int, generator: torch.Generator
    ) -> Tensor:
        """Return random inputs: standard normal, unless overridden (for example by integers for token models)."""
        del output_size
        return torch.randn(count, *input_shape, generator=generator)

    @abstractmethod
    def _build(self, input_shape: tuple[int, ...], output_size: int, generator: torch.Generator) -> nn.Module:
        """Return a new network with initial weights.

        Args:
            input_shape: Shape of one example.
            output_size: Number of outputs per example.
            generator: The only source of randomness; the global generator must not be used.

        Returns:
            The network.
        """

    @abstractmethod
    def _spec(self, model: nn.Module) -> PermutationSpec:
        """Return the permutation symmetries of a network.

        Args:
            model: A network that `_build` returned.

        Returns:
            The specification, often a `TableSpec`.
        """
