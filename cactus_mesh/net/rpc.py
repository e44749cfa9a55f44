"""Calls over one connection: drives a `CallMachine` over a byte stream, runs handlers, wakes readers.

One task reads, one writes whatever has queued in a single write; a caller that is cancelled or times out never touches
a write.  It knows nothing of libp2p.
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import trio

from cactus_mesh.concurrency import open_service_nursery
from cactus_mesh.errors import Busy, PeerLost, ProtocolViolation, UnknownMethod, to_wire
from cactus_mesh.net.calls import (
    NONCE_BYTES,
    CallMachine,
    Cancelled,
    Granted,
    Greeted,
    IncomingCall,
    OutgoingCall,
    Ponged,
    Refused,
    Told,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from cactus_mesh.errors import MeshError
    from cactus_mesh.identity import PeerId, PublicKey
    from cactus_mesh.net.calls import Event
    from cactus_mesh.net.frames import About
    from cactus_mesh.ports import Handler

QUEUE_BYTES: Final = 1 << 20
"""Waiting to be written on one connection before callers and handlers wait: a few writes' worth on any link."""
RTT_SMOOTHING: Final = 1 / 8
"""Weight of a new sample (RFC 6298)."""
_ITEMS_BETWEEN_YIELDS: Final = 16

log = logging.getLogger(__name__)


class ByteStream(Protocol):
    """What a session needs of a stream.  ``read`` returns b"" at its end; both raise OSError when it breaks."""

    async def read_some(self) -> bytes: ...
    async def write_all(self, data: bytes) -> None: ...


@dataclass(slots=True, eq=False)
class Method:
    name: str
    handler: Handler
    at_once: int
    running: int = 0


class Methods:
    """What this node answers, over all its connections."""

    def __init__(self) -> None:
        self._methods: dict[str, Method] = {}

    def add(self, name: str, handler: Handler, at_once: int) -> None:
        assert name not in self._methods, f"{name!r} is served already"
        assert at_once > 0, "a method that nobody may call"
        self._methods[name] = Method(name, handler, at_once)

    def admit(self, name: str) -> Method:
        """Take a place for one call; the caller gives it back.  Raises `UnknownMethod` or `Busy`."""
        method = self._methods.get(name)
        if method is None:
            raise UnknownMethod(f"this peer does not serve {name!r}; ask one that has the role for it")
        if method.running >= method.at_once:
            raise Busy(f"{method.at_once} calls of {name!r} are running already; try again or ask another peer")
        method.running += 1
        return method


class ServedCall:
    """One incoming call, as its handler sees it: a `ports.Call`."""

    __slots__ = ("_call", "_granted", "_session", "_unyielded", "payload", "peer", "public_key", "scope")

    def __init__(self, session: Session, call: IncomingCall) -> None:
        self.peer = session.peer
        self.public_key = session.public_key
        self.payload = call.payload
        self.scope = trio.CancelScope()
        self._session = session
        self._call = call
        self._granted = trio.Event()
        self._unyielded = 0

    async def send(self, item: bytes) -> None:
        call, session = self._call, self._session
        self._unyielded += 1
        if self._unyielded < _ITEMS_BETWEEN_YIELDS:
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            self._unyielded = 0
            await trio.lowlevel.checkpoint()
        while not call.cancelled and (call.credit <= 0 or session.full):
            if call.credit > 0:
                await session.room()
            else:
                await self._granted.wait()
        session.machine.send(call, item)
        if call.credit <= 0:
            self._granted = trio.Event()
        session.flush()

    def granted(self) -> None:
        self._granted.set()


class SessionReply:
    """The reply to one of our calls: a `ports.Reply`."""

    __slots__ = ("_call", "_session")

    def __init__(self, session: Session, call: OutgoingCall) -> None:
        self._session = session
        self._call = call

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        call = self._call
        while not call.items:
            if call.error is not None:
                raise call.error
            if call.ended:
                raise StopAsyncIteration
            await self._session.changed(call)
        return self._session.take(call)

    async def only(self, method: str) -> bytes:
        """The one item of a reply that must have one."""
        items: list[bytes] = []
        async for item in self:
            items.append(item)
            if len(items) > 1 and not self._call.items:
                break
        if len(items) != 1:
            raise ProtocolViolation(f"{self._session.peer} answered {method!r} with {len(items)} items instead of one")
        return items[0]

    def leave(self) -> None:
        self._session.leave(self._call)


class Session:
    """The calls of one connection.  Made for a stream; alive while `run` runs."""

    def __init__(
        self,
        stream: ByteStream,
        peer: PeerId,
        public_key: PublicKey,
        methods: Methods,
        on_about: Callable[[About], None],
    ) -> None:
        self.peer = peer
        self.public_key = public_key
        self.machine = CallMachine()
        self.heard_at = trio.current_time()
        self.rtt_seconds: float | None = None
        self.used_at = self.heard_at
        self._stream = stream
        self._methods = methods
        self._on_about = on_about
        self._hello: bytes | None = None
        self._hello_came = trio.Event()
        self._accepted = trio.Event()
        self._refusal: MeshError | None = None
        self._to_write = trio.Event()
        self._drained = trio.Event()
        self._waiting: dict[OutgoingCall, trio.Event] = {}
        self._served: dict[IncomingCall, ServedCall] = {}
        self._pinged: tuple[bytes, float] | None = None
        self._ponged, self._last_rtt_seconds = trio.Event(), 0.0
        self._writing = False
        self._over = False

    # --- the connection's life -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until the stream ends.  Raises the peer's refusal, `ProtocolViolation` or OSError when it ends so."""
        async with open_service_nursery() as nursery:
            nursery.start_soon(self._write)
            try:
                await self._read(nursery)
            finally:
                self._lose()

    async def hello(self) -> bytes:
        """The peer's sealed hello.  Raises its refusal, or `PeerLost` when the stream ends without either."""
        await self._hello_came.wait()
        if self._refusal is not None:
            raise self._refusal
        if self._hello is None:
            raise PeerLost(f"{self.peer} ended the connection without a hello")
        return self._hello

    def accept(self) -> None:
        """The hello is good: go on with what follows it."""
        self._accepted.set()

    async def refuse(self, error: MeshError) -> None:
        """Tell the peer why we part, and wait until that is written.  Call it under a deadline."""
        self.machine.refuse(error)
        self.flush()
        while (self.machine.pending or self._writing) and not self._over:
            if self._drained.is_set():
                self._drained = trio.Event()
            await self._drained.wait()

    async def _read(self, nursery: trio.Nursery) -> None:
        machine = self.machine
        while data := await self._stream.read_some():
            self.heard_at = trio.current_time()
            for event in machine.receive(data):
                self._handle_event(event, nursery)
                if not self._accepted.is_set():
                    await self._accepted.wait()  # nothing counts until somebody has checked the hello
            if machine.pending:
                self._to_write.set()

    async def _write(self) -> None:
        machine = self.machine
        while True:
            while data := machine.data_to_send():
                self._writing = True
                await self._stream.write_all(data)
                self._writing = False
                self._drained.set()
            self._to_write = trio.Event()
            await self._to_write.wait()

    def flush(self) -> None:
        self._to_write.set()

    @property
    def full(self) -> bool:
        return self.machine.queued_bytes > QUEUE_BYTES and not self._over

    async def room(self) -> None:
        """Wait until less than `QUEUE_BYTES` wait to be written."""
        while self.full:
            if self._drained.is_set():
                self._drained = trio.Event()
            await self._drained.wait()

    def _lose(self) -> None:
        self._over = True
        for event in self.machine.lose(f"the connection to {self.peer} ended during the call"):
            if isinstance(event, OutgoingCall):
                self._wake(event)
            else:
                self._cancel(event.call)
        self._hello_came.set()
        self._drained.set()
        self._ponged.set()

    # --- events --------------------------------------------------------------------------------------------------

    def _handle_event(self, event: Event, nursery: trio.Nursery) -> None:
        match event:
            case OutgoingCall():
                self._wake(event)
            case IncomingCall():
                self._admit(event, nursery)
            case Granted(call):
                if call in self._served:
                    self._served[call].granted()
            case Cancelled(call):
                self._cancel(call)
            case Ponged(nonce):
                self._measure(nonce)
            case Told(about):
                self._on_about(about)
            case Greeted(hello):
                self._hello = hello
                self._hello_came.set()
            case Refused(error):
                self._refusal = error
                self._hello_came.set()
                raise error

    def _wake(self, call: OutgoingCall) -> None:
        waiting = self._waiting.get(call)
        if waiting is not None:
            waiting.set()

    def _cancel(self, call: IncomingCall) -> None:
        if call in self._served:
            self._served[call].scope.cancel()

    def _admit(self, call: IncomingCall, nursery: trio.Nursery) -> None:
        try:
            method = self._methods.admit(call.method)
        except (UnknownMethod, Busy) as refusal:
            self.machine.finish(call, refusal)
            return
        self.used_at = self.heard_at
        served = self._served[call] = ServedCall(self, call)
        nursery.start_soon(self._serve, method, call, served)

    async def _serve(self, method: Method, call: IncomingCall, served: ServedCall) -> None:
        outcome: MeshError | None = None
        try:
            with served.scope:
                await method.handler(served)
        except Exception as error:
            outcome = to_wire(error)
            unexpected = error if outcome.code == "peer.failed" else None
            details = {"method": method.name, "peer": self.peer, "code": outcome.code}
            log.log(logging.ERROR if unexpected else logging.INFO, "a call failed", extra=details, exc_info=unexpected)
        finally:
            method.running -= 1
            del self._served[call]
        self.machine.finish(call, outcome)
        self.flush()

    # --- our calls -----------------------------------------------------------------------------------------------

    @property
    def busy(self) -> bool:
        """Whether a call is under way, in either direction."""
        return bool(self.machine.made or self.machine.served)

    async def open(self, method: str, payload: bytes) -> SessionReply:
        """Begin a call; whoever begins one must `SessionReply.leave` it."""
        if self.full:
            await self.room()
        if self._over:
            raise PeerLost(f"the connection to {self.peer} ended before the call")
        call = self.machine.open(method, payload)
        self.used_at = self.heard_at
        self.flush()
        return SessionReply(self, call)

    async def changed(self, call: OutgoingCall) -> None:
        event = self._waiting[call] = trio.Event()
        try:
            await event.wait()
        finally:
            del self._waiting[call]

    def take(self, call: OutgoingCall) -> bytes:
        item = self.machine.take(call)
        if self.machine.pending:
            self.flush()
        return item

    def leave(self, call: OutgoingCall) -> None:
        self.machine.leave(call)
        if self.machine.pending:
            self.flush()

    # --- pings ---------------------------------------------------------------------------------------------------

    def ping(self) -> None:
        """Ask for a sign of life; at most one question is open."""
        if self._pinged is None:
            nonce = secrets.token_bytes(NONCE_BYTES)
            self._pinged = (nonce, trio.current_time())
            self.machine.ping(nonce)
            self.flush()

    async def round_trip(self) -> float:
        """How long a ping takes now, in seconds.  Raises `PeerLost`; the deadline is the caller's."""
        self.ping()
        await self._ponged.wait()
        if self._over:
            raise PeerLost(f"the connection to {self.peer} ended before its answer to a ping")
        return self._last_rtt_seconds

    def silent_seconds(self) -> float:
        """How long an open ping has gone without any byte from the peer."""
        return 0.0 if self._pinged is None else trio.current_time() - max(self._pinged[1], self.heard_at)

    def _measure(self, nonce: bytes) -> None:
        if self._pinged is None or self._pinged[0] != nonce:
            return
        sample = trio.current_time() - self._pinged[1]
        self._pinged = None
        self._last_rtt_seconds = sample
        self._ponged.set()
        self._ponged = trio.Event()
        before = self.rtt_seconds
        self.rtt_seconds = sample if before is None else before + RTT_SMOOTHING * (sample - before)
