"""An OpenAI-compatible server on loopback, which answers as it is told to, byte for byte."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import h11
import trio

from cactus_mesh.concurrency import open_service_nursery

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def event(text: str = "", finish: str | None = None, **more: object) -> bytes:
    choice = {"index": 0, "text": text, "delta": {"content": text}, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice], **more}).encode() + b"\n\n"


def answer(*texts: str, finish: str = "stop") -> list[bytes]:
    usage = b'data: {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}\n\n'
    return [*map(event, texts), event("", finish), usage, b"data: [DONE]\n\n"]


@dataclass
class Script:
    """What the server does: *statuses* are taken one after another, then 200; *parts* are the body of an answer."""

    parts: list[bytes] = field(default_factory=lambda: answer("One", " two", "."))
    statuses: list[int] = field(default_factory=list)
    models: list[str] | None = field(default_factory=lambda: ["tiny"])
    breaks_off: bool = False
    hangs: bool = False
    asked: list[dict[str, object]] = field(default_factory=list)
    gone: trio.Event = field(default_factory=trio.Event)
    """Set when a client leaves an answer that hangs."""


@asynccontextmanager
async def open_server(script: Script) -> AsyncIterator[str]:
    """Its base URL."""

    async def handle(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):  # the client has left
            async with stream:
                await _serve(stream, script)

    async with open_service_nursery() as nursery:
        (listener,) = await nursery.start(_listen, handle)
        host, port = listener.socket.getsockname()[:2]
        yield f"http://{host}:{port}/v1"


async def _listen(handle: object, task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED) -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    await trio.serve_listeners(handle, listeners, task_status=task_status)


async def _serve(stream: trio.SocketStream, script: Script) -> None:
    connection = h11.Connection(h11.SERVER)
    request, body = await _read(stream, connection)
    if request.method == b"GET":
        await _reply_to_get(stream, connection, request, script)
        return
    script.asked.append(json.loads(body) | {"path": request.target.decode()})
    status = script.statuses.pop(0) if script.statuses else 200
    if status != 200:
        await _whole(stream, connection, status, b"because of the test")
        return
    headers = [("content-type", "text/event-stream"), ("connection", "close")]
    await stream.send_all(connection.send(h11.Response(status_code=200, headers=headers)))
    for part in script.parts:
        await stream.send_all(connection.send(h11.Data(part)))
    if script.hangs:
        await stream.receive_some()
        script.gone.set()
    elif not script.breaks_off:
        await stream.send_all(connection.send(h11.EndOfMessage()))


async def _read(stream: trio.SocketStream, connection: h11.Connection) -> tuple[h11.Request, bytes]:
    request, body = None, b""
    while True:
        found = connection.next_event()
        match found:
            case h11.NEED_DATA:
                connection.receive_data(await stream.receive_some())
            case h11.Request():
                request = found
            case h11.Data():
                body += found.data
            case _:
                return request, body


async def _reply_to_get(
    stream: trio.SocketStream, connection: h11.Connection, request: h11.Request, script: Script
) -> None:
    if request.target == b"/health":
        await _whole(stream, connection, 200, b"ok")
    elif script.models is None:
        await _whole(stream, connection, 500, b"no list")
    else:
        await _whole(stream, connection, 200, json.dumps({"data": [{"id": name} for name in script.models]}).encode())


async def _whole(stream: trio.SocketStream, connection: h11.Connection, status: int, body: bytes) -> None:
    headers = [("content-length", str(len(body))), ("connection", "close")]
    data = connection.send(h11.Response(status_code=status, headers=headers))
    data += connection.send(h11.Data(body)) + connection.send(h11.EndOfMessage())
    await stream.send_all(data)
