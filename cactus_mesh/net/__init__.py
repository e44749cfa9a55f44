"""The peer-to-peer network: the `Network` port over libp2p, which nothing else in the package imports."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from cactus_mesh.net.settings import Limits, NetworkSettings, NetworkStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from cactus_mesh.identity import Identity
    from cactus_mesh.messages import Hello
    from cactus_mesh.net.network import MeshNetwork

__all__ = ["Limits", "NetworkSettings", "NetworkStatus", "open_network"]


@asynccontextmanager
async def open_network(identity: Identity, settings: NetworkSettings, hello: Hello) -> AsyncIterator[MeshNetwork]:
    """Join the network as *identity*, saying *hello* to every peer.  Leaving the block closes every connection.

    Raises `PortInUse`, `AddressMalformed` or `StateMalformed` before the block begins.  A crash of the library's host
    is met with a new one; when that does not help, the block fails with `NetworkFailed`.
    """
    with _quiet_import():
        from cactus_mesh.net.network import open_mesh_network  # libp2p takes a second to import

    async with open_mesh_network(identity, settings, hello) as network:
        yield network


@contextmanager
def _quiet_import() -> Iterator[None]:
    """libp2p sets up logging when it is imported; what is logged is for the program that runs us to decide."""
    logger = logging.getLogger("libp2p")
    level = logger.level
    yield
    logger.setLevel(level)
    logger.propagate = True
