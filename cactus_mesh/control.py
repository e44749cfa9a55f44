"""How the command line asks a running node: one question and one answer, as lines of JSON, over loopback.

Decides who may ask: whoever can read the node's control file, which holds the port and a secret and is 0600.
A question has a name and may be *about* something, a peer say; an error in answering it travels with its code.
"""

from __future__ import annotations

import hmac
import inspect
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
from cactus_mesh.errors import MeshError, NodeNotRunning, NodeRunning, from_wire
from cactus_mesh.files import write_private

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
    from pathlib import Path

    from cactus_mesh.home import Home

    Answers = Mapping[str, Callable[[str], object | Awaitable[object]]]
    """What to do for a question, by its name; the argument is what it is about, "" for nothing."""

MAX_LINE_BYTES: Final = 4 << 20
"""An answer of some ten thousand peers."""
MAX_QUESTION_BYTES: Final = 2_048
QUESTIONS_AT_ONCE: Final = 16
ANSWER_SECONDS: Final = 5.0
"""For what a node knows; questions for which it must ask others take the longer time."""
LONG_ANSWER_SECONDS: Final = 30.0
WHO: Final = "who"
"""A question that is answered from the first moment on, before the node is ready for any other."""

log = logging.getLogger(__name__)


class _Door(msgspec.Struct, frozen=True):
    """The control file."""

    port: int
    secret: str
    pid: int


class _Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    secret: str
    ask: str
    about: str = ""


@asynccontextmanager
async def open_control(path: Path, answers: Answers) -> AsyncIterator[None]:
    """Answer questions about this node for the length of the block; *answers* give something that JSON can hold.

    Raises `NodeRunning` when a node with the same home answers already.
    """
    with suppress(NodeNotRunning):
        running = await ask_node(path, WHO)
        raise NodeRunning(
            f"a node with this home is running already (process {running['pid']}); stop it first, or give this one "
            "its own with --home"
        )
    secret = secrets.token_urlsafe(24)
    limiter = trio.CapacityLimiter(QUESTIONS_AT_ONCE)

    async def serve(stream: trio.SocketStream) -> None:
        async with limiter:
            with trio.move_on_after(LONG_ANSWER_SECONDS), suppress(trio.BrokenResourceError):
                async with stream:
                    with trio.move_on_after(ANSWER_SECONDS) as patience:
                        question = await _line(stream, MAX_QUESTION_BYTES)
                    if not patience.cancelled_caught:
                        await stream.send_all(await _reply(question, secret, answers))

    async with open_service_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        write_private(path, json.dumps({"port": port, "secret": secret, "pid": os.getpid()}).encode())
        try:
            yield
        finally:
            _remove(path)


async def _reply(line: bytes, secret: str, answers: Answers) -> bytes:
    try:
        question = msgspec.json.decode(line, type=_Question)
    except msgspec.DecodeError:
        return b'{"error": "malformed question"}\n'
    if not hmac.compare_digest(question.secret, secret):
        return b'{"error": "wrong secret"}\n'
    if question.ask == WHO:
        return json.dumps({"answer": {"pid": os.getpid()}}).encode() + b"\n"
    if question.ask not in answers:
        return _failure(NodeNotRunning("the node with this home is still starting, or too old to know; try again"))
    try:
        answer = answers[question.ask](question.about)
        found = await answer if inspect.isawaitable(answer) else answer
    except MeshError as error:
        return _failure(error)
    return json.dumps({"answer": found}).encode() + b"\n"


def _failure(error: MeshError) -> bytes:
    return json.dumps({"failed": {"code": error.code, "message": str(error)}}).encode() + b"\n"


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


async def ask_node(path: Path, question: str, about: str = "", *, seconds: float = ANSWER_SECONDS) -> dict[str, Any]:
    """Ask the node whose control file is at *path*.  Raises `NodeNotRunning`, or the `MeshError` that is the answer."""
    nobody = NodeNotRunning("no node is running with this home; start one with: cactus-mesh run")
    door = _read_door(path)
    if door is None:
        raise nobody
    asked = json.dumps({"secret": door.secret, "ask": question, "about": about})
    try:
        with trio.fail_after(seconds):
            async with await trio.open_tcp_stream("127.0.0.1", door.port) as stream:
                await stream.send_all(asked.encode() + b"\n")
                reply = json.loads(await _line(stream, MAX_LINE_BYTES))
    except trio.TooSlowError:
        raise NodeNotRunning(
            f"the node with this home (process {door.pid}) does not answer within {seconds:.0f} s; is it stopped, or "
            "the machine very busy?"
        ) from None
    except (OSError, trio.BrokenResourceError, ValueError):
        raise nobody from None
    if "failed" in reply:
        raise from_wire(reply["failed"]["code"], reply["failed"]["message"])
    if "answer" not in reply:  # the port belongs to somebody else by now
        raise nobody
    answer: dict[str, Any] = reply["answer"]
    return answer


async def ask_home(home: Home, question: str, about: str = "", *, seconds: float = ANSWER_SECONDS) -> dict[str, Any]:
    """As `ask_node`, of the node of *home* or, where none runs, of its gateway."""
    try:
        return await ask_node(home.control_file, question, about, seconds=seconds)
    except NodeNotRunning:
        if not home.gateway_control_file.exists():
            raise
    return await ask_node(home.gateway_control_file, question, about, seconds=seconds)
