"""Assignment by an auction in which all free rows bid at once: for graphics processors, and for batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, final

import torch
from pydantic import AliasChoices, Field
from typing_extensions import override

from rebasin_core.assignment.base import Assignment, AssignmentSolver, padded_to_square
from rebasin_core.assignment.default import default_solver

if TYPE_CHECKING:
    from torch import Tensor

# The increments, in parts of the usual difference between a row's best and second best column.
_INCREMENTS = (8.0, 2.0, 0.5, 0.125)
# Bids for every row, and rounds, after which a stage ends however many rows are free.
_MOST_BIDS = 8
_MOST_ROUNDS = 300


@final
class AuctionAssignment(AssignmentSolver):
    """Finds prices by an auction on the device of the matrix, all free rows bidding at once, and ends exactly.

    Every free row bids for its best column; every column goes to its highest bidder. The increments fall in four
    stages, each ended when few rows are free: going on to the last of them would take most of the rounds. What is left
    is solved exactly from these prices on the CPU, by the compiled kernel where there is one.

    Raises:
        ConfigError: If an option is invalid.

    Complexity:
        A few passes over the matrix for all rounds together; then one copy to the CPU. On a CPU, `compiled` is faster.

    References:
        D. Bertsekas (1988), "The auction algorithm", Annals of Operations Research 14.

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
        gain = similarity if rows == size else padded_to_square(similarity)
        batch = gain.shape[:-2]
        auction = _Auction(gain.reshape(-1, size, size))
        if start is not None and start.potentials is not None:
            auction.price.copy_(start.potentials.reshape(-1, size))
        auction.run(enough=int(self.max_unassigned * batch.numel() * size))
        begin = Assignment(auction.column_of.reshape(*batch, size).cpu(), auction.price.reshape(*batch, size).cpu())
        found = default_solver().solve(gain.cpu(), start=begin)
        device = similarity.device
        potentials = None if found.potentials is None else found.potentials.to(device)
        gap = None if found.gap is None else found.gap.to(device)
        return Assignment(found.index[..., :rows].to(device), potentials, gap)


@final
class _Auction:
    """Prices ``[B, n]`` and columns ``[B, n]`` (-1: free) of a batch of matrices, rows of all of them in one list."""

    def __init__(self, gain: Tensor) -> None:
        count, self._size, _ = gain.shape
        self._gain = gain.reshape(-1, self._size)
        self.price = gain.amax(1).double()
        self.column_of = gain.new_full((count * self._size,), -1, dtype=torch.int64)
        self._row_of = torch.full_like(self.column_of, -1)

    def run(self, enough: int) -> None:
        """Bid with falling increments, until at most ``enough`` rows are free each time."""
        everyone = torch.arange(len(self._gain), device=self._gain.device)
        first, second, _ = self._two_least(everyone)
        differences = (second - first)[second > first]
        usual = differences.median().item() if len(differences) else 0.0
        if usual > 0:
            for part in _INCREMENTS:
                self._release(usual * part)
                bids = 0
                for _ in range(_MOST_ROUNDS):
                    free = (self.column_of < 0).nonzero().squeeze(1)
                    if len(free) <= enough or bids > _MOST_BIDS * len(self._gain):
                        break
                    self._bid(free, usual * part)
                    bids += len(free)

    def _two_least(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the least and the second least of price - gain of some rows, and the column of the least."""
        reduced = self.price[rows // self._size] - self._gain[rows]
        values, columns = reduced.topk(min(2, self._size), largest=False)
        return values[:, 0], values[:, -1], columns[:, 0]

    def _bid(self, rows: Tensor, increment: float) -> None:
        first, second, best = self._two_least(rows)
        columns = best + rows // self._size * self._size
        offers = second - first + increment
        highest = torch.zeros_like(self.price).reshape(-1).scatter_reduce_(0, columns, offers, "amax")
        # Of equal offers, the first row's counts.
        wins = offers == highest[columns]
        winner = torch.full_like(self._row_of, len(self._gain)).scatter_reduce_(0, columns[wins], rows[wins], "amin")
        taken = (winner < len(self._gain)).nonzero().squeeze(1)
        before = self._row_of[taken]
        self.column_of[before[before >= 0]] = -1
        self._row_of[taken] = winner[taken]
        self.column_of[winner[taken]] = taken % self._size
        self.price.reshape(-1)[taken] += highest[taken]

    def _release(self, slack: float) -> None:
        """Free the rows that are not content with their column within a slack."""
        held = (self.column_of >= 0).nonzero().squeeze(1)
        if len(held):
            first, _, _ = self._two_least(held)
            columns = self.column_of[held]
            value = self.price[held // self._size, columns] - self._gain[held, columns]
            leaving = held[value > first + slack]
            self._row_of[leaving // self._size * self._size + self.column_of[leaving]] = -1
            self.column_of[leaving] = -1
