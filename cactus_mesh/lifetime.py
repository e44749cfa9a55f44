"""How long a process runs: until it is told to stop, or until whoever started it is gone."""

from __future__ import annotations

import os
import signal
import sys
from typing import Final

import trio

from cactus_mesh.concurrency import open_service_nursery

STOP_SIGNALS: Final = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)]
"""SIGBREAK is Windows' Ctrl-Break, which has no SIGTERM that a process could be sent."""


async def until_stopped(*, stdin_too: bool = False) -> None:
    """Return on the first stop signal and, with *stdin_too*, when standard input ends."""
    async with open_service_nursery() as nursery:
        stopped = trio.Event()
        nursery.start_soon(_on_signal, stopped)
        if stdin_too:
            nursery.start_soon(_on_end_of_stdin, stopped)
        await stopped.wait()


async def _on_signal(stopped: trio.Event) -> None:
    with trio.open_signal_receiver(*STOP_SIGNALS) as signals:
        async for _ in signals:
            stopped.set()


async def _on_end_of_stdin(stopped: trio.Event) -> None:
    # a thread, because no portable event loop waits for any kind of standard input; it is abandoned at the end
    await trio.to_thread.run_sync(_read_to_the_end, abandon_on_cancel=True)
    stopped.set()


def _read_to_the_end() -> None:
    while os.read(sys.stdin.fileno(), 4_096):
        pass
