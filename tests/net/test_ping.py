"""A ping is the round trip of this moment, over the connection that calls would use."""

from __future__ import annotations

import pytest
import trio

from cactus_mesh.errors import PeerLost, PeerUnreachable
from tests.net.peers import PATIENCE_SECONDS, identity


async def test_a_ping_dials_when_needed_and_measures_each_time(sockets):
    server = await sockets.join(1, "router")
    client = await sockets.join(2)
    with trio.fail_after(PATIENCE_SECONDS):
        first = await client.ping(server.peer_id)
        second = await client.ping(server.peer_id)
    assert first.peer == server.peer_id
    assert not first.relayed
    assert 0 < first.rtt_ms != second.rtt_ms > 0


async def test_many_who_ping_at_once_share_an_answer(sockets):
    server = await sockets.join(1, "router")
    client = await sockets.join(2)
    found = []

    async def ping() -> None:
        found.append(await client.ping(server.peer_id))

    with trio.fail_after(PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ping)
    assert len(found) == 5


async def test_a_peer_that_is_nowhere_cannot_be_pinged(sockets):
    client = await sockets.join(2)
    with trio.fail_after(PATIENCE_SECONDS), pytest.raises(PeerUnreachable, match="refused"):
        await client.ping(identity(9).peer_id, [f"/ip4/127.0.0.1/tcp/9/p2p/{identity(9).peer_id}"])


async def test_a_connection_that_ends_ends_the_wait_for_its_answer(sockets):
    server = await sockets.join(1, "router")
    client = await sockets.join(2)
    with trio.fail_after(PATIENCE_SECONDS):
        await client.connect(server.peer_id)
        conn = client._running.connections.best(server.peer_id)
        conn.session._pinged = (b"unanswered", trio.current_time())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sockets.kill, server)
            with pytest.raises(PeerLost):
                await conn.session.round_trip()
