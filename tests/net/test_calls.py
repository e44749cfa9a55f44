from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cactus_mesh.errors import Busy, MessageTooLarge, NoFunds, PeerLost, ProtocolViolation, StreamOverflow
from cactus_mesh.messages import MAX_MESSAGE_BYTES
from cactus_mesh.net import calls
from cactus_mesh.net.calls import (
    WINDOW_BYTES,
    CallMachine,
    Cancelled,
    Granted,
    Greeted,
    IncomingCall,
    OutgoingCall,
    Ponged,
    Refused,
)
from cactus_mesh.net.frames import CREDIT, HELLO, ITEM, OPEN, PING, encode_frame, encode_open


def greeted_pair() -> tuple[CallMachine, CallMachine]:
    one, other = CallMachine(), CallMachine()
    one.greet(b"one")
    other.greet(b"other")
    assert deliver(one, other) == [Greeted(b"one")]
    assert deliver(other, one) == [Greeted(b"other")]
    return one, other


def deliver(sender: CallMachine, receiver: CallMachine) -> list:
    events = []
    while data := sender.data_to_send():
        events += receiver.receive(data)
    return events


def opened(caller: CallMachine, server: CallMachine) -> tuple[OutgoingCall, IncomingCall]:
    made = caller.open("method", b"payload")
    (served,) = deliver(caller, server)
    return made, served


def test_a_call_arrives_with_its_method_and_payload() -> None:
    _, served = opened(*greeted_pair())
    assert (served.method, served.payload) == ("method", b"payload")


def test_many_items_queued_for_a_call_travel_in_one_frame() -> None:
    caller, server = greeted_pair()
    made, served = opened(caller, server)
    for number in range(100):
        server.send(served, b"%d" % number)
    written = server.data_to_send()
    assert len(written) < 9 + 100 * 5
    caller.receive(written)
    assert [caller.take(made) for _ in range(100)] == [b"%d" % number for number in range(100)]


def test_an_error_comes_after_the_items_before_it() -> None:
    caller, server = greeted_pair()
    made, served = opened(caller, server)
    server.send(served, b"first")
    server.finish(served, NoFunds("no money"))
    deliver(server, caller)
    assert caller.take(made) == b"first"
    assert made.ended
    assert isinstance(made.error, NoFunds)


def test_reading_half_a_window_grants_as_much_again() -> None:
    caller, server = greeted_pair()
    made, served = opened(caller, server)
    while served.credit > 0:
        server.send(served, bytes(1_000))
    deliver(server, caller)
    while made.items:
        caller.take(made)
    assert Granted(served) in deliver(caller, server)
    assert served.credit > WINDOW_BYTES // 2


def test_more_of_a_reply_than_was_asked_for_breaks_the_protocol() -> None:
    caller, server = greeted_pair()
    made, _ = opened(caller, server)
    item = encode_frame(ITEM, made.id, bytes(WINDOW_BYTES))
    caller.receive(item)  # one item may overdraw
    with pytest.raises(ProtocolViolation, match="more of a reply"):
        caller.receive(item)


def test_leaving_a_call_tells_the_peer_and_late_items_are_ignored() -> None:
    caller, server = greeted_pair()
    made, served = opened(caller, server)
    server.send(served, b"late")
    late = server.data_to_send()
    caller.leave(made)
    assert deliver(caller, server) == [Cancelled(served)]
    assert caller.receive(late) == []
    server.send(served, b"never")
    server.finish(served, None)
    assert server.data_to_send() == b""


def test_the_end_of_a_connection_ends_every_call() -> None:
    caller, server = greeted_pair()
    made, served = opened(caller, server)
    assert caller.lose("the connection ended") == [made]
    assert isinstance(made.error, PeerLost)
    assert server.lose("the connection ended") == [Cancelled(served)]


def test_calls_beyond_the_bound_are_refused_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    caller, server = greeted_pair()
    monkeypatch.setattr(calls, "MAX_OPEN_CALLS", 2)
    opened(caller, server)
    opened(caller, server)
    with pytest.raises(Busy):
        caller.open("method", b"")
    server.receive(encode_frame(OPEN, 77, encode_open("method", b"")))
    assert len(server.served) == 2
    assert b"task.busy" in server.data_to_send()


def test_unread_replies_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    caller, server = greeted_pair()
    monkeypatch.setattr(calls, "MAX_UNREAD_BYTES", 1_000)
    made, served = opened(caller, server)
    server.send(served, bytes(2_000))
    deliver(server, caller)
    assert isinstance(made.error, StreamOverflow)
    assert deliver(caller, server) == [Cancelled(served)]


def test_a_peer_that_asks_without_reading_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    _, server = greeted_pair()
    monkeypatch.setattr(calls, "MAX_QUEUED_BYTES", 10_000)
    with pytest.raises(ProtocolViolation, match="does not read"):
        server.receive(encode_frame(PING, 0, bytes(8)) * 1_000)


def test_a_ping_overtakes_what_waits() -> None:
    one, other = greeted_pair()
    one.open("method", bytes(MAX_MESSAGE_BYTES))
    one.ping(b"12345678")
    other.receive(one.data_to_send())
    assert Ponged(b"12345678") in deliver(other, one)


def test_a_refusal_may_come_first() -> None:
    one, other = CallMachine(), CallMachine()
    one.refuse(Busy("full"))
    (refused,) = deliver(one, other)
    assert isinstance(refused, Refused)
    assert isinstance(refused.error, Busy)


@pytest.mark.parametrize(
    "frame",
    [
        encode_frame(OPEN, 1, encode_open("m", b"")),
        encode_frame(PING, 0, bytes(8)),
        encode_frame(99, 0, b""),
        encode_frame(HELLO, 0, bytes(5_000)),
    ],
)
def test_anything_before_the_hello_breaks_the_protocol(frame: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        CallMachine().receive(frame)


@pytest.mark.parametrize(
    "frame",
    [
        encode_frame(HELLO, 0, b"again"),
        encode_frame(OPEN, 1, b""),
        encode_frame(CREDIT, 1, b"123"),
        encode_frame(CREDIT, 1, b"\xff\xff\xff\xff"),
        encode_frame(PING, 0, b"short"),
        encode_frame(99, 0, b""),
    ],
)
def test_what_does_not_belong_breaks_the_protocol(frame: bytes) -> None:
    _, server = greeted_pair()
    with pytest.raises(ProtocolViolation):
        server.receive(frame)


def test_a_call_id_that_is_open_cannot_be_opened_again() -> None:
    _, server = greeted_pair()
    frame = encode_frame(OPEN, 1, encode_open("m", b""))
    server.receive(frame)
    with pytest.raises(ProtocolViolation, match="open already"):
        server.receive(frame)


def test_what_is_too_large_is_refused_here() -> None:
    caller, server = greeted_pair()
    with pytest.raises(MessageTooLarge):
        caller.open("method", bytes(MAX_MESSAGE_BYTES + 1))
    _, served = opened(caller, server)
    with pytest.raises(MessageTooLarge):
        server.send(served, bytes(MAX_MESSAGE_BYTES + 1))


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 3), st.binary(max_size=40)), max_size=30))
def test_any_frames_after_the_hello_are_handled_or_break_the_protocol(frames) -> None:
    caller, server = greeted_pair()
    opened(caller, server)
    try:
        for frame in frames:
            server.receive(encode_frame(*frame))
            caller.receive(encode_frame(*frame))
    except ProtocolViolation:
        return
    assert server.queued_bytes >= 0
    assert caller.queued_bytes >= 0


class TwoMachines(RuleBasedStateMachine):
    """Calls both ways in any order, any part of them still under way: what is read is what was sent."""

    @initialize()
    def connect(self) -> None:
        self.ends = greeted_pair()
        self.under_way: tuple[bytearray, bytearray] = (bytearray(), bytearray())
        self.made: dict[int, OutgoingCall] = {}
        self.served: dict[int, IncomingCall] = {}
        self.sent: dict[int, list[bytes]] = {}
        self.read: dict[int, list[bytes]] = {}

    @rule()
    def open(self) -> None:
        made = self.ends[0].open("method", b"")
        self.made[made.id], self.sent[made.id], self.read[made.id] = made, [], []

    @rule(which=st.integers(0, 5), size=st.sampled_from([0, 1, 100, 5_000, 90_000]), many=st.integers(1, 40))
    def send(self, which: int, size: int, many: int) -> None:
        for call in list(self.served.values())[which : which + 1]:
            for number in range(many):
                if call.credit > 0 and not call.cancelled:
                    item = bytes([number]) * size
                    self.ends[1].send(call, item)
                    self.sent[call.id].append(item)

    @rule(which=st.integers(0, 5))
    def finish(self, which: int) -> None:
        for call in list(self.served.values())[which : which + 1]:
            self.ends[1].finish(call, None)
            del self.served[call.id]

    @rule(which=st.integers(0, 5))
    def leave(self, which: int) -> None:
        for call in list(self.made.values())[which : which + 1]:
            self.ends[0].leave(call)
            del self.made[call.id]

    @rule(direction=st.integers(0, 1), share=st.floats(0, 1))
    def carry(self, direction: int, share: float) -> None:
        wire = self.under_way[direction]
        wire += self.ends[direction].data_to_send()
        part = bytes(wire[: int(len(wire) * share) + 1])
        del wire[: len(part)]
        for event in self.ends[1 - direction].receive(part):
            if isinstance(event, IncomingCall):
                self.served[event.id] = event
            elif isinstance(event, Cancelled):
                self.served.pop(event.call.id, None)

    @rule(which=st.integers(0, 5), many=st.integers(1, 50))
    def take(self, which: int, many: int) -> None:
        for call in list(self.made.values())[which : which + 1]:
            while call.items and many:
                self.read[call.id].append(self.ends[0].take(call))
                many -= 1

    @invariant()
    def nothing_is_lost_or_invented(self) -> None:
        for call_id, call in getattr(self, "made", {}).items():
            seen = self.read[call_id] + list(call.items)
            assert seen == self.sent[call_id][: len(seen)]
            assert call.error is None

    def teardown(self) -> None:
        for _ in range(100):
            for direction in (0, 1):
                self.carry(direction, 1.0)
            for which in range(len(self.made)):
                self.take(which, 10_000)
        for call_id in self.made:
            assert self.read[call_id] == self.sent[call_id]


TestTwoMachines = TwoMachines.TestCase
TestTwoMachines.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
