"""Turns token ids into text piece by piece: whole characters only, cut before a stop string.

Pure: knows neither tokenizers (it is given a decode function) nor engines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

REPLACEMENT: Final = "\ufffd"
UNFINISHED_CHARACTERS: Final = 3
"""Replacement characters at the end that may yet become one character: UTF-8 has at most four bytes, and a tokenizer
shows each byte of an unfinished character as one replacement character or all of them together as one."""


_WINDOW_TOKENS: Final = 64
"""Ids decoded again for each new one, at most: a run of bytes that never becomes text must not cost ever more."""

_CONTEXT_TOKENS: Final = 8
"""Ids kept when the window is full: more than an unfinished character can have."""


class Detokenizer:
    """The text of token ids as they come.  What it has given out never changes; all of it together is the whole text.

    A tokenizer's decode is not additive (a space may belong to the word before), so each new id is decoded together
    with those that gave the last piece.  The end of a text that may be half a character waits for the next id.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._window: list[int] = []
        self._settled = 0
        """Ids at the window's beginning that are there as context only."""
        self._given = 0
        """Characters of the window's text that have been given out."""

    def push(self, token: int) -> str:
        self._window.append(token)
        text = self._decode(self._window)
        whole = len(text) - _unfinished(text)
        piece = text[self._given : whole]
        self._given = max(self._given, whole)
        if whole == len(text):
            self._keep(self._window[self._settled :], waiting=0)
            self._settled = len(self._window)
        elif len(self._window) > _WINDOW_TOKENS:
            self._keep(self._window[-_CONTEXT_TOKENS:], waiting=len(text) - self._given)
            self._settled = 0
        return piece

    def flush(self) -> str:
        """The rest, when no id follows: half a character becomes replacement characters."""
        return self._decode(self._window)[self._given :] if self._window else ""

    def _keep(self, ids: list[int], *, waiting: int) -> None:
        """Forget all but *ids*, of whose text all but *waiting* characters have been given out."""
        self._window = ids
        self._given = max(0, len(self._decode(ids)) - waiting)


def _unfinished(text: str) -> int:
    """How many characters at the end of *text* may yet become another one."""
    bare = text.rstrip(REPLACEMENT)
    return min(len(text) - len(bare), UNFINISHED_CHARACTERS)


class StopStrings:
    """Cuts a text before the stop string that is completed first; of several completed at once, the longest.

    The result depends on the text alone, never on the pieces in which it comes.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""

    def push(self, piece: str) -> tuple[str, bool]:
        """The text that is certain now, and whether a stop string has been completed (then push no more)."""
        text = self._held + piece
        found = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        if found:
            self._held = ""
            return text[: min(found)[1]], True
        held = self._beginning_of_a_stop(text)
        self._held = text[len(text) - held :]
        return text[: len(text) - held], False

    def flush(self) -> str:
        """What was held back as the possible beginning of a stop string, now that nothing follows."""
        held, self._held = self._held, ""
        return held

    def _beginning_of_a_stop(self, text: str) -> int:
        for length in range(min(self._longest - 1, len(text)), 0, -1):
            if any(stop.startswith(text[len(text) - length :]) for stop in self._stops):
                return length
        return 0


class OutputText:
    """The text of a generation as its tokens come: a `Detokenizer` and then `StopStrings`."""

    def __init__(self, decode: Callable[[list[int]], str], stops: Sequence[str]) -> None:
        self._detokenizer = Detokenizer(decode)
        self._stops = StopStrings(stops)

    def push(self, token: int) -> tuple[str, bool]:
        """The text that is certain now, and whether a stop string has been completed (then push no more)."""
        return self._stops.push(self._detokenizer.push(token))

    def finish(self) -> tuple[str, bool]:
        """The rest, when no token follows; it may still complete a stop string."""
        text, stopped = self._stops.push(self._detokenizer.flush())
        return (text, True) if stopped else (text + self._stops.flush(), False)
