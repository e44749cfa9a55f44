"""Peers for tests: fixed identities, and meshes of a few peers in memory."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Protocol

from cactus_mesh.identity import Identity

if TYPE_CHECKING:
    from cactus_mesh.messages import Role
    from cactus_mesh.ports import Network
    from cactus_mesh.testing.network import FakeMesh, FakeNetwork


def identity(number: int) -> Identity:
    return Identity.from_seed(hashlib.sha256(f"test peer {number}".encode()).digest())


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
