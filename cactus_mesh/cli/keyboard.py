"""Single keys from a terminal while something is drawn on it."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

POLL_SECONDS: Final = 0.05
"""On Windows, whose console can't be waited for beside other things."""

if sys.platform == "win32":
    import msvcrt

    @contextmanager
    def open_keys() -> Iterator[Callable[[], Awaitable[str]]]:
        """What waits for the next key."""
        yield _key

    async def _key() -> str:
        while not msvcrt.kbhit():  # noqa: ASYNC110 - nothing tells of a key
            await trio.sleep(POLL_SECONDS)
        return msvcrt.getwch()

else:
    import os
    import termios
    import tty

    @contextmanager
    def open_keys() -> Iterator[Callable[[], Awaitable[str]]]:
        """What waits for the next key, "" at the end of input.  The terminal is as before when the block is left."""
        number = sys.stdin.fileno()
        before = termios.tcgetattr(number)
        try:
            tty.setcbreak(number)
            yield _key
        finally:
            termios.tcsetattr(number, termios.TCSADRAIN, before)

    async def _key() -> str:
        number = sys.stdin.fileno()
        await trio.lowlevel.wait_readable(number)
        return os.read(number, 1).decode(errors="replace")
