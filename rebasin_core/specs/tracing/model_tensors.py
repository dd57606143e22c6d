"""The tensors of a traced model, and the tensors that are fixed before any operator constrains them."""

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
"""Reason for fixing a buffer that the option ``free`` can free."""

_FROZEN_NORMALIZATION: Final = frozenset({"weight", "bias", "running_mean", "running_var"})
_EXPERT_BALANCE: Final = "e_score_correction_bias"


@final
@dataclass(frozen=True, slots=True)
class ModelTensors:
    """The tensors of a model by name; a tensor shared by several modules has one canonical name.

    Attributes:
        named: Parameters, then buffers.
        parameters: The parameters.
        buffers: The buffers.
        unsaved: Names of buffers that are not in the state dict.
        aliases: Canonical name by each name of each tensor.
        states: Names of buffers that differ between trained models; see `state_buffers`.
    """

    named: Mapping[str, Tensor]
    parameters: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]
    unsaved: frozenset[str]
    aliases: Mapping[str, str]
    states: frozenset[str]

    @property
    def constant_entries(self) -> frozenset[str]:
        """Names of tensors that linear maps must not change: integers, and buffers that are not of normalizations."""
        statistics = {name for name in self.buffers if name.rpartition(".")[2] in _FROZEN_NORMALIZATION}
        integers = {name for name, one in self.named.items() if not (one.is_floating_point() or one.is_complex())}
        return frozenset(integers | (self.buffers.keys() - statistics))

    @classmethod
    def of(cls, model: nn.Module) -> ModelTensors:
        """Return the tensors of a model.

        Args:
            model: A module.

        Returns:
            The tensors.
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
        """Copy the inputs to the device of the model.

        Args:
            example_inputs: A batch, or a tuple of positional inputs.
            kwargs: Keyword inputs.

        Returns:
            Positional and keyword inputs.
        """
        device = next((tensor.device for tensor in self.named.values()), torch.device("cpu"))
        args = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)

        def on_model_device(leaf: object) -> object:
            if not isinstance(leaf, Tensor):
                return leaf
            return torch.empty_like(leaf, device=device) if device.type == "meta" else leaf.to(device)

        return tree_map(on_model_device, args), tree_map(on_model_device, dict(kwargs))

    def frozen(self, patterns: Sequence[str]) -> set[str]:
        """Return the parameters and buffers that the option ``freeze`` names.

        Args:
            patterns: Glob patterns (`fnmatch`); any name of a shared tensor matches.

        Returns:
            Canonical names.

        Raises:
            SpecError: If a pattern matches nothing.
        """
        return {name for pattern in patterns for name in self._matches("freeze", pattern, self.aliases)}

    def freed(self, patterns: Sequence[str]) -> set[str]:
        """Return the buffers that the option ``free`` names.

        Args:
            patterns: Glob patterns (`fnmatch`); any name of a shared tensor matches.

        Returns:
            Canonical names.

        Raises:
            SpecError: If a pattern matches no buffer of the state dict.
        """
        found: set[str] = set()
        for pattern in patterns:
            matched = self._matches("free", pattern, self.aliases)
            saved = matched & self.buffers.keys() - self.unsaved
            if not saved:
                one = min(matched)
                found_instead = (
                    f"the buffer {one!r}, which the state dict does not contain and an aligned model could not store"
                    if one in self.buffers
                    else f"the parameter {one!r}; parameters are free unless `freeze` names them"
                )
                message = f"expected the name of a buffer in `free`, got {pattern!r}, which matches {found_instead}"
                raise SpecError(message)
            found |= saved
        return found

    @staticmethod
    def _matches(option: str, pattern: str, aliases: Mapping[str, str]) -> set[str]:
        found = {first for name, first in aliases.items() if fnmatchcase(name, pattern)}
        if not found:
            message = f"no parameter or buffer matches {pattern!r} in `{option}`; {nearest(pattern, aliases)}"
            raise SpecError(message)
        return found


def state_buffers(model: nn.Module) -> Iterator[str]:
    """Yield the buffers that differ between trained models although the forward pass does not write to them.

    - Masks of `torch.nn.utils.prune`: ``weight_mask`` if there is a parameter ``weight_orig``.
    - Frozen batch normalization, as in torchvision, DETR and detectron2: ``weight``, ``bias``, ``running_mean`` and
      ``running_var`` of a module without parameters.
    - Load-balancing biases of experts, set by the training loop: ``e_score_correction_bias`` (DeepSeek-V3).

    Args:
        model: A module.

    Yields:
        The names of the buffers.
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
    """Return the reasons for fixing all dimensions of parameters and buffers before operators constrain them.

    Permuting a buffer that is the same constant in every model, such as a table of frequencies, would preserve the
    function, but the aligned models would have different constants. Therefore only buffers that training determines are
    free.

    Args:
        tensors: The tensors of the model.
        graph: The graph of the model in evaluation mode.
        frozen: Names of the tensors that the user fixes.
        freed: Names of the buffers that the user frees.
        training: Function that captures the graph in training mode; called only if needed.

    Returns:
        Reasons by name.
    """
    why = dict.fromkeys(set(tensors.named) - graph.used_tensors, "never used")
    free = tensors.states | graph.running_statistics | set(freed)
    constant = {name for name in set(tensors.buffers) - free if not tensors.buffers[name].is_floating_point()}
    undecided = (set(tensors.buffers) & graph.used_tensors) - constant - free - tensors.unsaved
    if undecided:
        trained = training()
        constant |= undecided - (trained.written_tensors if trained is not None else frozenset())
    why |= dict.fromkeys(constant, NOT_TRAINED)
    why |= dict.fromkeys(tensors.unsaved, "a buffer that is not saved")
    why |= dict.fromkeys(frozen, "requested with `freeze`")
    return {name: Reason("buffer" if "buffer" in text else "none", name, text) for name, text in why.items()}
