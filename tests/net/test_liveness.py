from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from cactus_mesh.errors import PeerLost
from cactus_mesh.net import connections
from cactus_mesh.net.connections import PING_SECONDS, SILENCE_SECONDS

if TYPE_CHECKING:
    from tests.net.peers import SocketMesh

SERVER = """
import trio
from cactus_mesh.net import open_network
from tests.net.peers import hello, identity, listening

async def stall(call):
    await call.send(b"first")
    await trio.sleep_forever()

async def main():
    async with open_network(identity(1), listening(), hello("router")) as network:
        network.serve("stall", stall, at_once=1)
        print(network.addresses()[0], flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


def test_a_stopped_process_is_found_within_twenty_seconds_by_these_numbers() -> None:
    rounds = PING_SECONDS  # pings are sent, and silence is looked at, once a round
    assert rounds + SILENCE_SECONDS + rounds < 20


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot stop a process by a signal")
async def test_a_stopped_process_is_found_and_its_calls_are_lost(
    sockets: SocketMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "PING_SECONDS", 0.2)
    monkeypatch.setattr(connections, "SILENCE_SECONDS", 0.5)
    client = await sockets.join(2, "client")
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True, cwd=root) as server:  # noqa: ASYNC220
        try:
            address = await trio.to_thread.run_sync(server.stdout.readline)
            peer = (await client.connect(address.strip().rpartition("/")[2], [address.strip()])).peer
            async with client.call(peer, "stall", b"") as reply:
                items = aiter(reply)
                assert await anext(items) == b"first"
                os.kill(server.pid, signal.SIGSTOP)
                with trio.fail_after(10), pytest.raises(PeerLost):
                    await anext(items)
            assert client.peers() == []
        finally:
            server.kill()


async def test_a_round_trip_time_is_known_soon_after_connecting(sockets: SocketMesh) -> None:
    server, client = await sockets.join(1, "router"), await sockets.join(2, "client")
    await client.connect(server.peer_id, server.addresses())
    with trio.fail_after(5):
        while client.peers()[0].rtt_ms is None or server.peers()[0].rtt_ms is None:  # noqa: ASYNC110 - it is measured
            await trio.sleep(0.01)
    assert 0 < client.peers()[0].rtt_ms < 1_000


async def test_quiet_connections_stay(sockets: SocketMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "PING_SECONDS", 0.05)
    monkeypatch.setattr(connections, "SILENCE_SECONDS", 0.5)
    server, client = await sockets.join(1, "router"), await sockets.join(2, "client")
    since = (await client.connect(server.peer_id, server.addresses())).since
    for _ in range(10):
        async with client.watch() as arrivals:
            with trio.move_on_after(0.1):
                await arrivals.receive()
    assert [peer.since for peer in client.peers()] == [since]
