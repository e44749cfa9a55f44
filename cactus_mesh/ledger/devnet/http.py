"""A small HTTP/1.1 server: h11 over trio streams, with a bound on everything that a client could stretch.

Knows requests and responses, nothing of ledgers.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

import h11
import trio

MAX_HEADER_BYTES: Final = 16 * 1024
MAX_BODY_BYTES: Final = 128 * 1024
"""Twice the largest transaction."""
MAX_CONNECTIONS: Final = 1_024
"""Five times the 200 concurrent submitters that it is tested with; a few kilobytes each."""
REQUEST_SECONDS: Final = 10.0
"""From the first byte of a request to its last, and for the reply to leave: ends slow loris attacks."""
IDLE_SECONDS: Final = 75.0
"""For a kept-alive connection between requests; longer than any client keeps one in its pool."""
RECEIVE_BYTES: Final = 64 * 1024

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()
    content_type: str = "application/json"


Answer = Callable[[Request], Awaitable[Response]]


class BadRequest(Exception):
    """What arrives is no request that this server reads; *status* says why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(slots=True)
class Server:
    """*answer* must not raise; *refuse* makes the response to what never became a request."""

    answer: Answer
    refuse: Callable[[BadRequest], Response]
    _open: int = field(default=0, init=False)

    async def serve_connection(self, stream: trio.abc.Stream) -> None:
        """Answer one connection's requests until it ends.  Never raises but `trio.Cancelled`."""
        self._open += 1
        try:
            async with stream:
                await self._converse(_Connection(stream))
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            log.debug("a connection ended early")
        except Exception:
            log.exception("a connection failed in an unforeseen way")
        finally:
            self._open -= 1

    async def _converse(self, connection: _Connection) -> None:
        try:
            if self._open > MAX_CONNECTIONS:
                raise BadRequest(503, "too many connections")
            while (request := await connection.next_request()) is not None:
                await connection.reply(await self.answer(request))
        except BadRequest as bad:
            await connection.reply_and_close(self.refuse(bad))


class _Connection:
    """One connection's h11 state and the bytes beneath it."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEADER_BYTES)
        self._head_only = False

    async def next_request(self) -> Request | None:
        """The next whole request, or None when the connection is over.  Raises `BadRequest`."""
        if self._h11.states != {h11.CLIENT: h11.IDLE, h11.SERVER: h11.IDLE} and not self._start_next():
            return None
        if not await self._wait_for_bytes():
            return None
        with trio.move_on_after(REQUEST_SECONDS):
            try:
                return await self._read_request()
            except h11.RemoteProtocolError as error:
                raise BadRequest(error.error_status_hint, str(error)) from None
        raise BadRequest(408, "the request took too long to arrive")

    def _start_next(self) -> bool:
        if self._h11.our_state is not h11.DONE or self._h11.their_state is not h11.DONE:
            return False
        self._h11.start_next_cycle()
        return True

    async def _wait_for_bytes(self) -> bool:
        """Whether a request has begun before the connection ended or idled too long."""
        if self._h11.trailing_data[0]:
            return True
        with trio.move_on_after(IDLE_SECONDS):
            return await self._receive()
        return False

    async def _receive(self) -> bool:
        data = await self._stream.receive_some(RECEIVE_BYTES)
        self._h11.receive_data(bytes(data))
        return bool(data)

    async def _read_request(self) -> Request | None:
        head = await self._next_event()
        if not isinstance(head, h11.Request):
            return None
        self._head_only = head.method == b"HEAD"
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
        if _declared_length(headers) > MAX_BODY_BYTES:
            raise BadRequest(413, f"a body has at most {MAX_BODY_BYTES} bytes")
        if self._h11.they_are_waiting_for_100_continue:
            await self._send(h11.InformationalResponse(status_code=100, headers=[]))
        return _request(head, headers, await self._read_body())

    async def _read_body(self) -> bytes:
        body = bytearray()
        while isinstance(event := await self._next_event(), h11.Data):
            body += event.data
            if len(body) > MAX_BODY_BYTES:
                raise BadRequest(413, f"a body has at most {MAX_BODY_BYTES} bytes")
        return bytes(body)

    async def _next_event(self) -> h11.Event | type[h11.PAUSED]:
        while True:
            event = self._h11.next_event()
            if isinstance(event, h11.Event) or event is h11.PAUSED:
                return event
            await self._receive()

    async def reply(self, response: Response) -> None:
        head = h11.Response(
            status_code=response.status,
            headers=[
                ("content-type", response.content_type),
                ("content-length", str(len(response.body))),
                *response.headers,
            ],
        )
        data = self._h11.send(head) or b""
        if not self._head_only:
            data += self._h11.send(h11.Data(data=response.body)) or b""
        data += self._h11.send(h11.EndOfMessage()) or b""
        with trio.fail_after(REQUEST_SECONDS):
            await self._stream.send_all(data)

    async def reply_and_close(self, response: Response) -> None:
        """Tell a client what was wrong with its bytes, if it still listens."""
        if self._h11.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        await self.reply(Response(response.status, response.body, (*response.headers, ("connection", "close"))))
        await _linger(self._stream)

    async def _send(self, event: h11.Event) -> None:
        data = self._h11.send(event)
        if data:
            await self._stream.send_all(data)


async def _linger(stream: trio.abc.Stream) -> None:
    """Closing on unread bytes would reset the connection and tear the reply from the client's hands."""
    if isinstance(stream, trio.abc.HalfCloseableStream):
        with trio.move_on_after(1):
            await stream.send_eof()
            for _ in range(2 * MAX_BODY_BYTES // RECEIVE_BYTES):
                if not await stream.receive_some(RECEIVE_BYTES):
                    break


def _declared_length(headers: Mapping[str, str]) -> float:
    text = headers.get("content-length", "0")
    return int(text) if text.isdigit() and len(text) < 16 else math.inf


def _request(head: h11.Request, headers: Mapping[str, str], body: bytes) -> Request:
    try:
        target = urlsplit(head.target.decode("ascii"))
        query = dict(parse_qsl(target.query, keep_blank_values=True, max_num_fields=32, errors="strict"))
        path = unquote(target.path, errors="strict")
    except ValueError:
        raise BadRequest(400, "malformed request target") from None
    return Request(head.method.decode("ascii"), path, query, headers, body)
