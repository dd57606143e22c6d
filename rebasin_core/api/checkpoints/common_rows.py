"""The rows of embeddings and heads that all merged networks have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch

from rebasin_core.errors import InvalidInputError
from rebasin_core.tensors.device import select

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from rebasin_core.checkpoints.naming import SharedRows


@final
@dataclass(frozen=True, eq=False)
class CommonRows:
    """The rows of one tensor that several networks have.

    Attributes:
        dim: The dimension of the rows.
        positions: Positions of the rows in the tensor of each network, all of the same length.
    """

    dim: int
    positions: tuple[Tensor, ...]

    def of(self, number: int, tensor: Tensor) -> Tensor:
        """Return the common rows of one network's tensor.

        Args:
            number: Number of the network.
            tensor: Its tensor.

        Returns:
            A copy of the rows.
        """
        return select(tensor, self.dim, self.positions[number])

    def into(self, number: int, tensor: Tensor, rows: Tensor) -> Tensor:
        """Return a copy of one network's tensor with other values in the common rows.

        Args:
            number: Number of the network.
            tensor: Its tensor.
            rows: The new values.

        Returns:
            The copy; other rows are unchanged.
        """
        return tensor.index_copy(self.dim, self.positions[number].to(tensor.device), rows)


def common_rows(pairs: Sequence[Mapping[str, SharedRows]]) -> dict[str, CommonRows]:
    """Return the rows that a reference and all other networks have.

    Args:
        pairs: For every other network, the rows that it shares with the reference, by tensor. Tensors that are not
            included are shared completely.

    Returns:
        The rows by tensor; the first positions are those of the reference. Tensors that all share completely are not
        included.

    Raises:
        InvalidInputError: If networks differ from the reference in different dimensions of one tensor.
    """
    found: dict[str, CommonRows] = {}
    for name in dict.fromkeys(name for pair in pairs for name in pair):
        dims = {pair[name].dim for pair in pairs if name in pair}
        if len(dims) > 1:
            message = f"`{name}`: expected networks that differ in one dimension, got dimensions {sorted(dims)}"
            raise InvalidInputError(message)
        maps = [
            dict(zip(pair[name].reference.tolist(), pair[name].candidate.tolist(), strict=True))
            if name in pair
            else None
            for pair in pairs
        ]
        known = [own.keys() for own in maps if own is not None]
        common = [row for row in known[0] if all(row in rows for rows in known)]
        positions = [common, *([row if own is None else own[row] for row in common] for own in maps)]
        found[name] = CommonRows(dims.pop(), tuple(torch.tensor(rows, dtype=torch.int64) for rows in positions))
    return found
