"""The library's defaults that must not bite: each attack here took the ordinary host down, or worse (see the module
docstrings of `cactus_mesh.net`)."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import pytest
import trio
from libp2p.network.exceptions import SwarmException
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11
from libp2p.pubsub.pb import rpc_pb2
from libp2p.relay.circuit_v2.protocol import PROTOCOL_ID as HOP
from libp2p.relay.circuit_v2.protocol import STOP_PROTOCOL_ID as STOP
from libp2p.stream_muxer.exceptions import MuxedStreamError
from libp2p.utils.varint import encode_varint_prefixed
from multiaddr import Multiaddr

from cactus_mesh.errors import NetworkFailed, PeerLost, PeerUnreachable
from cactus_mesh.net import Limits
from cactus_mesh.net import network as network_module
from cactus_mesh.net.addresses import parse_address
from cactus_mesh.net.connections import Connections
from cactus_mesh.net.frames import About
from cactus_mesh.net.host import CALLS_PROTOCOL, KAD_PROTOCOL
from cactus_mesh.net.noise import MeshNoise
from cactus_mesh.net.yamux import MeshYamux
from tests.net.peers import PATIENCE_SECONDS, hello, identity, listening
from tests.net.strangers import key_pair, open_forged_host, open_plain_host, open_raw_connection, open_raw_session

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from cactus_mesh.net.network import MeshNetwork
    from cactus_mesh.net.yamux import MeshStream
    from cactus_mesh.ports import Call
    from tests.net.peers import SocketMesh


async def echo(call: Call) -> None:
    await call.send(call.payload)


@pytest.fixture
async def victim(sockets: SocketMesh) -> AsyncIterator[MeshNetwork]:
    with trio.fail_after(PATIENCE_SECONDS):
        victim = await sockets.join(1, "router", settings=listening(serve_relay=True))
        victim.serve("echo", echo, at_once=8)
        yield victim
        friend = await sockets.join(99, "client")
        await friend.connect(victim.peer_id, victim.addresses())
        assert await friend.ask(victim.peer_id, "echo", b"alive?") == b"alive?"
        assert victim.status().restarts == 0


async def attacking_stream(sockets: SocketMesh, victim: MeshNetwork, protocol: str, number: int = 66) -> MeshStream:
    """A stream of a peer that has passed the hello and now misbehaves."""
    attacker = await sockets.join(number, "client")
    await attacker.connect(victim.peer_id, victim.addresses())
    conn = attacker._running.connections.best(victim.peer_id)
    return await attacker._running.host.open_on(conn, protocol)


# 1. the default host accepts the plaintext transport, so anyone can be anyone


async def test_a_forged_plaintext_identity_is_refused(victim: MeshNetwork) -> None:
    async with open_forged_host(66, victim=2) as forger:
        with pytest.raises(SwarmException):
            await forger.connect(info_from_p2p_addr(Multiaddr(victim.addresses()[0])))
    assert victim.peers() == []


# 2. an exception that escapes a stream handler stops the host


@pytest.mark.parametrize("protocol", [CALLS_PROTOCOL, KAD_PROTOCOL, PROTOCOL_ID_V11, HOP, STOP, "/ipfs/ping/1.0.0"])
@pytest.mark.parametrize("garbage", [b"", b"\x20" + os.urandom(400), b"\xff\xff\xff\xff\x7f" + os.urandom(200)])
async def test_garbage_on_any_protocol_harms_nobody_else(
    sockets: SocketMesh, victim: MeshNetwork, protocol: str, garbage: bytes
) -> None:
    for number, end in ((66, "reset"), (67, "close")):
        stream = await attacking_stream(sockets, victim, protocol, number)
        with contextlib.suppress(MuxedStreamError):
            await stream.write(garbage)
        await (stream.reset() if end == "reset" else stream.close())


async def test_garbage_instead_of_a_call_ends_that_connection_only(sockets: SocketMesh, victim: MeshNetwork) -> None:
    attacker, friend = await sockets.join(66, "client"), await sockets.join(2, "client")
    for peer in (attacker, friend):
        await peer.connect(victim.peer_id, victim.addresses())
    conn = attacker._running.connections.best(victim.peer_id)
    await conn.session._stream.write_all(b"\xff" * 50)
    await conn.over.wait()
    assert friend.peer_id in [peer.peer for peer in victim.peers()]
    assert await friend.ask(victim.peer_id, "echo", b"fine") == b"fine"


async def test_junk_and_silence_at_the_listener_harm_nobody_else(victim: MeshNetwork) -> None:
    port = parse_address(victim.addresses()[0]).port
    idle = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(150)]
    for junk in (b"GET / HTTP/1.1\r\n\r\n", os.urandom(5_000), b"\x13/multistream/1.0.0\n\x07/noise\n\x00\x10junk"):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        await stream.send_all(junk)
        await stream.aclose()
    async with open_plain_host(3) as host:
        await host.connect(info_from_p2p_addr(Multiaddr(victim.addresses()[0])))
    for stream in idle:
        await stream.aclose()


async def test_a_handshake_without_end_is_cut_off(victim: MeshNetwork) -> None:
    """The library reads a protocol's name of any announced length, from anybody."""
    port = parse_address(victim.addresses()[0]).port
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    with pytest.raises(trio.BrokenResourceError):
        await without_end(stream.send_all)
    await stream.aclose()


async def test_a_protocol_name_without_end_is_cut_off(victim: MeshNetwork) -> None:
    async with open_raw_connection(66, victim.addresses()[0]) as mux:
        stream = await mux.open_stream()
        with pytest.raises(MuxedStreamError):
            await without_end(stream.write)


async def without_end(write: Callable[[bytes], Awaitable[None]]) -> None:
    while True:
        await write(b"\xff\xff\xff\x7f" + bytes(60_000))


async def test_those_who_came_and_went_leave_their_places(sockets: SocketMesh) -> None:
    """The library gives a place back only when the host stops: after some hundred visits it lets nobody in."""
    server = await sockets.join(1, "router", settings=listening(limits=Limits(inbound_connections=4)))
    with trio.fail_after(PATIENCE_SECONDS):
        for visitor in range(100, 112):
            async with open_raw_session(visitor, server.addresses()[0]) as session:
                await session.hello()
            while server.peers():  # noqa: ASYNC110 - the port tells of arrivals only
                await trio.sleep(0.01)


async def test_a_peer_that_talks_about_itself_without_end_is_cut_off(victim: MeshNetwork) -> None:
    async with open_raw_session(66, victim.addresses()[0]) as session:
        await session.hello()
        for _ in range(100):
            session.machine.tell(About([], dht=False, relay=False, observed=""))
        session.flush()
        while victim.peers():  # noqa: ASYNC110 - it is cut off
            await trio.sleep(0.01)


# 3. garbage on /meshsub stops the host, a message with a hashed author and a bad key stops pubsub even so


def published(**fields: object) -> bytes:
    return rpc_pb2.RPC(publish=[rpc_pb2.Message(topicIDs=["t"], **fields)]).SerializeToString()


HASHED = b"\x12\x20" + b"\x01" * 32
CRAFTED = {
    "not a packet": b"\x0a\xff\xff\xff\xff\x0f" + bytes(50),
    "no signature": published(data=b"x", from_id=b"\x00", seqno=b"1" * 8),
    "hashed author, bad key": published(
        data=b"x", from_id=HASHED, seqno=b"1" * 8, signature=b"z" * 64, key=b"\xff\xfe\xfd"
    ),
    "no author": published(data=b"x", from_id=b"", seqno=b"1" * 8, signature=b"z" * 64, key=b""),
    "junk author": published(data=b"x", from_id=b"\xff\xff\xff", seqno=b"1" * 8, signature=b"z" * 64),
    "long": published(data=bytes(70_000), from_id=HASHED, seqno=b"1" * 8),
    "two topics": rpc_pb2.RPC(publish=[rpc_pb2.Message(topicIDs=["t", "u"], seqno=b"1" * 8)]).SerializeToString(),
}


@pytest.mark.parametrize("packet", CRAFTED.values(), ids=CRAFTED.keys())
async def test_crafted_gossip_drops_its_sender_and_nothing_else(
    sockets: SocketMesh, victim: MeshNetwork, packet: bytes
) -> None:
    async with victim.subscribe("t", lambda data: "accept") as heard:
        stream = await attacking_stream(sockets, victim, PROTOCOL_ID_V11)
        await stream.write(encode_varint_prefixed(packet))
        while any(peer.peer == identity(66).peer_id for peer in victim.peers()):  # noqa: ASYNC110 - it is dropped
            await trio.sleep(0.01)
        with pytest.raises(trio.WouldBlock):
            heard.receive_nowait()


async def test_a_dropped_peer_is_not_let_in_again_at_once(sockets: SocketMesh, victim: MeshNetwork) -> None:
    attacker = await sockets.join(66, "client")
    await attacker.connect(victim.peer_id, victim.addresses())
    victim._running.connections.drop(attacker.peer_id, "a test")
    while attacker.peers():  # noqa: ASYNC110 - it is dropped
        await trio.sleep(0.01)
    with pytest.raises(PeerUnreachable, match="broke the protocol"):
        await attacker.connect(victim.peer_id)


# 4. cancelling a write corrupts the connection


async def test_thirty_cancelled_calls_leave_the_connection_whole(sockets: SocketMesh, victim: MeshNetwork) -> None:
    client = await sockets.join(2, "client")
    await client.connect(victim.peer_id, victim.addresses())
    since = client.peers()[0].since
    for attempt in range(30):
        with trio.move_on_after(0.0003 * attempt):
            await client.ask(victim.peer_id, "echo", bytes(1_000_000))
        assert await client.ask(victim.peer_id, "echo", b"whole?") == b"whole?"
    assert client.peers()[0].since == since


# 5. an exception in a system task ends the whole program; a crash of the host must not


async def test_the_library_starts_no_system_tasks(sockets: SocketMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a system task's failure would end the whole program")

    monkeypatch.setattr(trio.lowlevel, "spawn_system_task", refuse)
    with trio.fail_after(PATIENCE_SECONDS):
        one = await sockets.join(1, "router", settings=listening(serve_relay=True))
        other = await sockets.join(2, "client")
        await other.connect(one.peer_id, one.addresses())
        await other.provide("key")
        while await one.providers("key") != [other.peer_id]:  # noqa: ASYNC110 - it is announced when somebody serves
            await trio.sleep(0.01)


async def test_a_crash_of_the_host_is_met_with_a_new_one(sockets: SocketMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_module, "FIRST_PAUSE_SECONDS", 0.01)
    with trio.fail_after(PATIENCE_SECONDS):
        server = await sockets.join(1, "router")
        client = await sockets.join(2, "client")
        server.serve("echo", echo, at_once=1)
        addresses = server.addresses()
        async with server.subscribe("t", lambda data: "accept") as heard:
            await server.provide("key")
            await crash(server)
            assert server.addresses() == addresses
            assert await ask_until_answered(client, server, addresses) == b"again"
            while await client.providers("key") != [server.peer_id]:  # noqa: ASYNC110 - a DHT tells nobody
                await trio.sleep(0.05)
            await publish_until_heard(client, heard)
        assert server.status().restarts == 1


async def crash(network: MeshNetwork) -> None:
    """Have a task of the host meet a bug."""

    async def bug() -> None:
        raise RuntimeError("a bug in the library")

    running = network._running
    running.swarm._nursery.start_soon(bug)
    while network._running in (running, None):  # noqa: ASYNC110 - a crash announces itself to nobody
        await trio.sleep(0.01)


async def ask_until_answered(client: MeshNetwork, server: MeshNetwork, addresses: list[str]) -> bytes:
    while True:
        try:
            await client.connect(server.peer_id, addresses)
            return await client.ask(server.peer_id, "echo", b"again")
        except PeerLost:
            await trio.sleep(0.01)


async def publish_until_heard(publisher: MeshNetwork, heard: trio.MemoryReceiveChannel) -> None:
    while True:
        await publisher.publish("t", b"news")
        with trio.move_on_after(0.2):
            await heard.receive()
            return


async def test_a_host_that_crashes_again_and_again_fails_the_node_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_module, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(network_module, "MAX_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr("cactus_mesh.net.connections.PING_SECONDS", 0.001)
    monkeypatch.setattr(Connections, "_let_go", None)
    with trio.fail_after(PATIENCE_SECONDS), pytest.raises(NetworkFailed, match="TypeError"):
        await live(1)


async def live(number: int) -> None:
    from cactus_mesh.net import open_network

    async with open_network(identity(number), listening(), hello("client")):
        await trio.sleep_forever()


# 6. the wrong Noise key is accepted silently, and a given muxer class is ignored


async def test_noise_has_its_own_kind_of_key_and_yamux_is_ours(sockets: SocketMesh, victim: MeshNetwork) -> None:
    client = await sockets.join(2, "client")
    await client.connect(victim.peer_id, victim.addresses())
    (conn,) = client._running.connections.all()
    assert type(conn.muxed_conn) is MeshYamux
    assert conn.muxed_conn.negotiated_security_protocol == "/noise"
    assert type(MeshNoise(key_pair(1)).noise_privkey).__name__ == "X25519PrivateKey"
    assert list(victim._running.swarm.upgrader.security_multistream.transports) == ["/noise"]
