"""HTTP/1.1 over TCP for an ASGI application, on hypercorn's protocol: decides how long anybody may keep a connection.

hypercorn's own server waits for ever for a client that stops reading, and offers HTTP/2 to whoever asks; so connections
are driven here: a request's head has a total time, every write has one, and what is over its time is cut.
"""

from __future__ import annotations

import errno
import logging
import math
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import h11
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed, RawData, Updated
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

from cactus_mesh.concurrency import open_service_nursery
from cactus_mesh.errors import AddressMalformed, PortInUse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hypercorn.events import Event
    from hypercorn.typing import H11SendableEvent

HEAD_BYTES: Final = 16 * 1024
"""Request line and headers: four times what browsers send."""
HEAD_SECONDS: Final = 10.0
"""From a request's first byte to the end of its headers."""
IDLE_SECONDS: Final = 75.0
"""Between two requests of one connection; longer than clients keep theirs."""
WRITE_BYTES: Final = 64 * 1024
WRITE_SECONDS: Final = 20.0
"""For so many bytes of a reply to fit into the buffers of a client that reads slowly or not at all."""
SEND_BUFFER_BYTES: Final = 128 * 1024
LINGER_SECONDS: Final = 2.0
"""For the last reply to be read before a connection with unread input is cut, which would destroy it on its way."""
GRACE_SECONDS: Final = 5.0
"""For replies under way when the gateway stops."""
READ_BYTES: Final = 64 * 1024

log = logging.getLogger(__name__)


class _Http1(H11Protocol):
    """Without HTTP/2: its streams would escape the limits below.  A reply's head leaves with what follows it."""

    _head = b""

    async def _check_protocol(self, event: h11.Request) -> None:
        pass

    async def _send_h11_event(self, event: H11SendableEvent) -> None:
        try:
            data = self.connection.send(event) or b""
        except h11.LocalProtocolError:
            if self.connection.their_state is not h11.ERROR:
                raise
            return
        if isinstance(event, h11.Response):
            self._head = data
            return
        data, self._head = self._head + data, b""
        if data:
            await self.send(RawData(data=data))


@asynccontextmanager
async def open_server(app: Any, host: str, port: int, *, connections: int) -> AsyncIterator[Server]:
    """Serve *app* (ASGI, HTTP only).  Leaving the block lets replies end for a while, then cuts what is left.

    Raises `PortInUse`, or `AddressMalformed` for a host that is none of this machine's.
    """
    listeners = await _listen(host, port)
    server = Server(app, connections, listeners[0].socket.getsockname()[1])
    async with open_service_nursery() as nursery:
        accepting = trio.CancelScope()

        async def accept() -> None:
            with accepting:
                await trio.serve_listeners(server.serve, listeners, handler_nursery=nursery)

        nursery.start_soon(accept)
        try:
            yield server
        finally:
            accepting.cancel()
            with trio.CancelScope(shield=True):
                await server.drain()


async def _listen(host: str, port: int) -> list[trio.SocketListener]:
    try:
        listeners = await trio.open_tcp_listeners(port, host=host)
    except OSError as error:
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            raise PortInUse(
                f"another program listens on port {port}, or this user may not; choose one with --port"
            ) from None
        raise AddressMalformed(f"the gateway cannot listen on {host} port {port}: {error}") from None
    if port:
        return listeners
    for other in listeners[1:]:  # "localhost" may be two addresses, which would be given two ports
        await other.aclose()
    return listeners[:1]


class Server:
    """What all connections share."""

    def __init__(self, app: Any, connections: int, port: int) -> None:
        self.app = ASGIWrapper(app)
        self.port = port
        self.context = WorkerContext(None)
        self.config = Config()
        self.config.h11_max_incomplete_size = HEAD_BYTES
        self.config.include_server_header = False
        self.config.errorlog = log
        self._most = connections
        self._open: dict[_Connection, None] = {}
        self._one_less = trio.Event()

    @property
    def connections(self) -> int:
        return len(self._open)

    async def serve(self, stream: trio.SocketStream) -> None:
        """One connection, to its end.  When there are too many, the one that has been idle longest makes room."""
        if len(self._open) >= self._most:
            idle = next((each for each in self._open if each.idle), None)
            if idle is None:
                await trio.aclose_forcefully(stream)
                return
            idle.cut()
        connection = _Connection(self, stream)
        self._open[connection] = None
        try:
            await connection.run()
        except OSError:
            pass  # a client that is gone, in one of the many ways to go
        except Exception:  # one connection's trouble is not the others'
            log.exception("a connection to the gateway failed")
        finally:
            del self._open[connection]
            self._one_less.set()
            await trio.aclose_forcefully(stream)

    async def drain(self) -> None:
        await self.context.terminated.set()
        for connection in tuple(self._open):
            if connection.idle:
                connection.cut()
        with trio.move_on_after(GRACE_SECONDS):
            while self._open:
                self._one_less = trio.Event()
                await self._one_less.wait()
        for connection in tuple(self._open):
            connection.cut()


class _Connection:
    def __init__(self, server: Server, stream: trio.SocketStream) -> None:
        self._server = server
        self._stream = stream
        self._scope = trio.CancelScope()
        self._reading = trio.CancelScope()
        self._writing = trio.Lock()
        self._deadline = trio.current_time() + HEAD_SECONDS
        self._closing = False
        self.idle = True
        """Between requests."""

    def cut(self) -> None:
        self._scope.cancel()

    async def run(self) -> None:
        with suppress(OSError):
            self._stream.socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        socket = self._stream.socket
        client, here = socket.getpeername()[:2], socket.getsockname()[:2]
        with self._scope:
            async with TaskGroup() as group:
                self._group = group
                self._protocol = _Http1(
                    self._server.app,
                    self._server.config,
                    self._server.context,
                    group,
                    ConnectionState({}),
                    False,
                    client,
                    here,
                    self._send,
                )
                await self._read()
                self._scope.deadline = min(self._scope.deadline, trio.current_time() + GRACE_SECONDS)
                await self._protocol.handle(Closed())

    async def _read(self) -> None:
        while True:
            with trio.CancelScope(deadline=self._deadline) as self._reading:
                try:
                    data = bytes(await self._stream.receive_some(READ_BYTES))
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    return
            if self._reading.cancelled_caught or not data:
                return
            if self._closing:
                continue
            if self.idle:
                self._until(min(self._deadline, trio.current_time() + HEAD_SECONDS))
            await self._protocol.handle(RawData(data))

    def _until(self, when: float) -> None:
        self._deadline = self._reading.deadline = when

    async def _send(self, event: Event) -> None:
        match event:
            case RawData(data=data):
                await self._write(data)
            case Closed():
                await self._close()
                await self._protocol.handle(Closed())
            case Updated(idle=idle):
                self.idle = idle
                self._until(trio.current_time() + IDLE_SECONDS if idle else math.inf)

    async def _write(self, data: bytes) -> None:
        async with self._writing:
            if self._closing:
                return
            if await self._pass_on(memoryview(data)):
                return
        self._closing = True
        await trio.aclose_forcefully(self._stream)
        await self._protocol.handle(Closed())

    async def _pass_on(self, data: memoryview) -> bool:
        """Whether all of it went in time.  Cancelling does not cut it short: half a chunk would be no HTTP."""
        for start in range(0, len(data), WRITE_BYTES):
            with trio.move_on_after(WRITE_SECONDS, shield=True) as scope:
                try:
                    await self._stream.send_all(data[start : start + WRITE_BYTES])
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    return False
            if scope.cancelled_caught:
                return False
        return True

    async def _close(self) -> None:
        """Say that this is the end, and give the client a moment to read it."""
        if self._closing:
            return
        self._closing = True
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
            await self._stream.send_eof()
        self._until(trio.current_time() + LINGER_SECONDS)
        self._scope.deadline = trio.current_time() + LINGER_SECONDS
