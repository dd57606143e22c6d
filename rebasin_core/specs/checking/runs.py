"""Running a model as a function of its tensors: afresh each time, in float64, with equal random numbers."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import torch
from torch.func import functional_call

from rebasin_core.errors import SpecError
from rebasin_core.specs.checking.draws import is_number, widened
from rebasin_core.specs.checking.measure import NOISE
from rebasin_core.specs.checking.precision import FullPrecision
from rebasin_core.tensors.modules import shared_copy
from rebasin_core.tensors.trees import tree_map, tree_tensors

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping
    from contextlib import AbstractContextManager

    from torch import Tensor, nn

# What operators raise of numbers they cannot take (a matrix that is not positive definite, an index out of range), and
# models of what they check themselves.
FAILURES = (RuntimeError, ValueError, ArithmeticError, LookupError, TypeError, AssertionError)


@final
@dataclass(frozen=True, slots=True)
class Inputs:
    """What a model is called with, on the CPU.

    Attributes:
        args: Positional inputs.
        kwargs: Named inputs.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @classmethod
    def of(cls, example_inputs: object, kwargs: Mapping[str, Any] | None) -> Inputs:
        """Return inputs as a user gives them.

        Args:
            example_inputs: One input, or a tuple of all positional ones.
            kwargs: Named inputs.

        Returns:
            The inputs, in the types they are given in.
        """
        args = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
        return cls(tree_map(_on_cpu, args), tree_map(_on_cpu, dict(kwargs or {})))

    def wide(self) -> Inputs:
        """Return the inputs in float64 and complex128."""
        return Inputs(tree_map(_widened, self.args), tree_map(_widened, self.kwargs))

    def jittered(self, precision: float, generator: torch.Generator) -> Inputs:
        """Return inputs disturbed by about what rounding does.

        Args:
            precision: The machine precision.
            generator: Source of randomness.

        Returns:
            Fresh inputs.
        """

        def disturb(leaf: object) -> object:
            return jittered(leaf, precision, generator) if isinstance(leaf, torch.Tensor) else leaf

        return Inputs(tree_map(disturb, self.args), tree_map(disturb, self.kwargs))


def jittered(tensor: Tensor, precision: float, generator: torch.Generator) -> Tensor:
    """Return a tensor disturbed by `NOISE` times the machine precision, each entry by itself.

    Args:
        tensor: Any tensor; integers stay.
        precision: The machine precision.
        generator: Source of randomness.

    Returns:
        The disturbed tensor.
    """
    if not is_number(tensor):
        return tensor
    signs = torch.randint(2, tensor.shape, generator=generator).to(tensor.dtype) * 2 - 1
    return tensor * (1 + NOISE * precision * signs)


# What autograd says where a model takes gradients inside, such as the forces of a potential, and they are off.
_NO_GRADIENTS = "does not require grad"


@final
class Runner:
    """A model as a function of its tensors.

    Args:
        model: The model; it is not changed.
        inputs: What it is called with.
        wide: Whether to run it in float64.
    """

    def __init__(self, model: nn.Module, inputs: Inputs, *, wide: bool = True) -> None:
        self._model = model
        self._wide = wide
        self._forced: bool | None = None
        self._takes_gradients = False
        self.inputs = inputs.wide() if wide else inputs
        self.single: set[str] = set()
        self.noise: AbstractContextManager[object] | None = None

    @property
    def precision(self) -> float:
        """The machine precision of the arithmetic: float32's if any operator was run so."""
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
        """Return all tensors in the output of the model.

        Args:
            tensors: Its parameters and buffers.
            inputs: Other inputs than its own.
            seed: Seed of the random numbers that it draws.
            within: Something more that is on while it runs.

        Returns:
            The outputs, with their gradients if gradients are on.

        Raises:
            SpecError: If it returns no tensor.
        """
        inputs = inputs or self.inputs
        # Fresh copies each time: some models keep results of earlier runs, or put other buffers into the mapping.
        model = shared_copy(self._model)
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
            # Most models cast nothing: their further runs are faster without looking at each operator.
            self._forced = bool(self._forced) or mode.needed
        found = [tensor if torch.is_grad_enabled() else tensor.detach() for tensor in tree_tensors(output)]
        if not found:
            message = f"expected the model to return a tensor, or tensors in containers, got {type(output).__name__}"
            raise SpecError(message)
        return found

    def _output(self, model: nn.Module, tensors: Mapping[str, Tensor], inputs: Inputs) -> object:
        """Return the output of the model, with gradients on if it takes gradients inside."""
        with torch.set_grad_enabled(torch.is_grad_enabled() or self._takes_gradients):
            try:
                output: object = functional_call(model, dict(tensors), inputs.args, inputs.kwargs)
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
        """Keep float64 in a backward pass, which runs other operators than the model."""
        with self._mode() or nullcontext():
            yield


@contextmanager
def seeded(seed: int) -> Generator[None]:
    """Give torch's own source of random numbers a seed while a block runs, and its state back.

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
    """Run attention by its parts, so that its tensors can be told apart."""
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
