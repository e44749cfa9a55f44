from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cactus_mesh.testing.network import open_fake_mesh
from tests.net.peers import MemoryMesh, SocketMesh, open_socket_mesh

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.net.peers import Mesh


@pytest.fixture(params=["memory", "sockets"])
async def mesh(request: pytest.FixtureRequest) -> AsyncIterator[Mesh]:
    """A mesh for what holds with and without sockets."""
    if request.param == "memory":
        async with open_fake_mesh() as fake:
            yield MemoryMesh(fake)
    else:
        async with open_socket_mesh() as sockets:
            yield sockets


@pytest.fixture
async def sockets() -> AsyncIterator[SocketMesh]:
    async with open_socket_mesh() as sockets:
        yield sockets
