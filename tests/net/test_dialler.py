from __future__ import annotations

import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from cactus_mesh.errors import AddressMalformed, PeerUnreachable, PortInUse
from cactus_mesh.net import dialler, open_network
from cactus_mesh.net.addresses import parse_address
from tests.net.peers import PATIENCE_SECONDS, hello, identity, listening

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.net.peers import SocketMesh


@contextmanager
def silent_port() -> Iterator[int]:
    """Somebody accepts there, and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as server:
        yield server.getsockname()[1]


@contextmanager
def closed_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    yield port


async def test_a_good_address_is_reached_beside_silent_and_closed_ones(sockets: SocketMesh) -> None:
    server, client = await sockets.join(1, "router"), await sockets.join(2, "client")
    with silent_port() as silent, closed_port() as closed, trio.fail_after(3):
        addresses = [f"/ip4/127.0.0.1/tcp/{silent}"] * 3 + [f"/ip4/127.0.0.1/tcp/{closed}", *server.addresses()]
        assert (await client.connect(server.peer_id, addresses)).address == server.addresses()[0]


async def test_each_address_tried_is_named_with_its_reason(
    sockets: SocketMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialler, "ADDRESS_SECONDS", 0.5)
    client, other = await sockets.join(2, "client"), await sockets.join(3, "client")
    with silent_port() as silent, closed_port() as closed, trio.fail_after(PATIENCE_SECONDS):
        wrong = parse_address(other.addresses()[0]).endpoint
        addresses = [f"/ip4/127.0.0.1/tcp/{silent}", f"/ip4/127.0.0.1/tcp/{closed}", wrong]
        with pytest.raises(PeerUnreachable) as caught:
            await client.connect(identity(1).peer_id, addresses)
    said = str(caught.value)
    assert f"/tcp/{silent}/p2p/{identity(1).peer_id}: no answer" in said
    assert f"/tcp/{closed}/p2p/{identity(1).peer_id}: connection refused" in said
    assert f"{wrong}/p2p/{identity(1).peer_id}: another peer answers there" in said
    assert len(client.status().attempts) == 3


async def test_with_no_address_known_it_says_what_to_do(sockets: SocketMesh) -> None:
    client = await sockets.join(2, "client")
    with trio.fail_after(PATIENCE_SECONDS):
        with pytest.raises(PeerUnreachable, match="no address of it is known"):
            await client.ask(identity(1).peer_id, "echo", b"")
        with pytest.raises(PeerUnreachable, match="no address of it is known"):
            await client.connect(identity(1).peer_id, ["/ip4/0.0.0.0/tcp/4001"])


async def test_many_callers_share_one_dial(sockets: SocketMesh) -> None:
    server, client = await sockets.join(1, "router"), await sockets.join(2, "client")
    sinces = []

    async def connect() -> None:
        sinces.append((await client.connect(server.peer_id, server.addresses())).since)

    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(connect)
    assert len(set(sinces)) == 1
    assert len(list(server._running.connections.all())) == 1


async def test_a_dial_that_nobody_waits_for_is_given_up(sockets: SocketMesh) -> None:
    client = await sockets.join(2, "client")
    with silent_port() as silent, trio.fail_after(PATIENCE_SECONDS):
        with trio.move_on_after(0.2):
            await client.connect(identity(1).peer_id, [f"/ip4/127.0.0.1/tcp/{silent}"])
        await trio.testing.wait_all_tasks_blocked()
        assert not client._running.dialler._races


async def test_both_sides_may_dial_at_once_and_one_connection_stays(
    sockets: SocketMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cactus_mesh.net.connections.PING_SECONDS", 0.05)
    monkeypatch.setattr("cactus_mesh.net.connections.DOUBLE_SECONDS", 0.1)
    one = await sockets.join(1, "router", settings=listening())
    other = await sockets.join(2, "router", settings=listening())
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.connect, other.peer_id, other.addresses())
            nursery.start_soon(other.connect, one.peer_id, one.addresses())
        for network in (one, other):
            while len(list(network._running.connections.all())) > 1:  # noqa: ASYNC110 - the other one goes
                await trio.sleep(0.01)
    assert len(one.peers()) == len(other.peers()) == 1


async def test_a_taken_port_is_named_with_the_remedy() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"/ip4/127.0.0.1/tcp/{taken.getsockname()[1]}"
        with pytest.raises(PortInUse, match=r"port \d+ of 127\.0\.0\.1 is in use.*--listen"):
            async with open_network(identity(1), listening(listen=(listen,)), hello("client")):
                pass


@pytest.mark.parametrize(
    "listen",
    ["nonsense", "/dns4/localhost/tcp/0", "/ip4/203.0.113.77/tcp/0", f"/ip4/127.0.0.1/tcp/0/p2p/{identity(1).peer_id}"],
)
async def test_what_cannot_be_listened_on_is_named(listen: str) -> None:
    with pytest.raises(AddressMalformed, match=listen.split("/")[-1][:20]):
        async with open_network(identity(1), listening(listen=(listen,)), hello("client")):
            pass


@pytest.mark.parametrize("bootstrap", ["203.0.113.7:4001", "/ip4/203.0.113.7/tcp/4001"])
async def test_a_bootstrap_address_that_names_no_peer_is_refused(bootstrap: str) -> None:
    with pytest.raises(AddressMalformed, match="/p2p/"):
        async with open_network(identity(1), listening(bootstrap=(bootstrap,)), hello("client")):
            pass


async def test_a_host_name_is_resolved(sockets: SocketMesh) -> None:
    server, client = await sockets.join(1, "router"), await sockets.join(2, "client")
    port = parse_address(server.addresses()[0]).port
    with trio.fail_after(PATIENCE_SECONDS):
        assert await client.connect(server.peer_id, [f"/dns4/localhost/tcp/{port}"])
