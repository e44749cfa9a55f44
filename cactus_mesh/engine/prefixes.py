"""Decides which beginnings of prompts are kept, so that prompts that begin alike are read once.  Knows no tensors.

A prompt is cut into blocks; a block's key covers all that came before it, so that what is found under a key is the
same text from the first token on.  The block that was not used for longest makes room.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

BLOCK_TOKENS: Final = 64
"""Shorter beginnings are read as quickly as they are looked up and copied."""

Key = bytes


def keys_of(prompt: Sequence[int]) -> tuple[Key, ...]:
    """The keys of the whole blocks of *prompt*, its last token left out: that one is always read, to be continued."""
    keys: list[Key] = []
    key = b""
    for start in range(0, len(prompt) - BLOCK_TOKENS, BLOCK_TOKENS):
        block = array("Q", prompt[start : start + BLOCK_TOKENS]).tobytes()
        key = hashlib.blake2b(key + block, digest_size=16).digest()
        keys.append(key)
    return tuple(keys)


class Prefixes:
    """Room for *blocks* blocks, each known by a number below that."""

    def __init__(self, blocks: int) -> None:
        self.room = blocks
        self._free = list(range(blocks))
        self._kept: OrderedDict[Key, int] = OrderedDict()
        """Least recently used first."""

    def __contains__(self, key: Key) -> bool:
        return key in self._kept

    def match(self, keys: Sequence[Key]) -> list[int]:
        """The numbers of the first blocks of a prompt, as far as they are kept."""
        found = []
        for key in keys:
            if key not in self._kept:
                break
            found.append(self._kept[key])
        for key in reversed(keys[: len(found)]):  # without its beginning the rest of a prompt is useless
            self._kept.move_to_end(key)
        return found

    def keep(self, key: Key) -> int | None:
        """The number under which to keep the block *key*; None when it is kept already or there is no room at all."""
        if key in self._kept:
            return None
        if self._free:
            number = self._free.pop()
        elif self._kept:
            number = self._kept.popitem(last=False)[1]
        else:
            return None
        self._kept[key] = number
        return number
