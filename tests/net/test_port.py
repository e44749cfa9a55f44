"""What every `Network` does, the fake as the real one: this suite runs against both."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

import pytest
import trio

from cactus_mesh.errors import (
    Busy,
    MessageTooLarge,
    NoFunds,
    PeerFailed,
    PeerLost,
    PeerUnreachable,
    ProtocolViolation,
    UnknownMethod,
)
from cactus_mesh.messages import MAX_MESSAGE_BYTES
from tests.net.peers import identity

if TYPE_CHECKING:
    from cactus_mesh.ports import Call, Network
    from tests.net.peers import Mesh

PATIENCE_SECONDS = 20


@pytest.fixture
async def pair(mesh: Mesh) -> tuple[Network, Network]:
    """A client and a server, connected."""
    server = await mesh.join(1, "orchestrator", "router")
    client = await mesh.join(2, "client")
    await client.connect(server.peer_id, server.addresses())
    return client, server


async def echo(call: Call) -> None:
    await call.send(call.payload)


async def test_ask_returns_the_one_item_of_the_reply(pair: tuple[Network, Network]) -> None:
    client, server = pair
    server.serve("echo", echo, at_once=4)
    assert await client.ask(server.peer_id, "echo", b"hello") == b"hello"
    assert await client.ask(server.peer_id, "echo", b"") == b""


async def test_a_call_runs_the_other_way_over_the_same_connection(pair: tuple[Network, Network]) -> None:
    client, server = pair
    client.serve("echo", echo, at_once=4)
    assert await server.ask(client.peer_id, "echo", b"hello") == b"hello"


async def test_a_handler_knows_who_calls(pair: tuple[Network, Network]) -> None:
    client, server = pair
    callers = []

    async def note(call: Call) -> None:
        callers.append((call.peer, call.public_key))
        await call.send(b"")

    server.serve("note", note, at_once=1)
    await client.ask(server.peer_id, "note", b"")
    assert callers == [(client.peer_id, identity(2).public_key)]


async def test_items_arrive_in_order_and_the_reply_ends(pair: tuple[Network, Network]) -> None:
    client, server = pair

    async def thousand(call: Call) -> None:
        for number in range(1000):
            await call.send(b"%d" % number)

    server.serve("thousand", thousand, at_once=1)
    async with client.call(server.peer_id, "thousand", b"") as reply:
        assert [int(item) async for item in reply] == list(range(1000))


@pytest.mark.parametrize("items", [0, 2])
async def test_ask_refuses_a_reply_of_another_number_of_items(pair: tuple[Network, Network], items: int) -> None:
    client, server = pair

    async def several(call: Call) -> None:
        for _ in range(items):
            await call.send(b"item")

    server.serve("several", several, at_once=1)
    with pytest.raises(ProtocolViolation, match=f"{items} items"):
        await client.ask(server.peer_id, "several", b"")


async def test_a_mesh_error_of_the_handler_comes_back_as_itself(pair: tuple[Network, Network]) -> None:
    client, server = pair

    async def poor(call: Call) -> None:
        await call.send(b"first")
        raise NoFunds("deposit at least 5 octas")

    server.serve("poor", poor, at_once=1)
    async with client.call(server.peer_id, "poor", b"") as reply:
        items = aiter(reply)
        assert await anext(items) == b"first"
        with pytest.raises(NoFunds, match="deposit at least 5 octas"):
            await anext(items)


async def test_any_other_exception_stays_at_the_server(pair: tuple[Network, Network]) -> None:
    client, server = pair

    async def broken(call: Call) -> None:
        raise KeyError("the secret path")

    server.serve("broken", broken, at_once=1)
    with pytest.raises(PeerFailed) as caught:
        await client.ask(server.peer_id, "broken", b"")
    assert "secret" not in str(caught.value)


async def test_an_unknown_method_is_named(pair: tuple[Network, Network]) -> None:
    client, server = pair
    with pytest.raises(UnknownMethod, match="'nonsense'"):
        await client.ask(server.peer_id, "nonsense", b"")


async def test_calls_beyond_the_bound_are_refused_as_busy(pair: tuple[Network, Network]) -> None:
    client, server = pair
    running, done = trio.Event(), trio.Event()

    async def slow(call: Call) -> None:
        running.set()
        await done.wait()
        await call.send(b"done")

    server.serve("slow", slow, at_once=1)
    async with client.call(server.peer_id, "slow", b"") as first:
        with trio.fail_after(PATIENCE_SECONDS):
            await running.wait()
            with pytest.raises(Busy, match="'slow'"):
                await client.ask(server.peer_id, "slow", b"")
            done.set()
            assert [item async for item in first] == [b"done"]
            assert await client.ask(server.peer_id, "slow", b"") == b"done"


async def test_leaving_a_call_cancels_its_handler(pair: tuple[Network, Network]) -> None:
    client, server = pair
    running, cancelled = trio.Event(), trio.Event()

    async def endless(call: Call) -> None:
        running.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    server.serve("endless", endless, at_once=1)
    with trio.fail_after(PATIENCE_SECONDS):
        async with client.call(server.peer_id, "endless", b""):
            await running.wait()
        await cancelled.wait()


async def test_a_callers_deadline_cancels_the_handler(pair: tuple[Network, Network]) -> None:
    client, server = pair
    started, cancelled = trio.Event(), trio.Event()

    async def endless(call: Call) -> None:
        started.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    server.serve("endless", endless, at_once=1)
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.ask, server.peer_id, "endless", b"")
            await started.wait()
            nursery.cancel_scope.cancel()
        await cancelled.wait()


async def test_a_handler_waits_for_a_caller_that_does_not_read(pair: tuple[Network, Network]) -> None:
    client, server = pair
    server.serve("echo", echo, at_once=1)
    sent: list[int] = []

    async def flood(call: Call) -> None:
        for number in count():
            await call.send(bytes(10_000))
            sent.append(number)

    server.serve("flood", flood, at_once=1)
    async with client.call(server.peer_id, "flood", b"") as reply:
        before = -1
        while before != len(sent):
            before = len(sent)
            for _ in range(20):
                await client.ask(server.peer_id, "echo", b"other calls go on")
        assert before < 1_000
        async for _ in reply:
            if len(sent) > before:
                break


async def test_the_largest_message_passes_and_a_larger_one_is_refused_here(pair: tuple[Network, Network]) -> None:
    client, server = pair
    server.serve("echo", echo, at_once=1)
    largest = bytes(MAX_MESSAGE_BYTES)
    assert await client.ask(server.peer_id, "echo", largest) == largest
    with pytest.raises(MessageTooLarge):
        await client.ask(server.peer_id, "echo", largest + b"x")


async def test_a_reply_item_that_is_too_large_is_refused_at_the_server(pair: tuple[Network, Network]) -> None:
    client, server = pair

    async def too_large(call: Call) -> None:
        await call.send(bytes(MAX_MESSAGE_BYTES + 1))

    server.serve("too large", too_large, at_once=1)
    with pytest.raises(MessageTooLarge):
        await client.ask(server.peer_id, "too large", b"")


async def test_a_server_that_dies_mid_reply_is_lost(mesh: Mesh, pair: tuple[Network, Network]) -> None:
    client, server = pair

    async def first_then_nothing(call: Call) -> None:
        await call.send(b"first")
        await trio.sleep_forever()

    server.serve("stall", first_then_nothing, at_once=1)
    async with client.call(server.peer_id, "stall", b"") as reply:
        items = aiter(reply)
        assert await anext(items) == b"first"
        await mesh.kill(server)
        with trio.fail_after(PATIENCE_SECONDS), pytest.raises(PeerLost, match=server.peer_id):
            await anext(items)


async def test_a_caller_that_dies_cancels_its_handlers(mesh: Mesh, pair: tuple[Network, Network]) -> None:
    client, server = pair
    running, cancelled = trio.Event(), trio.Event()

    async def endless(call: Call) -> None:
        running.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async def call_and_die() -> None:
        with pytest.raises(PeerLost):
            await client.ask(server.peer_id, "endless", b"")

    server.serve("endless", endless, at_once=1)
    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call_and_die)
            await running.wait()
            await mesh.kill(client)
            await cancelled.wait()


async def test_a_peer_that_nobody_answers_for_is_unreachable(mesh: Mesh, pair: tuple[Network, Network]) -> None:
    client, server = pair
    await mesh.kill(server)
    with trio.fail_after(PATIENCE_SECONDS), pytest.raises(PeerUnreachable, match=server.peer_id):
        await client.ask(server.peer_id, "echo", b"")


async def test_a_peer_does_not_dial_itself(pair: tuple[Network, Network]) -> None:
    client, _ = pair
    with pytest.raises(PeerUnreachable, match="this peer itself"):
        await client.connect(client.peer_id, client.addresses())


async def test_connect_tells_what_the_hello_said(pair: tuple[Network, Network]) -> None:
    client, server = pair
    seen = await client.connect(server.peer_id)
    assert seen.peer == server.peer_id
    assert seen.public_key == identity(1).public_key
    assert seen.roles == ("orchestrator", "router")
    assert [peer.peer for peer in client.peers()] == [server.peer_id]


async def test_both_ends_watch_a_connection_being_made(mesh: Mesh) -> None:
    one, other = await mesh.join(1, "router"), await mesh.join(2, "client")
    with trio.fail_after(PATIENCE_SECONDS):
        async with one.watch() as at_one, other.watch() as at_other:
            await other.connect(one.peer_id, one.addresses())
            assert (await at_one.receive()).roles == ("client",)
            assert (await at_other.receive()).roles == ("router",)


async def test_a_lost_peer_is_no_longer_listed(mesh: Mesh, pair: tuple[Network, Network]) -> None:
    client, server = pair
    await mesh.kill(server)
    with trio.fail_after(PATIENCE_SECONDS):
        while client.peers():  # noqa: ASYNC110 - the port tells of arrivals only
            await trio.sleep(0.01)


async def test_a_provider_is_found_by_its_key(mesh: Mesh, pair: tuple[Network, Network]) -> None:
    client, server = pair
    await server.provide("role/router")
    with trio.fail_after(PATIENCE_SECONDS):
        while await client.providers("role/router") != [server.peer_id]:  # noqa: ASYNC110 - a DHT tells nobody
            await trio.sleep(0.1)
    assert await client.providers("role/relay") == []


async def test_gossip_reaches_subscribers_and_not_its_publisher(pair: tuple[Network, Network]) -> None:
    client, server = pair
    with trio.fail_after(PATIENCE_SECONDS):
        async with client.subscribe("t", accept) as at_client, server.subscribe("t", accept) as at_server:
            await publish_until_heard(server, at_client, b"news")
            await publish_until_heard(client, at_server, b"answer")
            assert all(gossip.data == b"answer" for gossip in drain(at_server))


async def test_only_what_the_validator_accepts_is_delivered(pair: tuple[Network, Network]) -> None:
    client, server = pair
    with trio.fail_after(PATIENCE_SECONDS):
        async with client.subscribe("t", lambda data: "accept" if data == b"good" else "ignore") as channel:
            await server.publish("t", b"bad")
            await publish_until_heard(server, channel, b"good")
            await server.publish("t", b"bad")
            await server.publish("t", b"good")
            assert all(gossip.data == b"good" for gossip in drain(channel))


async def test_gossip_that_is_too_large_is_refused_here(pair: tuple[Network, Network]) -> None:
    client, _ = pair
    with pytest.raises(MessageTooLarge):
        await client.publish("t", bytes(65_537))


def accept(_data: bytes) -> str:
    return "accept"


async def publish_until_heard(publisher: Network, channel: trio.MemoryReceiveChannel, data: bytes) -> None:
    """A gossip mesh needs a moment to form; messages before that are lost by design."""
    while True:
        await publisher.publish("t", data)
        with trio.move_on_after(0.3):
            while (await channel.receive()).data != data:
                pass
            return


def drain(channel: trio.MemoryReceiveChannel) -> list:
    found = []
    try:
        while True:
            found.append(channel.receive_nowait())
    except trio.WouldBlock:
        return found
