"""Yamux for libp2p, cheaper and stricter than the library's: on the wire it is the ordinary ``/yamux/1.0.0``.

A frame is queued whole and sent with whatever else is queued, so a cancelled write never cuts one; window updates are
sent when half a window was read; receive windows and the number of streams are enforced.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

import trio
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.stream_muxer.exceptions import (
    MuxedConnUnavailable,
    MuxedStreamClosed,
    MuxedStreamEOF,
    MuxedStreamError,
    MuxedStreamReset,
)
from libp2p.stream_muxer.yamux.yamux import (
    DEFAULT_WINDOW_SIZE,
    FLAG_ACK,
    FLAG_FIN,
    FLAG_RST,
    FLAG_SYN,
    GO_AWAY_NORMAL,
    GO_AWAY_PROTOCOL_ERROR,
    HEADER_SIZE,
    MAX_MESSAGE_SIZE,
    TYPE_DATA,
    TYPE_GO_AWAY,
    TYPE_PING,
    TYPE_WINDOW_UPDATE,
    YAMUX_HEADER_FORMAT,
    Yamux,
    YamuxStream,
)

from cactus_mesh.concurrency import open_service_nursery
from cactus_mesh.net.noise import NoiseSession

if TYPE_CHECKING:
    from libp2p.abc import ISecureConn
    from libp2p.peer.id import ID

MAX_STREAMS: Final = 256
"""Open at once on one connection, in each direction; a peer needs one for calls, two for gossip, some for the DHT."""
BACKLOG_STREAMS: Final = 64
"""Opened by the peer and not yet looked at; more are reset."""
MAX_WINDOW_BYTES: Final = 16 << 20
"""That a peer can grant us."""
MAX_FRAME_BYTES: Final = 1 << 20
"""As large as the largest window that we grant."""
MAX_UNREAD_BYTES: Final = 20 << 20
"""Of all streams of one connection; a relay's, with its slowest circuits, comes to 16 MiB."""
QUEUE_BYTES: Final = 256 * 1024
"""Queued behind a socket that takes no more, before writers wait."""
MAX_QUEUE_BYTES: Final = 4 << 20
"""Queued at all: pongs and resets for a peer that asks for them without reading."""

_HEADER: Final = Struct(YAMUX_HEADER_FORMAT)
_CHUNK_BYTES: Final = MAX_MESSAGE_SIZE - HEADER_SIZE


class MeshStream(YamuxStream):
    """A stream.  One task reads at a time; writers may be several, their writes may interleave."""

    conn: MeshYamux

    def __init__(self, stream_id: int, conn: MeshYamux, is_initiator: bool) -> None:
        super().__init__(stream_id, conn, is_initiator)
        self._buffer = bytearray()
        self._read_bytes = 0
        self._window = DEFAULT_WINDOW_SIZE
        self._readable = trio.Event()
        self._writable = trio.Event()

    # --- reading -------------------------------------------------------------------------------------------------

    async def read(self, n: int | None = None) -> bytes:
        """At most *n* bytes, at least one.  Raises `MuxedStreamEOF` or `MuxedStreamReset` when no more will come."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._buffer:
            if self.reset_received:
                raise MuxedStreamReset("the stream was reset")
            if self.recv_closed:
                raise MuxedStreamEOF("the stream has ended")
            self._readable = trio.Event()
            await self._readable.wait()
        size = len(self._buffer)
        if n is not None and 0 <= n < size:
            size = n
            data = bytes(self._buffer[:n])
            del self._buffer[:n]
        else:
            data = bytes(self._buffer)
            self._buffer.clear()
        if not self.closed:
            self.conn.unread_bytes -= size
        self._read_bytes += size
        if self._read_bytes >= self._window // 2:
            self._grant()
        return data

    def widen(self, window_bytes: int) -> None:
        """Let the peer send up to *window_bytes* ahead of our reading."""
        self._read_bytes += window_bytes - self._window
        self._window = window_bytes
        self._grant()

    def _grant(self) -> None:
        if not self.recv_closed:
            self.recv_window += self._read_bytes
            self.conn.post(TYPE_WINDOW_UPDATE, 0, self.stream_id, self._read_bytes)
        self._read_bytes = 0

    def take_in(self, data: bytes) -> None:
        """Data from the peer.  Raises `MuxedStreamError` beyond the window."""
        self.recv_window -= len(data)
        self.conn.unread_bytes += len(data)
        if self.recv_window < 0 or self.conn.unread_bytes > MAX_UNREAD_BYTES:
            raise MuxedStreamError("more than the receive window")
        self._buffer += data
        self._readable.set()

    def end_in(self) -> None:
        self.recv_closed = True
        self._readable.set()
        self._finish()

    # --- writing -------------------------------------------------------------------------------------------------

    async def write(self, data: bytes) -> None:
        """Send *data*.  Cancelled, it has left whole frames: the connection stays sound, this stream may lack a tail.

        Raises `MuxedStreamClosed` or `MuxedStreamReset`.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        at, view = 0, memoryview(data)
        while at < len(data):
            if self.reset_received:
                raise MuxedStreamReset("the stream was reset")
            if self.send_closed:
                raise MuxedStreamClosed("the stream is closed for writing")
            if self.send_window <= 0:
                self._writable = trio.Event()
                await self._writable.wait()
                continue
            size = min(self.send_window, _CHUNK_BYTES, len(data) - at)
            self.send_window -= size
            self.conn.post(TYPE_DATA, 0, self.stream_id, size, view[at : at + size])
            at += size
            if self.conn.full:
                await self.conn.room()

    def write_now(self, data: bytes | bytearray) -> int:
        """How many of *data*'s first bytes are sent, or queued, without waiting; none once the stream is over, which
        `write` says."""
        at, view = 0, memoryview(data)
        while at < len(data) and self.send_window > 0 and not (self.send_closed or self.conn.full):
            size = min(self.send_window, _CHUNK_BYTES, len(data) - at)
            self.send_window -= size
            self.conn.post(TYPE_DATA, 0, self.stream_id, size, view[at : at + size])
            at += size
        return at

    def open_window(self, increment: int) -> None:
        self.send_window = min(self.send_window + increment, MAX_WINDOW_BYTES)
        self._writable.set()

    # --- the end -------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """End our half; the peer may still send."""
        if not self.send_closed:
            self.send_closed = True
            self.conn.post(TYPE_WINDOW_UPDATE, FLAG_FIN, self.stream_id, 0)
            self._finish()
        await trio.lowlevel.checkpoint()

    async def reset(self) -> None:
        if not self.closed:
            self.conn.post(TYPE_WINDOW_UPDATE, FLAG_RST, self.stream_id, 0)
            self.tear()
        await trio.lowlevel.checkpoint()

    def tear(self) -> None:
        """It is over in both directions, at once; what has come may still be read."""
        self.reset_received = self.send_closed = self.recv_closed = True
        self._readable.set()
        self._writable.set()
        self._finish()

    def _finish(self) -> None:
        if self.send_closed and self.recv_closed and not self.closed:
            self.closed = True
            self.conn.unread_bytes -= len(self._buffer)
            self.conn.forget(self.stream_id)


class MeshYamux(Yamux):
    """One connection's streams.  Closed by `close`, or when its reading ends."""

    def __init__(self, secured_conn: ISecureConn, peer_id: ID, is_initiator: bool) -> None:
        super().__init__(secured_conn, peer_id, is_initiator)
        assert isinstance(secured_conn, NoiseSession)
        self.unread_bytes = 0
        self._session = secured_conn
        self._arrived, self._arrivals = trio.open_memory_channel[MeshStream](BACKLOG_STREAMS)
        self._open: dict[int, MeshStream] = {}
        self._out: list[bytes | memoryview] = []
        self._out_bytes = 0
        self._blocked = False
        self._blocks = trio.Event()
        self._room = trio.Event()

    # --- running -------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Read and write until the connection ends.  Raises OSError or an `IOException` of the library then."""
        try:
            async with open_service_nursery() as nursery:
                nursery.start_soon(self._write_blocked)
                self._established = True
                self.event_started.set()
                await self._read()
        finally:
            self._shut()

    async def _read(self) -> None:
        buffer = bytearray()
        while True:
            buffer += await self._session.read_some()
            at, end = 0, len(buffer)
            while end - at >= HEADER_SIZE:
                version, kind, flags, stream_id, length = _HEADER.unpack_from(buffer, at)
                if kind == TYPE_DATA and version == 0:
                    if length > MAX_FRAME_BYTES:
                        self._break("a frame longer than any window")
                    if end - at - HEADER_SIZE < length:
                        break
                    body = bytes(buffer[at + HEADER_SIZE : at + HEADER_SIZE + length])
                    at += HEADER_SIZE + length
                    self._take_data(flags, stream_id, body)
                else:
                    at += HEADER_SIZE
                    self._take_control(version, kind, flags, stream_id, length)
            del buffer[:at]

    def _take_data(self, flags: int, stream_id: int, body: bytes) -> None:
        stream = self._open.get(stream_id)
        if flags:
            stream = self._take_flags(flags, stream_id, stream)
        if stream is None or stream.recv_closed:
            return  # it crossed with our reset
        try:
            stream.take_in(body)
        except MuxedStreamError as error:
            self._break(str(error))
        if flags & FLAG_FIN:
            stream.end_in()

    def _take_control(self, version: int, kind: int, flags: int, stream_id: int, length: int) -> None:
        if version != 0 or kind not in (TYPE_WINDOW_UPDATE, TYPE_PING, TYPE_GO_AWAY):
            self._break("a frame that is not Yamux")
        if kind == TYPE_PING:
            if flags & FLAG_SYN:
                self.post(TYPE_PING, FLAG_ACK, 0, length)
        elif kind == TYPE_GO_AWAY:
            raise ConnectionClosedError("the other side said goodbye")
        else:
            stream = self._open.get(stream_id)
            if flags:
                stream = self._take_flags(flags, stream_id, stream)
            if stream is not None:
                stream.open_window(length)
                if flags & FLAG_FIN:
                    stream.end_in()

    def _take_flags(self, flags: int, stream_id: int, stream: MeshStream | None) -> MeshStream | None:
        """Open or reset as *flags* say; the stream to go on with, if any."""
        if flags & FLAG_SYN:
            ours = stream_id % 2 == (1 if self.is_initiator_value else 0)
            if stream is not None or ours or stream_id == 0:
                self._break("a stream id that is not free")
            stream = self._accept(stream_id)
        if flags & FLAG_RST and stream is not None:
            stream.tear()
            return None
        return stream

    def _accept(self, stream_id: int) -> MeshStream | None:
        stream = MeshStream(stream_id, self, False)
        try:
            if sum(1 for open_ in self._open.values() if not open_.is_initiator) >= MAX_STREAMS:
                raise trio.WouldBlock
            self._arrived.send_nowait(stream)
        except trio.WouldBlock:
            self.post(TYPE_WINDOW_UPDATE, FLAG_RST, stream_id, 0)
            return None
        self._open[stream_id] = stream
        self.post(TYPE_WINDOW_UPDATE, FLAG_ACK, stream_id, 0)
        return stream

    def _break(self, why: str) -> None:
        self.post(TYPE_GO_AWAY, 0, 0, GO_AWAY_PROTOCOL_ERROR)
        raise ConnectionClosedError(f"the other side broke the Yamux protocol: {why}")

    # --- writing -------------------------------------------------------------------------------------------------

    def post(self, kind: int, flags: int, stream_id: int, length: int, body: bytes | memoryview = b"") -> None:
        """Queue a frame, whole, and send what goes without waiting."""
        if self.event_shutting_down.is_set():
            return
        self._out.append(_HEADER.pack(0, kind, flags, stream_id, length))
        if body:
            self._out.append(bytes(body) if self._blocked else body)
        self._out_bytes += HEADER_SIZE + len(body)
        if not self._blocked:
            self._send()
        elif self._out_bytes > MAX_QUEUE_BYTES:
            self._shut()

    def _send(self) -> None:
        data = b"".join(self._out)
        self._out.clear()
        self._out_bytes = 0
        try:
            sent = self._session.post(data)
        except OSError:
            self._shut()  # the reader meets the same error and reports it
            return
        if not sent:
            self._blocked = True
            self._blocks.set()

    async def _write_blocked(self) -> None:
        """Wait for the socket whenever it took less than there was."""
        while True:
            await self._blocks.wait()
            self._blocks = trio.Event()
            await self._session.drain()
            self._blocked = False
            if self._out:
                self._send()
            if not self._blocked:
                self._room.set()

    @property
    def full(self) -> bool:
        return self._out_bytes > QUEUE_BYTES

    async def room(self) -> None:
        while self.full and not self.event_shutting_down.is_set():
            if self._room.is_set():
                self._room = trio.Event()
            await self._room.wait()

    # --- streams -------------------------------------------------------------------------------------------------

    async def open_stream(self) -> MeshStream:
        """Raises `MuxedStreamError` when the connection ends or has `MAX_STREAMS` of ours already."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.event_shutting_down.is_set():
            raise MuxedStreamError("the connection has ended")
        if sum(1 for open_ in self._open.values() if open_.is_initiator) >= MAX_STREAMS:
            raise MuxedStreamError(f"{MAX_STREAMS} streams are open on this connection already")
        stream = MeshStream(self.next_stream_id, self, True)
        self.next_stream_id += 2
        self._open[stream.stream_id] = stream
        self.post(TYPE_WINDOW_UPDATE, FLAG_SYN, stream.stream_id, 0)
        return stream

    async def accept_stream(self) -> MeshStream:
        try:
            return await self._arrivals.receive()
        except trio.EndOfChannel:
            raise MuxedConnUnavailable("the connection has ended") from None

    def forget(self, stream_id: int) -> None:
        self._open.pop(stream_id, None)

    # --- the end -------------------------------------------------------------------------------------------------

    async def close(self, error_code: int = GO_AWAY_NORMAL) -> None:
        self.post(TYPE_GO_AWAY, 0, 0, error_code)
        self._shut()
        with trio.CancelScope(shield=True):
            await self._session.close()

    def _shut(self) -> None:
        if self.event_shutting_down.is_set():
            return
        self.event_shutting_down.set()
        self.event_closed.set()
        for stream in list(self._open.values()):
            stream.tear()
        self._arrived.close()
        self._room.set()
