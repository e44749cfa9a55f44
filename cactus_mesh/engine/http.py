"""One HTTP request on a connection of its own, whose reply is read as it comes and may be left at any time."""

from __future__ import annotations

import ssl
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import h11
import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CONNECT_SECONDS: Final = 5.0
SILENCE_SECONDS: Final = 120.0
"""A server that reads a long prompt, or has others before this one, says nothing for a while."""
MAX_WHOLE_BYTES: Final = 1 << 20
_READ_BYTES: Final = 1 << 16


class HttpFailed(Exception):
    """Nobody there, not HTTP, silent for too long, or broken off."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where it is, such as ``http://127.0.0.1:8000/v1``, and the key that it wants, if any."""

    url: str
    key: str = ""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(f"{self.url!r} is no address of a server, such as http://127.0.0.1:8000/v1")
        assert parts.port is None or parts.port  # raises ValueError for one that is no number


class Reply:
    """Obtained from `open_reply`."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._connection = h11.Connection(h11.CLIENT)
        self.status = 0

    async def begin(self, request: h11.Request, body: bytes) -> None:
        data = [self._connection.send(event) or b"" for event in (request, h11.Data(body), h11.EndOfMessage())]
        try:
            with trio.fail_after(SILENCE_SECONDS):
                await self._stream.send_all(b"".join(data))
        except (trio.BrokenResourceError, trio.TooSlowError) as error:
            raise HttpFailed(f"it does not take the request ({error})") from None
        event = await self._next()
        while isinstance(event, h11.InformationalResponse):
            event = await self._next()
        if not isinstance(event, h11.Response):
            raise HttpFailed("it hung up")
        self.status = event.status_code

    async def receive(self) -> bytes:
        """More of the body; empty at its end.  Raises `HttpFailed`."""
        event = await self._next()
        return bytes(event.data) if isinstance(event, h11.Data) else b""

    async def whole(self) -> bytes:
        """All of a short body, or its beginning."""
        body = b""
        while len(body) < MAX_WHOLE_BYTES and (data := await self.receive()):
            body += data
        return body

    async def _next(self) -> object:
        try:
            with trio.fail_after(SILENCE_SECONDS):
                while (event := self._connection.next_event()) is h11.NEED_DATA:
                    self._connection.receive_data(bytes(await self._stream.receive_some(_READ_BYTES)))
                return event
        except (h11.RemoteProtocolError, trio.BrokenResourceError) as error:
            raise HttpFailed(f"it broke off ({error})") from None
        except trio.TooSlowError:
            raise HttpFailed(f"it said nothing for {SILENCE_SECONDS:.0f} s") from None


@asynccontextmanager
async def open_reply(server: Server, path: str, body: bytes | None = None) -> AsyncIterator[Reply]:
    """GET *path*, or POST *body* there as JSON.  *path* is below the server's address, or absolute.

    Raises `HttpFailed`.
    """
    parts = urlsplit(server.url)
    host, tls = parts.hostname or "", parts.scheme == "https"
    target = path if path.startswith("/") else f"{parts.path.rstrip('/')}/{path}"
    headers = {"host": parts.netloc.rpartition("@")[2], "connection": "close", "accept": "*/*"}
    headers |= {"authorization": f"Bearer {server.key}"} if server.key else {}
    headers |= {} if body is None else {"content-type": "application/json", "content-length": str(len(body))}
    request = h11.Request(method="POST" if body else "GET", target=target, headers=list(headers.items()))
    stream = await _connect(host, parts.port or (443 if tls else 80), tls=tls)
    try:
        reply = Reply(stream)
        await reply.begin(request, body or b"")
        yield reply
    finally:
        await trio.aclose_forcefully(stream)


async def _connect(host: str, port: int, *, tls: bool) -> trio.abc.Stream:
    try:
        with trio.fail_after(CONNECT_SECONDS):
            stream = await trio.open_tcp_stream(host, port)
            if not tls:
                return stream
            secured = trio.SSLStream(stream, ssl.create_default_context(), server_hostname=host, https_compatible=True)
            await secured.do_handshake()
            return secured
    except (OSError, trio.BrokenResourceError) as error:
        raise HttpFailed(f"it cannot be reached ({error})") from None
    except trio.TooSlowError:
        raise HttpFailed(f"it did not answer within {CONNECT_SECONDS:.0f} s") from None
