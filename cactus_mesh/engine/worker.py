"""One worker process seen from its parent: started, spoken to, listened to, and certainly ended.

Knows nothing of generations beyond passing their commands and events; what a lost worker means is the service's affair.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import trio

from cactus_mesh.concurrency import open_service_nursery
from cactus_mesh.engine.frames import BrokenFrames, FrameBuffer, decode_event

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from cactus_mesh.engine.frames import Event
    from cactus_mesh.engine.settings import EngineSettings

logger = logging.getLogger(__name__)

WORKER_COMMAND: Final = (sys.executable, "-P", "-m", "cactus_mesh.engine.runner")
"""-P: what lies in the current folder must not be imported."""
_TERMINATE_SECONDS: Final = 2.0
"""Between asking the process to end and killing it: it exits as soon as its standard input is closed."""
_READ_BYTES: Final = 1 << 16
_KEPT_LINES: Final = 20
"""Of what the worker printed, for the log when it is lost."""


class WorkerLost(Exception):
    """The worker ended, fell silent or spoke nonsense.  The text goes into a sentence: "the worker ..."."""


class Worker:
    def __init__(self, process: trio.Process, outbox: trio.MemorySendChannel[bytes]) -> None:
        self._process = process
        self._outbox = outbox
        self._frames = FrameBuffer()
        self._bodies: deque[bytes] = deque()

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, frame: bytes) -> None:
        """Queue *frame*.  Raises `trio.WouldBlock` or `trio.BrokenResourceError` when the worker takes no more."""
        self._outbox.send_nowait(frame)

    async def receive(self, patience_seconds: float) -> Event:
        """The next event.  Raises `WorkerLost`, also after *patience_seconds* of silence.  Cancel-safe."""
        while not self._bodies:
            with trio.move_on_after(patience_seconds) as scope:
                data = await self._read()
            if scope.cancelled_caught:
                raise WorkerLost(f"said nothing for {patience_seconds:.0f} s")
            try:
                self._bodies.extend(self._frames.feed(data))
            except BrokenFrames as error:
                raise WorkerLost(f"spoke nonsense ({error})") from None
        try:
            return decode_event(self._bodies.popleft())
        except BrokenFrames as error:
            raise WorkerLost(f"spoke nonsense ({error})") from None

    async def _read(self) -> bytes:
        assert self._process.stdout is not None
        try:
            data = bytes(await self._process.stdout.receive_some(_READ_BYTES))
        except trio.BrokenResourceError:
            data = b""
        if not data:
            raise WorkerLost(_how_it_ended(await self._process.wait()))
        return data


@asynccontextmanager
async def open_worker(settings: EngineSettings, queued_frames: int, command: Sequence[str]) -> AsyncIterator[Worker]:
    """Start a worker; leaving the block ends it and waits until it is gone."""
    process = await trio.lowlevel.open_process(
        list(command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=worker_environment(settings),
    )
    sender, receiver = trio.open_memory_channel[bytes](queued_frames)
    try:
        async with open_service_nursery() as nursery:
            nursery.start_soon(_write, process, receiver)
            nursery.start_soon(_log_output, process)
            yield Worker(process, sender)
    finally:
        with trio.CancelScope(shield=True):
            await _end(process)


def worker_environment(settings: EngineSettings) -> dict[str, str]:
    """Read by libraries when they are imported, hence before any code of ours could set it."""
    environment = dict(os.environ)
    environment |= {
        # Spinning threads starve a busy neighbour: 15 tokens/s where waiting ones made 65.
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "PYTHONUTF8": "1",
    }
    if settings.threads:
        environment["OMP_NUM_THREADS"] = str(settings.threads)
    if not settings.allow_download:
        environment |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    return environment


async def _write(process: trio.Process, frames: trio.MemoryReceiveChannel[bytes]) -> None:
    assert process.stdin is not None
    async with frames:
        try:
            async for frame in frames:
                await process.stdin.send_all(frame)
        except trio.BrokenResourceError:
            return  # the reader hears of the end too, and says how


async def _log_output(process: trio.Process) -> None:
    """Read what libraries print, lest the pipe fills up; the last lines are worth a look when the worker is lost."""
    assert process.stderr is not None
    kept: deque[bytes] = deque(maxlen=_KEPT_LINES)
    try:
        async for data in process.stderr:
            kept.extend(bytes(data).splitlines()[-_KEPT_LINES:])
    except trio.BrokenResourceError:
        pass
    finally:
        if kept:
            logger.debug("the worker printed: %s", b"\n".join(kept).decode(errors="replace"))


async def _end(process: trio.Process) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    await process.stdin.aclose()
    if process.poll() is None:
        process.terminate()
        with trio.move_on_after(_TERMINATE_SECONDS):
            await process.wait()
    if process.poll() is None:
        process.kill()
    await process.wait()
    await process.stdout.aclose()
    await process.stderr.aclose()


def _how_it_ended(status: int) -> str:
    if status < 0:
        killed = " (often a sign that the machine is out of memory)" if status == -9 else ""
        return f"was ended by signal {-status}{killed}"
    return f"exited with status {status}"
