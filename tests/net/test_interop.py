"""Our Noise and Yamux against py-libp2p's own, over real sockets."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import pytest
import trio
from libp2p.custom_types import TProtocol
from libp2p.host.ping import ID as PING
from libp2p.identity.identify.identify import ID as IDENTIFY
from libp2p.identity.identify.identify import parse_identify_response
from libp2p.io.utils import read_exactly
from libp2p.peer.peerinfo import info_from_p2p_addr
from multiaddr import Multiaddr

from cactus_mesh.errors import ProtocolViolation
from cactus_mesh.net.addresses import parse_address
from tests.net.peers import LOOPBACK, PATIENCE_SECONDS, identity
from tests.net.strangers import open_foreign_session, open_plain_host

if TYPE_CHECKING:
    from libp2p.abc import INetStream

    from cactus_mesh.ports import Call
    from tests.net.peers import SocketMesh


async def echo(call: Call) -> None:
    await call.send(call.payload)


async def test_another_implementation_calls_us(sockets: SocketMesh) -> None:
    server = await sockets.join(1, "router")
    server.serve("echo", echo, at_once=4)
    payload = secrets.token_bytes(1_000_000)
    with trio.fail_after(PATIENCE_SECONDS):
        async with (
            open_plain_host(2) as host,
            open_foreign_session(host, 2, server.addresses()[0]) as session,
        ):
            await session.hello()
            reply = await session.open("echo", payload)
            assert await reply.only("echo") == payload
            assert [peer.peer for peer in server.peers()] == [identity(2).peer_id]


async def test_ping_and_identify_answer_strangers_until_their_hello_is_due(sockets: SocketMesh) -> None:
    server = await sockets.join(1, "router")
    info = info_from_p2p_addr(Multiaddr(server.addresses()[0]))
    with trio.fail_after(PATIENCE_SECONDS):
        async with open_plain_host(2) as host:
            await host.connect(info)
            ping = await host.new_stream(info.peer_id, [PING])
            await ping.write(b"p" * 32)
            assert await read_exactly(ping, 32) == b"p" * 32
            identify = parse_identify_response(await (await host.new_stream(info.peer_id, [IDENTIFY])).read())
            assert "/cactus/rpc/1" in identify.protocols
            assert server.peers() == []


async def test_our_muxer_and_noise_dial_py_libp2p(sockets: SocketMesh) -> None:
    """It does not know our hello, so the dial fails; but only after Noise, Yamux and streams of both sides worked."""
    asked: list[str] = []

    async def calls(stream: INetStream) -> None:
        asked.append(str(stream.muxed_conn.peer_id))
        await stream.write(bytes(20))

    client = await sockets.join(1, "client")
    with trio.fail_after(PATIENCE_SECONDS):
        async with open_plain_host(2, LOOPBACK) as host:
            host.set_stream_handler(TProtocol("/cactus/rpc/1"), calls)
            address = parse_address(str(host.get_addrs()[0]))
            with pytest.raises(ProtocolViolation, match="frame of 0 bytes"):
                await client._running.swarm.dial_address(address, host.get_id())
    assert asked == [client.peer_id]
