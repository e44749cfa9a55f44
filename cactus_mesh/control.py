"""How the command line asks a running node: one question and one answer, as lines of JSON, over loopback.

Decides who may ask: whoever can read the node's control file, which holds the port and a secret and is 0600.
"""

from __future__ import annotations

import hmac
import json
import logging
import os
import secrets
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio

from cactus_mesh.concurrency import open_service_nursery
from cactus_mesh.errors import NodeNotRunning, NodeRunning
from cactus_mesh.files import write_private

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

MAX_LINE_BYTES: Final = 4 << 20
"""An answer of some ten thousand peers."""
MAX_QUESTION_BYTES: Final = 1_024
QUESTIONS_AT_ONCE: Final = 16
ANSWER_SECONDS: Final = 5.0

log = logging.getLogger(__name__)


class _Door(msgspec.Struct, frozen=True):
    """The control file."""

    port: int
    secret: str
    pid: int


class _Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    secret: str
    ask: str


@asynccontextmanager
async def open_control(path: Path, answer: Callable[[str], object]) -> AsyncIterator[None]:
    """Answer questions about this node for the length of the block.

    *answer* turns a question's name into something JSON can hold; KeyError means there is no such question.
    Raises `NodeRunning` when a node with the same home answers already.
    """
    with suppress(NodeNotRunning):
        running = await ask_node(path, "status")
        raise NodeRunning(
            f"a node with this home is running already (peer {running.get('peer_id')}); stop it first, or give this "
            "one its own with --home"
        )
    secret = secrets.token_urlsafe(24)
    limiter = trio.CapacityLimiter(QUESTIONS_AT_ONCE)

    async def serve(stream: trio.SocketStream) -> None:
        async with limiter:
            with trio.move_on_after(ANSWER_SECONDS), suppress(trio.BrokenResourceError):
                async with stream:
                    await stream.send_all(_reply(await _line(stream, MAX_QUESTION_BYTES), secret, answer))

    async with open_service_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        write_private(path, json.dumps({"port": port, "secret": secret, "pid": os.getpid()}).encode())
        try:
            yield
        finally:
            _remove(path)


def _reply(line: bytes, secret: str, answer: Callable[[str], object]) -> bytes:
    try:
        question = msgspec.json.decode(line, type=_Question)
    except msgspec.DecodeError:
        return b'{"error": "malformed question"}\n'
    if not hmac.compare_digest(question.secret, secret):
        return b'{"error": "wrong secret"}\n'
    try:
        return json.dumps({"answer": answer(question.ask)}).encode() + b"\n"
    except KeyError:
        return b'{"error": "unknown question"}\n'


async def _line(stream: trio.SocketStream, limit_bytes: int) -> bytes:
    """What comes before the first newline; less when the stream ends or the limit is reached."""
    data = bytearray()
    while b"\n" not in data and len(data) < limit_bytes:
        piece = await stream.receive_some(65_536)
        if not piece:
            break
        data += piece
    return bytes(data).partition(b"\n")[0]


def _read_door(path: Path) -> _Door | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Door)
    except (OSError, msgspec.DecodeError):
        return None


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


async def ask_node(path: Path, question: str) -> dict[str, Any]:
    """Ask the node whose control file is at *path*.  Raises `NodeNotRunning`."""
    nobody = NodeNotRunning("no node is running with this home; start one with: cactus-mesh run")
    door = _read_door(path)
    if door is None:
        raise nobody
    try:
        with trio.fail_after(ANSWER_SECONDS):
            async with await trio.open_tcp_stream("127.0.0.1", door.port) as stream:
                await stream.send_all(json.dumps({"secret": door.secret, "ask": question}).encode() + b"\n")
                reply = json.loads(await _line(stream, MAX_LINE_BYTES))
    except (OSError, trio.TooSlowError, trio.BrokenResourceError, ValueError):
        raise nobody from None
    if "answer" not in reply:  # the port belongs to somebody else by now
        raise nobody
    answer: dict[str, Any] = reply["answer"]
    return answer
