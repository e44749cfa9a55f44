from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from cactus_mesh.net import gossip, shared
from cactus_mesh.net.buckets import TokenBucket
from cactus_mesh.net.connections import is_relayed
from cactus_mesh.net.gossip import MAX_GOSSIP_BYTES
from tests.net.peers import PATIENCE_SECONDS, listening
from tests.net.test_relay import relay_at

if TYPE_CHECKING:
    from cactus_mesh.net.network import MeshNetwork
    from tests.net.peers import SocketMesh


def accept(_data: bytes) -> str:
    return "accept"


async def heard(publisher: MeshNetwork, channel: trio.MemoryReceiveChannel, data: bytes) -> None:
    while True:
        await publisher.publish("t", data)
        with trio.move_on_after(0.2):
            while (await channel.receive()).data != data:
                pass
            return


def test_a_bucket_allows_a_burst_and_then_its_rate() -> None:
    bucket = TokenBucket.full(2.0, 5.0, now=0.0)
    assert [bucket.take(0.0) for _ in range(6)] == [True] * 5 + [False]
    assert [bucket.take(1.0) for _ in range(3)] == [True, True, False]
    assert [bucket.take(100.0) for _ in range(6)] == [True] * 5 + [False]


async def test_gossip_passes_on_through_a_peer_between(sockets: SocketMesh) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        middle = await sockets.join(0, "bootstrap")
        one = await sockets.join(1, "client")
        other = await sockets.join(2, "client")
        for peer in (one, other):
            conn = peer._running.connections.best((other if peer is one else one).peer_id)
            if conn is not None:
                conn.end()
        async with middle.subscribe("t", accept), other.subscribe("t", accept) as channel:
            await heard(one, channel, b"news")


async def test_gossip_goes_on_when_a_relayed_connection_gives_way_to_a_direct_one(sockets: SocketMesh) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        relay = await relay_at(sockets, 1)
        reserved = listening(bootstrap=tuple(relay.addresses()), relays="always")
        orchestrator = await sockets.join(2, "orchestrator", settings=reserved)
        while not (circuits := [each for each in orchestrator.addresses() if "p2p-circuit" in each]):  # noqa: ASYNC110
            await trio.sleep(0.01)
        router = await sockets.join(3, "router", settings=listening())
        async with router.subscribe("t", accept) as channel:
            assert (await router.connect(orchestrator.peer_id, circuits)).relayed
            await heard(orchestrator, channel, b"through the relay")
            connections = router._running.connections
            while is_relayed(connections.best(orchestrator.peer_id)):
                await connections.next_change().wait()
            for conn in connections.of(orchestrator.peer_id):
                if is_relayed(conn):
                    conn.end()
            await heard(orchestrator, channel, b"directly")
            await heard(orchestrator, channel, b"and again")


async def test_what_a_peer_left_while_its_stream_was_broken_is_forgotten(sockets: SocketMesh) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        server, client = await sockets.join(1, "router"), await sockets.join(2, "client")
        await client.connect(server.peer_id, server.addresses())
        pubsub = client._running.gossip._pubsub
        async with server.subscribe("kept", accept) as channel:
            async with server.subscribe("left", accept):
                while not {"kept", "left"} <= set(pubsub.peer_topics):  # noqa: ASYNC110 - nobody is told
                    await trio.sleep(0.01)
                its_stream = server._running.gossip._pubsub.peers[pubsub.my_id]
                await its_stream.reset()
            while "left" in pubsub.peer_topics:  # noqa: ASYNC110
                await trio.sleep(0.01)
            await client.publish("kept", b"news")
            assert (await channel.receive()).data == b"news"


async def test_what_a_validator_ignores_is_not_passed_on(sockets: SocketMesh) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        server, client = await sockets.join(1, "router"), await sockets.join(2, "client")
        await client.connect(server.peer_id, server.addresses())
        seen: list[bytes] = []

        def judge(data: bytes) -> str:
            seen.append(data)
            return "ignore" if data == b"old" else "accept"

        async with server.subscribe("t", judge) as channel:
            await heard(client, channel, b"one")
            await client.publish("t", b"old")
            await heard(client, channel, b"two")
        assert b"old" in seen
        assert server.peers() != []


async def test_a_peer_that_keeps_sending_what_is_rejected_is_dropped(
    sockets: SocketMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gossip, "REJECTED_AT_ONCE", 3)
    with trio.fail_after(PATIENCE_SECONDS):
        server, client = await sockets.join(1, "router"), await sockets.join(2, "client")
        await client.connect(server.peer_id, server.addresses())
        async with server.subscribe("t", lambda data: "reject"):
            while server.peers():
                await client.publish("t", b"bad")
                await trio.sleep(0.02)


async def test_a_validator_that_fails_ignores_and_harms_nobody(sockets: SocketMesh) -> None:
    def broken(data: bytes) -> str:
        if data == b"break":
            raise KeyError("a bug in a validator")
        return "accept"

    with trio.fail_after(PATIENCE_SECONDS):
        server, client = await sockets.join(1, "router"), await sockets.join(2, "client")
        await client.connect(server.peer_id, server.addresses())
        async with server.subscribe("t", broken) as channel:
            await client.publish("t", b"break")
            await heard(client, channel, b"fine")
        assert server.status().restarts == 0


async def test_a_slow_reader_loses_the_newest_and_it_is_counted(
    sockets: SocketMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cactus_mesh.net.network.CHANNEL_ITEMS", 2)
    with trio.fail_after(PATIENCE_SECONDS):
        server, client = await sockets.join(1, "router"), await sockets.join(2, "client")
        await client.connect(server.peer_id, server.addresses())
        async with server.subscribe("t", accept) as channel:
            await heard(client, channel, b"first")
            while not server.status().dropped_gossip:
                await client.publish("t", b"more")
                await trio.sleep(0.02)
            assert (await channel.receive()).topic == "t"
    assert shared.CHANNEL_ITEMS > 2


async def test_the_largest_gossip_passes(sockets: SocketMesh) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        server, client = await sockets.join(1, "router"), await sockets.join(2, "client")
        await client.connect(server.peer_id, server.addresses())
        async with server.subscribe("t", accept) as channel:
            await heard(client, channel, bytes(MAX_GOSSIP_BYTES))


async def test_several_on_one_node_listen_to_a_topic(sockets: SocketMesh) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        server, client = await sockets.join(1, "router"), await sockets.join(2, "client")
        await client.connect(server.peer_id, server.addresses())
        async with server.subscribe("t", accept) as one:
            async with server.subscribe("t", lambda data: "ignore") as other:
                await heard(client, one, b"news")
                with pytest.raises(trio.WouldBlock):
                    other.receive_nowait()
            await heard(client, one, b"still here")


async def test_a_peer_that_restarts_is_heard_again_at_once(sockets: SocketMesh) -> None:
    """The library counts messages from the start time in seconds, so a restarted peer's look like repetitions."""
    with trio.fail_after(PATIENCE_SECONDS):
        server = await sockets.join(1, "router")
        async with server.subscribe("t", accept) as channel:
            for _ in range(2):
                client = await sockets.join(2, "client")
                await client.connect(server.peer_id, server.addresses())
                for number in range(3):
                    await heard(client, channel, b"%d" % number)
                await sockets.kill(client)


async def test_a_publisher_need_not_subscribe_and_nobody_need_listen(sockets: SocketMesh) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        alone = await sockets.join(1, "client")
        for _ in range(50):
            await alone.publish("t", b"nobody hears")
