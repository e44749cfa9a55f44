from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from cactus_mesh.errors import PeerUnreachable
from cactus_mesh.net import machine as machine_module
from cactus_mesh.net.machine import Machine
from cactus_mesh.net.punch import PunchFailed
from tests.net.peers import PATIENCE_SECONDS, listening
from tests.net.test_relay import hidden_behind, relay_at

if TYPE_CHECKING:
    from cactus_mesh.identity import PeerId
    from cactus_mesh.net.network import MeshNetwork
    from cactus_mesh.ports import ConnectedPeer
    from tests.net.peers import SocketMesh


# --- from relayed to direct ----------------------------------------------------------------------------------------


async def test_a_relayed_peer_says_through_whom_and_why_not_directly(
    sockets: SocketMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise PunchFailed("its NAT is symmetric")

    monkeypatch.setattr("cactus_mesh.net.punch.Puncher.punch", fail)
    with trio.fail_after(PATIENCE_SECONDS):
        relay = await relay_at(sockets, 1)
        hidden = await hidden_behind(sockets, relay)
        client = await sockets.join(2, "client", settings=listening(listen=()))
        await client.connect(hidden.peer_id, hidden.addresses())
        seen = await explained(hidden, client)
    relayed = seen[client.peer_id]
    assert (relayed.relay, relayed.relayed) == (relay.peer_id, True)
    assert set(relayed.why_relayed.split("; ")) == {
        "its NAT is symmetric",
        "it has no address that can be dialled from here",
    }
    assert (seen[relay.peer_id].relay, seen[relay.peer_id].why_relayed) == (None, "")


async def explained(network: MeshNetwork, other: MeshNetwork) -> dict[PeerId, ConnectedPeer]:
    """The peers of *network* once both ways to *other* have come to nothing."""
    while True:
        seen = {peer.peer: peer for peer in network.peers()}
        if other.peer_id in seen and ";" in seen[other.peer_id].why_relayed:
            return seen
        await trio.sleep(0.01)


async def test_a_relay_that_cannot_be_reached_is_named_with_its_reason(sockets: SocketMesh) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        relay = await relay_at(sockets, 1)
        hidden = await hidden_behind(sockets, relay)
        address = hidden.addresses()[0]
        await sockets.kill(relay)
        client = await sockets.join(2, "client", settings=listening())
        with pytest.raises(PeerUnreachable, match=r"the relay cannot be reached: .*connection refused") as caught:
            await client.connect(hidden.peer_id, [address])
    assert f"{address}: the relay cannot be reached: cannot reach {relay.peer_id}" in str(caught.value)


# --- this machine --------------------------------------------------------------------------------------------------


class NoSwarm:
    bound = ()


async def moves(monkeypatch: pytest.MonkeyPatch, *, hosts: list[list[str]], wall: list[float]) -> list[str]:
    """What `Machine.watch` makes of these addresses and clock readings, one pair a look."""
    told: list[str] = []
    monkeypatch.setattr(machine_module, "WATCH_SECONDS", 0.001)
    monkeypatch.setattr(Machine, "hosts", lambda self: hosts.pop(0) if len(hosts) > 1 else hosts[0])
    monkeypatch.setattr(machine_module.time, "time", lambda: wall.pop(0) if len(wall) > 1 else wall[0])
    with trio.move_on_after(0.1):
        await Machine(NoSwarm()).watch(told.append)
    return told


async def test_new_addresses_of_the_machine_are_noticed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    told = await moves(monkeypatch, hosts=[["10.0.0.1"], ["10.0.0.1"], ["10.0.0.2"], ["10.0.0.2"]], wall=[1.0])
    assert told == ["the addresses of this machine have changed"]


async def test_a_machine_that_slept_notices_it_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    told = await moves(monkeypatch, hosts=[["10.0.0.1"]], wall=[1.0, 2.0, 2.0, 602.0])
    assert told == ["this machine slept, or this process was stopped, for 600 s"]


async def test_a_move_ends_the_connections_of_the_old_network_and_asks_again(sockets: SocketMesh) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        bootstrap = await sockets.join(0, "bootstrap")
        peer = await sockets.join(1, "router")
        while not peer.peers():  # noqa: ASYNC110 - it connects by itself
            await trio.sleep(0.01)
        running = peer._running
        (conn,) = running.connections.of(bootstrap.peer_id)
        conn.local_host = "192.168.7.7"
        running._moved("the addresses of this machine have changed")
        await conn.over.wait()
        while running.connections.of(bootstrap.peer_id) in ([], [conn]):  # noqa: ASYNC110 - it comes back by itself
            await trio.sleep(0.01)
        again = running.connections.of(bootstrap.peer_id)
    assert again[-1].local_host == "127.0.0.1"


async def test_an_invitation_is_for_other_machines(sockets: SocketMesh) -> None:
    announce = ("/ip4/192.168.1.5/tcp/1", "/ip4/203.0.113.7/tcp/1", "/ip4/203.0.113.8/tcp/1")
    network = await sockets.join(1, "router", settings=listening(announce=announce))
    assert network.invitations() == [f"{announce[1]}/p2p/{network.peer_id}", f"{announce[0]}/p2p/{network.peer_id}"]
    alone = await sockets.join(2, "router", settings=listening())
    assert alone.invitations() == alone.addresses()
