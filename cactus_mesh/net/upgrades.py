"""Nobody rides a relay longer than needed: whoever is reached through one is dialled directly, or met in a hole.

Says, of each relayed peer, why there is no direct connection yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from cactus_mesh.errors import MeshError
from cactus_mesh.net.addresses import dialable
from cactus_mesh.net.connections import is_relayed
from cactus_mesh.net.punch import PunchFailed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from cactus_mesh.core.reachability import StepState
    from cactus_mesh.identity import PeerId
    from cactus_mesh.net.conn import MeshConn
    from cactus_mesh.net.connections import Connections
    from cactus_mesh.net.shared import Shared

PAUSES_SECONDS: Final = (2.0, 8.0, 60.0, 600.0)
"""Before each further attempt for one peer: what is known of the two NATs grows in the first seconds, and later either
network may change.  The last again and again."""
AT_ONCE: Final = 4
MAX_OUTCOMES: Final = 256
"""Peers about whose holes is remembered how it went."""


@dataclass(slots=True)
class _Progress:
    """With one peer that is reached through a relay."""

    due: float
    attempts: int = 0
    running: bool = False
    why: str = "a direct connection is being tried"


class Upgrades:
    """*dial* races addresses; *punch* makes a hole through the relay of a connection, or raises `PunchFailed`."""

    def __init__(
        self,
        shared: Shared,
        connections: Connections,
        dial: Callable[[PeerId, Sequence[str]], Awaitable[object]],
        punch: Callable[[MeshConn], Awaitable[object]],
        step: Callable[[StepState, str], None],
    ) -> None:
        self._shared = shared
        self._connections = connections
        self._dial = dial
        self._punch = punch
        self._step = step
        self._progress: dict[PeerId, _Progress] = {}
        self._outcomes: dict[PeerId, str | None] = {}
        self._limiter = trio.CapacityLimiter(AT_ONCE)

    def why_relayed(self, peer: PeerId) -> str:
        progress = self._progress.get(peer)
        return progress.why if progress else ""

    def hear(self, peer: PeerId, why: str | None) -> None:
        """How punching with *peer* went, whichever side had asked: why there is no hole, or None."""
        self._outcomes.pop(peer, None)
        self._outcomes[peer] = why
        if len(self._outcomes) > MAX_OUTCOMES:
            del self._outcomes[next(iter(self._outcomes))]
        if why is not None and peer in self._progress:
            self._progress[peer].why = why
        self._report()

    def _report(self) -> None:
        failures = [why for why in self._outcomes.values() if why is not None]
        made = len(self._outcomes) - len(failures)
        if self._outcomes:
            last = f"; the last failed: {failures[-1]}" if failures else ""
            self._step("works" if made else "failed", f"holes to {made} of {len(self._outcomes)} peers{last}")
        elif any(progress.running for progress in self._progress.values()):
            self._step("trying", "with a peer that is reached through a relay")
        else:
            self._step("not needed", "no peer is reached through a relay")

    def hurry(self) -> None:
        """More is known of this machine's network, or it is in another one: try everybody again."""
        for progress in self._progress.values():
            progress.due, progress.attempts = trio.current_time(), 0
        self._connections.announce_change()

    async def keep(self) -> None:
        """For ever: try for a direct connection to those whom we reach through relays only."""
        async with trio.open_nursery() as nursery:
            while True:
                change = self._connections.next_change()
                now = trio.current_time()
                relayed = {conn.session.peer: conn for conn in self._connections.conns() if is_relayed(conn)}
                self._progress = {peer: self._progress.get(peer) or _Progress(now) for peer in relayed}
                for peer, progress in self._progress.items():
                    if progress.due <= now and not progress.running:
                        progress.running = True
                        nursery.start_soon(self._attempt, relayed[peer], progress)
                self._report()
                waiting = [each.due for each in self._progress.values() if not each.running]
                with trio.move_on_at(min(waiting, default=float("inf"))):
                    await change.wait()

    async def _attempt(self, conn: MeshConn, progress: _Progress) -> None:
        peer = conn.session.peer
        reasons: list[str] = []

        async def attempt(way: Callable[[], Awaitable[str]]) -> None:
            why = await way()
            if why:
                reasons.append(why)
            else:
                nursery.cancel_scope.cancel()

        async with self._limiter, trio.open_nursery() as nursery:
            nursery.start_soon(attempt, partial(self._try_addresses, peer))
            if conn.inbound:  # by convention the side that was dialled asks for a hole
                nursery.start_soon(attempt, partial(self._try_a_hole, conn))
        pause = PAUSES_SECONDS[min(progress.attempts, len(PAUSES_SECONDS) - 1)]
        progress.due, progress.attempts, progress.running = trio.current_time() + pause, progress.attempts + 1, False
        if conn.inbound or self._outcomes.get(peer) is None:
            progress.why = "; ".join(dict.fromkeys(reasons))
        self._connections.announce_change()

    async def _try_addresses(self, peer: PeerId) -> str:
        """Why none of its addresses leads to *peer*; empty when one does."""
        known = dialable(self._shared.book.addresses(peer), peer, self._shared.identity.peer_id)
        direct = [str(address) for address in known if address.relay is None]
        if not direct:
            return "it has no address that can be dialled from here"
        try:
            await self._dial(peer, direct)
        except MeshError as error:
            return str(error)
        return ""

    async def _try_a_hole(self, conn: MeshConn) -> str:
        try:
            await self._punch(conn)
        except PunchFailed as failure:
            return str(failure)
        return ""
