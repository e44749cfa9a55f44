"""Being reached and reaching others through relays: reservations that are kept up, circuits dialled and taken.

Circuit relay v2, client side (libp2p specification ``relay/circuit-v2``).
"""

from __future__ import annotations

import logging
import random
import time
from collections import OrderedDict
from itertools import zip_longest
from typing import TYPE_CHECKING, Final, cast

import trio
from google.protobuf.message import DecodeError
from libp2p.exceptions import BaseLibp2pError
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.pb.circuit_pb2 import (
    CONNECTION_FAILED,
    NO_RESERVATION,
    OK,
    PERMISSION_DENIED,
    RESOURCE_LIMIT_EXCEEDED,
    HopMessage,
    StopMessage,
)
from libp2p.relay.circuit_v2.protocol import PROTOCOL_ID as HOP_PROTOCOL
from libp2p.relay.circuit_v2.protocol import STOP_PROTOCOL_ID as STOP_PROTOCOL
from libp2p.relay.circuit_v2.utils import read_delimited_msg, write_delimited_msg
from multiaddr import Multiaddr

from cactus_mesh.errors import MeshError
from cactus_mesh.net.addresses import parse_address
from cactus_mesh.net.conn import connection_of
from cactus_mesh.net.connections import is_relayed, remote
from cactus_mesh.net.links import RelayedLink
from cactus_mesh.net.swarm import DialFailed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from libp2p.abc import INetStream
    from libp2p.network.stream.net_stream import NetStream

    from cactus_mesh.identity import PeerId
    from cactus_mesh.net.addresses import Address
    from cactus_mesh.net.conn import MeshConn
    from cactus_mesh.net.connections import Connections
    from cactus_mesh.net.host import MeshHost
    from cactus_mesh.net.swarm import MeshSwarm

RELAY_KEY: Final = "role/relay"
"""Under which relays announce themselves in the DHT."""
RESERVATIONS: Final = 3
"""Held at once, so that one relay may go, or lie, without our becoming unreachable."""
ADDRESSES_PER_RELAY: Final = 2
MAX_ATTEMPTS: Final = 256
"""Refusals remembered."""
MAX_KNOWN: Final = 16
"""Relays remembered from the last search."""
SEARCH_PAUSES_SECONDS: Final = (2.0, 5.0, 10.0, 30.0)
"""Between two searches while we hold too few reservations; the last again and again."""
KEEP_SECONDS: Final = 60.0
"""For which reservations outlive the need: those who know our old addresses may still come."""
EXCHANGE_SECONDS: Final = 10.0
FIRST_PAUSE_SECONDS: Final = 1.0
MAX_PAUSE_SECONDS: Final = 60.0
RENEW_SHARE: Final = 0.7
"""Of a reservation's life after which it is renewed."""
MIN_RENEWAL_SECONDS: Final = 5.0
MAX_RENEWAL_SECONDS: Final = 3_600.0
_REASONS: Final = {
    NO_RESERVATION: "the relay holds no reservation of that peer",
    RESOURCE_LIMIT_EXCEEDED: "the relay is at its limit",
    CONNECTION_FAILED: "the relay does not reach that peer any more",
    PERMISSION_DENIED: "the relay does not permit it",
}

log = logging.getLogger(__name__)


class Circuits:
    """*reach* gives a connection to a relay at an address, or anywhere; *changed* is called when our circuit addresses
    change."""

    def __init__(
        self,
        swarm: MeshSwarm,
        host: MeshHost,
        connections: Connections,
        reach: Callable[[PeerId, str | None], Awaitable[MeshConn]],
        changed: Callable[[], None],
    ) -> None:
        self._swarm = swarm
        self._host = host
        self._connections = connections
        self._reach = reach
        self._changed = changed
        self._held: dict[PeerId, MeshConn] = {}
        self._unwanted_at: float | None = None
        host.set_stream_handler(STOP_PROTOCOL, self._take_stop)

    # --- dialling ------------------------------------------------------------------------------------------------

    async def dial(self, address: Address, peer: PeerId) -> MeshConn:
        """Reach *peer* through the relay that *address* names.  Raises `DialFailed`, or the `MeshError` of a hello."""
        assert address.relay is not None, "a circuit goes through a relay"
        try:
            relay = await self._reach(address.relay, address.endpoint)
        except MeshError as error:
            raise DialFailed(f"the relay cannot be reached: {error}") from error
        request = HopMessage(type=HopMessage.CONNECT)
        request.peer.id = ID.from_string(peer).to_bytes()
        stream, answer = await self._ask(relay, request)
        if answer.status != OK:
            await stream.reset()
            raise DialFailed(_REASONS.get(answer.status, f"the relay answered with status {answer.status}"))
        where = Multiaddr(f"{address.endpoint}/p2p/{address.relay}/p2p-circuit")
        return await self._swarm.dial_link(RelayedLink(stream, initiator=True, address=where), ID.from_string(peer))

    async def _ask(self, relay: MeshConn, request: HopMessage) -> tuple[NetStream, HopMessage]:
        stream: NetStream | None = None
        try:
            with trio.fail_after(EXCHANGE_SECONDS):
                stream = relay.wrap(await self._host.open_on(relay, HOP_PROTOCOL))
                await write_delimited_msg(stream, request)
                return stream, await read_delimited_msg(stream, HopMessage)
        except (BaseLibp2pError, DecodeError, trio.TooSlowError) as error:
            if stream is not None:
                await stream.reset()
            raise DialFailed(f"the relay did not answer ({type(error).__name__})") from error

    # --- being dialled -------------------------------------------------------------------------------------------

    async def _take_stop(self, stream: INetStream) -> None:
        """A relay brings somebody.  Only from relays that we have reserved at; who it is, Noise will say."""
        conn = connection_of(stream)
        with trio.fail_after(EXCHANGE_SECONDS):
            request = await read_delimited_msg(stream, StopMessage)
        if request.type != StopMessage.CONNECT or not self.holds(conn):
            await write_delimited_msg(stream, StopMessage(type=StopMessage.STATUS, status=PERMISSION_DENIED))
            await stream.close()
            return
        await write_delimited_msg(stream, StopMessage(type=StopMessage.STATUS, status=OK))
        where = Multiaddr(f"{conn.way}/p2p/{conn.session.peer}/p2p-circuit")
        self._swarm.take_link(RelayedLink(cast("NetStream", stream), initiator=False, address=where))

    # --- reservations --------------------------------------------------------------------------------------------

    def holds(self, conn: MeshConn) -> bool:
        return self._held.get(conn.session.peer) is conn

    @property
    def relays(self) -> tuple[PeerId, ...]:
        """Those at which we hold a reservation."""
        return tuple(self._held)

    def addresses(self, known: Callable[[PeerId], list[str]]) -> list[str]:
        """Where we can be reached through them; *known* gives a relay's own addresses."""
        ways = [self._ways(relay, conn, known(relay)) for relay, conn in self._held.items()]
        return [way for each in zip_longest(*ways) for way in each if way is not None]

    def _ways(self, relay: PeerId, conn: MeshConn, known: Sequence[str]) -> list[str]:
        """To *relay*: first where we are connected to it ourselves, unless it came to us, then where it says it is."""
        told = [address for text in known if (address := parse_address(text)).relay is None]
        used = remote(conn)
        ours = [used] if not conn.inbound or not told else []
        others = [address for address in told if address.scope >= used.scope and address.endpoint != used.endpoint]
        return [f"{address.endpoint}/p2p/{relay}/p2p-circuit" for address in [*ours, *others][:ADDRESSES_PER_RELAY]]

    async def keep_reservations(
        self, wanted: Callable[[], bool], search: Callable[[], Awaitable[list[PeerId]]]
    ) -> None:
        """For ever: while they are *wanted*, hold `RESERVATIONS` at relays that we are connected to, or *search* for;
        elsewhere when one goes."""
        attempts = _Attempts()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._search, wanted, search)
            while True:
                change = self._connections.next_change()
                if wanted():
                    self._unwanted_at = None
                    await self._reserve_at(self._candidates(attempts), attempts, nursery)
                elif self._held:
                    self._let_go()
                with trio.move_on_at(min(attempts.next_at(), self._unwanted_until())):
                    await change.wait()

    async def _reserve_at(self, relays: Sequence[MeshConn], attempts: _Attempts, nursery: trio.Nursery) -> None:
        for conn in relays:
            if len(self._held) >= RESERVATIONS:
                return
            lasts = await self._reserve(conn)
            attempts.note(conn.session.peer, lasts is not None)
            if lasts is not None:
                nursery.start_soon(self._renew, conn, lasts)

    def _let_go(self) -> None:
        """Of all reservations, a while after they were needed last."""
        if self._unwanted_at is None:
            self._unwanted_at = trio.current_time()
        elif trio.current_time() >= self._unwanted_until():
            self._held.clear()
            self._unwanted_at = None
            log.info("no relay is needed any more")
            self._changed()

    def _unwanted_until(self) -> float:
        return float("inf") if self._unwanted_at is None else self._unwanted_at + KEEP_SECONDS

    def _candidates(self, attempts: _Attempts) -> list[MeshConn]:
        """Connected relays at which we may try now, the nearest first."""
        found = [
            conn
            for conn in self._connections.conns()
            if conn.about is not None
            and conn.about.relay
            and not is_relayed(conn)
            and conn.session.peer not in self._held
            and attempts.may(conn.session.peer)
        ]
        return sorted(found, key=lambda conn: conn.session.rtt_seconds or 0.0)

    async def _search(self, wanted: Callable[[], bool], search: Callable[[], Awaitable[list[PeerId]]]) -> None:
        """Connect to relays that others know of, while we hold too few reservations."""
        pauses = iter(SEARCH_PAUSES_SECONDS)
        while True:
            while not wanted() or len(self._held) >= RESERVATIONS:
                await self._connections.next_change().wait()
                pauses = iter(SEARCH_PAUSES_SECONDS)
            connected = {conn.session.peer for conn in self._connections.conns()}
            found = [peer for peer in await search() if peer not in connected][:MAX_KNOWN]
            random.shuffle(found)
            async with trio.open_nursery() as nursery:
                for peer in found[:RESERVATIONS]:
                    nursery.start_soon(self._approach, peer)
            await trio.sleep(next(pauses, SEARCH_PAUSES_SECONDS[-1]) * random.uniform(0.8, 1.2))

    async def _approach(self, relay: PeerId) -> None:
        try:
            await self._reach(relay, None)
        except MeshError as error:
            log.info("a relay cannot be reached", extra={"relay": relay, "reason": str(error)})

    async def _reserve(self, conn: MeshConn) -> float | None:
        """Take or renew a reservation; how many seconds it lasts, or None."""
        try:
            stream, answer = await self._ask(conn, HopMessage(type=HopMessage.RESERVE))
        except DialFailed as error:
            log.info("no reservation at a relay", extra={"relay": conn.session.peer, "reason": str(error)})
            return None
        await stream.reset()
        if answer.status != OK or conn.over.is_set():
            log.info("no reservation at a relay", extra={"relay": conn.session.peer, "status": answer.status})
            return None
        if self._held.get(conn.session.peer) is not conn:
            self._held[conn.session.peer] = conn
            log.info("reserved at a relay", extra={"relay": conn.session.peer})
            self._changed()
        lasts = answer.reservation.expire - time.time()
        return min(max(lasts, MIN_RENEWAL_SECONDS), MAX_RENEWAL_SECONDS)  # whatever the relay's clock says

    async def _renew(self, conn: MeshConn, lasts: float | None) -> None:
        """Keep one reservation until it cannot be kept, or is not wanted any more."""
        while lasts is not None and self.holds(conn):
            with trio.move_on_after(max(lasts * RENEW_SHARE, MIN_RENEWAL_SECONDS)):
                await conn.over.wait()
                break
            lasts = await self._reserve(conn) if self.holds(conn) else None
        if self.holds(conn):
            del self._held[conn.session.peer]
            log.warning("a reservation is lost", extra={"relay": conn.session.peer})
            self._changed()
            self._connections.announce_change()


class _Attempts:
    """When to try relays again that refused: after longer and longer pauses."""

    def __init__(self) -> None:
        self._tried: OrderedDict[PeerId, tuple[float, float]] = OrderedDict()

    def may(self, relay: PeerId) -> bool:
        return self._tried.get(relay, (0.0, 0.0))[0] <= trio.current_time()

    def note(self, relay: PeerId, reserved: bool) -> None:
        _, pause = self._tried.pop(relay, (0.0, FIRST_PAUSE_SECONDS / 2))
        if not reserved:
            pause = min(2 * pause, MAX_PAUSE_SECONDS)
            self._tried[relay] = (trio.current_time() + pause * random.uniform(0.8, 1.2), pause)
            if len(self._tried) > MAX_ATTEMPTS:
                self._tried.popitem(last=False)

    def next_at(self) -> float:
        now = trio.current_time()
        return min((at for at, _ in self._tried.values() if at > now), default=float("inf"))
