"""A connection inside WebSocket messages (``/ws``), also over TLS (``/wss``), where networks allow nothing else.

Frames carry the bytes of Noise as they come: their borders mean nothing.  TLS is for the middlemen; trust is Noise's.
A listener speaks plain WebSocket: TLS is ended by the web server before it.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final

import trio
from libp2p.connection_types import ConnectionType
from multiaddr import Multiaddr
from wsproto import ConnectionType as Side
from wsproto import WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    Pong,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.utilities import ProtocolError

from cactus_mesh.net.links import READ_BYTES, Link

if TYPE_CHECKING:
    import socket

    from wsproto.events import Event

MAX_HANDSHAKE_READS: Final = 64
"""A request that comes in smaller pieces than these is no browser's or peer's."""
TLS_PORT: Final = 443


async def accept_websocket(carrier: Link) -> WebSocketLink:
    """The other side has connected and will ask for a WebSocket.  Raises OSError."""
    link = WebSocketLink(carrier, WSConnection(Side.SERVER))
    event = await link.shaken_hands()
    if not isinstance(event, Request):
        raise ConnectionAbortedError("it does not speak WebSocket")
    await link.send(AcceptConnection())
    return link


async def ask_for_websocket(carrier: Link, host: str, port: int) -> WebSocketLink:
    """We have connected to *host*.  Raises OSError."""
    link = WebSocketLink(carrier, WSConnection(Side.CLIENT))
    named = f"[{host}]" if ":" in host else host
    await link.send(Request(host=named if port == TLS_PORT else f"{named}:{port}", target="/"))
    event = await link.shaken_hands()
    if isinstance(event, RejectConnection):
        raise ConnectionRefusedError(f"a web server answers there, with status {event.status_code} and no WebSocket")
    if not isinstance(event, AcceptConnection):
        raise ConnectionAbortedError("it does not speak WebSocket")
    return link


class WebSocketLink(Link):
    """Bytes over *carrier*, which it closes."""

    def __init__(self, carrier: Link, protocol: WSConnection) -> None:
        (address,) = carrier.get_transport_addresses()
        address = address.encapsulate("/wss" if isinstance(carrier, TlsLink) else "/ws")
        super().__init__(initiator=carrier.is_initiator, address=address, kind=ConnectionType.DIRECT)
        self.local_port = carrier.local_port
        self._carrier = carrier
        self._protocol = protocol
        self._writing = trio.Lock()  # a pong must not come between the halves of a message

    async def shaken_hands(self) -> Event:
        """The event that ends the handshake."""
        for _ in range(MAX_HANDSHAKE_READS):
            if not self._take(await self._carrier.read_some()):
                break
            for event in self._protocol.events():
                return event
        raise ConnectionAbortedError("it does not speak WebSocket")

    async def write(self, data: bytes) -> None:
        await self.send(BytesMessage(data))

    async def send(self, event: Event) -> None:
        async with self._writing:
            try:
                wire = self._protocol.send(event)
            except ProtocolError as error:
                raise ConnectionAbortedError("the WebSocket is closed") from error
            await self._carrier.write(wire)

    async def _receive(self) -> bytes:
        while True:
            for event in self._protocol.events():
                match event:
                    case BytesMessage(data=data) if data:
                        return bytes(data)
                    case Ping():
                        await self.send(event.response())
                    case BytesMessage() | Pong():
                        continue
                    case TextMessage():
                        raise ConnectionAbortedError("text in a WebSocket that carries bytes")
                    case CloseConnection():
                        return b""
            if not self._take(await self._carrier.read_some()):
                return b""

    def _take(self, data: bytes) -> bool:
        """False at the end."""
        try:
            self._protocol.receive_data(data or None)
        except ProtocolError as error:
            raise ConnectionAbortedError("it does not speak WebSocket") from error
        return bool(data)

    async def close(self) -> None:
        await self._carrier.close()

    def get_remote_address(self) -> tuple[str, int] | None:
        return self._carrier.get_remote_address()


class TlsLink(Link):
    """TLS from our side of *sock*, which it closes."""

    def __init__(self, sock: socket.socket, host: str) -> None:
        remote, port = sock.getpeername()[:2]
        self._remote = (str(remote), int(port))
        family = "ip6" if ":" in remote else "ip4"
        address = Multiaddr(f"/{family}/{remote}/tcp/{port}")
        super().__init__(initiator=True, address=address, kind=ConnectionType.DIRECT)
        self.local_port = int(sock.getsockname()[1])
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        self._stream = trio.SSLStream(stream, ssl.create_default_context(), server_hostname=host, https_compatible=True)

    async def write(self, data: bytes) -> None:
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionResetError(_tls_problem(error)) from None

    async def _receive(self) -> bytes:
        try:
            return bytes(await self._stream.receive_some(READ_BYTES))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionResetError(_tls_problem(error)) from None

    async def close(self) -> None:
        await trio.aclose_forcefully(self._stream)

    def get_remote_address(self) -> tuple[str, int]:
        return self._remote


def _tls_problem(error: BaseException) -> str:
    cause = error.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its TLS certificate is not trusted: {cause.verify_message}"
    return "TLS failed" if isinstance(cause, ssl.SSLError) else "the connection was closed"
