from __future__ import annotations

import socket
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from cactus_mesh.errors import Busy, ProtocolViolation
from cactus_mesh.net import punch
from cactus_mesh.net.addresses import Address, Scope, parse_address
from cactus_mesh.net.connections import is_relayed
from cactus_mesh.net.punch import METHOD, Offer, Puncher, PunchFailed, View, hopeless, offer_of, read_offer, targets
from cactus_mesh.net.sockets import accept_forever, can_share_port, listen_on
from cactus_mesh.net.upgrades import Upgrades
from tests.net.peers import PATIENCE_SECONDS
from tests.net.test_relay import hidden_behind, relay_at

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from cactus_mesh.net.conn import MeshConn
    from cactus_mesh.net.network import MeshNetwork
    from cactus_mesh.ports import Call
    from tests.net.peers import SocketMesh

HERE = "/ip4/11.0.0.1/tcp/4001"
THERE = "/ip4/11.0.0.2/tcp/4001"
CONE = View("endpoint-independent", (HERE,))
SYMMETRIC = View("symmetric", (HERE,))

pytestmark = pytest.mark.skipif(not can_share_port(), reason="this system does not let two sockets share a port")


@pytest.fixture(autouse=True)
def nobody_else_punches(monkeypatch: pytest.MonkeyPatch) -> None:
    """These peers would get a direct connection by themselves."""

    async def keep(_: Upgrades) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(Upgrades, "keep", keep)


# --- deciding --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "theirs", "reason"),
    [
        (CONE, CONE, None),
        (View("none", (HERE,)), CONE, None),
        (View("unknown", (HERE,)), CONE, None),
        (CONE, SYMMETRIC, "its NAT is symmetric: each destination sees another port"),
        (SYMMETRIC, CONE, "this machine's NAT is symmetric: each destination sees another port"),
        (SYMMETRIC, SYMMETRIC, "so is the other's"),
        (SYMMETRIC, View("none", (THERE,), open=True), None),
        (View("symmetric", (HERE,), open=True), CONE, None),
        (View("unknown", ()), CONE, "this machine does not know yet how others see it"),
        (CONE, View("unknown", ()), "it does not know yet how others see it"),
        (CONE, View("unknown", (), open=True), "it does not know yet how others see it"),
    ],
)
def test_a_hole_is_tried_only_where_one_may_do(own: View, theirs: View, reason: str | None) -> None:
    found = hopeless(own, offer_of(theirs))
    assert found is None if reason is None else found is not None and reason in found


def test_an_offer_is_bounded_and_names_no_port_of_a_symmetric_nat() -> None:
    assert offer_of(View("none", (HERE, THERE, HERE, THERE))).endpoints == [HERE, THERE]
    assert offer_of(SYMMETRIC).endpoints == []
    assert offer_of(View("symmetric", (HERE,), open=True)).endpoints == [HERE]


@pytest.mark.parametrize(
    "endpoint",
    [
        "/ip4/192.168.1.5/tcp/4001",
        "/ip4/127.0.0.1/tcp/4001",
        "/ip4/100.64.0.9/tcp/4001",
        "/ip4/224.0.0.1/tcp/4001",
        "/ip4/0.0.0.0/tcp/4001",
        "/ip6/fe80::1/tcp/4001",
        "/ip6/::ffff:10.0.0.1/tcp/4001",
        "/ip4/11.0.0.2/tcp/25",
        "/ip4/11.0.0.2/tcp/0",
        "/dns/example.org/tcp/4001",
        HERE,
        "garbage",
    ],
)
def test_what_a_peer_has_no_business_to_name_is_not_dialled(endpoint: str) -> None:
    assert targets([endpoint], CONE, Scope.GLOBAL) == []
    assert targets([endpoint], CONE, Scope.LOOPBACK) == [], "we are seen in public, so nothing else is dialled"


def test_at_most_two_public_endpoints_are_dialled() -> None:
    offered = [THERE, THERE, "/ip6/2a00::2/tcp/4001", "/ip4/11.0.0.3/tcp/4001", "/ip4/11.0.0.4/tcp/4001"]
    assert [address.endpoint for address in targets(offered, CONE, Scope.GLOBAL)] == [THERE, "/ip6/2a00::2/tcp/4001"]


def test_in_a_network_that_is_private_altogether_private_endpoints_are_dialled() -> None:
    private = View("none", ("/ip4/10.0.0.7/tcp/4001",))
    offered = ["/ip4/10.0.0.9/tcp/4001", "/ip4/127.0.0.1/tcp/4001"]
    assert [address.endpoint for address in targets(offered, private, Scope.PRIVATE)] == offered[:1]
    assert targets(offered, private, Scope.GLOBAL) == []


@given(st.binary(max_size=200) | st.lists(st.integers(0, 9) | st.text() | st.booleans()).map(msgspec.msgpack.encode))
def test_an_offer_is_read_or_refused(data: bytes) -> None:
    try:
        offer = read_offer(data)
    except ProtocolViolation:
        return
    assert len(offer.endpoints) <= 2


# --- punching, over a relay on the loopback --------------------------------------------------------------------------


@dataclass
class Side:
    network: MeshNetwork
    puncher: Puncher
    conn: MeshConn
    outcomes: list[str | None]
    view: View


@dataclass
class Pair:
    """Two peers that a relay connects; *dialled* is the side that asks."""

    dialler: Side
    dialled: Side
    relay: MeshNetwork
    ports: list[socket.socket] = field(default_factory=list)


def relayed(network: MeshNetwork, other: MeshNetwork) -> MeshConn | None:
    conns = network._running.connections.all()
    return next((conn for conn in conns if conn.session.peer == other.peer_id and is_relayed(conn)), None)


def side(network: MeshNetwork, conn: MeshConn) -> Side:
    outcomes: list[str | None] = []
    running = network._running

    def view() -> View:
        return made.view

    puncher = Puncher(running.swarm, running.connections, view, lambda peer, reason: outcomes.append(reason))
    made = Side(network, puncher, conn, outcomes, View("unknown", ()))
    methods = network._shared.methods
    methods._methods.pop(METHOD, None)
    punch.serve_punching(methods, lambda: puncher)
    return made


@asynccontextmanager
async def open_pair(sockets: SocketMesh) -> AsyncIterator[Pair]:
    """Neither side listens: that is added by `opened`, so that no address is told to anybody."""
    with trio.fail_after(PATIENCE_SECONDS):
        relay = await relay_at(sockets, 1)
        dialled = await hidden_behind(sockets, relay, number=5)
        dialler = await hidden_behind(sockets, relay, number=6)
        await dialler.connect(dialled.peer_id, dialled.addresses())
        while (back := relayed(dialled, dialler)) is None:  # noqa: ASYNC110 - its hello is on its way
            await trio.sleep(0.01)
        there = relayed(dialler, dialled)
        assert there is not None
        yield Pair(side(dialler, there), side(dialled, back), relay)


@asynccontextmanager
async def opened(*sides: Side, accepting: bool = True) -> AsyncIterator[None]:
    """Ports to dial from, which others see as they are."""
    async with trio.open_nursery() as nursery:
        for one in sides:
            swarm = one.network._running.swarm
            listener = listen_on(Address("ip4", "127.0.0.1", 0))
            swarm.bound.append(listener)
            one.view = View("none", (f"/ip4/127.0.0.1/tcp/{listener.getsockname()[1]}",))
            if accepting:
                nursery.start_soon(accept_forever, listener, swarm._accept)
        yield
        nursery.cancel_scope.cancel()


async def test_two_peers_get_a_direct_connection_and_the_relayed_one_goes_on(sockets: SocketMesh) -> None:
    async with open_pair(sockets) as pair, opened(pair.dialler, pair.dialled):
        relayed_call = await pair.dialled.conn.session.open("echo", b"before")
        direct = await pair.dialled.puncher.punch(pair.dialled.conn)
        assert not is_relayed(direct)
        assert direct.session.peer == pair.dialler.network.peer_id
        assert pair.dialled.network._running.connections.best(pair.dialler.network.peer_id) is direct
        assert await relayed_call.only("echo") == b"before"
        while not pair.dialler.outcomes:  # noqa: ASYNC110 - it ends its side
            await trio.sleep(0.01)
        assert pair.dialler.outcomes == pair.dialled.outcomes == [None]
        assert not pair.dialled.conn.over.is_set()


async def test_one_side_that_can_be_dialled_is_enough(sockets: SocketMesh) -> None:
    async with open_pair(sockets) as pair, opened(pair.dialler):
        pair.dialler.view = View("none", pair.dialler.view.endpoints, open=True)
        pair.dialled.view = View("symmetric", ())
        assert not is_relayed(await pair.dialled.puncher.punch(pair.dialled.conn))


async def test_both_sides_may_ask_at_once(sockets: SocketMesh) -> None:
    async with open_pair(sockets) as pair, opened(pair.dialler, pair.dialled):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pair.dialled.puncher.punch, pair.dialled.conn)
            nursery.start_soon(pair.dialler.puncher.punch, pair.dialler.conn)
        for one, other in ((pair.dialled, pair.dialler), (pair.dialler, pair.dialled)):
            best = one.network._running.connections.best(other.network.peer_id)
            assert best is not None
            assert not is_relayed(best)


@pytest.mark.parametrize("who", ["dialler", "dialled"])
async def test_a_symmetric_nat_is_named_at_once_and_the_relay_goes_on(sockets: SocketMesh, who: str) -> None:
    async with open_pair(sockets) as pair, opened(pair.dialler, pair.dialled):
        getattr(pair, who).view = SYMMETRIC
        with trio.fail_after(1), pytest.raises(PunchFailed, match="symmetric: each destination sees another port"):
            await pair.dialled.puncher.punch(pair.dialled.conn)
        assert await pair.dialler.network.ask(pair.dialled.network.peer_id, "echo", b"still") == b"still"
        assert "symmetric" in str(pair.dialled.outcomes[0])


async def test_where_nothing_answers_the_tries_end_and_say_so(
    sockets: SocketMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(punch, "PUNCH_SECONDS", 0.3)
    monkeypatch.setattr(punch, "TRY_PAUSE_SECONDS", 0.01)
    async with open_pair(sockets) as pair, opened(pair.dialler, pair.dialled):
        with closing(socket.create_server(("127.0.0.1", 0))) as gone:
            nowhere = View("none", (f"/ip4/127.0.0.1/tcp/{gone.getsockname()[1]}",))
        pair.dialler.view = pair.dialled.view = nowhere
        with pytest.raises(PunchFailed, match=r"no endpoint that can be dialled"):
            await pair.dialled.puncher.punch(pair.dialled.conn)
        pair.dialled.view = View("none", ("/ip4/127.0.0.1/tcp/65000",))
        with pytest.raises(PunchFailed, match=rf"{nowhere.endpoints[0]}: connection refused"):
            await pair.dialled.puncher.punch(pair.dialled.conn)
        assert await pair.dialler.network.ask(pair.dialled.network.peer_id, "echo", b"still") == b"still"


async def test_somebody_else_at_the_endpoint_is_not_taken_for_the_peer(
    sockets: SocketMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(punch, "PUNCH_SECONDS", 0.5)
    monkeypatch.setattr(punch, "TRIES", 1)
    async with open_pair(sockets) as pair, opened(pair.dialled):
        stranger = parse_address(pair.relay.addresses()[0]).endpoint
        pair.dialler.view = View("none", (stranger,))
        with pytest.raises(PunchFailed, match="another peer answers there"):
            await pair.dialled.puncher.punch(pair.dialled.conn)


# --- being asked by the hostile --------------------------------------------------------------------------------------


async def ask(one: Side, payload: bytes) -> bytes:
    reply = await one.conn.session.open(METHOD, payload)
    try:
        return await anext(reply)
    finally:
        reply.leave()


def encoded(*endpoints: str) -> bytes:
    return msgspec.msgpack.encode(Offer(list(endpoints), "none", False))


async def test_a_peer_that_asks_without_end_is_refused(sockets: SocketMesh) -> None:
    async with open_pair(sockets) as pair, opened(pair.dialler):
        for _ in range(punch.REQUESTS):
            assert read_offer(await ask(pair.dialled, encoded())).endpoints
        with pytest.raises(Busy, match="often enough"):
            await ask(pair.dialled, encoded())


async def test_a_malformed_request_is_named(sockets: SocketMesh) -> None:
    async with open_pair(sockets) as pair:
        too_many = msgspec.msgpack.encode((["/ip4/11.0.0.1/tcp/4001"] * 3, "none", False))
        for payload in (b"", b"\xff", too_many, encoded("x" * 65)):
            with pytest.raises(ProtocolViolation):
                await ask(pair.dialled, payload)


async def test_without_a_relay_between_them_nobody_is_dialled(sockets: SocketMesh) -> None:
    async with open_pair(sockets) as pair, opened(pair.dialler):
        relay = pair.dialler.network._running.connections.best(pair.relay.peer_id)
        asker = Side(pair.relay, pair.dialler.puncher, relay, [], CONE)
        back = next(iter(pair.relay._running.connections.of(pair.dialler.network.peer_id)))
        asker.conn = back
        with pytest.raises(ProtocolViolation, match="without a relay"):
            await ask(asker, encoded(THERE))


async def test_how_often_a_request_makes_us_dial_is_bounded(
    sockets: SocketMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialled: list[tuple[object, ...]] = []

    async def count(local: object, family: int, endpoint: tuple[object, ...], *, hops: int | None) -> socket.socket:
        dialled.append(endpoint)
        await trio.lowlevel.checkpoint()
        raise ConnectionRefusedError

    monkeypatch.setattr(punch, "connect_from", count)
    monkeypatch.setattr(punch, "PUNCH_SECONDS", 0.5)
    monkeypatch.setattr(punch, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(punch, "HOLD_SECONDS", 0.0)
    async with open_pair(sockets) as pair, opened(pair.dialler):
        request = encoded("/ip4/127.0.0.1/tcp/5001", "/ip4/127.0.0.1/tcp/5002")
        reply = await pair.dialled.conn.session.open(METHOD, request)
        assert len([item async for item in reply]) == 1
        assert len(dialled) == punch.MAX_CONNECTS
        assert len(set(dialled)) == 2


async def test_a_peer_that_never_answers_holds_nobody_up(sockets: SocketMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    async def silent(call: Call) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(punch, "EXCHANGE_SECONDS", 0.1)
    monkeypatch.setattr(punch, "TRY_PAUSE_SECONDS", 0.01)
    async with open_pair(sockets) as pair, opened(pair.dialled):
        pair.dialler.network._shared.methods._methods[METHOD].handler = silent
        with pytest.raises(PunchFailed, match="does not answer through the relay"):
            await pair.dialled.puncher.punch(pair.dialled.conn)
