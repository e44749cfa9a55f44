"""One connection, as the library's services and ours see it: its streams, its session, why it ended."""

from __future__ import annotations

import logging
import time
from functools import cached_property
from typing import TYPE_CHECKING, Final, cast

import trio
from libp2p.abc import INetConn
from libp2p.exceptions import BaseLibp2pError
from libp2p.network.stream.net_stream import NetStream, StreamState
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable

from cactus_mesh.concurrency import first_of, open_service_nursery
from cactus_mesh.errors import MeshError, PeerLost
from cactus_mesh.net.buckets import TokenBucket

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from libp2p.abc import INetStream
    from libp2p.connection_types import ConnectionType
    from libp2p.network.swarm import Swarm
    from multiaddr import Multiaddr

    from cactus_mesh.messages import Hello
    from cactus_mesh.net.addresses import Address
    from cactus_mesh.net.frames import About
    from cactus_mesh.net.rpc import Session
    from cactus_mesh.net.yamux import MeshStream, MeshYamux
    from cactus_mesh.ports import ConnectedPeer

MAX_STREAM_HANDLERS: Final = 64
"""Streams of one peer that are handled at once: calls share one, gossip has one, DHT queries are short."""
ABOUTS_PER_SECOND: Final = 0.5
ABOUTS_AT_ONCE: Final = 20
"""Words of a peer about itself; they change when it gains or loses a relay or a network."""

log = logging.getLogger(__name__)


class MeshConn(INetConn):
    """*session* and *hello* are there once *welcomed* is set; before, nothing but the hello is served."""

    muxed_conn: MeshYamux
    session: Session
    hello: Hello
    about: About | None = None
    said: About | None = None
    """What the peer told us of itself, and we told it, last."""
    seen: ConnectedPeer | None = None
    """As `connections.seen` has told it last; nothing of it changes but the round trip, and why it is relayed."""
    remote: Address | None = None
    """As `connections.remote` has read it."""
    local_host: str | None = None
    local_port: int | None = None
    """The port of this machine that it leaves from or came to; None when a relay carries it."""

    def __init__(self, muxed: MeshYamux, swarm: Swarm, *, inbound: bool) -> None:
        self.muxed_conn = muxed
        self.swarm = swarm
        self.inbound = inbound
        self.since = time.time()
        self.event_started = trio.Event()
        self.welcomed = trio.Event()
        self.over = trio.Event()
        self.failure: BaseException | None = None
        self.words = TokenBucket.full(ABOUTS_PER_SECOND, ABOUTS_AT_ONCE, trio.current_time())
        self._streams: set[NetStream] = set()
        self._handling = 0
        self._calls: MeshStream | None = None
        self._calls_offered = trio.Event()

    # --- its life ------------------------------------------------------------------------------------------------

    def end(self, failure: BaseException | None = None) -> None:
        """Let the connection's own task close it; the first reason given is the one that counts."""
        if not self.over.is_set():
            self.failure = failure
            self.over.set()
            self._calls_offered.set()

    async def close(self) -> None:
        self.end()
        await trio.lowlevel.checkpoint()

    async def keep(self, run: Callable[[], Awaitable[None]]) -> None:
        """One of the tasks that make up a connection: when it ends, for whatever reason, the connection does."""
        try:
            await run()
        except* (MeshError, BaseLibp2pError, OSError) as group:
            self.end(first_of(group))
        except* Exception as group:
            self.end(first_of(group))
            log.error("a connection failed", extra={"peer": str(self.muxed_conn.peer_id)}, exc_info=group)
        else:
            self.end()

    async def handle_streams(self) -> None:
        """Each stream of the peer in its own task, until there are no more."""
        self.event_started.set()
        async with open_service_nursery() as nursery:
            while True:
                try:
                    stream = await self.muxed_conn.accept_stream()
                except MuxedConnUnavailable:
                    return
                if self._handling >= MAX_STREAM_HANDLERS:
                    await stream.reset()
                else:
                    nursery.start_soon(self._handle, stream)

    async def _handle(self, stream: MeshStream) -> None:
        self._handling += 1
        net_stream = self.wrap(stream)
        try:
            await self.swarm.common_stream_handler(net_stream)
        finally:
            self._handling -= 1
            self.remove_stream(net_stream)

    # --- calls ---------------------------------------------------------------------------------------------------

    def offer_calls(self, stream: INetStream) -> bool:
        """The peer opened the stream for calls; whether it was the first to."""
        if self._calls is not None or not self.inbound:
            return False
        self._calls = cast("MeshStream", cast("NetStream", stream).muxed_stream)
        self._calls_offered.set()
        return True

    async def offered_calls(self) -> MeshStream:
        await self._calls_offered.wait()
        if self._calls is None:
            raise PeerLost("the connection ended before a hello")
        return self._calls

    # --- what the library wants of a connection --------------------------------------------------------------------

    @property
    def is_closed(self) -> bool:
        return self.over.is_set()

    async def new_stream(self) -> NetStream:
        return self.wrap(await self.muxed_conn.open_stream())

    def wrap(self, stream: MeshStream) -> NetStream:
        wrapped = NetStream(stream, self, None)  # type: ignore[arg-type] # it only calls what is here
        wrapped._state = StreamState.OPEN
        self._streams.add(wrapped)
        return wrapped

    def remove_stream(self, stream: NetStream) -> None:
        self._streams.discard(stream)

    def get_streams(self) -> tuple[NetStream, ...]:
        return tuple(self._streams)

    @cached_property
    def way(self) -> str:
        """The address of the other end, without its peer id; written out once, since the library takes long."""
        return str(self.get_transport_addresses()[0])

    def get_transport_addresses(self) -> list[Multiaddr]:
        return self.muxed_conn.get_transport_addresses()

    def get_connection_type(self) -> ConnectionType:
        return self.muxed_conn.get_connection_type()


def connection_of(stream: INetStream) -> MeshConn:
    conn: object = cast("NetStream", stream).swarm_conn
    assert isinstance(conn, MeshConn)
    return conn
