"""The small HTTP server: bounded in size and time, and alive whatever a client sends."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from cactus_mesh.ledger.devnet.http import (
    IDLE_SECONDS,
    MAX_BODY_BYTES,
    MAX_CONNECTIONS,
    MAX_HEADER_BYTES,
    REQUEST_SECONDS,
    BadRequest,
    Request,
    Response,
    Server,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


async def _echo(request: Request) -> Response:
    return Response(200, f"{request.method} {request.path} {dict(request.query)} {len(request.body)}".encode())


def _refuse(bad: BadRequest) -> Response:
    return Response(bad.status, bad.message.encode())


@asynccontextmanager
async def _connected(server: Server | None = None) -> AsyncIterator[trio.testing.MemoryStapledStream]:
    """A client's end of a connection to the server.  The server must have let go of it by the end."""
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon((server or Server(_echo, _refuse)).serve_connection, theirs)
        yield ours
        await ours.aclose()


async def _read(stream: trio.testing.MemoryStapledStream) -> bytes:
    data = b""
    while piece := await stream.receive_some():
        data += piece
    return data


async def _answer(stream: trio.testing.MemoryStapledStream) -> bytes:
    """One reply of a connection that stays open."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += await stream.receive_some()
    head, body = data.split(b"\r\n\r\n", 1)
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    while len(body) < length:
        body += await stream.receive_some()
    return body


async def test_a_connection_answers_one_request_after_another() -> None:
    async with _connected() as stream:
        await stream.send_all(b"GET /a%20b?x=1 HTTP/1.1\r\nhost: h\r\n\r\n")
        assert await _answer(stream) == b"GET /a b {'x': '1'} 0"
        await stream.send_all(b"POST /c HTTP/1.1\r\nhost: h\r\ncontent-length: 3\r\n\r\nabc")
        assert await _answer(stream) == b"POST /c {} 3"


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with _connected() as stream:
        await stream.send_all(
            b"GET /1 HTTP/1.1\r\nhost: h\r\n\r\nGET /2 HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n"
        )
        replies = await _read(stream)
        assert 0 < replies.index(b"GET /1 {} 0") < replies.index(b"GET /2 {} 0")


async def test_a_chunked_body_is_put_together() -> None:
    async with _connected() as stream:
        head = b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
        await stream.send_all(head + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
        assert (await _read(stream)).endswith(b"POST / {} 5")


async def test_a_head_request_gets_no_body() -> None:
    async with _connected() as stream:
        await stream.send_all(b"HEAD / HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")
        assert (await _read(stream)).endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"garbage\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: x\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1), b"413"),
        (b"GET / HTTP/1.1\r\nhost: h\r\nx: " + b"y" * MAX_HEADER_BYTES, b"431"),
        (b"GET /%ff HTTP/1.1\r\nhost: h\r\n\r\n", b"400"),
        (b"GET /?a=%ff HTTP/1.1\r\nhost: h\r\n\r\n", b"400"),
        (b"GET /?" + b"&".join(b"a=1" for _ in range(40)) + b" HTTP/1.1\r\nhost: h\r\n\r\n", b"400"),
        (b"GET http://[ HTTP/1.1\r\nhost: h\r\n\r\n", b"400"),
    ],
)
async def test_what_is_no_request_is_refused_and_the_connection_closed(sent: bytes, status: bytes) -> None:
    async with _connected() as stream:
        await stream.send_all(sent)
        assert (await _read(stream)).startswith(b"HTTP/1.1 " + status)


async def test_a_body_that_grows_beyond_its_bound_is_cut_off() -> None:
    async with _connected() as stream:
        await stream.send_all(b"POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n")
        await stream.send_all(b"%x\r\n" % (MAX_BODY_BYTES + 1) + bytes(MAX_BODY_BYTES + 1))
        assert (await _read(stream)).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize("begun", [b"P", b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 9\r\n\r\nabc"])
async def test_a_request_that_dawdles_is_ended(begun: bytes, autojump_clock: trio.testing.MockClock) -> None:
    async with _connected() as stream:
        await stream.send_all(begun)
        assert (await _read(stream)).startswith(b"HTTP/1.1 408")
        assert trio.current_time() == pytest.approx(REQUEST_SECONDS)


async def test_an_idle_connection_is_closed_without_a_word(autojump_clock: trio.testing.MockClock) -> None:
    async with _connected() as stream:
        assert await _read(stream) == b""
        assert trio.current_time() == pytest.approx(IDLE_SECONDS)


async def test_a_client_that_never_reads_is_let_go(autojump_clock: trio.testing.MockClock) -> None:
    """The pipe holds one byte: nothing beyond it leaves until the client reads."""
    ours, theirs = trio.testing.lockstep_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Server(_echo, _refuse).serve_connection, theirs)
        await ours.send_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n")
        await trio.sleep(REQUEST_SECONDS + 1)
    await ours.aclose()


async def test_a_client_that_leaves_in_the_middle_is_forgotten() -> None:
    async with _connected() as stream:
        await stream.send_all(b"POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 9\r\n\r\nabc")
        await stream.send_eof()
        assert (await _read(stream)).startswith(b"HTTP/1.1 400")


async def test_connections_beyond_the_bound_are_turned_away() -> None:
    server = Server(_echo, _refuse)
    server._open = MAX_CONNECTIONS
    async with _connected(server) as stream:
        assert (await _read(stream)).startswith(b"HTTP/1.1 503")
    assert server._open == MAX_CONNECTIONS


@settings(max_examples=200, deadline=None)
@given(
    data=st.one_of(
        st.binary(max_size=200), st.text("GETPOST /HTTP1.:\r\nhostconection-lgu0", max_size=200).map(str.encode)
    )
)
def test_no_bytes_bring_the_server_down(data: bytes) -> None:
    async def attempt() -> None:
        async with _connected() as stream:
            await stream.send_all(data)
            await stream.send_eof()
            await _read(stream)

    trio.run(attempt)
