"""Decides what is computed next for one model, so that no one waits long for another.  Knows no tensors and no clocks.

Every step makes a token for each generation whose text has been read, and reads pieces of prompts beside them, at most
*step_tokens* in all: first for the one that has waited longest, then for those with the least left to read.  Prompts
that begin like another one wait for what that one is reading, and take it over.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from cactus_mesh.engine.prefixes import BLOCK_TOKENS, Prefixes, keys_of
from cactus_mesh.engine.shelves import Move, Place, Resize

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cactus_mesh.engine.prefixes import Key
    from cactus_mesh.engine.shelves import Shelves

SHARE_OF_THE_LONGEST_WAITING: Final = 2
"""It has at least one part in so many of what is read in a step: it ends, however many shorter ones come."""


@dataclass(frozen=True, slots=True)
class Reuse:
    """Copy kept blocks *numbers*, in their order, to the beginning of a row."""

    place: Place
    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Keep:
    """Copy the block that begins at token *start* of a row away, as kept block *number*."""

    place: Place
    start: int
    number: int


Change = Resize | Move | Reuse | Keep


@dataclass(frozen=True, slots=True)
class Piece:
    """Read tokens ``start .. end`` of generation *id*; when *last*, they are all it has, and the next can be chosen."""

    id: int
    place: Place
    start: int
    end: int
    last: bool


@dataclass(frozen=True, slots=True)
class Step:
    """*before*: what to do to the memory first, in this order.  *pieces* are computed together."""

    before: tuple[Change, ...]
    pieces: tuple[Piece, ...]


@dataclass(slots=True)
class _Text:
    """A generation: *known* tokens, of which *read* are in memory."""

    id: int
    room: int
    known: int
    keys: tuple[Key, ...]
    read: int = 0
    begun: bool = False

    @property
    def left(self) -> int:
        return self.known - self.read


@dataclass(slots=True)
class _Reading:
    """The prompts that are being read, and the blocks that will come of it."""

    of: dict[Key, int] = field(default_factory=dict)

    def add(self, text: _Text, kept: Prefixes) -> None:
        for key in text.keys:
            if key not in kept:
                self.of.setdefault(key, text.id)

    def drop(self, id_: int) -> None:
        self.of = {key: other for key, other in self.of.items() if other != id_}


class Scheduler:
    """At most *slots* generations at once, waiting ones included."""

    def __init__(self, shelves: Shelves, prefixes: Prefixes, *, slots: int, step_tokens: int) -> None:
        self._shelves = shelves
        self._prefixes = prefixes
        self._slots = slots
        self._step_tokens = step_tokens
        self._waiting: deque[_Text] = deque()
        """Admitted, and without a place in memory."""
        self._placed: dict[int, _Text] = {}
        self._reading = _Reading()
        self._changes: list[Change] = []

    def __len__(self) -> int:
        return len(self._waiting) + len(self._placed)

    def admit(self, id_: int, prompt: Sequence[int], max_tokens: int, *, known: int = 0) -> bool:
        """Take a generation whose prompt and output fit the context; False when all slots are taken.

        *known* tokens of its output are there already; they are read as if they belonged to the prompt.
        """
        assert len(prompt) > 0
        if len(self) >= self._slots:
            return False
        keys = keys_of(prompt) if self._prefixes.room else ()
        self._waiting.append(_Text(id_, len(prompt) + max_tokens, len(prompt) + known, keys))
        return True

    def drop(self, id_: int) -> None:
        """Forget a generation, wherever it is; unknown ones are fine."""
        self._waiting = deque(text for text in self._waiting if text.id != id_)
        if self._placed.pop(id_, None) is not None:
            self._reading.drop(id_)
            self._changes += self._shelves.remove(id_)

    def next(self) -> Step | None:
        """The step to do now, None when there is nothing to do.  Tell `done` what of it has been done."""
        self._place_waiting()
        texts = [text for text in self._placed.values() if text.left == 1]
        pieces = [self._piece(text, 1) for text in texts]
        pieces += self._read_prompts(self._step_tokens)
        if not pieces:
            return None
        changes, self._changes = self._changes, []
        return Step(tuple(changes), tuple(pieces))

    def done(self, pieces: Iterable[Piece]) -> None:
        """These pieces are in memory now.  Call it before dropping any of them."""
        for piece in pieces:
            text = self._placed[piece.id]
            text.read = piece.end
            for at in range(piece.start // BLOCK_TOKENS, min(piece.end // BLOCK_TOKENS, len(text.keys))):
                number = self._prefixes.keep(text.keys[at])
                if number is not None:
                    self._changes.append(Keep(piece.place, at * BLOCK_TOKENS, number))
            if piece.last:
                self._reading.drop(text.id)

    def made(self, id_: int) -> None:
        """Generation *id_* has another token, which is to be read next."""
        self._placed[id_].known += 1

    def where(self, id_: int) -> Place:
        """The place of a generation that was part of a step."""
        return self._shelves.where(id_)

    def _place_waiting(self) -> None:
        """In the order of their coming: no long text starves behind short ones that always find room."""
        while self._waiting:
            changes = self._shelves.place(self._waiting[0].id, self._waiting[0].room)
            if changes is None:
                return
            self._changes += changes
            text = self._waiting.popleft()
            self._placed[text.id] = text

    def _read_prompts(self, budget: int) -> list[Piece]:
        unread = [text for text in self._placed.values() if text.left > 1 and self._begin(text)]
        pieces = []
        for rank, text in enumerate([*unread[:1], *sorted(unread[1:], key=lambda text: text.left)]):
            fair = budget if rank or len(unread) == 1 else -(-budget // SHARE_OF_THE_LONGEST_WAITING)
            count = min(text.left, fair)
            if count == 0:
                break
            pieces.append(self._piece(text, count))
            budget -= count
        return pieces

    def _begin(self, text: _Text) -> bool:
        """Let *text* begin with what is kept of it; False while another prompt is reading what it needs next."""
        if text.begun:
            return True
        numbers = self._prefixes.match(text.keys)
        if len(numbers) < len(text.keys) and text.keys[len(numbers)] in self._reading.of:
            return False
        if numbers:
            self._changes.append(Reuse(self._shelves.where(text.id), tuple(numbers)))
            text.read = len(numbers) * BLOCK_TOKENS
        text.begun = True
        self._reading.add(text, self._prefixes)
        return True

    def _piece(self, text: _Text, count: int) -> Piece:
        end = text.read + count
        return Piece(text.id, self._shelves.where(text.id), text.read, end, last=end == text.known)
