"""Reaches a peer: all its known addresses at once, a moment apart, relays after that; one race a peer at a time."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import trio
from libp2p.peer.id import ID

from cactus_mesh.errors import MeshError, PeerUnreachable, WrongNetwork
from cactus_mesh.net.addresses import dialable
from cactus_mesh.net.swarm import DialFailed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from cactus_mesh.identity import PeerId
    from cactus_mesh.net.addresses import Address
    from cactus_mesh.net.conn import MeshConn
    from cactus_mesh.net.swarm import MeshSwarm

ADDRESS_SECONDS: Final = 10.0
"""For one address, up to its hello.  Across the world and through a relay that is ten round trips and more."""
STAGGER_SECONDS: Final = 0.05
"""Between the starts of two addresses of a peer: on a good path the first is done before the third begins."""
RELAY_HEAD_START_SECONDS: Final = 1.5
"""What direct addresses get before relays are tried beside them."""
MAX_ADDRESSES_TRIED: Final = 16
DIALS_AT_ONCE: Final = 32

log = logging.getLogger(__name__)


class _Race:
    """The way to one peer, and those who wait for it."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.over = trio.Event()
        self.waiting = 0
        self.conn: MeshConn | None = None
        self.failure: MeshError | None = None


class Dialler:
    """*dial_relayed* reaches an address through its relay; *attempted* hears why an address did not lead anywhere."""

    def __init__(
        self,
        own: PeerId,
        swarm: MeshSwarm,
        nursery: trio.Nursery,
        dial_relayed: Callable[[Address, PeerId], Awaitable[MeshConn]],
        attempted: Callable[[str, str], None],
    ) -> None:
        self._own = own
        self._swarm = swarm
        self._nursery = nursery
        self._dial_relayed = dial_relayed
        self._attempted = attempted
        self._races: dict[PeerId, _Race] = {}
        self._limiter = trio.CapacityLimiter(DIALS_AT_ONCE)

    async def dial(self, peer: PeerId, addresses: Sequence[str]) -> MeshConn:
        """A new connection that has passed its hello; joins a race for *peer* that is under way.

        Raises `PeerUnreachable` naming each address tried and why it failed, or `WrongNetwork`.
        """
        race = self._races.get(peer)
        if race is None:
            candidates = dialable(addresses, peer, self._own)[:MAX_ADDRESSES_TRIED]
            if not candidates:
                raise PeerUnreachable(_no_address(peer, addresses))
            race = self._races[peer] = _Race()
            self._nursery.start_soon(self._run, race, peer, candidates)
        race.waiting += 1
        try:
            await race.over.wait()
        finally:
            race.waiting -= 1
            if not race.waiting:
                self._forget(peer, race)
                race.scope.cancel()
        if race.conn is None:
            failure = race.failure or PeerUnreachable(f"the way to {peer} was given up: this node is stopping")
            raise type(failure)(failure.message)
        return race.conn

    async def _run(self, race: _Race, peer: PeerId, candidates: list[Address]) -> None:
        try:
            with race.scope:
                race.conn = await self._race(peer, candidates)
        except MeshError as error:
            race.failure = error
        finally:
            self._forget(peer, race)
            race.over.set()

    def _forget(self, peer: PeerId, race: _Race) -> None:
        if self._races.get(peer) is race:
            del self._races[peer]

    async def _race(self, peer: PeerId, candidates: list[Address]) -> MeshConn:
        failures: dict[Address, str] = {}
        winners: list[MeshConn] = []
        refusals: list[WrongNetwork] = []

        async def attempt(address: Address, failed: trio.Event) -> None:
            try:
                conn = await self._try(address, peer)
            except WrongNetwork as refusal:
                refusals.append(refusal)
                nursery.cancel_scope.cancel()
            except (DialFailed, MeshError) as error:
                failures[address] = str(error)
                self._attempted(str(address), str(error))
                failed.set()
            else:
                winners.append(conn)
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            direct = [address for address in candidates if address.relay is None]
            failed = await _stagger(nursery, attempt, direct)
            with trio.move_on_after(RELAY_HEAD_START_SECONDS):
                for event in failed:
                    await event.wait()
            await _stagger(nursery, attempt, [address for address in candidates if address.relay is not None])
        for late in winners[1:]:
            late.end()
        if winners:
            return winners[0]
        if refusals:
            raise refusals[0]
        raise PeerUnreachable(_all_failed(peer, failures))

    async def _try(self, address: Address, peer: PeerId) -> MeshConn:
        try:
            with trio.fail_after(ADDRESS_SECONDS):
                async with self._limiter:
                    if address.relay is not None:
                        return await self._dial_relayed(address, peer)
                    return await self._swarm.dial_address(address, ID.from_string(peer))
        except trio.TooSlowError:
            raise DialFailed(f"no answer in {ADDRESS_SECONDS:.0f} s") from None


async def _stagger(
    nursery: trio.Nursery, attempt: Callable[[Address, trio.Event], Awaitable[None]], addresses: Sequence[Address]
) -> list[trio.Event]:
    """Start one attempt after the other, the next at once when the one before has failed already."""
    failed = []
    for address in addresses:
        failed.append(trio.Event())
        nursery.start_soon(attempt, address, failed[-1])
        if address is not addresses[-1]:
            with trio.move_on_after(STAGGER_SECONDS):
                await failed[-1].wait()
    return failed


def _no_address(peer: PeerId, given: Sequence[str]) -> str:
    if given:
        return f"cannot reach {peer}: none of its addresses can be dialled from here: {', '.join(given)}"
    return f"cannot reach {peer}: no address of it is known; give one, or a bootstrap peer that may know it"


def _all_failed(peer: PeerId, failures: dict[Address, str]) -> str:
    tried = "; ".join(f"{address}: {reason}" for address, reason in failures.items())
    return f"cannot reach {peer}, tried {tried}"
