"""What Noise is put on: a TCP socket, or a stream that a relay carries.  Both read ahead.

Both can also write without waiting, so that a small write costs no task switch and can never be cut short.
"""

from __future__ import annotations

import contextlib
import socket
from abc import abstractmethod
from typing import TYPE_CHECKING, Final, cast

import trio
from libp2p.abc import IRawConnection
from libp2p.connection_types import ConnectionType
from libp2p.network.stream.exceptions import StreamError
from libp2p.stream_muxer.exceptions import MuxedStreamEOF, MuxedStreamError
from multiaddr import Multiaddr

if TYPE_CHECKING:
    from libp2p.network.stream.net_stream import NetStream

    from cactus_mesh.net.yamux import MeshStream

READ_BYTES: Final = 64 * 1024
HANDSHAKE_BYTES: Final = 64 * 1024
"""Read in single pieces, which only handshakes do: a few hundred bytes, before we know who is there."""
_READS_BETWEEN_YIELDS: Final = 8


class Link(IRawConnection):
    """A raw connection.  Everything raises OSError once it is broken."""

    is_initiator: bool

    def __init__(self, *, initiator: bool, address: Multiaddr, kind: ConnectionType) -> None:
        self.is_initiator = initiator
        self._address = address
        self._kind = kind
        self._ahead = b""
        self._handshake_bytes = 0

    local_host: str | None = None
    local_port: int | None = None
    """Of this machine's end; None when a relay carries it."""

    async def read(self, n: int | None = None) -> bytes:
        """At most *n* bytes, b"" at the end."""
        if n == 0:
            return b""
        data = await self.read_some()
        if n is not None and len(data) > n:
            self._ahead = data[n:]
            data = data[:n]
        self._handshake_bytes += len(data)
        if self._handshake_bytes > HANDSHAKE_BYTES:
            raise ConnectionAbortedError("a handshake without end")
        return data

    async def read_some(self) -> bytes:
        """Whatever has come, at least one byte; b"" at the end."""
        data, self._ahead = self._ahead, b""
        return data or await self._receive()

    def unread(self, data: bytes) -> None:
        """Let *data*, which was read just now, be read again."""
        self._ahead = data + self._ahead

    async def peek(self) -> bytes:
        """What comes first, which the next read gives again; b"" at the end."""
        self._ahead = await self.read_some()
        return self._ahead

    def send_now(self, data: bytes | bytearray) -> int:
        """How many of *data*'s first bytes could be sent without waiting."""
        return 0

    @abstractmethod
    async def _receive(self) -> bytes: ...

    def get_transport_addresses(self) -> list[Multiaddr]:
        return [self._address]

    def get_connection_type(self) -> ConnectionType:
        return self._kind


class SocketLink(Link):
    """A connected, non-blocking TCP socket, which it closes."""

    def __init__(self, sock: socket.socket, *, initiator: bool) -> None:
        self._socket = sock
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        host, port = sock.getpeername()[:2]
        self._remote = (_plain(host), int(port))
        family = "ip6" if ":" in self._remote[0] else "ip4"
        address = Multiaddr(f"/{family}/{self._remote[0]}/tcp/{port}")
        super().__init__(initiator=initiator, address=address, kind=ConnectionType.DIRECT)
        own, port = sock.getsockname()[:2]
        self.local_host, self.local_port = _plain(own), int(port)
        self._reads = 0

    def send_now(self, data: bytes | bytearray) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0

    async def write(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        rest = bytearray(data)
        while rest:
            sent = self.send_now(rest)
            del rest[:sent]
            if rest:
                await _ready(trio.lowlevel.wait_writable, self._socket)

    async def _receive(self) -> bytes:
        self._reads += 1
        if self._reads % _READS_BETWEEN_YIELDS:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await trio.lowlevel.checkpoint()
        while True:
            try:
                return self._socket.recv(READ_BYTES)
            except BlockingIOError:
                await _ready(trio.lowlevel.wait_readable, self._socket)

    async def close(self) -> None:
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
        await trio.lowlevel.checkpoint()

    def get_remote_address(self) -> tuple[str, int]:
        return self._remote


def _plain(host: object) -> str:
    return str(host).removeprefix("::ffff:").split("%")[0]


async def _ready(wait: object, sock: socket.socket) -> None:
    try:
        await wait(sock)  # type: ignore[operator]
    except trio.ClosedResourceError:
        raise ConnectionAbortedError("closed here") from None


class RelayedLink(Link):
    """A stream to a relay, spliced there to a stream of the other peer."""

    def __init__(self, stream: NetStream, *, initiator: bool, address: Multiaddr) -> None:
        super().__init__(initiator=initiator, address=address, kind=ConnectionType.RELAYED)
        self._net_stream = stream
        self._stream = cast("MeshStream", stream.muxed_stream)  # without the library's locks around each read and write

    def send_now(self, data: bytes | bytearray) -> int:
        return self._stream.write_now(data)

    async def write(self, data: bytes) -> None:
        try:
            await self._stream.write(data)
        except MuxedStreamError as error:
            raise ConnectionResetError(f"the relay ended the circuit ({type(error).__name__})") from error

    async def _receive(self) -> bytes:
        try:
            return await self._stream.read(READ_BYTES)
        except MuxedStreamEOF:
            return b""
        except MuxedStreamError as error:
            raise ConnectionResetError(f"the relay ended the circuit ({type(error).__name__})") from error

    async def close(self) -> None:
        with contextlib.suppress(StreamError):
            await self._net_stream.reset()

    def get_remote_address(self) -> None:
        return None
