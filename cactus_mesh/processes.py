"""A family of processes of this package that ends with its parent, whatever happens: for the demo and for tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from cactus_mesh.config import ENVIRONMENT_PREFIX, Home
from cactus_mesh.errors import ProcessFailed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 20.0
MAX_LINE_BYTES: Final = 1 << 20


@dataclass
class Child:
    """A process of ours, the lines of JSON that it prints, and the file that its standard error goes to."""

    name: str
    process: trio.Process
    log: Path
    said: dict[str, Any] = field(default_factory=dict)
    """When it was ready."""
    _buffer: bytearray = field(default_factory=bytearray)

    async def line(self) -> dict[str, Any] | None:
        """Its next line; None at the end of its output."""
        assert self.process.stdout is not None, "children are started with a pipe"
        while b"\n" not in self._buffer:
            piece = await self.process.stdout.receive_some(65_536)
            if not piece or len(self._buffer) > MAX_LINE_BYTES:
                return None
            self._buffer += piece
        line, _, rest = bytes(self._buffer).partition(b"\n")
        self._buffer[:] = rest
        found: dict[str, Any] = json.loads(line)
        return found

    async def ready(self) -> dict[str, Any]:
        """Wait until it says that it is ready.  Raises `ProcessFailed` with what it said instead."""
        with trio.move_on_after(START_SECONDS):
            line = await self.line()
            if line is not None and line.get("event") == "ready":
                self.said = line
                return line
            raise ProcessFailed(f"the {self.name} did not start: {self.why(line)}")
        raise ProcessFailed(f"the {self.name} was not ready after {START_SECONDS:.0f} s; is the machine very busy?")

    def why(self, line: dict[str, Any] | None) -> str:
        """The reason in its last *line*, else the end of its log."""
        if line is not None and "error" in line:
            return str(line["error"]["message"])
        return self.log.read_text(errors="replace")[-2_000:].strip() or "it ended without saying why"

    async def kill(self) -> None:
        """End it at once, as a crash would."""
        self.process.kill()
        await self.process.wait()

    async def stop(self) -> None:
        """End it: ask by closing its standard input, then insist."""
        assert self.process.stdin is not None, "children are started with a pipe"
        with trio.CancelScope(shield=True):
            await self.process.stdin.aclose()
            with trio.move_on_after(STOP_SECONDS):
                await self.process.wait()
            if self.process.returncode is None:
                self.process.kill()
            await self.process.wait()


class Family:
    """Every process that was started, each with a home of its own in *folder*."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._children: list[Child] = []

    def home(self, name: str) -> Home:
        return Home(self._folder / name, self._folder / name)

    async def start(self, name: str, *arguments: str, module: str = "cactus_mesh") -> Child:
        """Start ``python -m module --home HOME arguments``, in a process group of its own.

        So Ctrl-C reaches only the parent, which then stops its children in order.
        """
        command = [sys.executable, "-m", module, "--home", str(self._folder / name), *arguments]
        environment = {key: value for key, value in os.environ.items() if not key.startswith(ENVIRONMENT_PREFIX)}
        apart: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            apart = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        log = self._folder / f"{name}.log"
        with log.open("wb") as errors:
            process = await trio.lowlevel.open_process(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=environment, **apart
            )
        child = Child(name, process, log)
        self._children.append(child)
        return child

    async def stop(self) -> None:
        """Stop everybody: the first, on whom the others depend, last."""
        async with trio.open_nursery() as nursery:
            for child in reversed(self._children[1:]):
                nursery.start_soon(child.stop)
        for child in self._children[:1]:
            await child.stop()


@asynccontextmanager
async def open_family(*, prefix: str) -> AsyncIterator[Family]:
    """A family in a temporary folder; leaving the block, also by an error or Ctrl-C, stops every child."""
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as folder:
        family = Family(Path(folder))
        try:
            yield family
        finally:
            with trio.CancelScope(shield=True):
                await family.stop()
