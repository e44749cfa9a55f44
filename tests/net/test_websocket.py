"""Bytes through WebSocket messages, and strangers at the port."""

from __future__ import annotations

import socket
import ssl
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
import trustme
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, Ping, Pong, Request, TextMessage

from cactus_mesh.errors import AddressMalformed, PeerUnreachable
from cactus_mesh.net import NetworkSettings, open_network
from cactus_mesh.net.links import Link, SocketLink
from cactus_mesh.net.websocket import WebSocketLink, accept_websocket, ask_for_websocket
from tests.net.peers import PATIENCE_SECONDS, hello, identity, open_socket_mesh

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from cactus_mesh.ports import Call


@asynccontextmanager
async def sockets() -> AsyncIterator[tuple[Link, Link]]:
    """Two ends of one TCP connection: who dialled, who accepted."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        dialled = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
    for sock in (dialled, accepted):
        sock.setblocking(False)
    ends = SocketLink(dialled, initiator=True), SocketLink(accepted, initiator=False)
    try:
        with trio.fail_after(10):
            yield ends
    finally:
        for end in ends:
            await end.close()


@asynccontextmanager
async def websockets() -> AsyncIterator[tuple[WebSocketLink, WebSocketLink]]:
    async with sockets() as (dialled, accepted):
        made: dict[str, WebSocketLink] = {}

        async def accept() -> None:
            made["accepted"] = await accept_websocket(accepted)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            made["dialled"] = await ask_for_websocket(dialled, "127.0.0.1", 80)
        yield made["dialled"], made["accepted"]


async def read_exactly(link: Link, count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += await link.read_some()
    return data


async def test_bytes_arrive_both_ways_whatever_their_number():
    payload = bytes(range(256)) * 4_096
    async with websockets() as (dialled, accepted):
        for source, target in ((dialled, accepted), (accepted, dialled)):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(source.write, payload)
                assert await read_exactly(target, len(payload)) == payload
            assert str(target.get_transport_addresses()[0]).endswith("/ws")


async def test_a_ping_is_answered_between_messages():
    async with websockets() as (dialled, accepted):
        await dialled.send(Ping(b"there?"))
        await dialled.write(b"bytes")
        assert await accepted.read_some() == b"bytes"
        await accepted.write(b"more")
        assert await dialled.read_some() == b"more", "the pong before it is no data"


async def test_the_end_of_the_socket_is_the_end():
    async with websockets() as (dialled, accepted):
        await dialled.close()
        assert await accepted.read_some() == b""


async def test_text_is_refused():
    async with websockets() as (dialled, accepted):
        await dialled.send(TextMessage("hello"))
        with pytest.raises(OSError, match="text"):
            await accepted.read_some()


@pytest.mark.parametrize(
    "said", [b"\x13/multistream/1.0.0\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"GET " + b"x" * 70_000, b""]
)
async def test_whoever_asks_for_no_websocket_is_refused(said: bytes):
    async with sockets() as (dialled, accepted), trio.open_nursery() as nursery:
        nursery.start_soon(_say_and_close, dialled, said)
        with pytest.raises(OSError, match=r"WebSocket|reset"):
            await accept_websocket(accepted)


async def _say_and_close(link: Link, said: bytes) -> None:
    await link.write(said)
    await link.close()


async def test_a_web_server_that_has_no_websocket_is_named():
    async with sockets() as (dialled, accepted), trio.open_nursery() as nursery:
        nursery.start_soon(_say_and_close, accepted, b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        with pytest.raises(ConnectionRefusedError, match="404"):
            await ask_for_websocket(dialled, "127.0.0.1", 80)


async def test_bytes_right_behind_the_handshake_are_not_lost():
    async with sockets() as (dialled, accepted), trio.open_nursery() as nursery:
        links: list[WebSocketLink] = []
        asked = trio.Event()

        async def ask() -> None:
            links.append(await ask_for_websocket(dialled, "127.0.0.1", 80))
            asked.set()

        nursery.start_soon(ask)
        server = WSConnection(ConnectionType.SERVER)
        server.receive_data(await accepted.read_some())
        assert [type(event) for event in server.events()] == [Request]
        accept = server.send(AcceptConnection())
        await accepted.write(accept + server.send(Pong(b"unasked")) + server.send(BytesMessage(b"early")))
        await asked.wait()
        assert await links[0].read_some() == b"early"


async def test_a_handshake_for_another_key_is_refused():
    async with sockets() as (dialled, accepted):
        server, other = WSConnection(ConnectionType.SERVER), WSConnection(ConnectionType.CLIENT)
        server.receive_data(other.send(Request(host="x", target="/")))
        assert [type(event) for event in server.events()] == [Request]
        await accepted.write(server.send(AcceptConnection()))
        with pytest.raises(OSError, match="WebSocket"):
            await ask_for_websocket(dialled, "127.0.0.1", 80)


async def test_two_peers_meet_by_websocket_and_tell_of_it():
    websocket = NetworkSettings(listen=("/ip4/127.0.0.1/tcp/0/ws",))
    async with open_socket_mesh() as mesh:
        with trio.fail_after(PATIENCE_SECONDS):
            first = await mesh.join(1, settings=websocket)
            (address,) = first.addresses()
            assert "/ws/p2p/" in address
            second = await mesh.join(2, settings=NetworkSettings(listen=(), bootstrap=(address,)))
            first.serve("echo", _echo, at_once=1)
            assert await second.ask(first.peer_id, "echo", b"bytes" * 10_000) == b"bytes" * 10_000
            (met,) = second.peers()
            assert "/ws/p2p/" in met.address


async def test_every_listener_takes_websockets():
    async with open_socket_mesh() as mesh:
        with trio.fail_after(PATIENCE_SECONDS):
            first = await mesh.join(1)
            (address,) = first.addresses()
            second = await mesh.join(2, settings=NetworkSettings(listen=()))
            met = await second.connect(first.peer_id, [address.replace("/p2p/", "/ws/p2p/")])
            assert met.peer == first.peer_id


async def test_what_fails_at_a_web_address_is_named():
    async with open_socket_mesh() as mesh:
        with trio.fail_after(PATIENCE_SECONDS):
            first = await mesh.join(1)
            (address,) = first.addresses()
            second = await mesh.join(2, settings=NetworkSettings(listen=()))
            with pytest.raises(PeerUnreachable, match="TLS"):
                await second.connect(first.peer_id, [address.replace("/p2p/", "/wss/p2p/")])


async def test_a_peer_behind_a_web_server_with_tls_is_reached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    authority = trustme.CA()
    with authority.cert_pem.tempfile(tmp_path) as trusted:
        monkeypatch.setenv("SSL_CERT_FILE", trusted)
        async with open_socket_mesh() as mesh, trio.open_nursery() as nursery:
            first = await mesh.join(1, "router")
            first.serve("echo", _echo, at_once=1)
            second = await mesh.join(2, settings=NetworkSettings(listen=()))
            behind = int(first.addresses()[0].split("/")[4])
            port = await nursery.start(_end_tls, authority.issue_cert("localhost"), behind)
            with trio.fail_after(PATIENCE_SECONDS):
                await second.connect(first.peer_id, [f"/dns4/localhost/tcp/{port}/wss/p2p/{first.peer_id}"])
                assert await second.ask(first.peer_id, "echo", b"through TLS") == b"through TLS"
            assert "/wss" in second.peers()[0].address
            nursery.cancel_scope.cancel()


async def _end_tls(certificate: trustme.LeafCert, behind: int, task_status: trio.TaskStatus[int]) -> None:
    """What a web server does before a peer's listener: ends TLS and hands the bytes on."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)

    async def hand_on(outside: trio.SSLStream[trio.SocketStream]) -> None:
        async with await trio.open_tcp_stream("127.0.0.1", behind) as inside, trio.open_nursery() as nursery:
            nursery.start_soon(_pump, outside, inside)
            nursery.start_soon(_pump, inside, outside)

    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_ssl_over_tcp, hand_on, 0, context, host="127.0.0.1", https_compatible=True)
        (listener,) = await nursery.start(serve)
        task_status.started(listener.transport_listener.socket.getsockname()[1])


async def _pump(source: trio.abc.ReceiveStream, target: trio.abc.SendStream) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        async for data in source:
            await target.send_all(data)
    await trio.aclose_forcefully(target)


async def test_nobody_listens_with_tls():
    with pytest.raises(AddressMalformed, match="web server"):
        async with open_network(identity(1), NetworkSettings(listen=("/ip4/127.0.0.1/tcp/0/wss",)), hello()):
            pass


async def _echo(call: Call) -> None:
    await call.send(call.payload)
