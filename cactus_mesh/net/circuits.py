"""The relay role: circuit relay v2, HOP side (libp2p specification ``relay/circuit-v2``), with our limits.

A reservation belongs to the peer at the other end of the connection, whatever a message says, and ends with that
connection.  Bytes are carried as they come, in turns that are fair among those who opened the circuits; the peers' own
Noise runs through.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, cast
from weakref import WeakKeyDictionary

import trio
from google.protobuf.message import DecodeError
from libp2p.exceptions import BaseLibp2pError
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.pb.circuit_pb2 import (
    CONNECTION_FAILED,
    MALFORMED_MESSAGE,
    NO_RESERVATION,
    OK,
    PERMISSION_DENIED,
    RESERVATION_REFUSED,
    RESOURCE_LIMIT_EXCEEDED,
    HopMessage,
    StopMessage,
)
from libp2p.relay.circuit_v2.protocol import PROTOCOL_ID as HOP_PROTOCOL
from libp2p.relay.circuit_v2.protocol import STOP_PROTOCOL_ID as STOP_PROTOCOL
from libp2p.relay.circuit_v2.utils import read_delimited_msg, write_delimited_msg
from libp2p.stream_muxer.exceptions import MuxedStreamEOF, MuxedStreamError
from multiaddr import Multiaddr

from cactus_mesh.identity import PeerId
from cactus_mesh.net.addresses import worth_telling
from cactus_mesh.net.buckets import TokenBucket
from cactus_mesh.net.conn import connection_of
from cactus_mesh.net.connections import is_relayed, range_of, scope_of_connection
from cactus_mesh.net.fairness import FairLine
from cactus_mesh.net.settings import RelayUse

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from libp2p.abc import INetStream
    from libp2p.network.stream.net_stream import NetStream
    from libp2p.relay.circuit_v2.pb.circuit_pb2 import Status

    from cactus_mesh.net.conn import MeshConn
    from cactus_mesh.net.connections import Connections
    from cactus_mesh.net.host import MeshHost
    from cactus_mesh.net.settings import Limits
    from cactus_mesh.net.yamux import MeshStream

RESERVATION_SECONDS: Final = 1_800
REQUEST_SECONDS: Final = 10.0
STOP_SECONDS: Final = 10.0
CHUNK_BYTES: Final = 64 * 1024
CIRCUITS_PER_SECOND: Final = 4.0
CIRCUITS_AT_ONCE: Final = 64
"""That one connection may ask for: each costs the peer that is asked for a handshake."""

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Budget:
    """What one circuit may still carry, both ways together."""

    left_bytes: int


class Relay:
    """Serves HOP on *host*."""

    def __init__(self, host: MeshHost, connections: Connections, limits: Limits) -> None:
        self._host = host
        self._connections = connections
        self._limits = limits
        self._reserved: dict[PeerId, tuple[MeshConn, float]] = {}
        self._circuits: Counter[PeerId] = Counter()
        self._ranges: Counter[str] = Counter()
        """Circuits by the range of addresses from which they were opened."""
        self._asking: WeakKeyDictionary[MeshConn, TokenBucket] = WeakKeyDictionary()
        self._line = FairLine(limits.relay_bytes_per_second)
        self._carried_bytes = 0
        host.set_stream_handler(HOP_PROTOCOL, self._take_hop)

    def holds(self, conn: MeshConn) -> bool:
        """Whether a reservation depends on *conn*."""
        reservation = self._reserved.get(conn.session.peer)
        return reservation is not None and reservation[0] is conn

    async def _take_hop(self, stream: INetStream) -> None:
        conn = connection_of(stream)
        try:
            with trio.fail_after(REQUEST_SECONDS):
                request = await read_delimited_msg(stream, HopMessage)
        except (trio.TooSlowError, DecodeError):
            await _answer(stream, MALFORMED_MESSAGE)
            return
        if is_relayed(conn):
            await _answer(stream, PERMISSION_DENIED)  # the specification: no relaying over relays
        elif request.type == HopMessage.RESERVE:
            await self._reserve(stream, conn)
        elif request.type == HopMessage.CONNECT:
            await self._connect(stream, conn, request.peer.id)
        else:
            await _answer(stream, MALFORMED_MESSAGE)

    # --- reservations --------------------------------------------------------------------------------------------

    async def _reserve(self, stream: INetStream, conn: MeshConn) -> None:
        self._forget_lapsed()
        peer = conn.session.peer
        if peer not in self._reserved and not self._has_room(conn):
            log.info("a reservation is refused", extra={"peer": peer, "held": len(self._reserved)})
            await _answer(stream, RESERVATION_REFUSED)
            return
        expires = time.time() + RESERVATION_SECONDS
        self._reserved[peer] = (conn, expires)
        answer = self._status(OK)
        answer.reservation.expire = int(expires)
        own = worth_telling(self._host.own_addresses(), scope_of_connection(conn))
        answer.reservation.addrs.extend(Multiaddr(address).to_bytes() for address in own)
        await write_delimited_msg(stream, answer)
        await stream.close()

    def _has_room(self, conn: MeshConn) -> bool:
        """For one more reservation, of all and of those from the same range of addresses."""
        if len(self._reserved) >= self._limits.relay_reservations:
            return False
        here = range_of(conn)
        held = 0 if here is None else sum(range_of(other) == here for other, _ in self._reserved.values())
        return held < self._limits.relay_reservations_per_range

    def _forget_lapsed(self) -> None:
        now = time.time()
        for peer, (conn, expires) in list(self._reserved.items()):
            if conn.over.is_set() or expires <= now:
                del self._reserved[peer]

    def _status(self, status: Status.ValueType) -> HopMessage:
        answer = HopMessage(type=HopMessage.STATUS, status=status)
        answer.limit.duration = self._limits.circuit_seconds
        answer.limit.data = self._limits.circuit_bytes
        return answer

    # --- circuits ------------------------------------------------------------------------------------------------

    @property
    def use(self) -> RelayUse:
        """What it serves now."""
        self._forget_lapsed()
        return RelayUse(len(self._reserved), self._circuits.total() // 2, self._carried_bytes)

    async def _connect(self, stream: INetStream, conn: MeshConn, wanted: bytes) -> None:
        self._forget_lapsed()
        source = conn.session.peer
        found = PeerId(str(ID(wanted)))
        if found == source or found not in self._reserved:
            await _answer(stream, NO_RESERVATION)
            return
        here = range_of(conn)
        if not self._may_connect(conn, found, here):
            log.info("a circuit is refused", extra={"source": source, "target": found})
            await _answer(stream, RESOURCE_LIMIT_EXCEEDED)
            return
        self._circuits.update((source, found))
        self._ranges.update([here] if here else [])
        try:
            await self._carry(stream, conn, self._reserved[found][0])
        finally:
            self._circuits.subtract((source, found))
            self._circuits += Counter()  # drops the zeros
            self._ranges.subtract([here] if here else [])
            self._ranges += Counter()

    def _may_connect(self, conn: MeshConn, target: PeerId, here: str | None) -> bool:
        limits, now = self._limits, trio.current_time()
        bucket = self._asking.setdefault(conn, TokenBucket.full(CIRCUITS_PER_SECOND, CIRCUITS_AT_ONCE, now))
        return (
            bucket.take(now)
            and self._circuits.total() < 2 * limits.relay_circuits
            and max(self._circuits[conn.session.peer], self._circuits[target]) < limits.relay_circuits_per_peer
            and (here is None or self._ranges[here] < limits.relay_circuits_per_range)
        )

    async def _carry(self, stream: INetStream, source: MeshConn, target: MeshConn) -> None:
        onward = await self._stop(source, target)
        if onward is None:
            await _answer(stream, CONNECTION_FAILED)
            return
        inward = cast("MeshStream", cast("NetStream", stream).muxed_stream)
        details = {"source": source.session.peer, "target": target.session.peer}
        log.info("a circuit begins", extra=details)
        budget = _Budget(self._limits.circuit_bytes)
        try:
            await write_delimited_msg(stream, self._status(OK))
            with trio.move_on_after(self._limits.circuit_seconds):
                async with trio.open_nursery() as nursery:
                    turn = partial(self._line.turn, source.session.peer)
                    nursery.start_soon(_pump, inward, onward, budget, turn, nursery.cancel_scope)
                    nursery.start_soon(_pump, onward, inward, budget, turn, nursery.cancel_scope)
        finally:
            carried = self._limits.circuit_bytes - budget.left_bytes
            self._carried_bytes += carried
            log.info("a circuit ends", extra=details | {"bytes": carried})
            with trio.CancelScope(shield=True):
                await inward.reset()
                await onward.reset()

    async def _stop(self, source: MeshConn, target: MeshConn) -> MeshStream | None:
        """Ask *target* to take a circuit from *source*; the stream for it, or None."""
        try:
            with trio.fail_after(STOP_SECONDS):
                onward = await self._host.open_on(target, STOP_PROTOCOL)
                request = StopMessage(type=StopMessage.CONNECT)
                request.peer.id = _raw(source)
                request.limit.duration = self._limits.circuit_seconds
                request.limit.data = self._limits.circuit_bytes
                await write_delimited_msg(onward, request)
                answer = await read_delimited_msg(onward, StopMessage)
        except (BaseLibp2pError, DecodeError, trio.TooSlowError) as error:
            log.info("a circuit was not taken", extra={"target": target.session.peer, "reason": repr(error)})
            return None
        if answer.status != OK:
            await onward.reset()
            return None
        return onward


async def _answer(stream: INetStream, status: Status.ValueType) -> None:
    await write_delimited_msg(stream, HopMessage(type=HopMessage.STATUS, status=status))
    await stream.close()


def _raw(conn: MeshConn) -> bytes:
    return conn.muxed_conn.peer_id.to_bytes()


async def _pump(
    source: MeshStream,
    target: MeshStream,
    budget: _Budget,
    turn: Callable[[int], Awaitable[None]],
    circuit: trio.CancelScope,
) -> None:
    """Carry one direction until it ends; a reset, or the budget, ends both."""
    try:
        while True:
            data = await source.read(CHUNK_BYTES)
            budget.left_bytes -= len(data)
            if budget.left_bytes < 0:
                circuit.cancel()
                return
            await turn(len(data))
            await target.write(data)
    except MuxedStreamEOF:
        await target.close()
    except MuxedStreamError:
        circuit.cancel()
