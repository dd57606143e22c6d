"""Checkpoints, their model and its specification, before anything is computed."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, final

import torch
from torch import nn

from rebasin_core.api.checkpoints.compared import own_layout
from rebasin_core.api.checkpoints.fitted import FittedTensors
from rebasin_core.api.checkpoints.models import model_of, spec_of
from rebasin_core.api.checkpoints.network import CheckpointNetwork, networks_in
from rebasin_core.checkpoints.function_check import FunctionDifference, function_difference
from rebasin_core.checkpoints.stored import StoredForm
from rebasin_core.errors import InvalidInputError, SpecError
from rebasin_core.specs.files import load_spec
from rebasin_core.symmetry.action import act
from rebasin_core.symmetry.stack_action import permuted_member
from rebasin_core.symmetry.symmetry_element import SymmetryElement
from rebasin_core.tensors.checks import shorten
from rebasin_core.tensors.device import CPU, indexable
from rebasin_core.tensors.modules import named_tensors, repeated_names
from rebasin_core.tensors.names import TensorNames
from rebasin_core.tensors.reading import shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from rebasin_core.checkpoints.checkpoint import Checkpoint
    from rebasin_core.checkpoints.model_source import ModelSource, SourcedModel
    from rebasin_core.checkpoints.naming import NamePolicy
    from rebasin_core.specs.base import ExampleInputs, PermutationSpec
    from rebasin_core.symmetry.permutation import GroupElement


@final
@dataclass(frozen=True, eq=False)
class Prepared:
    """Networks of one model in several checkpoints.

    Attributes:
        networks: The networks, in the order of the checkpoints.
        spec: Permutation symmetries of the model.
        model: The model; None if only a specification was given.
    """

    networks: tuple[CheckpointNetwork, ...]
    spec: PermutationSpec
    model: SourcedModel | None

    def module(self) -> nn.Module:
        """Return the module of the model with the tensors of the first network, which are mapped to memory.

        Returns:
            A copy of the module.

        Raises:
            InvalidInputError: If only a specification was given.
        """
        if self.model is None:
            message = "expected the model; give `model` as a factory (package.module:name)"
            raise InvalidInputError(message)
        return with_tensors(self.model.module, self.networks[0].tensors)

    def require_runnable(self) -> ExampleInputs:
        """Return the example inputs of the model, for the function check.

        Returns:
            Positional and keyword inputs.

        Raises:
            InvalidInputError: If there is no model or no example input, or a network has not all tensors of the model.
        """
        for network in self.networks:
            if network.match.missing:
                message = (
                    "the function check needs all tensors of the model, and "
                    f"{shown(network.checkpoint.path)} does not have {shorten(list(network.match.missing))}; skip the "
                    "check"
                )
                raise InvalidInputError(message)
        if self.model is None or self.model.example_inputs is None:
            message = (
                "the function check needs the model and example inputs; give `model` as a factory "
                "(package.module:name) and the shapes of its inputs, or skip the check"
            )
            raise InvalidInputError(message)
        return self.model.example_inputs

    def function_check(
        self, network: CheckpointNetwork, element: GroupElement, device: torch.device = CPU
    ) -> FunctionDifference:
        """Compare the outputs of the model with a network and with the permuted or transformed network.

        If the network has another vocabulary or number of classes than the model, the rows that both have are compared;
        see `FittedTensors`.

        Args:
            network: One of the networks.
            element: The permutation or other group element.
            device: Device on which the model runs; the CPU if the model cannot run on it.

        Returns:
            The difference.

        Raises:
            InvalidInputError: If there is no model or no example input.
            SpecError: If the outputs differ by more than rounding.
        """
        inputs = self.require_runnable()
        element.require_preserving(network.tensors)
        module = cast("SourcedModel", self.model).module

        fitted = FittedTensors(network.tensors, {name: network.form.shapes[name] for name in network.match.resized})

        def permuted(name: str) -> Tensor:
            return fitted.fit(name, permuted_tensor(element, network.tensors, name))

        found = function_difference(module, fitted, permuted, inputs, device=device)
        if found.reason and device != CPU:  # for example, of a model that makes tensors on the CPU
            found = function_difference(module, fitted, permuted, inputs)
        if not found.reason and not found.is_kept:
            name = "group element" if isinstance(element, SymmetryElement) else "permutation"
            message = (
                f"the {name} changes the function of the model: {found}. The specification is wrong for this "
                "model; trace it again, or find the wrong axes with `rebasin spec --check`"
            )
            raise SpecError(message)
        return found


def prepared(
    checkpoints: Sequence[Checkpoint],
    *,
    model: ModelSource | Mapping[str, Any] | str | None,
    spec: PermutationSpec | Path | str | None,
    names: NamePolicy,
    freeze: Sequence[str] = (),
) -> Prepared:
    """Find the model, its specification and the tensors of all checkpoints.

    Args:
        checkpoints: At least one checkpoint. The model is that of the first.
        model: Source of the model; see `align_checkpoints`.
        spec: Permutation symmetries or their file; traced if None.
        names: Rules for names in the files.
        freeze: Patterns of tensors to keep fixed; only if the specification is traced.

    Returns:
        The networks, the specification and the model.

    Raises:
        FileFormatError: If the file of the specification is damaged.
        InvalidInputError: If checkpoints do not fit the model, or there is neither a model nor a specification.
        SpecError: If the model cannot be traced.
    """
    given = load_spec(spec) if isinstance(spec, Path | str) else spec
    if given is not None and freeze:
        message = "`freeze` applies to traced specifications; write the fixed axes in the file of the specification"
        raise InvalidInputError(message)
    source = None if given is not None and model is None else model_of(checkpoints[0], model)
    if source is not None:
        symmetries = spec_of(source, freeze=freeze) if given is None else given
        expected, form = TensorNames.of_module(source.module), source.form
    elif given is not None:
        symmetries, expected = given, given.layout.names
        form = StoredForm({name: given.layout.shape(name) for name in given.layout.tensors})
    networks = networks_in(checkpoints, expected, form, names)
    for network in networks:
        own_layout(symmetries.layout, network).check(network.tensors, str(network.checkpoint.path))
    return Prepared(networks, symmetries, source)


def with_tensors(module: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy of a module with other tensors, without copying them.

    Args:
        module: The module; its parameters may be on the meta device.
        tensors: All parameters and saved buffers by name.

    Returns:
        The copy. Its parameters share the memory of the tensors.
    """
    copied = copy.deepcopy(module)
    names = {**{name: name for name in named_tensors(module)}, **repeated_names(module)}
    parameters: dict[str, nn.Parameter] = {}
    for name, own in names.items():
        owner = copied.get_submodule(name.rpartition(".")[0])
        attribute = name.rpartition(".")[2]
        if own in tensors and attribute in dict(owner.named_parameters(recurse=False, remove_duplicate=False)):
            parameters.setdefault(own, nn.Parameter(tensors[own], requires_grad=False))
            owner.register_parameter(attribute, parameters[own])
        elif own in tensors:
            owner.register_buffer(attribute, tensors[own])
    return copied


def unaligned(checkpoints: Sequence[Checkpoint], names: NamePolicy) -> tuple[CheckpointNetwork, ...]:
    """Find the tensors of the first checkpoint in all others; no model is needed.

    Args:
        checkpoints: At least one checkpoint.
        names: Rules for names in the files.

    Returns:
        The networks, under the names of the first checkpoint.

    Raises:
        InvalidInputError: If the checkpoints do not fit each other.
    """
    expected = TensorNames.of_tensors(checkpoints[0].tensors)
    form = StoredForm(dict(expected.shapes))
    networks = networks_in(checkpoints, expected, form, names)
    for network in networks:
        if network.is_partial:
            message = (
                f"{shown(network.checkpoint.path)} has tensors that are missing or of another shape; such networks are "
                "merged only with alignment"
            )
            raise InvalidInputError(message)
    return networks


def permuted_tensor(
    element: GroupElement,
    tensors: Mapping[str, Tensor],
    name: str,
    device: torch.device = CPU,
    *,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return one tensor of a network after a permutation or another group element.

    Args:
        element: The group element.
        tensors: The network.
        name: Name of a tensor.
        device: Device to which the tensor is copied.
        dtype: Dtype of the output, if it has another precision than the tensor: linear maps are then not rounded to
            the lower precision of the tensor.

    Returns:
        The transformed tensor, on the device; the tensor itself if the layout does not contain it.

    Raises:
        InvalidInputError: If a linear map acts on an integer tensor.
    """
    layout = element.layout
    key = layout.key(name)
    if key in layout.stacks:
        return _permuted_in_stack(element, tensors, name, device, dtype)
    tensor = tensors[name].to(device)
    if name not in layout.axes:
        return tensor
    if isinstance(element, SymmetryElement) and element.linear_maps.moves(name):
        wide = tensor if dtype is None else tensor.to(torch.promote_types(tensor.dtype, dtype))
        weights = {shift.weight for shift in element.linear_maps.shifts_of(name)}
        others = {weight: tensors[weight].to(device) for weight in sorted(weights)}
        return element.apply_to_deviations({**others, name: wide})[name]
    return act(layout, element.permutation.indices, indexable(tensor), layout.axes[name]).view(tensor.dtype)


def _permuted_in_stack(
    element: GroupElement, tensors: Mapping[str, Tensor], name: str, device: torch.device, dtype: torch.dtype | None
) -> Tensor:
    """Return one tensor of a stack after a group element; only linear maps need the whole stack."""
    key = element.layout.key(name)
    if not (isinstance(element, SymmetryElement) and element.linear_maps.acting_on(key)):
        return permuted_member(element.permutation, name, tensors, device)
    own = {member: tensors[member].to(device) for member in element.layout.stacks[key].members}
    if dtype is not None:
        own = {member: tensor.to(torch.promote_types(tensor.dtype, dtype)) for member, tensor in own.items()}
    return element.apply_to_deviations(own)[name]
