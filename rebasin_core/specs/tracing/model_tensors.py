"""The tensors of a model to be traced, and which of them are fixed before any operator constrains them."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final, final

import torch
from torch import Tensor, nn

from rebasin_core.errors import SpecError, nearest
from rebasin_core.specs.unification.terms import Reason
from rebasin_core.tensors.modules import unsaved_buffers
from rebasin_core.tensors.trees import tree_map

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from rebasin_core.specs.tracing.graph import ModelGraph

NOT_TRAINED: Final = "a buffer that training does not change"
"""Why a buffer is fixed that the option ``free`` would let move."""

_FROZEN_NORMALIZATION: Final = frozenset({"weight", "bias", "running_mean", "running_var"})
_EXPERT_BALANCE: Final = "e_score_correction_bias"


@final
@dataclass(frozen=True, slots=True)
class ModelTensors:
    """The tensors of a model by name, parameters first; a tensor that several modules share has one name.

    Attributes:
        named: All of them.
        parameters: The parameters.
        buffers: The buffers.
        unsaved: Names of buffers that are not part of the state dict.
        aliases: For every name of every tensor, its one name.
        states: Names of buffers that are known to differ between trained models; see `state_buffers`.
    """

    named: Mapping[str, Tensor]
    parameters: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]
    unsaved: frozenset[str]
    aliases: Mapping[str, str]
    states: frozenset[str]

    @classmethod
    def of(cls, model: nn.Module) -> ModelTensors:
        """Return the tensors of a model.

        Args:
            model: Any module.

        Returns:
            Its tensors.
        """
        parameters = dict(model.named_parameters())
        buffers = dict(model.named_buffers())
        named = {**parameters, **buffers}
        first = {id(tensor): name for name, tensor in named.items()}
        every = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
        aliases = {name: first[id(tensor)] for name, tensor in every}
        unsaved = unsaved_buffers(model) & buffers.keys()
        states = frozenset(aliases[name] for name in state_buffers(model))
        return cls(named, parameters, buffers, unsaved, aliases, states)

    def on_device(self, example_inputs: object, kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the inputs on the device of the model.

        Args:
            example_inputs: A batch, or a tuple of positional inputs.
            kwargs: Named inputs.

        Returns:
            Positional and named inputs.
        """
        device = next((tensor.device for tensor in self.named.values()), torch.device("cpu"))
        args = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)

        def moved(leaf: object) -> object:
            if not isinstance(leaf, Tensor):
                return leaf
            return torch.empty_like(leaf, device=device) if device.type == "meta" else leaf.to(device)

        return tree_map(moved, args), tree_map(moved, dict(kwargs))

    def frozen(self, patterns: Sequence[str]) -> set[str]:
        """Return the parameters and buffers that a user wants fixed.

        Args:
            patterns: As in `fnmatch`; a tensor with several names may be given by any of them.

        Returns:
            Their names.

        Raises:
            SpecError: If a pattern matches nothing.
        """
        return {name for pattern in patterns for name in self._matches("freeze", pattern, self.aliases)}

    def freed(self, patterns: Sequence[str]) -> set[str]:
        """Return the buffers that a user lets move with the parameters.

        Args:
            patterns: As in `fnmatch`.

        Returns:
            Their names.

        Raises:
            SpecError: If a pattern matches no buffer, or only buffers that are not saved.
        """
        found: set[str] = set()
        for pattern in patterns:
            matched = self._matches("free", pattern, self.aliases)
            saved = matched & self.buffers.keys() - self.unsaved
            if not saved:
                one = min(matched)
                kind = (
                    "a buffer that is not part of the state dict: an aligned model could not keep it"
                    if one in self.buffers
                    else "a parameter: those move already, unless `freeze` names them"
                )
                message = f"`free` names {pattern!r}, and {one!r} is {kind}"
                raise SpecError(message)
            found |= saved
        return found

    @staticmethod
    def _matches(option: str, pattern: str, aliases: Mapping[str, str]) -> set[str]:
        found = {first for name, first in aliases.items() if fnmatchcase(name, pattern)}
        if not found:
            message = f"`{option}` names {pattern!r}, which no parameter or buffer matches; {nearest(pattern, aliases)}"
            raise SpecError(message)
        return found


def state_buffers(model: nn.Module) -> Iterator[str]:
    """Yield the buffers that belong to what a model has learned, although training does not write to them.

    They are the masks of `torch.nn.utils.prune` (``weight_mask`` beside the parameter ``weight_orig``), the buffers of
    frozen batch normalizations (modules without parameters and with buffers ``weight``, ``bias``, ``running_mean`` and
    ``running_var``, as in torchvision, DETR and detectron2), and the biases that balance the load of experts
    (``e_score_correction_bias``, DeepSeek-V3), which the training loop sets.

    Args:
        model: Any module.

    Yields:
        Their names.
    """
    for prefix, module in model.named_modules(remove_duplicate=False):
        parameters = {name for name, _ in module.named_parameters(recurse=False, remove_duplicate=False)}
        buffers = {name for name, _ in module.named_buffers(recurse=False, remove_duplicate=False)}
        frozen = _FROZEN_NORMALIZATION if not parameters and buffers >= _FROZEN_NORMALIZATION else set()
        for name in sorted(buffers):
            is_mask = name.endswith("_mask") and f"{name.removesuffix('_mask')}_orig" in parameters
            if is_mask or name in frozen or name == _EXPERT_BALANCE:
                yield f"{prefix}.{name}".lstrip(".")


def fixed_reasons(
    tensors: ModelTensors,
    graph: ModelGraph,
    frozen: Collection[str],
    freed: Collection[str],
    training: Callable[[], ModelGraph | None],
) -> dict[str, Reason]:
    """Return why parameters and buffers are fixed in all dimensions, before any operator constrains them.

    Permuting a buffer that is the same constant in every model, such as a table of frequencies, would keep the function
    but make two models incomparable; only buffers that training determines move.

    Args:
        tensors: The tensors of the model.
        graph: Its graph in evaluation mode.
        frozen: Those that a user wants fixed.
        freed: Buffers that a user lets move.
        training: Captures the graph in training mode, where it is needed.

    Returns:
        Reasons by name.
    """
    why = dict.fromkeys(set(tensors.named) - graph.used_tensors, "never used")
    moving = tensors.states | graph.statistics | set(freed)
    constant = {name for name in set(tensors.buffers) - moving if not tensors.buffers[name].is_floating_point()}
    undecided = (set(tensors.buffers) & graph.used_tensors) - constant - moving - tensors.unsaved
    if undecided:
        trained = training()
        constant |= undecided - (trained.written_tensors if trained is not None else frozenset())
    why |= dict.fromkeys(constant, NOT_TRAINED)
    why |= dict.fromkeys(tensors.unsaved, "a buffer that is not saved")
    why |= dict.fromkeys(frozen, "asked for")
    return {name: Reason("buffer" if "buffer" in text else "none", name, text) for name, text in why.items()}
