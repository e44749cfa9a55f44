from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.pb.circuit_pb2 import (
    NO_RESERVATION,
    OK,
    PERMISSION_DENIED,
    RESERVATION_REFUSED,
    RESOURCE_LIMIT_EXCEEDED,
    HopMessage,
    StopMessage,
)
from libp2p.relay.circuit_v2.protocol import PROTOCOL_ID as HOP
from libp2p.relay.circuit_v2.protocol import STOP_PROTOCOL_ID as STOP
from libp2p.relay.circuit_v2.utils import read_delimited_msg, write_delimited_msg

from cactus_mesh.errors import PeerLost, PeerUnreachable
from cactus_mesh.net import Limits, NetworkSettings
from cactus_mesh.net.addresses import parse_address
from tests.net.peers import PATIENCE_SECONDS, identity, listening

if TYPE_CHECKING:
    from cactus_mesh.identity import PeerId
    from cactus_mesh.net.network import MeshNetwork
    from cactus_mesh.ports import Call
    from tests.net.peers import SocketMesh


async def echo(call: Call) -> None:
    await call.send(call.payload)


async def relay_at(sockets: SocketMesh, number: int, **others: object) -> MeshNetwork:
    return await sockets.join(number, "relay", settings=listening(serve_relay=True, **others))


async def hidden_behind(sockets: SocketMesh, *relays: MeshNetwork, number: int = 5) -> MeshNetwork:
    """A peer that listens nowhere, with its circuit addresses."""
    bootstrap = tuple(address for relay in relays for address in relay.addresses())
    settings = NetworkSettings(listen=(), bootstrap=bootstrap, relays="always")
    hidden = await sockets.join(number, "orchestrator", settings=settings)
    hidden.serve("echo", echo, at_once=8)
    while len(hidden.addresses()) < len(relays):  # noqa: ASYNC110 - its reservations come
        await trio.sleep(0.01)
    return hidden


async def test_a_peer_without_a_port_is_reached_through_a_relay(sockets: SocketMesh) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        relay = await relay_at(sockets, 1)
        hidden = await hidden_behind(sockets, relay)
        (address,) = hidden.addresses()
        assert f"/p2p/{relay.peer_id}/p2p-circuit/p2p/{hidden.peer_id}" in address
        assert hidden.status().relays == (relay.peer_id,)
        client = await sockets.join(2, "client", settings=listening())
        assert (await client.connect(hidden.peer_id, [address])).relayed
        large = bytes(1_000_000)
        assert await client.ask(hidden.peer_id, "echo", large) == large


async def test_it_is_found_and_reached_by_its_key_alone(sockets: SocketMesh) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        relay = await relay_at(sockets, 1)
        hidden = await hidden_behind(sockets, relay)
        await hidden.provide("model/abc")
        client = await sockets.join(2, "client")
        while hidden.peer_id not in await client.providers("model/abc"):  # noqa: ASYNC110 - a DHT tells nobody
            await trio.sleep(0.05)
        assert await client.ask(hidden.peer_id, "echo", b"there you are") == b"there you are"


async def test_one_circuit_ends_without_the_others(sockets: SocketMesh) -> None:
    """The library's relay closes a peer's newest circuit when its oldest ends."""
    with trio.fail_after(PATIENCE_SECONDS):
        hidden = await hidden_behind(sockets, await relay_at(sockets, 1))
        clients = [await sockets.join(number, "client", settings=listening()) for number in (2, 3, 4)]
        for client in clients:
            await client.connect(hidden.peer_id, hidden.addresses())
        await sockets.kill(clients[0])
        while len(hidden.peers()) > 3:  # noqa: ASYNC110 - the relay and two clients stay
            await trio.sleep(0.01)
        for client in clients[1:]:
            assert await client.ask(hidden.peer_id, "echo", b"still here") == b"still here"


async def test_a_relay_that_dies_is_replaced_and_a_reservation_taken_again(sockets: SocketMesh) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        relays = [await relay_at(sockets, number) for number in (1, 2)]
        hidden = await hidden_behind(sockets, *relays)
        assert set(hidden.status().relays) == {relay.peer_id for relay in relays}
        listen = (parse_address(relays[0].addresses()[0]).endpoint,)
        await sockets.kill(relays[0])
        while hidden.status().relays != (relays[1].peer_id,):  # noqa: ASYNC110 - the status says so
            await trio.sleep(0.01)
        assert all(relays[0].peer_id not in address for address in hidden.addresses())
        client = await sockets.join(3, "client", settings=listening())
        await client.connect(hidden.peer_id, hidden.addresses())
        await relay_at(sockets, 1, listen=listen)
        while len(hidden.status().relays) < 2:  # noqa: ASYNC110 - the status says so
            await trio.sleep(0.01)


async def test_a_call_over_a_relay_that_dies_is_lost(sockets: SocketMesh) -> None:
    async def stall(call: Call) -> None:
        await call.send(b"first")
        await trio.sleep_forever()

    with trio.fail_after(PATIENCE_SECONDS):
        relay = await relay_at(sockets, 1)
        hidden = await hidden_behind(sockets, relay)
        hidden.serve("stall", stall, at_once=1)
        client = await sockets.join(2, "client", settings=listening())
        await client.connect(hidden.peer_id, hidden.addresses())
        async with client.call(hidden.peer_id, "stall", b"") as reply:
            items = aiter(reply)
            assert await anext(items) == b"first"
            await sockets.kill(relay)
            with pytest.raises(PeerLost):
                await anext(items)


async def test_a_direct_address_is_preferred(sockets: SocketMesh) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        relay = await relay_at(sockets, 1)
        settings = listening(bootstrap=tuple(relay.addresses()), relays="always")
        both = await sockets.join(2, "orchestrator", settings=settings)
        while len(both.addresses()) < 2:  # noqa: ASYNC110 - its reservation comes
            await trio.sleep(0.01)
        client = await sockets.join(3, "client", settings=listening())
        assert not (await client.connect(both.peer_id, list(reversed(both.addresses())))).relayed


async def test_a_peer_reached_through_a_relay_is_soon_reached_directly(
    sockets: SocketMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cactus_mesh.net.connections.PING_SECONDS", 0.1)
    monkeypatch.setattr("cactus_mesh.net.connections.DOUBLE_SECONDS", 0.2)
    with trio.fail_after(PATIENCE_SECONDS):
        relay = await relay_at(sockets, 1)
        settings = listening(bootstrap=tuple(relay.addresses()), relays="always")
        both = await sockets.join(2, "orchestrator", settings=settings)
        while len(both.addresses()) < 2:  # noqa: ASYNC110 - its reservation comes
            await trio.sleep(0.01)
        client = await sockets.join(3, "client", settings=listening())
        (circuit,) = (address for address in both.addresses() if "p2p-circuit" in address)
        assert (await client.connect(both.peer_id, [circuit])).relayed
        while any(peer.relayed for peer in client.peers()):  # noqa: ASYNC110 - it has told us its direct address
            await trio.sleep(0.01)
        while len(list(client._running.connections.all())) > 2:  # noqa: ASYNC110 - relayed and double ones go
            await trio.sleep(0.01)
        assert {peer.peer for peer in client.peers()} == {relay.peer_id, both.peer_id}


async def test_a_circuit_ends_with_its_budget(sockets: SocketMesh) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        relay = await relay_at(sockets, 1, limits=Limits(circuit_bytes=100_000))
        hidden = await hidden_behind(sockets, relay)
        client = await sockets.join(2, "client", settings=listening())
        await client.connect(hidden.peer_id, hidden.addresses())
        with pytest.raises(PeerLost):
            await client.ask(hidden.peer_id, "echo", bytes(200_000))


# --- what the relay refuses ----------------------------------------------------------------------------------------


async def asked(peer: MeshNetwork, relay: MeshNetwork, request: HopMessage) -> HopMessage:
    conn = await peer._running.connect(relay.peer_id)
    stream = await peer._running.host.open_on(conn, HOP)
    await write_delimited_msg(stream, request)
    return await read_delimited_msg(stream, HopMessage)


async def test_a_reservation_is_the_connections_whatever_the_message_says(sockets: SocketMesh) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        relay = await relay_at(sockets, 1, limits=Limits(relay_reservations=1))
        one, other = await sockets.join(2, "client"), await sockets.join(3, "client")
        request = HopMessage(type=HopMessage.RESERVE)
        for number in range(10, 20):
            request.peer.id = identity(number).peer_id.encode()
            assert (await asked(one, relay, request)).status == OK
        assert (await asked(other, relay, request)).status == RESERVATION_REFUSED


async def test_nobody_is_reached_without_a_reservation(sockets: SocketMesh) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        relay = await relay_at(sockets, 1)
        settings = listening(bootstrap=tuple(relay.addresses()))
        await sockets.join(2, "client", settings=settings)
        client = await sockets.join(3, "client", settings=settings)
        request = HopMessage(type=HopMessage.CONNECT)
        request.peer.id = identity(2).peer_id.encode()
        assert (await asked(client, relay, request)).status == NO_RESERVATION
        circuit = f"{parse_address(relay.addresses()[0]).endpoint}/p2p/{relay.peer_id}/p2p-circuit"
        with pytest.raises(PeerUnreachable, match="holds no reservation"):
            await client.connect(identity(9).peer_id, [circuit])


async def test_a_circuit_that_nobody_reserved_is_not_taken(sockets: SocketMesh) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        one, other = await sockets.join(1, "client"), await sockets.join(2, "client")
        await one.connect(other.peer_id, other.addresses())
        conn = one._running.connections.best(other.peer_id)
        stream = await one._running.host.open_on(conn, STOP)
        await write_delimited_msg(stream, StopMessage(type=StopMessage.CONNECT))
        assert (await read_delimited_msg(stream, StopMessage)).status == PERMISSION_DENIED


async def test_a_peer_that_is_no_relay_offers_no_circuits(sockets: SocketMesh) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        one, other = await sockets.join(1, "client"), await sockets.join(2, "client")
        circuit = f"{parse_address(one.addresses()[0]).endpoint}/p2p/{one.peer_id}/p2p-circuit"
        with pytest.raises(PeerUnreachable, match="the relay did not answer"):
            await other.connect(identity(9).peer_id, [circuit])


async def test_one_range_of_addresses_cannot_take_every_reservation(
    sockets: SocketMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranges = {"2": "a", "3": "a", "4": "b"}
    monkeypatch.setattr("cactus_mesh.net.circuits.range_of", lambda conn: ranges[numbers[conn.session.peer]])
    numbers = {identity(int(number)).peer_id: number for number in ranges}
    request = HopMessage(type=HopMessage.RESERVE)
    with trio.fail_after(PATIENCE_SECONDS):
        relay = await relay_at(sockets, 1, limits=Limits(relay_reservations_per_range=1))
        peers = [await sockets.join(int(number), "client") for number in ranges]
        statuses = [(await asked(peer, relay, request)).status for peer in peers]
        assert statuses == [OK, RESERVATION_REFUSED, OK]
        assert (await asked(peers[0], relay, request)).status == OK


async def test_one_range_of_addresses_cannot_take_every_circuit(
    sockets: SocketMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cactus_mesh.net.circuits.range_of", lambda conn: "a")
    with trio.fail_after(PATIENCE_SECONDS):
        relay = await relay_at(sockets, 1, limits=Limits(relay_circuits_per_range=2))
        hidden = await hidden_behind(sockets, relay)
        clients = [await sockets.join(number, "client", settings=NetworkSettings(listen=())) for number in (2, 3, 4)]
        for client in clients[:2]:
            await client.connect(hidden.peer_id, hidden.addresses())
        with pytest.raises(PeerUnreachable, match="at its limit"):
            await clients[2].connect(hidden.peer_id, hidden.addresses())
        use = relay._running.relay.use
        assert (use.reservations, use.circuits) == (1, 2)
        await sockets.kill(clients[0])
        while relay._running.relay.use.circuits > 1:  # noqa: ASYNC110 - the circuit ends with its peer
            await trio.sleep(0.01)
        assert (await clients[2].connect(hidden.peer_id, hidden.addresses())).relayed


async def test_a_peer_that_asks_for_circuits_without_end_is_refused_and_others_are_served(
    sockets: SocketMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cactus_mesh.net.circuits.CIRCUITS_AT_ONCE", 3)
    with trio.fail_after(PATIENCE_SECONDS):
        relay = await relay_at(sockets, 1)
        hidden = await hidden_behind(sockets, relay)
        greedy, modest = [await sockets.join(number, "client") for number in (2, 3)]
        request = HopMessage(type=HopMessage.CONNECT)
        request.peer.id = ID.from_string(hidden.peer_id).to_bytes()
        statuses = [(await asked(greedy, relay, request)).status for _ in range(6)]
        assert set(statuses[:3]) == {OK}
        assert RESOURCE_LIMIT_EXCEEDED in statuses[3:]
        assert (await modest.connect(hidden.peer_id, hidden.addresses())).relayed


async def test_a_greedy_peer_leaves_the_others_their_share_of_the_relay(sockets: SocketMesh) -> None:
    async def gulp(network: MeshNetwork, peer: PeerId) -> None:
        while True:
            await network.ask(peer, "echo", bytes(200_000))

    with trio.fail_after(PATIENCE_SECONDS):
        relay = await relay_at(sockets, 1, limits=Limits(relay_bytes_per_second=2_000_000))
        hidden = await hidden_behind(sockets, relay)
        greedy, modest = [
            await sockets.join(number, "client", settings=NetworkSettings(listen=())) for number in (2, 3)
        ]
        for client in (greedy, modest):
            await client.connect(hidden.peer_id, hidden.addresses())
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(gulp, greedy, hidden.peer_id)
            with trio.fail_after(8):  # 800 kB of its own, at half of the relay's rate: less than 2 s
                await modest.ask(hidden.peer_id, "echo", bytes(400_000))
            nursery.cancel_scope.cancel()
