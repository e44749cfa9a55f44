"""One account's sequence numbers: given out in order to many calls at once, read anew once one has not landed.

Decides who gets which number and which numbers are under way; sends nothing.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

MAX_IN_FLIGHT: Final = 50
"""Half of what Aptos's mempool keeps for one account, so that another program with the same key has room."""


@dataclass(slots=True)
class Sequences:
    """*under_way* are the numbers whose calls have not ended yet."""

    under_way: set[int] = field(default_factory=set)
    _next: int | None = None
    _doubted: bool = False
    _turn: trio.Lock = field(default_factory=trio.Lock)
    _room: trio.Semaphore = field(default_factory=lambda: trio.Semaphore(MAX_IN_FLIGHT))
    _idle: trio.Event = field(default_factory=trio.Event)

    @asynccontextmanager
    async def take(self, read: Callable[[], Awaitable[int]]) -> AsyncIterator[int]:
        """The next number, for the length of the block; a block that raises leaves a doubt.

        In doubt, new calls wait until those under way have ended, and *read* asks the ledger where it stands.
        """
        async with self._room:
            async with self._turn:
                number = await self._give(read)
                self.under_way.add(number)
            landed = False
            try:
                yield number
                landed = True
            finally:
                self.under_way.discard(number)
                self._doubted |= not landed
                if not self.under_way:
                    self._idle.set()

    async def _give(self, read: Callable[[], Awaitable[int]]) -> int:
        if self._doubted:
            while self.under_way:
                self._idle = trio.Event()
                await self._idle.wait()
            self._next, self._doubted = None, False
        number = self._next if self._next is not None else await read()
        self._next = number + 1
        return number
