"""Peers for tests: fixed identities, and meshes of a few peers, in memory or over sockets on the loopback."""

from __future__ import annotations

import hashlib
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import trio

from cactus_mesh.identity import Identity
from cactus_mesh.messages import Hello
from cactus_mesh.net import NetworkSettings, open_network

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from cactus_mesh.messages import Role
    from cactus_mesh.net.network import MeshNetwork
    from cactus_mesh.ports import Network
    from cactus_mesh.testing.network import FakeMesh, FakeNetwork

LOOPBACK = ("/ip4/127.0.0.1/tcp/0",)
PATIENCE_SECONDS = 20


def identity(number: int) -> Identity:
    return Identity.from_seed(hashlib.sha256(f"test peer {number}".encode()).digest())


def hello(*roles: Role, network: str = "test") -> Hello:
    return Hello(network=network, chain_id=4, contract=bytes(32), version=1, roles=list(roles), agent="tests")


class Mesh(Protocol):
    """Peers that know each other's addresses as soon as they joined."""

    async def join(self, number: int, *roles: Role) -> Network: ...

    async def kill(self, network: Network) -> None:
        """End this peer as a crash would."""
        ...


class MemoryMesh:
    def __init__(self, fake: FakeMesh) -> None:
        self._fake = fake

    async def join(self, number: int, *roles: Role) -> FakeNetwork:
        return self._fake.join(identity(number), roles=roles)

    async def kill(self, network: Network) -> None:
        self._fake.kill(network.peer_id)


@asynccontextmanager
async def open_socket_mesh() -> AsyncIterator[SocketMesh]:
    async with trio.open_nursery() as nursery:
        yield SocketMesh(nursery)
        nursery.cancel_scope.cancel()


class SocketMesh:
    """The first peer to join is the bootstrap peer of the others."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._lives: dict[str, tuple[trio.CancelScope, trio.Event]] = {}
        self._bootstrap: tuple[str, ...] = ()

    async def join(
        self, number: int, *roles: Role, settings: NetworkSettings | None = None, said: Hello | None = None
    ) -> MeshNetwork:
        settings = settings or NetworkSettings(listen=LOOPBACK, bootstrap=self._bootstrap)
        network: MeshNetwork = await self._nursery.start(self._live, number, settings, said or hello(*roles))
        self._bootstrap = self._bootstrap or tuple(network.addresses())
        return network

    async def _live(
        self, number: int, settings: NetworkSettings, said: Hello, *, task_status: trio.TaskStatus[MeshNetwork]
    ) -> None:
        over = trio.Event()
        with trio.CancelScope() as scope:
            async with open_network(identity(number), settings, said) as network:
                self._lives[network.peer_id] = (scope, over)
                task_status.started(network)
                await trio.sleep_forever()
        over.set()

    async def kill(self, network: Network) -> None:
        scope, over = self._lives[network.peer_id]
        scope.cancel()
        await over.wait()


def listening(**others: object) -> NetworkSettings:
    return replace(NetworkSettings(listen=LOOPBACK), **others)  # type: ignore[arg-type]
