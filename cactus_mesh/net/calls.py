"""Both sides' calls on one connection, as a machine: bytes in, events out; calls in, bytes out.

It decides what each frame means, who may send how much, and what breaks the protocol.  No I/O, no clock, no tasks.
Call ids belong to the caller, so OPEN, CANCEL and CREDIT speak of calls that the receiver serves, and ITEM, ITEMS,
LAST, END and FAIL of calls that the receiver made.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from cactus_mesh.errors import Busy, MessageTooLarge, PeerLost, ProtocolViolation, StreamOverflow
from cactus_mesh.messages import MAX_MESSAGE_BYTES
from cactus_mesh.net.frames import (
    ABOUT,
    CANCEL,
    CREDIT,
    END,
    FAIL,
    HELLO,
    ITEM,
    ITEMS,
    LAST,
    MAX_ITEMS,
    OPEN,
    PING,
    PONG,
    REFUSE,
    FrameDecoder,
    decode_about,
    decode_error,
    decode_items,
    decode_open,
    encode_about,
    encode_error,
    encode_frame,
    encode_items,
    encode_open,
)

if TYPE_CHECKING:
    from cactus_mesh.errors import MeshError
    from cactus_mesh.net.frames import About

WINDOW_BYTES: Final = 256 * 1024
"""What a caller holds of one reply before it must read on; 2.5 MB/s over a 100 ms path.  One item may overdraw it."""
ITEM_OVERHEAD_BYTES: Final = 32
"""Charged for each item beside its length, so that empty ones are not free."""
MAX_CREDIT_BYTES: Final = 16 << 20
MAX_OPEN_CALLS: Final = 1_024
"""From one peer at a time; a router with more tasks than that at one orchestrator is told that it is busy."""
MAX_UNREAD_BYTES: Final = 64 << 20
"""Of all replies on one connection.  Only a peer that overdraws hundreds of calls at once gets there."""
MAX_QUEUED_BYTES: Final = 16 << 20
"""Frames waiting to be sent.  Callers and handlers stop long before; beyond, the peer does not read its answers."""
BATCH_BYTES: Final = 128 * 1024
"""Written at once; small enough that a ping does not wait long behind it."""
_COALESCED_BYTES: Final = 64 * 1024

NONCE_BYTES: Final = 8
_CREDIT_BYTES: Final = 4
_MAX_HELLO_BYTES: Final = 2_048
"""A sealed hello with the longest names has half of that."""
_LAST_ID: Final = 2**32 - 1


@dataclass(slots=True, eq=False)
class OutgoingCall:
    """A call that we made.  The reply is over when *ended* and *items* is empty; then *error*, if any, is raised."""

    id: int
    items: deque[bytes] = field(default_factory=deque)
    ended: bool = False
    error: MeshError | None = None
    credit: int = WINDOW_BYTES
    """What the peer may still send."""
    consumed: int = 0
    """What was read since the last grant."""
    unread: int = 0


@dataclass(slots=True, eq=False)
class IncomingCall:
    """A call that the peer made.  *credit* is what we may still send, and may end below zero by one item."""

    id: int
    method: str
    payload: bytes
    credit: int = WINDOW_BYTES
    items: list[bytes] = field(default_factory=list)
    """Accepted for sending, not yet written."""
    outcome: MeshError | None = None
    finished: bool = False
    cancelled: bool = False
    listed: bool = False
    """Whether it is among those with something to write."""


@dataclass(frozen=True, slots=True)
class Greeted:
    hello: bytes


@dataclass(frozen=True, slots=True)
class Refused:
    error: MeshError


@dataclass(frozen=True, slots=True)
class Told:
    about: About


@dataclass(frozen=True, slots=True)
class Ponged:
    nonce: bytes


@dataclass(frozen=True, slots=True)
class Cancelled:
    call: IncomingCall


@dataclass(frozen=True, slots=True)
class Granted:
    call: IncomingCall


Event = OutgoingCall | IncomingCall | Granted | Cancelled | Ponged | Greeted | Refused | Told
"""An `OutgoingCall` has something new to read; an `IncomingCall` was opened."""


class CallMachine:
    """One connection's calls.  After a `ProtocolViolation` it may only be asked for its last bytes and to `lose`."""

    def __init__(self) -> None:
        self.made: dict[int, OutgoingCall] = {}
        self.served: dict[int, IncomingCall] = {}
        self.queued_bytes = 0
        self._decoder = FrameDecoder()
        self._greeted = False
        self._next_id = 1
        self._unread_bytes = 0
        self._urgent: list[bytes] = []
        self._frames: deque[bytes] = deque()
        self._replying: deque[IncomingCall] = deque()

    # --- what we say ---------------------------------------------------------------------------------------------

    def greet(self, hello: bytes) -> None:
        self._queue_urgent(HELLO, hello)

    def refuse(self, error: MeshError) -> None:
        self._queue(REFUSE, 0, encode_error(error))

    def tell(self, about: About) -> None:
        self._queue(ABOUT, 0, encode_about(about))

    def ping(self, nonce: bytes) -> None:
        self._queue_urgent(PING, nonce)

    def open(self, method: str, payload: bytes) -> OutgoingCall:
        """Raises `MessageTooLarge` or, with `MAX_OPEN_CALLS` under way, `Busy`."""
        _check_size(payload)
        if len(self.made) >= MAX_OPEN_CALLS:
            raise Busy(f"{MAX_OPEN_CALLS} calls to this peer are under way already; wait for some of them")
        while self._next_id in self.made:
            self._advance()
        call = self.made[self._next_id] = OutgoingCall(self._next_id)
        self._advance()
        self._queue(OPEN, call.id, encode_open(method, payload))
        return call

    def take(self, call: OutgoingCall) -> bytes:
        """The next item of *call*, which must have one; tells the peer when it may send more."""
        item = call.items.popleft()
        cost = len(item) + ITEM_OVERHEAD_BYTES
        call.unread -= cost
        self._unread_bytes -= cost
        call.consumed += cost
        if call.consumed >= WINDOW_BYTES // 2 and not call.ended:
            call.credit += call.consumed
            self._queue(CREDIT, call.id, call.consumed.to_bytes(4, "big"))
            call.consumed = 0
        return item

    def leave(self, call: OutgoingCall) -> None:
        """The caller no longer listens; a call that is still under way is cancelled at the peer."""
        self._unread_bytes -= call.unread
        call.unread = 0
        call.items.clear()
        if self.made.get(call.id) is call:
            del self.made[call.id]
            call.ended = True
            self._queue(CANCEL, call.id, b"")

    def send(self, call: IncomingCall, item: bytes) -> None:
        """Queue *item*, whole.  The caller of this checks ``call.credit > 0`` first."""
        _check_size(item)
        if not call.cancelled:
            call.credit -= len(item) + ITEM_OVERHEAD_BYTES
            call.items.append(item)
            self.queued_bytes += len(item) + ITEM_OVERHEAD_BYTES
            self._list(call)

    def finish(self, call: IncomingCall, outcome: MeshError | None) -> None:
        self.served.pop(call.id, None)
        if not call.cancelled:
            call.finished = True
            call.outcome = outcome
            self._list(call)

    def lose(self, reason: str) -> list[OutgoingCall | Cancelled]:
        """The connection is gone: every call ends, ours with `PeerLost`."""
        over: list[OutgoingCall | Cancelled] = []
        for made in self.made.values():
            made.ended, made.error = True, PeerLost(reason)
            over.append(made)
        for served in self.served.values():
            served.cancelled = True
            over.append(Cancelled(served))
        self.made.clear()
        self.served.clear()
        return over

    def _advance(self) -> None:
        self._next_id = self._next_id + 1 if self._next_id < _LAST_ID else 1

    def _queue(self, kind: int, call: int, body: bytes) -> None:
        frame = encode_frame(kind, call, body)
        self._frames.append(frame)
        self.queued_bytes += len(frame)

    def _queue_urgent(self, kind: int, body: bytes) -> None:
        frame = encode_frame(kind, 0, body)
        self._urgent.append(frame)
        self.queued_bytes += len(frame)

    def _list(self, call: IncomingCall) -> None:
        if not call.listed:
            call.listed = True
            self._replying.append(call)

    @property
    def pending(self) -> bool:
        """Whether there is something to write."""
        return bool(self._replying or self._frames or self._urgent)

    # --- what goes out -------------------------------------------------------------------------------------------

    def data_to_send(self) -> bytes:
        """The next bytes to write, about `BATCH_BYTES` of them; empty when there is nothing."""
        out, self._urgent = self._urgent, []
        size = sum(map(len, out))
        self.queued_bytes -= size
        while self._frames and size < BATCH_BYTES:
            frame = self._frames.popleft()
            out.append(frame)
            size += len(frame)
            self.queued_bytes -= len(frame)
        while self._replying and size < BATCH_BYTES:
            size += self._write_reply(self._replying.popleft(), out)
        return b"".join(out)

    def _write_reply(self, call: IncomingCall, out: list[bytes]) -> int:
        """Everything queued for one call; the queue itself was bounded by the call's credit."""
        call.listed = False
        items, call.items = call.items, []
        size = sum(map(len, items))
        self.queued_bytes -= size + ITEM_OVERHEAD_BYTES * len(items)
        if len(items) == 1 and call.finished and call.outcome is None:
            out.append(encode_frame(LAST, call.id, items[0]))
            return size
        if 1 < len(items) <= MAX_ITEMS and size <= _COALESCED_BYTES:
            out.append(encode_frame(ITEMS, call.id, encode_items(items)))
        else:
            out.extend(encode_frame(ITEM, call.id, item) for item in items)
        if call.finished and call.outcome is not None:
            out.append(encode_frame(FAIL, call.id, encode_error(call.outcome)))
        elif call.finished:
            out.append(encode_frame(END, call.id, b""))
        return size

    # --- what comes in -------------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> list[Event]:
        """What *data* from the peer means.  Raises `ProtocolViolation`: the connection must then be closed."""
        events: list[Event] = []
        for kind, call_id, body in self._decoder.feed(data):
            if not self._greeted and kind not in (HELLO, REFUSE):
                raise ProtocolViolation("something else than a hello came first")
            event = self._receive_frame(kind, call_id, body)
            if event is not None:
                events.append(event)
        if self.queued_bytes > MAX_QUEUED_BYTES:
            raise ProtocolViolation(f"{self.queued_bytes} bytes of answers wait for a peer that does not read them")
        return events

    def _receive_frame(self, kind: int, call_id: int, body: bytes) -> Event | None:
        if kind == ITEM:
            return self._receive_items(call_id, [body], ended=False)
        if kind == LAST:
            return self._receive_items(call_id, [body], ended=True)
        if kind == OPEN:
            return self._receive_open(call_id, body)
        if kind == ITEMS:
            return self._receive_items(call_id, decode_items(body), ended=False)
        if kind == CREDIT:
            return self._receive_credit(call_id, body)
        if kind in (END, FAIL):
            return self._receive_end(call_id, decode_error(body) if kind == FAIL else None)
        if kind == CANCEL:
            return self._receive_cancel(call_id)
        return self._receive_about_connection(kind, body)

    def _receive_items(self, call_id: int, items: list[bytes], *, ended: bool) -> Event | None:
        call = self.made.get(call_id)
        if call is None or not items:
            return None  # it crossed with our CANCEL
        cost = sum(map(len, items)) + ITEM_OVERHEAD_BYTES * len(items)
        if call.credit + len(items[-1]) + ITEM_OVERHEAD_BYTES - cost <= 0:
            raise ProtocolViolation("more of a reply than was asked for")
        call.credit -= cost
        call.unread += cost
        self._unread_bytes += cost
        call.items.extend(items)
        if ended:
            call.ended = True
            del self.made[call_id]
        if self._unread_bytes > MAX_UNREAD_BYTES:
            self.leave(call)
            call.ended = True
            call.error = StreamOverflow(f"{MAX_UNREAD_BYTES} bytes of replies are unread; read them as they come")
        return call

    def _receive_end(self, call_id: int, error: MeshError | None) -> Event | None:
        call = self.made.pop(call_id, None)
        if call is not None:
            call.ended = True
            call.error = error
        return call

    def _receive_open(self, call_id: int, body: bytes) -> Event | None:
        if call_id in self.served:
            raise ProtocolViolation(f"call {call_id} is open already")
        method, payload = decode_open(body)
        call = IncomingCall(call_id, method, payload)
        if len(self.served) >= MAX_OPEN_CALLS:
            self.finish(call, Busy(f"{MAX_OPEN_CALLS} calls of yours are running here already; wait for some of them"))
            return None
        self.served[call_id] = call
        return call

    def _receive_credit(self, call_id: int, body: bytes) -> Event | None:
        granted = int.from_bytes(body, "big")
        if len(body) != _CREDIT_BYTES or granted > MAX_CREDIT_BYTES:
            raise ProtocolViolation("credit that cannot be meant")
        call = self.served.get(call_id)
        if call is None:
            return None
        call.credit = min(call.credit + granted, MAX_CREDIT_BYTES)
        return Granted(call)

    def _receive_cancel(self, call_id: int) -> Event | None:
        call = self.served.pop(call_id, None)
        if call is None:
            return None
        call.cancelled = True
        self.queued_bytes -= sum(map(len, call.items)) + ITEM_OVERHEAD_BYTES * len(call.items)
        call.items.clear()
        return Cancelled(call)

    def _receive_about_connection(self, kind: int, body: bytes) -> Event | None:
        if kind == PING and len(body) == NONCE_BYTES:
            self._queue_urgent(PONG, body)
            return None
        if kind == PONG and len(body) == NONCE_BYTES:
            return Ponged(body)
        if kind == ABOUT:
            return Told(decode_about(body))
        if kind == REFUSE:
            return Refused(decode_error(body))
        if kind == HELLO and not self._greeted and len(body) <= _MAX_HELLO_BYTES:
            self._greeted = True
            return Greeted(body)
        raise ProtocolViolation(f"a frame of kind {kind} that does not belong here")


def _check_size(data: bytes) -> None:
    if len(data) > MAX_MESSAGE_BYTES:
        raise MessageTooLarge(f"this has {len(data)} bytes; send at most {MAX_MESSAGE_BYTES} at once")
