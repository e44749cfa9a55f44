"""How a network ends."""

from __future__ import annotations

import trio

from tests.net.peers import PATIENCE_SECONDS


class Ear:
    """Hears of connections, as gossip does."""

    def __init__(self) -> None:
        self.told: list[object] = []

    async def connected(self, _network: object, conn: object) -> None:
        self.told.append(conn)

    async def disconnected(self, _network: object, conn: object) -> None:
        self.told.append(conn)


async def test_who_leaves_tells_nobody_of_its_own_who_may_have_left_already(sockets):
    server = await sockets.join(1, "router")
    client = await sockets.join(2)
    ear = Ear()
    with trio.fail_after(PATIENCE_SECONDS):
        await client.connect(server.peer_id)
        client._running.swarm.register_notifee(ear)
        await sockets.kill(client)
    assert ear.told == []
