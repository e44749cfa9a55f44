"""What happens on a new connection before anything else: both hellos, checked, or a refusal that says why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio
from libp2p.stream_muxer.exceptions import MuxedStreamEOF, MuxedStreamError

from cactus_mesh.clock import wall_clock
from cactus_mesh.errors import MeshError, ProtocolViolation
from cactus_mesh.identity import PeerId, public_key_of
from cactus_mesh.net.hello import open_hello, seal_hello
from cactus_mesh.net.host import CALLS_PROTOCOL
from cactus_mesh.net.rpc import Session

if TYPE_CHECKING:
    from collections.abc import Callable

    from cactus_mesh.identity import Identity
    from cactus_mesh.messages import Hello
    from cactus_mesh.net.conn import MeshConn
    from cactus_mesh.net.frames import About
    from cactus_mesh.net.host import MeshHost
    from cactus_mesh.net.rpc import Methods
    from cactus_mesh.net.yamux import MeshStream

CALLS_WINDOW_BYTES: Final = 1 << 20
"""In flight from one peer, over all calls: 10 MB/s over a 100 ms path."""
REFUSAL_SECONDS: Final = 1.0
"""For a refusal to reach the peer before the connection closes under it."""


class CallStream:
    """The Yamux stream of a session, with OSError for whatever the library raises."""

    def __init__(self, stream: MeshStream) -> None:
        self._stream = stream

    async def read_some(self) -> bytes:
        try:
            return await self._stream.read()
        except MuxedStreamEOF:
            return b""
        except MuxedStreamError as error:
            raise ConnectionResetError(str(error)) from error

    async def write_all(self, data: bytes) -> None:
        try:
            await self._stream.write(data)
        except MuxedStreamError as error:
            raise ConnectionResetError(str(error)) from error


class Greetings:
    """*admit* may refuse an incoming peer, by raising; *told* hears what a peer says about itself, now and later."""

    def __init__(
        self,
        identity: Identity,
        hello: Hello,
        methods: Methods,
        *,
        admit: Callable[[MeshConn, PeerId], None],
        about: Callable[[MeshConn], About],
        told: Callable[[MeshConn, About], None],
    ) -> None:
        self._identity = identity
        self._hello = hello
        self._methods = methods
        self._admit = admit
        self._about = about
        self._told = told

    async def exchange(self, conn: MeshConn, host: MeshHost, nursery: trio.Nursery) -> None:
        """Give *conn* its hello and a session that runs in *nursery*.

        Raises a `MeshError`; the peer has been told, or has told us.
        """
        session = await self._open_session(conn, host)
        nursery.start_soon(conn.keep, session.run)
        try:
            if not conn.inbound:
                self._say_hello(session)
            conn.hello = open_hello(
                await session.hello(),
                self._hello,
                sender=session.public_key,
                recipient=self._identity.public_key,
                now_ms=wall_clock(),
            )
            if conn.inbound:
                self._admit(conn, session.peer)
                self._say_hello(session)
        except MeshError as error:
            with trio.move_on_after(REFUSAL_SECONDS):
                await session.refuse(error)
                await conn.over.wait()
            raise
        conn.session = session
        session.accept()
        conn.said = self._about(conn)
        session.machine.tell(conn.said)
        session.ping()

    async def _open_session(self, conn: MeshConn, host: MeshHost) -> Session:
        peer = PeerId(str(conn.muxed_conn.peer_id))
        try:
            public_key = public_key_of(peer)
        except ValueError as error:
            raise ProtocolViolation(f"a peer of this network has an Ed25519 key: {error}") from None
        stream = await (conn.offered_calls() if conn.inbound else host.open_on(conn, CALLS_PROTOCOL))
        stream.widen(CALLS_WINDOW_BYTES)

        def told(about: About) -> None:
            self._told(conn, about)

        return Session(CallStream(stream), peer, public_key, self._methods, told)

    def _say_hello(self, session: Session) -> None:
        now = wall_clock()
        session.machine.greet(seal_hello(self._hello, self._identity, recipient=session.public_key, now_ms=now))
        session.flush()
