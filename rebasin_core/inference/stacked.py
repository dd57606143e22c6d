"""Parallel training of several networks with stacked parameters."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, final

import torch
from typing_extensions import override

from rebasin_core.errors import InvalidInputError
from rebasin_core.inference.objective import AbstractObjective
from rebasin_core.inference.prior import negative_log_prior, prior_of, scales_of
from rebasin_core.tensors.modules import copied, named_tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from torch import Tensor, nn

    from rebasin_core.evaluation.functional import FunctionalModel
    from rebasin_core.inference.base import FitProblem
    from rebasin_core.inference.options import PriorScale
    from rebasin_core.posteriors.prior import GaussianPrior
    from rebasin_core.tensors.inputs import AnyInputs

# Coordinate-wise optimizers: networks that are stacked in one tensor do not influence each other.
_ENTRYWISE = frozenset({
    "SGD",
    "Adam",
    "AdamW",
    "NAdam",
    "RAdam",
    "Adamax",
    "Adagrad",
    "RMSprop",
    "Rprop",
    "Adadelta",
    "ASGD",
})
# On a CPU, networks are faster in one batch from this number of networks, and up to this number of parameters each
# (tests/benchmarks/ensembles.py). Larger matrices are multiplied at full speed one by one.
_SEVERAL = 4
_SMALL = 200_000


def require_entrywise(optimizer: str, members: int) -> None:
    """Raise if the update of one network would depend on the others that are trained in parallel.

    Args:
        optimizer: Name of the optimizer in ``torch.optim``.
        members: Number of networks.

    Raises:
        InvalidInputError: If there are several networks, and the optimizer is not coordinate-wise.
    """
    if members > 1 and optimizer not in _ENTRYWISE:
        message = (
            f"expected a coordinate-wise optimizer to train {members} networks in parallel, got {optimizer!r}; choose "
            f"one of {', '.join(sorted(_ENTRYWISE))}"
        )
        raise InvalidInputError(message)


def reinitialized(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """Return a copy of a model, initialized by the ``reset_parameters`` methods of its modules.

    Args:
        model: Any module.
        generator: Random number generator; the global generator is not changed.

    Returns:
        The copy.

    Raises:
        InvalidInputError: If a module owns parameters but has no such method.
    """
    fresh = copy.deepcopy(model)
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device).item())
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for name, module in fresh.named_modules():
            # `MultiheadAttention` and `Transformer` of torch have the method with a leading underscore.
            reset: Any = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
            if reset is not None:
                reset()
            elif next(module.parameters(recurse=False), None) is not None:
                message = (
                    f"expected a method `reset_parameters` to initialize further networks, got none in `{name}` "
                    f"({type(module).__name__}), which owns parameters; add one"
                )
                raise InvalidInputError(message)
    return fresh


@final
class StackedNetworks:
    """K networks with stacked parameters, evaluated on the same inputs.

    They run in one batch with `torch.vmap`, or sequentially if the model does not support it. Small networks on a CPU,
    and all networks on a GPU, are faster in one batch.

    Args:
        model: The network.
        members: Number K of networks.
        together: Whether to try `torch.vmap`; the faster way if None.
        around: Function from the tensors of a network to the context manager in which it runs.
    """

    def __init__(
        self,
        model: FunctionalModel,
        members: int,
        *,
        together: bool | None = None,
        around: Callable[[Mapping[str, Tensor]], AbstractContextManager[object]] | None = None,
    ) -> None:
        self._model = model
        self._members = members
        self._together = (_is_faster_together(model, members) if together is None else together) and members > 1
        self._around = around or (lambda _: nullcontext())

    def __call__(self, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor], inputs: AnyInputs) -> Tensor:
        """Return the outputs of all networks.

        Args:
            parameters: Each ``[K, *s]``.
            buffers: Each ``[K, *s]``; updated in place in training mode.
            inputs: Batch ``[N, ...]``.

        Returns:
            Outputs ``[K, N, ...]``.

        Raises:
            InvalidInputError: If the model cannot process the batch.
        """
        if self._together:
            try:
                return self._batched(parameters, buffers, inputs)
            except (RuntimeError, ValueError):
                # For example, vmap does not support data-dependent control flow, and some in-place operations.
                self._together = False
        # The gradient of each `tensor[k]` would be a tensor of the size of the stack.
        every = {name: tensor.unbind(0) for name, tensor in {**parameters, **buffers}.items()}
        outputs: list[Tensor] = []
        for k in range(self._members):
            tensors = {name: each[k] for name, each in every.items()}
            with self._around(tensors):
                outputs.append(self._model(tensors, inputs))
        return torch.stack(outputs)

    def _batched(self, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor], inputs: AnyInputs) -> Tensor:
        def call(own: dict[str, Tensor], kept: dict[str, Tensor]) -> Tensor:
            tensors = {**own, **kept}
            with self._around(tensors):
                return self._model.uncompiled(tensors, inputs)

        # Each network has its own dropout masks.
        run = torch.vmap(call, randomness="different")
        outputs: Tensor = run(dict(parameters), dict(buffers))
        return outputs


class AbstractStackedObjective(AbstractObjective):
    r"""Negative log posterior per example, up to a constant, summed over K networks.

    $$ \sum_{k=1}^K \Big( -\frac1B \sum_{i \in \text{batch}} \log p(y_i \mid x_i, \theta_k)
       - \frac1N \log p(\theta_k) \Big) $$

    The first network is initialized at the parameters of the model, the others by ``reset_parameters``. All are
    trained on the same batches.

    Args:
        problem: The problem to fit.
        model: Private copy of the network.
        members: Number K of networks.
        prior_scale: Standard deviations of the zero-mean Gaussian prior; infinity for a flat prior.
        prior_fan_in: Whether those of tensors with several dimensions are divided by the square root of their fan-in.
        together: Whether to run the networks in one batch; the faster way if None.
    """

    def __init__(
        self,
        problem: FitProblem,
        model: FunctionalModel,
        *,
        members: int,
        prior_scale: PriorScale,
        prior_fan_in: bool = False,
        together: bool | None = None,
    ) -> None:
        networks = [problem.model, *(reinitialized(problem.model, problem.generator) for _ in range(members - 1))]
        first = dict(model.module.named_parameters())
        every = [named_tensors(network) for network in networks]
        parameters = _stacked(every, first)
        buffers = _stacked(every, dict(model.module.named_buffers()))
        super().__init__(problem, model, parameters, buffers=buffers, members=members)
        self.prior: GaussianPrior | None = prior_of(first, prior_scale, by_fan_in=prior_fan_in)
        scales = scales_of(first, prior_scale, by_fan_in=prior_fan_in)
        self._precisions = {name: 1 / (scale**2 * problem.num_examples) for name, scale in scales.items()}
        run = model.compiled() if problem.compiled else model
        self._networks = StackedNetworks(run, members, together=together, around=self.around)

    def around(self, tensors: Mapping[str, Tensor]) -> AbstractContextManager[object]:  # ruff: ignore[no-self-use] - a hook
        """Return the context manager in which a network runs. Methods that change its operations override it.

        Args:
            tensors: Parameters and buffers of the network.

        Returns:
            A context manager that has no effect.
        """
        del tensors
        return nullcontext()

    @override
    def loss(self, inputs: AnyInputs, targets: Tensor) -> Tensor:
        outputs = self._networks(self.parameters, self.buffers, inputs)
        likelihood = self.problem.likelihood
        likelihood.check(outputs[0], targets)
        repeated = targets.expand(self.members, *targets.shape).flatten(0, 1)
        loss = -likelihood.log_prob(outputs.flatten(0, 1), repeated).sum() / len(targets)
        return loss + negative_log_prior(self._precisions, self.parameters)

    def copies(self, member: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return copies of a network's parameters and buffers.

        Args:
            member: Index of the network.

        Returns:
            Parameters and buffers by name.
        """
        parameters = copied({name: tensor[member] for name, tensor in self.parameters.items()})
        buffers = copied({name: tensor[member] for name, tensor in self.buffers.items()})
        return parameters, buffers

    @override
    def points(self) -> list[dict[str, Tensor]]:
        every = {**self.parameters, **self.buffers}
        return [{name: tensor[k].detach() for name, tensor in every.items()} for k in range(self.members)]


def _is_faster_together(model: FunctionalModel, members: int) -> bool:
    """Return whether networks run faster in one batch: always on a GPU; on a CPU several small networks."""
    parameters = list(model.module.parameters())
    if any(parameter.device.type != "cpu" for parameter in parameters):
        return True
    return members >= _SEVERAL and sum(parameter.numel() for parameter in parameters) <= _SMALL


def _stacked(networks: Sequence[Mapping[str, Tensor]], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the stacked tensors of several networks, with the names, devices and dtypes of ``like``."""
    return {
        name: torch.stack([tensors[name].detach().to(tensor) for tensors in networks]) for name, tensor in like.items()
    }
