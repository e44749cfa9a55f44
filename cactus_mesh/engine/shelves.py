"""Decides where in memory each generation's keys and values lie, under one cap.  Knows no tensors; counts in tokens.

A *shelf* holds rows of one length, a power of two, so that a short text never takes the room of a long one.  A row is
one generation's.  The rows in use of a shelf are always its first ones, so that tensors of them need no copying.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SMALLEST_SHELF_TOKENS: Final = 256
"""Shorter rows would save little and make more shelves, each of which costs a call per layer and step."""


@dataclass(frozen=True, slots=True)
class Place:
    """Row *row* of the shelf whose rows have *shelf* tokens."""

    shelf: int
    row: int


@dataclass(frozen=True, slots=True)
class Resize:
    """Let the shelf have *rows* rows from now on; what lies in those that it keeps stays."""

    shelf: int
    rows: int


@dataclass(frozen=True, slots=True)
class Move:
    """Copy what row *source* holds into row *target*."""

    shelf: int
    source: int
    target: int


class Shelves:
    """Room for *budget* tokens in all.  A generation has at most *context* tokens, prompt and output."""

    def __init__(self, budget: int, context: int) -> None:
        assert 0 < context <= budget
        self._budget = budget
        self._context = context
        self._rows: dict[int, int] = {}
        """Rows that each shelf has."""
        self._used: dict[int, list[int]] = {}
        """The generations on each shelf, by row."""
        self._place: dict[int, Place] = {}

    @property
    def taken(self) -> int:
        """Tokens that all shelves have room for: never more than the budget."""
        return sum(shelf * rows for shelf, rows in self._rows.items())

    def place(self, id_: int, tokens: int) -> list[Resize] | None:
        """Give generation *id_* a row: what must be done first, or None when there is no room now."""
        assert 0 < tokens <= self._context
        assert id_ not in self._place
        shelf = self._shelf_for(tokens)
        changes = self._make_room(shelf)
        if changes is None:
            return None
        for change in changes:
            self._rows[change.shelf] = change.rows
        used = self._used.setdefault(shelf, [])
        self._place[id_] = Place(shelf, len(used))
        used.append(id_)
        return changes

    def where(self, id_: int) -> Place:
        return self._place[id_]

    def remove(self, id_: int) -> list[Move]:
        """Free the row of *id_*; the shelf's last row takes its place."""
        place = self._place.pop(id_)
        used = self._used[place.shelf]
        last = used.pop()
        if last == id_:
            return []
        used[place.row] = last
        self._place[last] = place
        return [Move(place.shelf, len(used), place.row)]

    def _shelf_for(self, tokens: int) -> int:
        length = SMALLEST_SHELF_TOKENS
        while length < tokens:
            length *= 2
        return min(length, self._context)

    def _make_room(self, shelf: int) -> list[Resize] | None:
        rows, used = self._rows.get(shelf, 0), len(self._used.get(shelf, ()))
        if used < rows:
            return []
        free = self._budget - self.taken
        for more in (max(1, rows), 1):  # doubling: growing copies what is there
            if more * shelf <= free:
                return [Resize(shelf, rows + more)]
        idle = [Resize(other, len(self._used[other])) for other in self._rows if other != shelf and self._idle(other)]
        free += sum(change.shelf * self._idle(change.shelf) for change in idle)
        return [*idle, Resize(shelf, rows + 1)] if shelf <= free else None

    def _idle(self, shelf: int) -> int:
        return self._rows[shelf] - len(self._used[shelf])
