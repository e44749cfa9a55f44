"""Nobody rides a relay longer than needed: peers that are reached through one are dialled directly beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio

from cactus_mesh.errors import MeshError
from cactus_mesh.net.addresses import dialable
from cactus_mesh.net.connections import is_relayed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from cactus_mesh.identity import PeerId
    from cactus_mesh.net.connections import Connections
    from cactus_mesh.net.shared import Shared

RETRY_SECONDS: Final = 60.0
"""Between two attempts for one peer: its address, or our network, may have changed."""
DIALS_AT_ONCE: Final = 4


async def prefer_direct(
    shared: Shared, connections: Connections, dial: Callable[[PeerId, Sequence[str]], Awaitable[object]]
) -> None:
    """For ever: try the direct addresses of those whom we reach through relays only."""
    not_before: dict[PeerId, float] = {}
    limiter = trio.CapacityLimiter(DIALS_AT_ONCE)

    async def attempt(peer: PeerId, addresses: Sequence[str]) -> None:
        try:
            async with limiter:
                await dial(peer, addresses)
        except MeshError:
            return  # the relay goes on serving

    async with trio.open_nursery() as nursery:
        while True:
            change = connections.next_change()
            now = trio.current_time()
            relayed = {conn.session.peer for conn in connections.conns() if is_relayed(conn)}
            not_before = {peer: at for peer, at in not_before.items() if peer in relayed}
            for peer in relayed:
                addresses = _direct(shared, peer)
                if addresses and not_before.get(peer, now) <= now:
                    not_before[peer] = now + RETRY_SECONDS
                    nursery.start_soon(attempt, peer, addresses)
            with trio.move_on_at(min(not_before.values(), default=float("inf"))):
                await change.wait()


def _direct(shared: Shared, peer: PeerId) -> list[str]:
    known = dialable(shared.book.addresses(peer), peer, shared.identity.peer_id)
    return [str(address) for address in known if address.relay is None]
