from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cactus_mesh.testing.network import open_fake_mesh
from tests.net.peers import MemoryMesh

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.net.peers import Mesh


@pytest.fixture(params=["memory"])
async def mesh(request: pytest.FixtureRequest) -> AsyncIterator[Mesh]:
    async with open_fake_mesh() as fake:
        yield MemoryMesh(fake)
