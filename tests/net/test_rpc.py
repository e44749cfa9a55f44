"""Sessions over streams in memory: what the real network adds to the port's conformance suite."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
from trio.testing import memory_stream_pair

from cactus_mesh.concurrency import first_of
from cactus_mesh.errors import BadParameters, Busy, PeerFailed, PeerLost, ProtocolViolation
from cactus_mesh.net import calls
from cactus_mesh.net.frames import PING, encode_frame
from cactus_mesh.net.rpc import Methods, Session
from tests.net.peers import identity

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from cactus_mesh.ports import Call


class Wire:
    """A stream in memory, its writes counted and perhaps slow."""

    def __init__(self, stream: trio.StapledStream) -> None:
        self.stream = stream
        self.writes: list[bytes] = []
        self.delay_seconds = 0.0

    async def read_some(self) -> bytes:
        return await self.stream.receive_some()

    async def write_all(self, data: bytes) -> None:
        self.writes.append(data)
        if self.delay_seconds:
            await trio.sleep(self.delay_seconds)
        await self.stream.send_all(data)


class Ends:
    """Two sessions that have passed their hellos."""

    def __init__(self) -> None:
        one, other = memory_stream_pair()
        self.wires = Wire(one), Wire(other)
        self.methods = Methods(), Methods()
        self.sessions = self._session(0), self._session(1)
        self.failures: dict[int, BaseException] = {}

    def _session(self, end: int) -> Session:
        peer = identity(1 - end)
        return Session(self.wires[end], peer.peer_id, peer.public_key, self.methods[end], lambda about: None)

    async def run(self, end: int) -> None:
        """As a connection runs its session: a failure ends the stream."""
        try:
            await self.sessions[end].run()
        except* Exception as group:
            self.failures[end] = first_of(group)
        await self.wires[end].stream.aclose()

    async def ask(self, method: str, payload: bytes = b"") -> bytes:
        reply = await self.sessions[0].open(method, payload)
        try:
            return await reply.only(method)
        finally:
            reply.leave()


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    ends = Ends()
    async with trio.open_nursery() as nursery:
        for end, session in enumerate(ends.sessions):
            session.machine.greet(b"hello")
            session.accept()
            nursery.start_soon(ends.run, end)
            session.flush()
        for session in ends.sessions:
            await session.hello()
        yield ends
        nursery.cancel_scope.cancel()


async def echo(call: Call) -> None:
    await call.send(call.payload)


async def test_what_queues_at_once_leaves_in_a_single_write(ends: Ends) -> None:
    ends.methods[1].add("echo", echo, at_once=100)
    before = len(ends.wires[0].writes)
    async with trio.open_nursery() as nursery:
        for number in range(64):
            nursery.start_soon(ends.ask, "echo", b"%d" % number)
    assert len(ends.wires[0].writes) - before < 5


async def test_an_idle_session_has_two_tasks_and_writes_nothing(ends: Ends, autojump_clock: trio.abc.Clock) -> None:
    before = len(ends.wires[0].writes)
    await trio.sleep(3_600)
    assert len(ends.wires[0].writes) == before


async def test_nothing_counts_before_the_hello_is_accepted() -> None:
    ends = Ends()
    called = trio.Event()

    async def forbidden(call: Call) -> None:
        called.set()

    ends.methods[1].add("forbidden", forbidden, at_once=1)
    async with trio.open_nursery() as nursery:
        for session in ends.sessions:
            nursery.start_soon(session.run)
        ends.sessions[0].machine.greet(b"hello")
        ends.sessions[0].machine.open("forbidden", b"")
        ends.sessions[0].flush()
        assert await ends.sessions[1].hello() == b"hello"
        await trio.testing.wait_all_tasks_blocked()
        assert not called.is_set()
        ends.sessions[1].accept()
        await called.wait()
        nursery.cancel_scope.cancel()


async def test_an_error_inside_a_group_of_one_travels_as_itself(ends: Ends) -> None:
    async def grouped(call: Call) -> None:
        async with trio.open_nursery():
            raise BadParameters("max_tokens is too high")

    ends.methods[1].add("grouped", grouped, at_once=1)
    with pytest.raises(BadParameters, match="max_tokens"):
        await ends.ask("grouped")


async def test_a_handler_that_fails_while_others_run_harms_only_its_caller(ends: Ends) -> None:
    async def broken(call: Call) -> None:
        raise RuntimeError("inside")

    ends.methods[1].add("broken", broken, at_once=5)
    ends.methods[1].add("echo", echo, at_once=5)
    for _ in range(10):
        with pytest.raises(PeerFailed):
            await ends.ask("broken")
        assert await ends.ask("echo", b"fine") == b"fine"


async def test_a_place_is_given_back_however_a_call_ends(ends: Ends) -> None:
    async def broken(call: Call) -> None:
        if call.payload == b"raise":
            raise RuntimeError("inside")
        await trio.sleep_forever()

    ends.methods[1].add("broken", broken, at_once=1)
    for _ in range(3):
        with pytest.raises(PeerFailed):
            await ends.ask("broken", b"raise")
        with trio.move_on_after(0.01):
            await ends.ask("broken")
        await trio.testing.wait_all_tasks_blocked()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ends.ask, "broken")
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(Busy):
            await ends.ask("broken")
        nursery.cancel_scope.cancel()


async def test_a_cancelled_send_leaves_whole_or_not_at_all(ends: Ends) -> None:
    sent: list[int] = []

    async def hasty(call: Call) -> None:
        for number in range(1_000):
            with trio.move_on_after(0) if number % 3 else trio.CancelScope():
                await call.send(bytes([number % 256]) * 1_000)
                sent.append(number % 256)

    ends.methods[1].add("hasty", hasty, at_once=1)
    reply = await ends.sessions[0].open("hasty", b"")
    assert [item[0] async for item in reply] == sent
    assert len(sent) < 1_000


async def test_several_tasks_of_a_handler_may_send_at_once(ends: Ends) -> None:
    async def many(call: Call) -> None:
        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(call.send, bytes([number]) * 5_000)

    ends.methods[1].add("many", many, at_once=1)
    reply = await ends.sessions[0].open("many", b"")
    assert sorted([item[0] async for item in reply]) == list(range(200))


async def test_garbage_ends_the_session_and_its_calls_with_it(ends: Ends) -> None:
    async def garbage(call: Call) -> None:
        await ends.wires[1].stream.send_all(b"\xff" * 100)
        await trio.sleep_forever()

    ends.methods[1].add("garbage", garbage, at_once=1)
    with pytest.raises(PeerLost):
        await ends.ask("garbage")
    with pytest.raises(PeerLost):
        await ends.ask("garbage")
    await trio.testing.wait_all_tasks_blocked()
    assert isinstance(ends.failures[0], ProtocolViolation)


async def test_a_peer_that_floods_with_pings_and_never_reads_is_cut_off(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "MAX_QUEUED_BYTES", 100_000)
    ends.wires[1].delay_seconds = 3_600
    await ends.wires[0].stream.send_all(encode_frame(PING, 0, bytes(8)) * 20_000)
    await trio.testing.wait_all_tasks_blocked()
    assert isinstance(ends.failures[1], ProtocolViolation)


async def test_a_round_trip_is_measured_and_smoothed(ends: Ends, autojump_clock: trio.abc.Clock) -> None:
    ends.wires[1].delay_seconds = 0.8
    ends.sessions[0].ping()
    await trio.sleep(1)
    assert ends.sessions[0].rtt_seconds == pytest.approx(0.8)
    ends.wires[1].delay_seconds = 0
    ends.sessions[0].ping()
    await trio.sleep(1)
    assert ends.sessions[0].rtt_seconds == pytest.approx(0.7)


async def test_silence_is_counted_from_an_open_ping(ends: Ends, autojump_clock: trio.abc.Clock) -> None:
    await trio.sleep(100)
    assert ends.sessions[0].silent_seconds() == 0
    ends.wires[1].delay_seconds = 3_600
    ends.sessions[0].ping()
    await trio.sleep(9)
    assert ends.sessions[0].silent_seconds() == pytest.approx(9)
