"""Both sides of one TCP connection have dialled."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
import trio
from libp2p.peer.id import ID

from cactus_mesh.net.links import SocketLink
from cactus_mesh.net.swarm import DialFailed
from tests.net.peers import PATIENCE_SECONDS, identity

if TYPE_CHECKING:
    from cactus_mesh.net.conn import MeshConn
    from cactus_mesh.net.network import MeshNetwork
    from cactus_mesh.ports import Call
    from tests.net.peers import SocketMesh


def connected_sockets() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        other, _ = server.accept()
    one.setblocking(False)
    other.setblocking(False)
    return one, other


async def dial(own: MeshNetwork, sock: socket.socket, peer: str) -> MeshConn:
    return await own._running.swarm.dial_link(SocketLink(sock, initiator=True), ID.from_string(peer))


async def echo(call: Call) -> None:
    await call.send(call.payload)


@pytest.mark.parametrize("numbers", [(1, 2), (2, 1), (3, 4)])
async def test_two_peers_that_dial_each_other_at_once_have_one_connection(
    sockets: SocketMesh, numbers: tuple[int, int]
) -> None:
    one, other = [await sockets.join(number, "router") for number in numbers]
    one.serve("echo", echo, at_once=1)
    conns: dict[str, MeshConn] = {}

    async def take(own: MeshNetwork, sock: socket.socket, peer: str) -> None:
        conns[own.peer_id] = await dial(own, sock, peer)

    with trio.fail_after(PATIENCE_SECONDS):
        ends = connected_sockets()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take, one, ends[0], other.peer_id)
            nursery.start_soon(take, other, ends[1], one.peer_id)
        assert [conns[peer].inbound for peer in sorted(conns)] == [False, True], "the smaller id goes on"
        reply = await conns[other.peer_id].session.open("echo", b"words")
        assert await reply.only("echo") == b"words"


async def test_whoever_yields_still_insists_on_the_peer_that_it_dialled(sockets: SocketMesh) -> None:
    one, other = await sockets.join(1, "router"), await sockets.join(2, "router")
    smaller, greater = sorted((one, other), key=lambda network: network.peer_id)
    stranger = next(peer for number in range(10, 99) if (peer := identity(number).peer_id) < greater.peer_id)
    ends = connected_sockets()

    async def dial_in_vain() -> None:
        with pytest.raises(DialFailed):
            await dial(smaller, ends[0], greater.peer_id)

    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dial_in_vain)
            with pytest.raises(DialFailed, match="another peer answers there"):
                await dial(greater, ends[1], stranger)
