"""Which routers a client can ask: authorised on the ledger and reached by now, nearest first."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

import trio

from cactus_mesh.directory import role_key
from cactus_mesh.errors import MeshError, NoRouter, RouterNotAuthorised
from cactus_mesh.identity import address, peer_id, public_key_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cactus_mesh.clock import Clock
    from cactus_mesh.identity import PeerId, PublicKey
    from cactus_mesh.ports import ConnectedPeer, Ledger, Network

ROUTERS_TRIED: Final = 4
ROUTERS_KNOWN_MS: Final = 30_000
LOOK_SECONDS: Final = 10.0
"""How long a client looks for its first router; a router's record in the DHT takes a few seconds to appear."""
LOOK_AGAIN_SECONDS: Final = 0.25
DIAL_SECONDS: Final = 10.0
OTHERS_SECONDS: Final = 2.0
"""For others to be reached once one is that will do: the DHT names some that are gone, for which dials wait long."""


class Routers:
    """*own* is the asking node itself, when it is a router: the nearest of all."""

    def __init__(self, network: Network, ledger: Ledger, clock: Clock, own: PublicKey | None = None) -> None:
        self._own = own
        self._network = network
        self._ledger = ledger
        self._clock = clock
        self._known: list[PublicKey] = []
        self._as_of_ms = -ROUTERS_KNOWN_MS

    def forget(self) -> None:
        """One of them was no good: look again next time."""
        self._as_of_ms = -ROUTERS_KNOWN_MS

    async def nearest(self) -> list[PublicKey]:
        """Authorised routers that can be reached, nearest first.

        A client that has only just joined may be told of none yet, so it asks again for a while.  Raises why there is
        none in the end.
        """
        if self._own is not None and await self._is_authorised(self._own):
            return [self._own, *(await self._authorised(self._connected()))]
        connected = {peer.public_key for peer in self._network.peers()}
        self._known = [
            router for router in self._known if router in connected
        ]  # one that has gone is not dialled again
        if self._clock() - self._as_of_ms < ROUTERS_KNOWN_MS and self._known:
            return self._known
        until = trio.current_time() + LOOK_SECONDS
        while True:
            try:
                self._known = await self._look()
            except NoRouter:
                if trio.current_time() >= until:
                    raise
                await trio.sleep(LOOK_AGAIN_SECONDS)
            else:
                self._as_of_ms = self._clock()
                return self._known

    async def _look(self) -> list[PublicKey]:
        connected = self._connected()
        found = await self._authorised(connected)
        if found:
            return found
        provided = await self._provided()
        found = await self._authorised(provided)
        if not found and (connected or provided):
            raise RouterNotAuthorised(
                f"router {(connected or provided)[0].peer} is not authorised on the ledger; wait for its operator to "
                "have it authorised, or join through another bootstrap peer"
            )
        if not found and self._own is not None:
            raise RouterNotAuthorised(
                f"this router, {peer_id(self._own)}, is not authorised on the ledger and knows no other; have the "
                "contract's administrator authorise it"
            )
        if not found:
            raise NoRouter(await self._why_no_router())
        return found

    def _connected(self) -> list[ConnectedPeer]:
        return [peer for peer in self._network.peers() if "router" in peer.roles]

    async def others(self) -> list[PublicKey]:
        """Those that the DHT names and that can be reached; none is no error."""
        return await self._authorised(await self._provided())

    async def _authorised(self, routers: Sequence[ConnectedPeer]) -> list[PublicKey]:
        """Those that the ledger authorises, nearest first."""
        found: list[PublicKey] = []
        for router in sorted(routers, key=lambda each: each.rtt_ms or 0.0):
            if await self._is_authorised(router.public_key):
                found.append(router.public_key)
        return found

    async def _is_authorised(self, router: PublicKey) -> bool:
        standing = await self._ledger.server(address(router))
        return standing is not None and standing.authorised(self._clock() / 1_000)

    async def _why_no_router(self) -> str:
        connected = len(self._network.peers())
        if not connected:
            return (
                "not connected to any peer; check the --bootstrap address, that the bootstrap peer runs, "
                "and that its network name and ledger are the same as here"
            )
        if await self._is_authorised(public_key_of(self._network.peer_id)):
            return (
                "no router is known but the one with this home's key, which another process with the same key cannot "
                "ask; ask at its gateway (cactus-mesh run --role router --gateway), or with another key: --home FOLDER"
            )
        return (
            f"connected to {connected} peer{'' if connected == 1 else 's'}, but none of them is or knows a router; "
            "start one with: cactus-mesh run --role router"
        )

    async def _provided(self) -> list[ConnectedPeer]:
        """What the DHT calls routers and can be reached, connected by now; dialled side by side."""
        reached: list[ConnectedPeer] = []

        async def dial(peer: PeerId) -> None:
            with contextlib.suppress(MeshError, trio.TooSlowError):
                with trio.fail_after(DIAL_SECONDS):
                    found = await self._network.connect(peer)
                if "router" in found.roles:
                    reached.append(found)
                    if await self._authorised([found]):
                        soon = trio.current_time() + OTHERS_SECONDS
                        nursery.cancel_scope.deadline = min(nursery.cancel_scope.deadline, soon)

        async with trio.open_nursery() as nursery:
            for peer in (await self._network.providers(role_key("router")))[: 2 * ROUTERS_TRIED]:
                nursery.start_soon(dial, peer)
        return reached
