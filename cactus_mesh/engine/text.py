"""Turns token ids into text piece by piece: whole characters only, cut before a stop string.

Pure: knows neither tokenizers (it is given a decode function) nor engines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

REPLACEMENT: Final = "\ufffd"
UNFINISHED_CHARACTERS: Final = 3
"""Replacement characters at the end that may yet become one character: UTF-8 has at most four bytes, and a tokenizer
shows each byte of an unfinished character as one replacement character or all of them together as one."""


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
