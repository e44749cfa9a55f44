"""How long a process runs: until it is told to stop, or until whoever started it is gone."""

from __future__ import annotations

import gc
import os
import signal
import sys
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final

import trio

from cactus_mesh.concurrency import open_service_nursery

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

STOP_SIGNALS: Final = ("SIGINT", "SIGTERM", "SIGBREAK", "SIGHUP")
"""SIGBREAK is Windows' Ctrl-Break, which has no SIGTERM that a process could be sent; SIGHUP is a closed terminal."""
GARBAGE_THRESHOLDS: Final = (5_000, 20, 20)
"""Each task leaves a few thousand objects behind; with Python's own thresholds a seventh of its time goes to them."""


class Lifetime:
    """Turns requests to stop into a cancellation while starting, and into an orderly end once `serving`."""

    def __init__(self, scope: trio.CancelScope) -> None:
        self._scope = scope
        self._stopped = trio.Event()
        self._is_serving = False

    async def serving(self) -> None:
        """From here on the first request to stop only ends this wait; the caller then leaves its blocks in order."""
        self._is_serving = True
        with _seldom_collected():
            await self._stopped.wait()

    def stop(self) -> None:
        if self._is_serving and not self._stopped.is_set():
            self._stopped.set()
        else:  # not serving yet, or asked for the second time
            self._scope.cancel()


@contextmanager
def _seldom_collected() -> Iterator[None]:
    """What was made while starting, mostly the libraries, is not looked through for garbage again and again."""
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


@asynccontextmanager
async def open_lifetime(*, stdin_too: bool = False) -> AsyncIterator[Lifetime]:
    """Listen for stop signals and, with *stdin_too*, for the end of standard input, for the length of the block.

    A request to stop before `Lifetime.serving`, or a second one, cancels the block, which then ends without an error.
    """
    async with open_service_nursery() as nursery:
        lifetime = Lifetime(nursery.cancel_scope)
        await nursery.start(_on_signal, lifetime)
        if stdin_too:
            nursery.start_soon(_on_end_of_stdin, lifetime)
        yield lifetime


def _to_listen_to() -> list[signal.Signals]:
    """Those that this system has and nobody has switched off, as ``nohup`` does with SIGHUP."""
    known = [signal.Signals[name] for name in STOP_SIGNALS if name in signal.Signals.__members__]
    return [each for each in known if signal.getsignal(each) is not signal.SIG_IGN]


async def _on_signal(lifetime: Lifetime, *, task_status: trio.TaskStatus[None]) -> None:
    with trio.open_signal_receiver(*_to_listen_to()) as signals:
        task_status.started()
        async for _ in signals:
            lifetime.stop()


async def _on_end_of_stdin(lifetime: Lifetime) -> None:
    # a thread, because no portable event loop waits for any kind of standard input; it is abandoned at the end
    await trio.to_thread.run_sync(_read_to_the_end, abandon_on_cancel=True)
    lifetime.stop()


def _read_to_the_end() -> None:
    while os.read(sys.stdin.fileno(), 4_096):
        pass
