"""A network in a checkpoint: its tensors under the names of the model, and the way back to the names of the files."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, final

from rebasin_core.checkpoints.naming import NamePolicy, match_names
from rebasin_core.checkpoints.writing import TensorInfo
from rebasin_core.posteriors.point import PointPosterior
from rebasin_core.tensors.names import TensorNames

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    import torch
    from torch import Tensor

    from rebasin_core.checkpoints.checkpoint import Checkpoint
    from rebasin_core.checkpoints.naming import NameMatch
    from rebasin_core.checkpoints.stored import StoredForm

_LARGE = 0.01


@final
@dataclass(frozen=True, eq=False)
class CheckpointNetwork:
    """The tensors of one network in a checkpoint.

    Attributes:
        checkpoint: The checkpoint.
        expected: The names of the model's tensors.
        form: How files store the tensors of the model.
        match: Which name in the file has which tensor.
        policy: Rules for names and shapes that differ.
    """

    checkpoint: Checkpoint
    expected: TensorNames
    form: StoredForm
    match: NameMatch
    policy: NamePolicy

    @classmethod
    def of(
        cls, checkpoint: Checkpoint, expected: TensorNames, form: StoredForm, policy: NamePolicy
    ) -> CheckpointNetwork:
        """Find the tensors of a model in a checkpoint.

        Args:
            checkpoint: The checkpoint.
            expected: Names and shapes of the model's tensors.
            form: How files store them.
            policy: Rules for names that differ.

        Returns:
            The network.

        Raises:
            InvalidInputError: If the tensors do not fit the model and the policy does not allow it.
        """
        names = _names_in_files(expected, form)
        match = match_names(names, checkpoint.tensors, str(checkpoint.path), policy)
        return cls(checkpoint, expected, form, match, policy)

    @property
    def is_partial(self) -> bool:
        """Whether tensors of the model are missing, or have other shapes."""
        return bool(self.match.resized or self.match.missing)

    @cached_property
    def tensors(self) -> Mapping[str, Tensor]:
        """Parameters and saved buffers by the names of the model; mapped to memory where files store them unchanged."""
        return self.form.model_tensors(self.match.select(self.checkpoint.tensors))

    @property
    def assembled_bytes(self) -> int:
        """Size of the tensors that files store in another form, such as in parts: they are not mapped, but copied."""
        files = self.match.select(self.checkpoint.tensors)
        changed = (
            (name, parts)
            for name, parts in self.form.parts.items()
            if all(part in files for part in parts)
            and not (len(parts) == 1 and self.form.stored[parts[0]].is_whole(self.form.shapes[name]))
        )
        return sum(math.prod(self.form.shapes[name]) * files[parts[0]].element_size() for name, parts in changed)

    @cached_property
    def posterior(self) -> PointPosterior:
        """The network as a point posterior, which shares the memory of the tensors."""
        return as_point(self.tensors, self.expected.buffers or ())

    @cached_property
    def copied_weights(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of large extra tensors, more than 1% of all bytes, that outputs contain without being permuted."""
        tensors = self.checkpoint.tensors
        least = _LARGE * self.checkpoint.num_bytes
        return {
            name: tuple(tensors[name].shape)
            for name in self.match.kept
            if tensors[name].is_floating_point() and tensors[name].numel() * tensors[name].element_size() > least
        }

    def infos(self, dtype: torch.dtype | None = None) -> dict[str, TensorInfo]:
        """Return dtype and shape of the tensors of an output with the layout of this checkpoint.

        Args:
            dtype: Dtype of floating-point tensors; that of the file if None.

        Returns:
            By names in the file.
        """
        tensors = self.checkpoint.tensors
        return {
            name: TensorInfo(
                tensors[name].dtype if dtype is None or not tensors[name].is_floating_point() else dtype,
                tuple(tensors[name].shape),
            )
            for name in self.match.output_names
        }

    def in_file(self, produce: Callable[[str], Tensor]) -> Callable[[str], Tensor]:
        """Return a function that returns tensors under the names of the file.

        Args:
            produce: Returns a tensor of the model by its name.

        Returns:
            Function of a name in `infos`. Extra tensors of the file are returned unchanged.
        """
        stored = self.form.stored_tensors(produce)
        targets = self.match.targets

        def tensor(name: str) -> Tensor:
            if name not in targets:
                return self.checkpoint.tensors[name]
            if targets[name] in self.match.resized:  # such tensors are stored as they are
                return produce(self.form.stored[targets[name]].tensor)
            return stored(targets[name])

        return tensor


def networks_in(
    checkpoints: Sequence[Checkpoint], expected: TensorNames, form: StoredForm, policy: NamePolicy
) -> tuple[CheckpointNetwork, ...]:
    """Find the tensors of a model in several checkpoints.

    A prefix is that of the files with several networks. It does not apply to the other files, unless no file has it.

    Args:
        checkpoints: The checkpoints.
        expected: Names and shapes of the model's tensors.
        form: How files store them.
        policy: Rules for names that differ.

    Returns:
        The networks, in the order of the checkpoints.

    Raises:
        InvalidInputError: If the tensors of a checkpoint do not fit the model and the policy does not allow it.
    """
    prefixed = [_has_prefix(checkpoint, policy.prefix) for checkpoint in checkpoints]
    without = policy.replace(prefix=None)
    return tuple(
        CheckpointNetwork.of(checkpoint, expected, form, policy if has_prefix or not any(prefixed) else without)
        for checkpoint, has_prefix in zip(checkpoints, prefixed, strict=True)
    )


def _has_prefix(checkpoint: Checkpoint, prefix: str | None) -> bool:
    """Return whether names have a prefix, possibly after others such as that of a wrapper."""
    part = f".{(prefix or '').removesuffix('.')}."
    return any(part in f".{name}" for name in checkpoint.tensors)


def as_point(tensors: Mapping[str, Tensor], buffers: Collection[str]) -> PointPosterior:
    """Return a network as a point posterior, which shares the memory of the tensors.

    Args:
        tensors: Parameters and buffers by name.
        buffers: Names of buffers.

    Returns:
        The posterior.
    """
    found = dict(tensors)
    return PointPosterior(
        {name: tensor for name, tensor in found.items() if name not in buffers},
        buffers={name: tensor for name, tensor in found.items() if name in buffers},
    )


def _names_in_files(expected: TensorNames, form: StoredForm) -> TensorNames:
    """Return the names that files should contain."""
    whole = {part.tensor: name for name, part in form.stored.items() if part.is_whole(form.shapes[part.tensor])}
    if all(name == own for own, name in whole.items()) and len(whole) == len(form.stored):
        return expected
    buffers = expected.buffers or frozenset()
    return TensorNames(
        known=tuple(form.stored),
        buffers=frozenset(name for name, part in form.stored.items() if part.tensor in buffers),
        aliases={alias: whole[own] for alias, own in expected.aliases.items() if own in whole},
        shapes={name: part.shape for name, part in form.stored.items()},
        optional=frozenset(name for name, part in form.stored.items() if part.tensor in expected.optional),
    )
