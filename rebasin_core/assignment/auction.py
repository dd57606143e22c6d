"""Assignment by an auction in which all unassigned rows bid simultaneously, for GPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, final

import torch
from pydantic import AliasChoices, Field
from typing_extensions import override

from rebasin_core.assignment.base import Assignment, AssignmentSolver, padded_to_square
from rebasin_core.assignment.default import default_solver

if TYPE_CHECKING:
    from torch import Tensor

# Bid increments (epsilon) of the stages, relative to the median difference between a row's best two columns.
_INCREMENTS = (8.0, 2.0, 0.5, 0.125)
# Limits of a stage: bids per row, and rounds.
_MAX_BIDS = 8
_MAX_ROUNDS = 300


@final
class AuctionAssignment(AssignmentSolver):
    """Exact solver for GPUs: an auction on the device of the matrix, then an exact solver on the CPU.

    In each round of the auction, all unassigned rows bid for their best column simultaneously (a Jacobi auction), and
    each column is assigned to the highest bidder. The bid increment decreases in four stages (epsilon scaling). A stage
    stops when few rows are unassigned, because the last rows need most of the rounds. The default solver then starts
    from the prices of the auction.

    Raises:
        ConfigError: If an option is invalid.

    Complexity:
        All rounds together read the matrix a few times; one copy to the CPU. On a CPU, `compiled` is faster.

    References:
        D. Bertsekas (1988), "The auction algorithm: a distributed relaxation method for the assignment problem", Annals
        of Operations Research 14.

    Examples:
        >>> AuctionAssignment().solve(torch.tensor([[1.0, 2.0], [3.0, 5.0]])).index.tolist()
        [0, 1]
    """

    name: Literal["auction"] = "auction"

    max_unassigned: Annotated[float, Field(ge=0, le=1, validation_alias=AliasChoices("max_unassigned", "free"))] = 0.02
    """Share of the rows that may be unassigned when the auction ends."""

    @override
    def _solve(self, similarity: Tensor, start: Assignment | None) -> Assignment:
        rows, size = similarity.shape[-2:]
        value = similarity if rows == size else padded_to_square(similarity)
        batch = value.shape[:-2]
        auction = _Auction(value.reshape(-1, size, size))
        if start is not None and start.potentials is not None:
            auction.price.copy_(start.potentials.reshape(-1, size))
        auction.run(max_unassigned=int(self.max_unassigned * batch.numel() * size))
        partial = Assignment(auction.column_of.reshape(*batch, size).cpu(), auction.price.reshape(*batch, size).cpu())
        found = default_solver().solve(value.cpu(), start=partial)
        device = similarity.device
        potentials = None if found.potentials is None else found.potentials.to(device)
        gap = None if found.gap is None else found.gap.to(device)
        return Assignment(found.index[..., :rows].to(device), potentials, gap)


@final
class _Auction:
    """State of an auction of a batch of matrices: prices ``[B, n]``, and the column of each of the ``B n`` rows.

    ``column_of`` is -1 for unassigned rows.
    """

    def __init__(self, value: Tensor) -> None:
        count, self._size, _ = value.shape
        self._value = value.reshape(-1, self._size)
        self.price = value.amax(1).double()
        self.column_of = value.new_full((count * self._size,), -1, dtype=torch.int64)
        self._row_of = torch.full_like(self.column_of, -1)

    def run(self, max_unassigned: int) -> None:
        """Run the stages, each until at most ``max_unassigned`` rows are unassigned or a limit is reached."""
        every = torch.arange(len(self._value), device=self._value.device)
        first, second, _ = self._two_least(every)
        differences = (second - first)[second > first]
        median = differences.median().item() if len(differences) else 0.0
        if median > 0:
            for factor in _INCREMENTS:
                self._release(median * factor)
                bids = 0
                for _ in range(_MAX_ROUNDS):
                    unassigned = (self.column_of < 0).nonzero().squeeze(1)
                    if len(unassigned) <= max_unassigned or bids > _MAX_BIDS * len(self._value):
                        break
                    self._bid(unassigned, median * factor)
                    bids += len(unassigned)

    def _two_least(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the smallest and second smallest price - value of some rows, and the column of the smallest."""
        reduced = self.price[rows // self._size] - self._value[rows]
        values, columns = reduced.topk(min(2, self._size), largest=False)
        return values[:, 0], values[:, -1], columns[:, 0]

    def _bid(self, rows: Tensor, increment: float) -> None:
        first, second, best = self._two_least(rows)
        columns = best + rows // self._size * self._size
        bids = second - first + increment
        highest = torch.zeros_like(self.price).reshape(-1).scatter_reduce_(0, columns, bids, "amax")
        # Of equal bids, that of the first row wins.
        wins = bids == highest[columns]
        winner = torch.full_like(self._row_of, len(self._value)).scatter_reduce_(0, columns[wins], rows[wins], "amin")
        sold = (winner < len(self._value)).nonzero().squeeze(1)
        before = self._row_of[sold]
        self.column_of[before[before >= 0]] = -1
        self._row_of[sold] = winner[sold]
        self.column_of[winner[sold]] = sold % self._size
        self.price.reshape(-1)[sold] += highest[sold]

    def _release(self, slack: float) -> None:
        """Unassign the rows whose column is more than a slack worse than their best one (complementary slackness)."""
        assigned = (self.column_of >= 0).nonzero().squeeze(1)
        if len(assigned):
            first, _, _ = self._two_least(assigned)
            columns = self.column_of[assigned]
            reduced = self.price[assigned // self._size, columns] - self._value[assigned, columns]
            released = assigned[reduced > first + slack]
            self._row_of[released // self._size * self._size + self.column_of[released]] = -1
            self.column_of[released] = -1
