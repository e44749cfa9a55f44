from __future__ import annotations

from dataclasses import replace as replaced
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio

from cactus_mesh.errors import (
    MessageBadSignature,
    MessageExpired,
    MessageMisdirected,
    MessageWrongSender,
    PeerUnreachable,
    WrongNetwork,
)
from cactus_mesh.identity import PeerId
from cactus_mesh.net import Limits, connections, swarm
from cactus_mesh.net.addresses import parse_address
from cactus_mesh.net.hello import difference_between, open_hello, seal_hello
from tests.net.peers import PATIENCE_SECONDS, hello, identity, listening
from tests.net.strangers import open_raw_connection, open_raw_session

if TYPE_CHECKING:
    from cactus_mesh.net.conn import MeshConn
    from tests.net.peers import SocketMesh

OURS = hello("client")
NOW_MS = 1_700_000_000_000


def sealed(now_ms: int = NOW_MS) -> bytes:
    return seal_hello(OURS, identity(1), recipient=identity(2).public_key, now_ms=now_ms)


def test_a_hello_is_its_senders_and_for_us() -> None:
    us, them = identity(2).public_key, identity(1).public_key
    assert open_hello(sealed(), OURS, sender=them, recipient=us, now_ms=NOW_MS) == OURS
    with pytest.raises(MessageWrongSender):
        open_hello(sealed(), OURS, sender=us, recipient=us, now_ms=NOW_MS)
    with pytest.raises(MessageMisdirected):
        open_hello(sealed(), OURS, sender=them, recipient=them, now_ms=NOW_MS)
    with pytest.raises(MessageExpired, match="clocks"):
        open_hello(sealed(), OURS, sender=them, recipient=us, now_ms=NOW_MS + 3_600_000)
    forged = sealed()
    with pytest.raises(MessageBadSignature):
        open_hello(forged[:-1] + bytes([forged[-1] ^ 1]), OURS, sender=them, recipient=us, now_ms=NOW_MS)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"network": "other"}, ("'test'", "'other'")),
        ({"chain_id": 2}, ("chain 4", "chain 2")),
        ({"contract": b"\x01" * 32}, ("0x0000", "0x0101")),
        ({"version": 2}, (" 1", " 2")),
    ],
)
def test_a_difference_names_both_sides(change: dict[str, object], names: tuple[str, str]) -> None:
    theirs = msgspec.structs.replace(OURS, **change)
    for words in (difference_between(OURS, theirs), difference_between(theirs, OURS)):
        assert words is not None
        assert all(name in words for name in names)


def test_roles_and_agent_may_differ() -> None:
    assert difference_between(OURS, msgspec.structs.replace(OURS, roles=["router"], agent="another")) is None


async def test_peers_of_different_networks_part_by_name_on_both_sides(sockets: SocketMesh) -> None:
    one = await sockets.join(1, settings=listening(), said=hello("router", network="alpha"))
    other = await sockets.join(2, settings=listening(), said=hello("client", network="beta"))
    with trio.fail_after(PATIENCE_SECONDS):
        for dialler, listener in ((one, other), (other, one)):
            with pytest.raises(WrongNetwork, match=r"'(alpha|beta)' and '(alpha|beta)'"):
                await dialler.connect(listener.peer_id, listener.addresses())
    assert one.peers() == other.peers() == []


async def test_the_refused_dialler_need_not_check_itself(sockets: SocketMesh) -> None:
    server = await sockets.join(1, "router")
    with trio.fail_after(PATIENCE_SECONDS):
        async with open_raw_session(2, server.addresses()[0], hello("client", network="beta")) as session:
            with pytest.raises(WrongNetwork, match="'beta'"):
                await session.hello()


async def test_whoever_says_no_hello_is_disconnected(sockets: SocketMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swarm, "HELLO_SECONDS", 0.2)
    server = await sockets.join(1, "router")
    with trio.fail_after(PATIENCE_SECONDS):
        async with open_raw_connection(2, server.addresses()[0]) as mux:
            await mux.event_closed.wait()
    assert server.peers() == []


async def test_a_peer_over_the_cap_is_told(sockets: SocketMesh) -> None:
    settings = listening(limits=Limits(inbound_connections=1))
    server = await sockets.join(1, "router", settings=settings)
    first, second = await sockets.join(2, "client"), await sockets.join(3, "client")
    with trio.fail_after(PATIENCE_SECONDS):
        await first.connect(server.peer_id, server.addresses())
        with pytest.raises(PeerUnreachable, match="its 1 incoming connections"):
            await second.connect(server.peer_id, server.addresses())
    assert [peer.peer for peer in server.peers()] == [first.peer_id]


async def test_an_idle_peer_makes_room_for_a_newcomer(sockets: SocketMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "IDLE_SECONDS", 0.0)
    server = await sockets.join(1, "router", settings=listening(limits=Limits(inbound_connections=1)))
    first, second = [await sockets.join(number, "client", settings=listening()) for number in (2, 3)]
    with trio.fail_after(PATIENCE_SECONDS):
        await first.connect(server.peer_id, server.addresses())
        (idle,) = server._running.connections.of(first.peer_id)
        await second.connect(server.peer_id, server.addresses())
        await idle.over.wait()
    assert "others want its place" in str(idle.failure)


async def test_silent_sockets_do_not_keep_others_out(sockets: SocketMesh) -> None:
    server = await sockets.join(1, "router", settings=listening(limits=Limits(pending_connections=4)))
    port = parse_address(server.addresses()[0]).port
    with trio.fail_after(PATIENCE_SECONDS):
        idle = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(20)]
        client = await sockets.join(2, "client")
        await client.connect(server.peer_id, server.addresses())
        for stream in idle:
            await stream.aclose()


async def test_a_flood_from_one_range_of_addresses_displaces_only_itself(
    sockets: SocketMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranges = iter(["honest", *["flood"] * 20])
    monkeypatch.setattr("cactus_mesh.net.swarm._range", lambda link: next(ranges))
    server = await sockets.join(1, "router", settings=listening(limits=Limits(pending_connections=4)))
    port = parse_address(server.addresses()[0]).port
    with trio.fail_after(PATIENCE_SECONDS):
        slow = await trio.open_tcp_stream("127.0.0.1", port)
        while not server._running.swarm._pending:  # noqa: ASYNC110 - it is accepted
            await trio.sleep(0.01)
        flood = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(20)]
        while len(server._running.swarm._pending) < 4 or next(ranges, None):  # noqa: ASYNC110 - all are accepted
            await trio.sleep(0.01)
        assert list(server._running.swarm._pending.values()) == ["honest", "flood", "flood", "flood"]
        for stream in (slow, *flood):
            await stream.aclose()


async def test_connections_of_a_crowded_range_give_way_to_a_newcomer_of_another(
    sockets: SocketMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranges = {identity(number).peer_id: "crowd" for number in (2, 3)}
    monkeypatch.setattr("cactus_mesh.net.connections.range_of", lambda conn: ranges.get(_peer_of(conn)))
    server = await sockets.join(1, "router", settings=listening(limits=Limits(inbound_connections=2)))
    clients = [await sockets.join(number, "client", settings=listening()) for number in (2, 3, 4)]
    with trio.fail_after(PATIENCE_SECONDS):
        for client in clients:
            await client.connect(server.peer_id, server.addresses())
        while len(server.peers()) > 2:  # noqa: ASYNC110 - the port tells of arrivals only
            await trio.sleep(0.01)
    assert clients[2].peer_id in {peer.peer for peer in server.peers()}


def _peer_of(conn: MeshConn) -> PeerId:
    return PeerId(str(conn.muxed_conn.peer_id))


async def test_one_peer_cannot_hold_many_connections(sockets: SocketMesh) -> None:
    server = await sockets.join(1, "router", settings=listening(limits=replaced(Limits(), connections_per_peer=2)))
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                await nursery.start(_stay_connected, server.addresses()[0])
            while len(list(server._running.connections.all())) > 2:  # noqa: ASYNC110 - the oldest go
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()


async def _stay_connected(address: str, *, task_status: trio.TaskStatus[None]) -> None:
    async with open_raw_session(2, address) as session:
        await session.hello()
        task_status.started()
        await trio.sleep_forever()
