"""The library's swarm with its risky parts replaced: accepting, dialling one address, and a connection's life.

A connection is listed, and the library's services hear of it, only after its hello; until then it is one of a bounded
number of pending ones.  Whatever goes wrong on one connection ends that connection and nothing else.
"""

from __future__ import annotations

import errno
import logging
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Final, NoReturn, Protocol, cast

import trio
from libp2p.exceptions import BaseLibp2pError
from libp2p.network.exceptions import SwarmException
from libp2p.network.swarm import Swarm
from libp2p.security.noise.exceptions import PeerIDMismatchesPubkey
from libp2p.stream_muxer.muxer_multistream import MuxerMultistream
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID
from libp2p.transport.exceptions import SecurityUpgradeFailure
from libp2p.transport.upgrader import TransportUpgrader

from cactus_mesh.concurrency import first_of, open_service_nursery
from cactus_mesh.errors import MeshError
from cactus_mesh.net.addresses import parse_address
from cactus_mesh.net.conn import MeshConn
from cactus_mesh.net.fairness import address_range
from cactus_mesh.net.hello import HELLO_SECONDS
from cactus_mesh.net.links import SocketLink
from cactus_mesh.net.noise import MeshNoise
from cactus_mesh.net.sockets import accept_forever, connect, listen_on
from cactus_mesh.net.websocket import TlsLink, accept_websocket, ask_for_websocket
from cactus_mesh.net.yamux import MeshYamux

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from libp2p.abc import IMuxedConn, INetConn, INetStream, IPeerStore, ISecureConn
    from libp2p.crypto.keys import KeyPair
    from libp2p.custom_types import TMuxerOptions, TProtocol, TSecurityOptions
    from libp2p.peer.id import ID

    from cactus_mesh.net.addresses import Address, Transport
    from cactus_mesh.net.links import Link

HANDSHAKE_SECONDS: Final = 10.0
"""From a socket to an encrypted, multiplexed connection; a slow relay needs several round trips."""
MAX_DIALLED: Final = 1_024
"""Hosts, the newest: whoever comes from one of them may come through the hole that our dial made."""
CLOSE_SECONDS: Final = 2.0
NOISE: Final = "/noise"
HTTP: Final = b"GET "
"""How a WebSocket begins; a libp2p connection begins with another byte."""
_REASONS: Final = {
    errno.ECONNREFUSED: "connection refused",
    errno.ECONNRESET: "connection reset",
    errno.EHOSTUNREACH: "host unreachable",
    errno.ENETUNREACH: "network unreachable",
    errno.ETIMEDOUT: "no answer",
}

log = logging.getLogger(__name__)


class DialFailed(Exception):
    """One address did not lead to the peer; the text says why, in a few words."""


class Greeter(Protocol):
    async def greet(self, conn: MeshConn, nursery: trio.Nursery) -> None:
        """Exchange hellos on *conn*; it has a hello, and a session that runs in *nursery*, when this returns.

        Raises a `MeshError` when this connection is not wanted; the peer has been told then.
        """
        ...

    def welcome(self, conn: MeshConn) -> None:
        """*conn* passed its hello and is listed."""
        ...

    def farewell(self, conn: MeshConn) -> None:
        """*conn* was welcomed and is over."""
        ...

    async def dial(self, peer: ID) -> INetConn:
        """A connection to *peer*, for the library's services.  Raises `MeshError`."""
        ...


class MeshMuxer(MuxerMultistream):
    """Negotiates Yamux and builds ours; the library's always builds its own."""

    def __init__(self, negotiate_seconds: int) -> None:
        options = {cast("TProtocol", PROTOCOL_ID): MeshYamux}
        super().__init__(cast("TMuxerOptions", options), negotiate_seconds)

    async def new_conn(self, conn: ISecureConn, peer_id: ID) -> IMuxedConn:
        protocol, _ = await self._selector.select(conn, conn.is_initiator, self.negotiate_timeout)
        return self._annotate_connection(MeshYamux(conn, peer_id, conn.is_initiator), conn, protocol)


class MeshSwarm(Swarm):
    """Runs inside `serve`; everything it starts ends with that."""

    greeter: Greeter

    def __init__(self, peer: ID, key_pair: KeyPair, peerstore: IPeerStore, *, max_pending: int) -> None:
        security = cast("TSecurityOptions", {NOISE: MeshNoise(key_pair)})
        upgrader = TransportUpgrader(security, {})
        upgrader.muxer_multistream = MeshMuxer(int(HANDSHAKE_SECONDS))
        super().__init__(peer, peerstore, upgrader, [])
        self.notifees.clear()  # its own one keeps tags that nobody reads
        self.bound: list[socket.socket] = []
        self.transports: list[Transport] = []
        """What each of the listeners is told of as; all of them take TCP and WebSocket."""
        self.dialled: OrderedDict[str, None] = OrderedDict()
        self._nursery: trio.Nursery
        self._max_pending = max_pending
        self._pending: OrderedDict[trio.CancelScope, str | None] = OrderedDict()
        """With the range of addresses that each comes from."""

    # --- listening -----------------------------------------------------------------------------------------------

    async def serve(self, addresses: Sequence[Address], *, task_status: trio.TaskStatus[None]) -> NoReturn:
        """Listen and keep connections.  Raises `PortInUse` or `AddressMalformed` before it has started."""
        try:
            for address in addresses:
                self.bound.append(listen_on(address))
                self.transports.append(address.transport)
            async with open_service_nursery() as nursery:
                self._nursery = nursery
                for listener in self.bound:
                    nursery.start_soon(accept_forever, listener, self._accept)
                task_status.started()
                try:
                    await trio.sleep_forever()
                finally:
                    self.notifees.clear()  # gossip ends too: what it is told now would wait for a reader that is gone
        finally:
            for listener in self.bound:
                listener.close()
        raise AssertionError("unreachable")

    def _accept(self, accepted: socket.socket) -> None:
        self._nursery.start_soon(self._receive, accepted)

    async def _receive(self, accepted: socket.socket) -> None:
        try:
            link = SocketLink(accepted, initiator=False)
        except OSError:
            accepted.close()  # it was gone before we looked
            return
        await self.receive_link(link)

    def take_link(self, link: Link) -> None:
        self._nursery.start_soon(self.receive_link, link)

    async def receive_link(self, link: Link) -> None:
        """Secure what somebody else dialled and keep the connection until it ends.  Raises nothing but Cancelled."""
        with trio.CancelScope() as pending:
            self._pending[pending] = _range(link)
            if len(self._pending) > self._max_pending:
                self._make_room()
            try:
                link = await _unwrapped(link)
                muxed = await self._upgrade(link, None)
                conn = self._conn(muxed, link, inbound=True)
                await self._live(conn, lambda: self._pending.pop(pending, None))
            except DialFailed as error:
                log.debug("an incoming connection came to nothing", extra={"reason": str(error)})
            finally:
                self._pending.pop(pending, None)

    def _make_room(self) -> None:
        """The oldest of the range with the most connections pending gives way: a flood displaces itself."""
        crowded = Counter(self._pending.values()).most_common(1)[0][0]
        oldest = next(scope for scope, place in self._pending.items() if place == crowded)
        del self._pending[oldest]
        oldest.cancel()

    # --- dialling ------------------------------------------------------------------------------------------------

    async def dial_address(self, address: Address, peer: ID) -> MeshConn:
        """Connect to *peer* at *address* and pass the hello.  Raises `DialFailed`, or the `MeshError` of a hello."""
        self.note_dialled(address.host)
        return await self.dial_link(await _linked(address, self.bound), peer)

    def note_dialled(self, host: str) -> None:
        """Whoever comes from *host* does not show that strangers reach us."""
        self.dialled[host] = None
        self.dialled.move_to_end(host)
        if len(self.dialled) > MAX_DIALLED:
            self.dialled.popitem(last=False)

    async def probe(self, address: Address, peer: ID) -> None:
        """See that *peer* answers at *address*, on a new connection from any port, and let go of it.

        Raises `DialFailed`.
        """
        muxed = await self._upgrade(await _linked(address, ()), peer)
        await muxed.close()

    async def dial_link(self, link: Link, peer: ID) -> MeshConn:
        muxed = await self._upgrade(link, peer)
        conn = self._conn(muxed, link, inbound=not muxed.is_initiator_value)  # it is one where we yielded
        decided = trio.Event()
        self._nursery.start_soon(self._live, conn, decided.set)
        try:
            await decided.wait()
        except trio.Cancelled:
            conn.end()
            raise
        if conn.welcomed.is_set():
            return conn
        if isinstance(conn.failure, MeshError | DialFailed):
            raise conn.failure
        raise DialFailed(reason_for(conn.failure)) if conn.failure else DialFailed("it closed the connection")

    async def dial_peer(self, peer_id: ID) -> list[INetConn]:
        """What the library's services call; the addresses and the race are the dialler's."""
        try:
            return [await self.greeter.dial(peer_id)]
        except MeshError as error:
            raise SwarmException(str(error)) from error

    def _conn(self, muxed: MeshYamux, link: Link, *, inbound: bool) -> MeshConn:
        conn = MeshConn(muxed, self, inbound=inbound)
        conn.local_host, conn.local_port = link.local_host, link.local_port
        return conn

    async def _upgrade(self, link: Link, peer: ID | None) -> MeshYamux:
        """Noise, then Yamux.  Closes *link* when that fails."""
        try:
            with trio.fail_after(HANDSHAKE_SECONDS):
                secured = await self.upgrader.upgrade_security(link, peer is not None, peer)
                muxed = await self.upgrader.upgrade_connection(secured, secured.get_remote_peer())
        except BaseException as error:
            with trio.CancelScope(shield=True):
                await link.close()
            if not isinstance(error, Exception):
                raise
            raise DialFailed(reason_for(error)) from error  # the library's handshake raises whatever it stumbles over
        return cast("MeshYamux", muxed)

    # --- a connection's life -------------------------------------------------------------------------------------

    async def _live(self, conn: MeshConn, decided: Callable[[], object]) -> None:
        """Pass the hello, be listed, wait for the end.  *decided* is called when the hello was passed, or was not."""
        try:
            async with open_service_nursery() as nursery:
                nursery.start_soon(conn.keep, conn.muxed_conn.start)
                nursery.start_soon(conn.keep, conn.handle_streams)
                with trio.fail_after(HELLO_SECONDS):
                    await self.greeter.greet(conn, nursery)
                self.connections.setdefault(conn.muxed_conn.peer_id, []).append(conn)
                conn.welcomed.set()
                self.greeter.welcome(conn)
                decided()
                await self.notify_connected(conn)
                await conn.over.wait()
        except* (MeshError, BaseLibp2pError, OSError) as group:
            conn.end(first_of(group))
        except* trio.TooSlowError:
            conn.end(DialFailed(f"no hello within {HELLO_SECONDS:.0f} s"))
        except* Exception as group:
            conn.end(first_of(group))
            log.error("a connection failed", extra={"peer": str(conn.muxed_conn.peer_id)}, exc_info=group)
        finally:
            with trio.move_on_after(CLOSE_SECONDS, shield=True):
                await self._bury(conn)
            decided()

    async def _bury(self, conn: MeshConn) -> None:
        conn.end()
        listed = conn.welcomed.is_set()
        if listed:
            self._unlist(conn)
            self.greeter.farewell(conn)
        await conn.muxed_conn.close()
        for stream in conn.get_streams():
            await stream.reset()
        if listed:
            await self._notify("disconnected", conn)

    def _unlist(self, conn: MeshConn) -> None:
        peer = conn.muxed_conn.peer_id
        self.connections[peer].remove(conn)
        if not self.connections[peer]:
            del self.connections[peer]

    async def notify_opened_stream(self, stream: INetStream) -> None:
        """Nobody here listens to streams, and telling everybody costs a nursery each time."""

    async def notify_closed_stream(self, stream: INetStream) -> None:
        pass


def _range(link: Link) -> str | None:
    """Of addresses, that *link* comes from; None for neighbours and through relays."""
    where = parse_address(str(link.get_transport_addresses()[0]))
    return None if where.relay else address_range(where.host)


async def _unwrapped(link: Link) -> Link:
    """What Noise is put on: every listener takes WebSocket too.  Else closes *link* and raises `DialFailed`."""
    if not isinstance(link, SocketLink):
        return link
    try:
        with trio.fail_after(HANDSHAKE_SECONDS):
            return await accept_websocket(link) if (await link.peek()).startswith(HTTP) else link
    except BaseException as error:
        with trio.CancelScope(shield=True):
            await link.close()
        if not isinstance(error, OSError | trio.TooSlowError):
            raise
        raise DialFailed(reason_for(error)) from error


async def _linked(address: Address, listeners: Sequence[socket.socket]) -> Link:
    """Raises `DialFailed`."""
    link: Link | None = None
    try:
        sock = await connect(address, listeners)
        link = TlsLink(sock, address.host) if address.transport == "wss" else SocketLink(sock, initiator=True)
        return link if address.transport == "tcp" else await ask_for_websocket(link, address.host, address.port)
    except BaseException as error:
        if link is not None:
            with trio.CancelScope(shield=True):
                await link.close()
        if not isinstance(error, OSError):
            raise
        raise DialFailed(reason_for(error)) from error


def reason_for(error: BaseException) -> str:
    """Why a connection did not come about, for people."""
    if isinstance(error, trio.TooSlowError):
        return f"no answer in {HANDSHAKE_SECONDS:.0f} s"
    causes = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    for cause in causes:
        if isinstance(cause, OSError) and cause.errno:
            return _REASONS.get(cause.errno) or (cause.strerror or str(cause)).lower()
    if any(isinstance(cause, PeerIDMismatchesPubkey) or "mismatch" in str(cause).lower() for cause in causes):
        return "another peer answers there"
    if isinstance(error, OSError) and str(error):
        return str(error)
    if isinstance(error, SecurityUpgradeFailure):
        return "it does not speak Noise, or broke off the handshake"
    return f"the handshake failed ({type(causes[-1]).__name__})"
