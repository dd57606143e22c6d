"""Run a model as a function of its tensors: without state between runs, in float64, with equal random numbers."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import torch

from rebasin_core.errors import SpecError
from rebasin_core.specs.checking.draws import is_number, random_signs, widened
from rebasin_core.specs.checking.measure import NOISE
from rebasin_core.specs.checking.precision import FullPrecision
from rebasin_core.tensors.modules import call_with_tensors, shared_copy
from rebasin_core.tensors.trees import tree_map, tree_tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping
    from contextlib import AbstractContextManager

    from torch import Tensor, nn

# Errors of operators with invalid values (a matrix that is not positive definite, an index out of range), and of checks
# inside models.
FAILURES = (RuntimeError, ValueError, ArithmeticError, LookupError, TypeError, AssertionError, AttributeError)


@final
@dataclass(frozen=True, slots=True)
class Inputs:
    """Inputs of a model, on the CPU.

    Attributes:
        args: Positional inputs.
        kwargs: Keyword inputs.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @classmethod
    def of(cls, example_inputs: object, kwargs: Mapping[str, Any] | None) -> Inputs:
        """Create inputs from the arguments of `check_spec`.

        Args:
            example_inputs: One input, or a tuple of all positional inputs.
            kwargs: Keyword inputs.

        Returns:
            The inputs, with their dtypes.
        """
        args = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
        return cls(tree_map(_on_cpu, args), tree_map(_on_cpu, dict(kwargs or {})))

    def wide(self) -> Inputs:
        """Return the inputs in float64 and complex128."""
        return Inputs(tree_map(_widened, self.args), tree_map(_widened, self.kwargs))

    def jittered(self, precision: float, generator: torch.Generator) -> Inputs:
        """Return inputs perturbed by about the size of rounding errors.

        Args:
            precision: The machine precision.
            generator: Source of randomness.

        Returns:
            New inputs.
        """

        def perturb(leaf: object) -> object:
            return jittered(leaf, precision, generator) if isinstance(leaf, torch.Tensor) else leaf

        return Inputs(tree_map(perturb, self.args), tree_map(perturb, self.kwargs))


def jittered(tensor: Tensor, precision: float, generator: torch.Generator) -> Tensor:
    """Return a tensor with each entry changed by a relative `NOISE` times the machine precision, with random sign.

    Args:
        tensor: Any tensor; integers are not changed.
        precision: The machine precision.
        generator: Source of randomness.

    Returns:
        The perturbed tensor.
    """
    if not is_number(tensor):
        return tensor
    return tensor * random_signs(tensor, generator).mul_(NOISE * precision).add_(1)


# Message of autograd if a model computes gradients inside, such as forces of a potential, while gradients are disabled.
_NO_GRADIENTS = "does not require grad"


@final
class Runner:
    """A model as a function of its tensors.

    Args:
        model: The model; it is not changed.
        inputs: Inputs of the model.
        wide: Whether to run it in float64.
        unstacked: Returns tensors by the names of the model, from tensors by the names of a layout; unchanged if None.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Inputs,
        *,
        wide: bool = True,
        unstacked: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] | None = None,
    ) -> None:
        self._model = model
        self._unstacked = unstacked
        self._wide = wide
        self._forced: bool | None = None
        self._takes_gradients = False
        self.inputs = inputs.wide() if wide else inputs
        self.single: set[str] = set()
        self.noise: AbstractContextManager[object] | None = None

    @property
    def precision(self) -> float:
        """The machine precision: that of float32 if any operator ran in float32."""
        single = not self._wide or bool(self.single)
        return float(torch.finfo(torch.float32 if single else torch.float64).eps)

    def __call__(
        self,
        tensors: Mapping[str, Tensor],
        *,
        inputs: Inputs | None = None,
        seed: int = 0,
        within: AbstractContextManager[object] | None = None,
    ) -> list[Tensor]:
        """Run the model, and return all tensors in its output.

        Args:
            tensors: The parameters and buffers, by the names of the model or of the layout.
            inputs: The inputs; if None, those given on construction.
            seed: Seed of the random numbers of the model.
            within: A further context for the run.

        Returns:
            The outputs, with gradients if they are enabled.

        Raises:
            SpecError: If the model returns no tensor.
        """
        inputs = inputs or self.inputs
        # A new copy for each run: some models store results of earlier runs, or replace buffers in the mapping.
        model = shared_copy(self._model)
        tensors = tensors if self._unstacked is None else self._unstacked(tensors)
        modes = [module.training for module in model.modules()]
        mode = self._mode()
        with ExitStack() as stack:
            stack.enter_context(seeded(seed))
            stack.enter_context(_without_fused_attention())
            for context in (mode, self.noise, within):
                stack.enter_context(context or nullcontext())
            try:
                output = self._output(model.eval(), tensors, inputs)
            finally:
                for module, training in zip(model.modules(), modes, strict=False):
                    module.training = training
        if mode is not None:
            self.single |= mode.single
            # Most models need no changes; later runs are then faster without intercepting operators.
            self._forced = bool(self._forced) or mode.needed
        found = [tensor if torch.is_grad_enabled() else tensor.detach() for tensor in tree_tensors(output)]
        if not found:
            message = f"expected the model to return a tensor, or tensors in containers, got {type(output).__name__}"
            raise SpecError(message)
        return found

    def _output(self, model: nn.Module, tensors: Mapping[str, Tensor], inputs: Inputs) -> object:
        """Return the output of the model, with gradients enabled if it computes gradients inside."""
        with torch.set_grad_enabled(torch.is_grad_enabled() or self._takes_gradients):
            try:
                output: object = call_with_tensors(model, tensors, inputs.args, inputs.kwargs)
            except RuntimeError as error:
                if torch.is_grad_enabled() or _NO_GRADIENTS not in str(error):
                    raise
            else:
                return output
        self._takes_gradients = True
        return self._output(model, tensors, inputs)

    def _mode(self) -> FullPrecision | None:
        return FullPrecision() if self._wide and self._forced is not False else None

    @contextmanager
    def wide_backward(self) -> Generator[None]:
        """Keep float64 in a backward pass, whose operators differ from those of the model."""
        with self._mode() or nullcontext():
            yield


@contextmanager
def seeded(seed: int) -> Generator[None]:
    """Seed the global random number generator of torch in a block, and restore its state afterwards.

    Args:
        seed: The seed.

    Yields:
        Nothing.
    """
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(state)


@contextmanager
def _without_fused_attention() -> Generator[None]:
    """Disable the fused attention kernel, which hides how single tensors are used."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _widened(leaf: object) -> object:
    return widened(leaf) if isinstance(leaf, torch.Tensor) else leaf


def _on_cpu(leaf: object) -> object:
    return leaf.detach().cpu() if isinstance(leaf, torch.Tensor) else leaf
