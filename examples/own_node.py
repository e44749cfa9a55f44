"""Run a node inside a trio program of one's own: here a relay, which carries others' traffic for a moment."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import trio

import cactus_mesh
from cactus_mesh.config import find_home

if TYPE_CHECKING:
    from cactus_mesh.node import Node

HOME = find_home(None)
SECONDS = 2.0


async def count(node: Node) -> None:
    """Something else that the program does meanwhile."""
    async with node.network.watch() as arrivals:
        async for peer in arrivals:
            print(f"connected to {peer.peer} as {', '.join(peer.roles)}")


async def main() -> None:
    config = replace(cactus_mesh.load_config(HOME), roles=("relay",), listen=("/ip4/127.0.0.1/tcp/0",))
    async with cactus_mesh.open_node(config, HOME) as node, trio.open_nursery() as nursery:
        nursery.start_soon(count, node)
        print(f"this is {node.identity.peer_id}")
        print(f"others may join through it: {node.join_line()}")
        await trio.sleep(SECONDS)
        print(f"it has {len(node.peers())} connections")
        nursery.cancel_scope.cancel()


trio.run(main)
