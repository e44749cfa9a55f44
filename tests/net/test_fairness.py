from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from cactus_mesh.net.fairness import FairLine, address_range

RATE = 1_000_000


class Line:
    """Counts what passes, by key."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.line = FairLine(RATE)
        self.passed: dict[str, int] = {}
        self._nursery = nursery

    def press(self, key: str, size: int, tasks: int = 1) -> None:
        """*tasks* of *key* that send *size* bytes again and again."""
        for _ in range(tasks):
            self._nursery.start_soon(self._send, key, size)

    async def _send(self, key: str, size: int) -> None:
        while True:
            await self.line.turn(key, size)
            self.passed[key] = self.passed.get(key, 0) + size
            await trio.lowlevel.checkpoint()


async def test_a_peer_with_many_circuits_gets_no_more_than_one_with_a_single_circuit(
    autojump_clock: MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        line = Line(nursery)
        line.press("greedy", 64_000, tasks=60)
        line.press("modest", 64_000, tasks=2)
        await trio.sleep(20)
        nursery.cancel_scope.cancel()
    assert sum(line.passed.values()) == pytest.approx(20 * RATE, rel=0.05)
    assert line.passed["modest"] == pytest.approx(line.passed["greedy"], rel=0.1)


async def test_a_trickle_waits_for_one_turn_of_a_greedy_peer_at_most(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        line = Line(nursery)
        line.press("greedy", 64_000, tasks=60)
        await trio.sleep(1)
        for _ in range(50):
            began = trio.current_time()
            await line.line.turn("trickle", 100)
            assert trio.current_time() - began <= 2 * 64_000 / RATE
            await trio.sleep(0.05)
        nursery.cancel_scope.cancel()


async def test_nobody_waits_on_a_free_line_and_one_alone_may_have_all_of_it(autojump_clock: MockClock) -> None:
    line = FairLine(RATE)
    await trio.sleep(1)
    began = trio.current_time()
    await line.turn("one", 100)
    assert trio.current_time() == began
    for _ in range(100):
        await line.turn("one", 64_000)
    assert trio.current_time() - began == pytest.approx(6.4, rel=0.05)


async def test_who_gives_up_waiting_holds_up_nobody(autojump_clock: MockClock) -> None:
    line = FairLine(RATE)
    await line.turn("first", RATE)
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            nursery.start_soon(_cancel_when_blocked, scope)
            await line.turn("second", 64_000)
        assert scope.cancelled_caught
    with trio.fail_after(3):
        await line.turn("third", 64_000)
    assert not line._waiting


async def _cancel_when_blocked(scope: trio.CancelScope) -> None:
    await wait_all_tasks_blocked()
    scope.cancel()


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("11.0.7.9", "11.0.7.0/24"),
        ("2a00:1:2:3::4", "2a00:1:2::/48"),
        ("127.0.0.1", None),
        ("192.168.1.4", None),
        ("100.64.3.4", None),
        ("fe80::1", None),
        ("example.org", None),
    ],
)
def test_a_range_is_what_one_customer_can_have_and_neighbours_have_none(host: str, expected: str | None) -> None:
    assert address_range(host) == expected
