"""Being reached and reaching others through relays: reservations that are kept up, circuits dialled and taken.

Circuit relay v2, client side (libp2p specification ``relay/circuit-v2``).
"""

from __future__ import annotations

import logging
import random
import time
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

from cactus_mesh.net.addresses import parse_address
from cactus_mesh.net.conn import connection_of
from cactus_mesh.net.connections import is_relayed
from cactus_mesh.net.links import RelayedLink
from cactus_mesh.net.swarm import DialFailed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from libp2p.abc import INetStream
    from libp2p.network.stream.net_stream import NetStream

    from cactus_mesh.identity import PeerId
    from cactus_mesh.net.addresses import Address
    from cactus_mesh.net.conn import MeshConn
    from cactus_mesh.net.connections import Connections
    from cactus_mesh.net.host import MeshHost
    from cactus_mesh.net.swarm import MeshSwarm

RESERVATIONS: Final = 2
"""Held at once, so that one relay may go without our becoming unreachable."""
ADDRESSES_PER_RELAY: Final = 2
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
    """*reach* gives a connection to a relay; *changed* is called when our circuit addresses change."""

    def __init__(
        self,
        swarm: MeshSwarm,
        host: MeshHost,
        connections: Connections,
        reach: Callable[[PeerId, str], Awaitable[MeshConn]],
        changed: Callable[[], None],
    ) -> None:
        self._swarm = swarm
        self._host = host
        self._connections = connections
        self._reach = reach
        self._changed = changed
        self._held: dict[PeerId, MeshConn] = {}
        host.set_stream_handler(STOP_PROTOCOL, self._take_stop)

    # --- dialling ------------------------------------------------------------------------------------------------

    async def dial(self, address: Address, peer: PeerId) -> MeshConn:
        """Reach *peer* through the relay that *address* names.  Raises `DialFailed`, or a `MeshError`."""
        assert address.relay is not None, "a circuit goes through a relay"
        relay = await self._reach(address.relay, address.endpoint)
        request = HopMessage(type=HopMessage.CONNECT)
        request.peer.id = ID.from_string(peer).to_bytes()
        stream, answer = await self._ask(relay, request)
        if answer.status != OK:
            await stream.reset()
            raise DialFailed(_REASONS.get(answer.status, f"the relay answered with status {answer.status}"))
        where = Multiaddr(f"{address.endpoint}/p2p/{address.relay}/p2p-circuit")
        return await self._swarm.dial_link(RelayedLink(stream, initiator=True, address=where), ID.from_string(peer))

    async def _ask(self, relay: MeshConn, request: HopMessage) -> tuple[NetStream, HopMessage]:
        try:
            with trio.fail_after(EXCHANGE_SECONDS):
                stream = relay.wrap(await self._host.open_on(relay, HOP_PROTOCOL))
                await write_delimited_msg(stream, request)
                return stream, await read_delimited_msg(stream, HopMessage)
        except (BaseLibp2pError, DecodeError, trio.TooSlowError) as error:
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
        where = Multiaddr(f"{conn.get_transport_addresses()[0]}/p2p/{conn.session.peer}/p2p-circuit")
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
        found: list[str] = []
        for relay, conn in self._held.items():
            own = [parse_address(address) for address in known(relay)]
            direct = [address.endpoint for address in own if address.relay is None][:ADDRESSES_PER_RELAY]
            at = direct or [str(conn.get_transport_addresses()[0])]
            found.extend(f"{endpoint}/p2p/{relay}/p2p-circuit" for endpoint in at)
        return found

    async def keep_reservations(self) -> None:
        """Hold up to `RESERVATIONS`, at relays that we are connected to, for ever; elsewhere when one goes."""
        not_before: dict[PeerId, float] = {}
        pauses: dict[PeerId, float] = {}
        async with trio.open_nursery() as nursery:
            while True:
                change = self._connections.next_change()
                for conn in self._candidates(not_before):
                    if len(self._held) >= RESERVATIONS:
                        break
                    peer = conn.session.peer
                    if await self._reserve(conn):
                        pauses.pop(peer, None)
                        nursery.start_soon(self._renew, conn)
                    else:
                        pauses[peer] = min(2 * pauses.get(peer, FIRST_PAUSE_SECONDS / 2), MAX_PAUSE_SECONDS)
                        not_before[peer] = trio.current_time() + pauses[peer] * random.uniform(0.8, 1.2)
                waiting = [at for at in not_before.values() if at > trio.current_time()]
                with trio.move_on_at(min(waiting, default=float("inf"))):
                    await change.wait()

    def _candidates(self, not_before: dict[PeerId, float]) -> list[MeshConn]:
        """Connected relays at which we may try now, the nearest first."""
        now = trio.current_time()
        found = [
            conn
            for conn in self._connections.conns()
            if conn.about is not None
            and conn.about.relay
            and not is_relayed(conn)
            and conn.session.peer not in self._held
            and not_before.get(conn.session.peer, 0.0) <= now
        ]
        return sorted(found, key=lambda conn: conn.session.rtt_seconds or 0.0)

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

    async def _renew(self, conn: MeshConn) -> None:
        """Keep one reservation until it cannot be kept."""
        lasts: float | None = MIN_RENEWAL_SECONDS
        while lasts is not None:
            with trio.move_on_after(max(lasts * RENEW_SHARE, MIN_RENEWAL_SECONDS)):
                await conn.over.wait()
                break
            lasts = await self._reserve(conn)
        if self._held.get(conn.session.peer) is conn:
            del self._held[conn.session.peer]
            log.warning("a reservation is lost", extra={"relay": conn.session.peer})
            self._changed()
            self._connections.announce_change()
