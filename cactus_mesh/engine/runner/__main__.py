"""Begins the worker: takes the two pipes for itself before any library can print into them, then loads and serves.

The end of standard input means that the parent is gone, however it ended: then the worker exits at once.
"""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
from typing import TYPE_CHECKING, BinaryIO

from cactus_mesh.engine.frames import FrameBuffer, LoadFailed, Open, Ready, decode_command, to_frame
from cactus_mesh.errors import MeshError, MissingExtra

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cactus_mesh.engine.frames import Command, Event
    from cactus_mesh.engine.runner.residents import LoadDone, Residents

_READ_BYTES = 1 << 16


class Pipes:
    """Commands come out of *inbox*; the parent keeps it short by starting no more than its slots."""

    def __init__(self, commands: BinaryIO, events: BinaryIO) -> None:
        self.inbox: queue.SimpleQueue[Command | LoadDone] = queue.SimpleQueue()
        self._events = events
        threading.Thread(target=self._read, args=(commands,), daemon=True).start()

    def emit(self, events: Sequence[Event]) -> None:
        try:
            self._events.write(b"".join(map(to_frame, events)))
            self._events.flush()
        except OSError:
            os._exit(0)

    def _read(self, commands: BinaryIO) -> None:
        frames = FrameBuffer()
        try:
            while data := os.read(commands.fileno(), _READ_BYTES):
                for body in frames.feed(data):
                    self.inbox.put(decode_command(body))
        finally:
            os._exit(0)  # at once, even out of a computation


def claim_pipes() -> Pipes:
    """What libraries print goes to standard error, and what they read is empty."""
    commands = os.fdopen(os.dup(0), "rb", buffering=0)
    events = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return Pipes(commands, events)


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which ends us when it is done
    pipes = claim_pipes()
    order = pipes.inbox.get()
    assert isinstance(order, Open)
    try:
        residents = _load(order, pipes)
    except MeshError as error:
        pipes.emit([LoadFailed(error.code, error.message)])
        sys.exit(1)
    from cactus_mesh.engine.runner.loop import Loop, engine_name

    pipes.emit([Ready(engine_name(residents.device), residents.facts), residents.told()])
    Loop(residents, order.settings.slots, pipes.inbox, pipes.emit).run()


def _load(order: Open, pipes: Pipes) -> Residents:
    try:
        from cactus_mesh.engine.runner.residents import open_residents
    except ImportError as error:
        raise MissingExtra(
            f"running models needs torch and transformers ({error}); install them with: "
            "pip install 'cactus-mesh[inference]'"
        ) from None
    return open_residents(order, pipes.inbox.put, pipes.emit)


if __name__ == "__main__":
    main()
