from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import trio

from cactus_mesh.core.reachability import Endpoint
from cactus_mesh.errors import Busy, PeerUnreachable, ProtocolViolation
from cactus_mesh.net import NetworkSettings, dialback
from cactus_mesh.net.addresses import Scope, parse_address
from cactus_mesh.net.frames import About
from cactus_mesh.net.swarm import DialFailed
from tests.net.peers import PATIENCE_SECONDS, identity, listening

if TYPE_CHECKING:
    from cactus_mesh.core.reachability import Step
    from cactus_mesh.net.network import MeshNetwork
    from tests.net.peers import SocketMesh


def listening_at(host: str, *bootstrap: MeshNetwork, **others: object) -> NetworkSettings:
    """Every machine has a whole /8 of loopback addresses."""
    ways = tuple(address for peer in bootstrap for address in peer.addresses())
    return listening(listen=(f"/ip4/{host}/tcp/0",), bootstrap=ways, **others)


def step(network: MeshNetwork, name: str) -> Step:
    return next(step for step in network.status().steps if step.name == name)


async def until(network: MeshNetwork, name: str, state: str) -> Step:
    while not any((step.name, step.state) == (name, state) for step in network.status().steps):  # noqa: ASYNC110
        await trio.sleep(0.01)
    return step(network, name)


# --- who can dial us -----------------------------------------------------------------------------------------------


async def test_two_peers_at_different_addresses_dial_back_and_say_that_there_is_no_nat(sockets: SocketMesh) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        others = [await sockets.join(n, "router", settings=listening_at(f"127.0.0.{n}")) for n in (2, 3)]
        network = await sockets.join(1, "orchestrator", settings=listening_at("127.0.0.9", *others))
        await until(network, "public", "works")
        while network.status().nat == "unknown":  # noqa: ASYNC110 - the status says so
            await trio.sleep(0.01)
        (own,) = network.addresses()
        endpoint = parse_address(own).endpoint
        both = f"2 of 2 peers asked reached {endpoint}"
        while not step(network, "public").detail.startswith(both):  # noqa: ASYNC110 - the status says so
            await trio.sleep(0.01)
    status = network.status()
    assert (status.nat, status.port_preserving, status.observed) == ("none", None, (endpoint,))
    assert status.reachability == "unknown"  # nobody beyond this machine was met
    assert {step.name: step.state for step in status.steps}["relayed"] == "not needed"


async def test_a_public_machine_on_all_interfaces_is_public(
    sockets: SocketMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loopback is the world here, with an address for everybody."""
    for module in ("addresses", "reachability"):
        monkeypatch.setattr(f"cactus_mesh.net.{module}.scope_of", lambda host: Scope.GLOBAL)
    monkeypatch.setattr("cactus_mesh.net.machine.get_network_addrs", lambda family: ["127.0.0.1"] * (family == 4))
    with trio.fail_after(PATIENCE_SECONDS):
        others = [await sockets.join(n, "router", settings=listening_at(f"127.0.0.{n}")) for n in (2, 3)]
        network = await sockets.join(1, "orchestrator", settings=listening_at("0.0.0.0", *others))
        await until(network, "public", "works")
    assert network.status().reachability == "public"
    assert len(network.addresses()) == 1


async def test_a_machine_that_nobody_can_dial_says_why_and_takes_relays(
    sockets: SocketMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise DialFailed("connection refused")

    monkeypatch.setattr("cactus_mesh.net.swarm.MeshSwarm.probe", refuse)
    with trio.fail_after(PATIENCE_SECONDS):
        relay = await sockets.join(2, "relay", settings=listening_at("127.0.0.2", serve_relay=True))
        network = await sockets.join(1, "orchestrator", settings=listening_at("127.0.0.9", relay))
        failed = await until(network, "public", "failed")
        await until(network, "relayed", "works")
    assert failed.detail.endswith("connection refused")
    assert network.status().reachability == "private"
    assert network.status().relays == (relay.peer_id,)
    assert all("/p2p-circuit/" in address for address in network.addresses())


async def test_reservations_are_given_up_a_while_after_they_were_needed(
    sockets: SocketMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cactus_mesh.net.relayed.KEEP_SECONDS", 0.1)
    needed = True
    monkeypatch.setattr("cactus_mesh.net.reachability.Reachability.wants_relays", property(lambda self: needed))
    with trio.fail_after(PATIENCE_SECONDS):
        relay = await sockets.join(2, "relay", settings=listening(serve_relay=True))
        network = await sockets.join(1, "orchestrator")
        while network.status().relays != (relay.peer_id,):  # noqa: ASYNC110 - the status says so
            await trio.sleep(0.01)
        needed = False
        network._running.connections.announce_change()
        while network.status().relays:  # noqa: ASYNC110 - the status says so
            await trio.sleep(0.01)
    assert not any("p2p-circuit" in address for address in network.addresses())


# --- relays --------------------------------------------------------------------------------------------------------


async def test_a_relay_is_found_through_the_dht_and_another_when_it_dies(
    sockets: SocketMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cactus_mesh.net.relayed.RESERVATIONS", 1)
    with trio.fail_after(PATIENCE_SECONDS):
        bootstrap = await sockets.join(0, "bootstrap")
        relays = {}
        for number in (2, 3):
            relay = await sockets.join(
                number, "relay", settings=listening(serve_relay=True, bootstrap=tuple(bootstrap.addresses()))
            )
            await relay.provide("role/relay")
            relays[relay.peer_id] = relay
        settings = NetworkSettings(listen=(), bootstrap=tuple(bootstrap.addresses()), relays="always")
        hidden = await sockets.join(1, "orchestrator", settings=settings)
        while not hidden.status().relays:  # noqa: ASYNC110 - the status says so
            await trio.sleep(0.01)
        (first,) = hidden.status().relays
        await sockets.kill(relays.pop(first))
        while hidden.status().relays != tuple(relays):  # noqa: ASYNC110 - the status says so
            await trio.sleep(0.01)


async def test_a_stranger_reaches_a_private_peer_that_has_moved_to_another_relay(sockets: SocketMesh) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        bootstrap = await sockets.join(0, "bootstrap")
        ways = tuple(bootstrap.addresses())
        relay = await sockets.join(2, "relay", settings=listening(serve_relay=True, bootstrap=ways))
        await relay.provide("role/relay")
        settings = NetworkSettings(listen=(), bootstrap=ways, relays="always")
        hidden = await sockets.join(1, "router", settings=settings)
        stranger = await sockets.join(3, "client", settings=NetworkSettings(listen=(), bootstrap=ways, relays="never"))
        gone = f"/ip4/127.0.0.1/tcp/1/p2p/{relay.peer_id}/p2p-circuit"
        while not hidden.status().relays:  # noqa: ASYNC110 - the status says so
            await trio.sleep(0.01)
        found = None
        while found is None:  # its new record is on its way
            with suppress(PeerUnreachable):
                found = await stranger.connect(hidden.peer_id, [gone])
    assert found.relayed
    assert found.relay == relay.peer_id


# --- hostile peers -------------------------------------------------------------------------------------------------


async def asked(peer: MeshNetwork, other: MeshNetwork, *endpoints: str) -> bytes:
    return await peer.ask(other.peer_id, dialback.METHOD, dialback._encode(list(endpoints)))


async def test_nobody_is_dialled_back_at_somebody_elses_address(sockets: SocketMesh) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        helper = await sockets.join(2, "router", settings=listening_at("127.0.0.2"))
        asker = await sockets.join(1, "router", settings=listening_at("127.0.0.9", helper))
        for wanted in ("/ip4/127.0.0.3/tcp/22", "/dns4/localhost/tcp/22", "nonsense", "/ip4/0.0.0.0/tcp/1"):
            with pytest.raises(ProtocolViolation, match="where the asker is not"):
                await asked(asker, helper, wanted)
        with pytest.raises(ProtocolViolation, match="malformed"):
            await asked(asker, helper, *["/ip4/127.0.0.9/tcp/1"] * 9)


async def test_whoever_asks_too_often_is_told_to_ask_others(sockets: SocketMesh) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        helper = await sockets.join(2, "router", settings=listening_at("127.0.0.2"))
        asker = await sockets.join(1, "router", settings=listening_at("127.0.0.9", helper))
        with pytest.raises(Busy, match="often enough"):
            await asked_for_ever(asker, helper)


async def asked_for_ever(asker: MeshNetwork, helper: MeshNetwork) -> None:
    while True:
        await asked(asker, helper, "/ip4/127.0.0.9/tcp/1")


async def test_another_peers_listener_is_not_ours(sockets: SocketMesh) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        helper = await sockets.join(2, "router", settings=listening_at("127.0.0.2"))
        victim = await sockets.join(3, "router", settings=listening_at("127.0.0.9"))
        asker = await sockets.join(1, "router", settings=listening_at("127.0.0.9", helper))
        answer = await asked(asker, helper, parse_address(victim.addresses()[0]).endpoint)
    (result,) = dialback._results.decode(answer)
    assert (result.reached, result.why) == (False, "another peer answers there")


async def test_a_liar_among_the_witnesses_does_not_move_us(sockets: SocketMesh) -> None:
    lie = Endpoint("127.66.66.66", 6)
    with trio.fail_after(PATIENCE_SECONDS):
        others = [await sockets.join(n, "router", settings=listening_at(f"127.0.0.{n}")) for n in (2, 3, 4)]
        network = await sockets.join(1, "orchestrator", settings=listening_at("127.0.0.9", *others))
        await until(network, "public", "works")
        while network.status().nat != "none":  # noqa: ASYNC110 - the status says so
            await trio.sleep(0.01)
        liar = others[0]._running.connections.best(network.peer_id)
        liar.session.machine.tell(About([], dht=False, relay=False, observed=str(lie)))
        liar.session.flush()
        while str(lie) not in network.status().observed:  # noqa: ASYNC110 - it has heard the lie
            await trio.sleep(0.01)
    assert network.status().nat == "none"
    assert lie not in network._running.reachability._candidates()
    assert all(lie.host not in address for address in network.addresses())


async def test_what_does_not_carry_between_two_peers_is_neither_told_nor_believed(sockets: SocketMesh) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        one = await sockets.join(1, "router", settings=listening_at("127.0.0.2", announce=("/ip4/10.9.9.9/tcp/1",)))
        other = await sockets.join(2, "router", settings=listening_at("127.0.0.3"))
        await other.connect(one.peer_id, [one._running.machine.bound()[0].endpoint])
        (conn,) = other._running.connections.of(one.peer_id)
        while conn.about is None:  # noqa: ASYNC110 - it comes right after the hello
            await trio.sleep(0.01)
        assert "/ip4/10.9.9.9/tcp/1" in other._shared.book.addresses(one.peer_id)
        conn.about = None
        other._running.connections.told(conn, About(["/ip4/10.9.9.9/tcp/2"] * 16, False, False, ""))
    assert "/ip4/10.9.9.9/tcp/1" not in other._shared.book.addresses(one.peer_id)


async def test_a_told_address_of_a_lan_is_left_out_by_those_who_are_in_a_wider_network(sockets: SocketMesh) -> None:
    outside = f"/ip4/203.0.113.7/tcp/1/p2p/{identity(9).peer_id}"
    told = ["/ip4/192.168.1.2/tcp/1", "/ip4/127.0.0.1/tcp/1", "/ip4/203.0.113.8/tcp/1", "nonsense"]
    peer = identity(5).peer_id
    wide = await sockets.join(1, "router", settings=listening(listen=(), bootstrap=(outside,)))
    assert wide._running.believable(told, peer) == told[2:3]
    with trio.fail_after(PATIENCE_SECONDS):
        near = await sockets.join(2, "router", settings=listening())
        neighbour = await sockets.join(3, "router", settings=listening())
        assert near._running.believable(told, peer) == told[:3]
        await near.connect(neighbour.peer_id, neighbour.addresses(), hearsay=True)
