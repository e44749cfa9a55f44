"""Which models are in memory: the decisions alone, with a clock of their own."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cactus_mesh.engine.residency import (
    FIRST_BENCH_SECONDS,
    KEEP_FACTOR,
    LAST_BENCH_SECONDS,
    LATELY_SECONDS,
    LEAST_KEEP_SECONDS,
    Bench,
    Load,
    Residency,
    Unload,
)

A, B, C = b"a", b"b", b"c"


def full(*models: bytes) -> Residency:
    """Room for so many models, and these are there; more are known."""
    residency = Residency(dict.fromkeys((A, B, C), 1), len(models))
    for at, model in enumerate(models):
        residency.loaded(model, now=float(at), seconds=0)
    return residency


def test_what_fits_is_loaded_at_the_start_in_its_order() -> None:
    residency = Residency({A: 4, B: 7, C: 5}, 10)
    assert residency.first() == [A, C]
    assert residency.first(avoid={A}) == [B]


def test_a_request_for_what_is_there_begins_at_once_and_another_waits_until_it_is_loaded() -> None:
    residency = full(A)
    residency.leave(99, 0)
    assert residency.ask(1, A, 5)
    assert not residency.ask(2, B, 5)
    residency.leave(1, 6)
    assert residency.next(6) == Unload(A)
    residency.unloaded(A)
    assert residency.next(6) == Load(B)
    assert residency.next(6) is None
    residency.loaded(B, 7, 1)
    assert residency.ready(7) == [2]


def test_the_one_that_was_used_longest_ago_goes() -> None:
    residency = full(A, B)
    residency.ask(1, A, 10)
    residency.leave(1, 11)
    residency.ask(2, C, 12)
    assert residency.next(12) == Unload(B)


def test_a_model_with_running_requests_is_never_unloaded_but_takes_no_more() -> None:
    residency = full(A)
    assert residency.ask(1, A, 5)
    assert not residency.ask(2, B, 6)
    assert residency.next(6) is None
    assert not residency.ask(3, A, 7)
    assert residency.ready(7) == []
    residency.leave(1, 8)
    assert residency.next(8) == Unload(A)


def test_when_nobody_waits_any_more_a_drained_model_goes_on() -> None:
    residency = full(A)
    residency.ask(1, A, 5)
    residency.ask(2, B, 6)
    residency.next(6)
    residency.ask(3, A, 7)
    residency.leave(2, 8)
    assert residency.next(8) is None
    assert residency.ready(8) == [3]


def test_an_idle_model_goes_before_a_busy_one_that_was_used_longer_ago() -> None:
    residency = full(A, B)
    residency.ask(1, A, 5)
    residency.ask(2, B, 6)
    residency.leave(2, 7)
    residency.ask(3, C, 8)
    assert residency.next(8) == Unload(B)


def test_an_audit_takes_no_room_from_what_is_at_work_or_lately_was() -> None:
    residency = full(A, B)
    residency.ask(1, A, 10)
    residency.leave(1, 20)
    assert residency.disturbs(C, 20 + LATELY_SECONDS - 1) is False, "B was not used since it was loaded"
    residency.ask(2, B, 30)
    assert residency.disturbs(C, 20 + LATELY_SECONDS - 1)
    assert not residency.disturbs(B, 30)
    assert not residency.disturbs(C, 20 + LATELY_SECONDS)
    residency.ask(3, C, 30)
    assert not residency.disturbs(C, 31), "somebody who pays waits for it already"


def test_an_audit_is_no_use_that_keeps_a_model() -> None:
    residency = full(A, B)
    residency.ask(1, B, 2)
    residency.ask(2, A, 10, paid=False)
    residency.leave(1, 3)
    residency.leave(2, 11)
    residency.ask(3, C, 12)
    assert residency.next(12) == Unload(A)


def test_none_goes_that_makes_no_difference() -> None:
    residency = Residency({A: 1, B: 9, C: 9}, 10)
    residency.loaded(A, 0, 0)
    residency.loaded(B, 1, 0)
    residency.ask(1, C, 5)
    assert residency.next(5) == Unload(B)


@pytest.mark.parametrize(("seconds", "kept"), [(0.0, LEAST_KEEP_SECONDS), (4.0, 4 * KEEP_FACTOR)])
def test_what_was_just_loaded_stays_for_a_while(seconds: float, kept: float) -> None:
    residency = Residency({A: 1, B: 1}, 1)
    residency.loaded(A, 100, seconds)
    residency.ask(1, B, 100)
    assert residency.next(100 + kept - 0.01) is None
    assert residency.ask(2, A, 100), "until then it goes on serving"
    residency.leave(2, 100.5)
    assert residency.next(100 + kept) == Unload(A)


def test_who_waits_for_what_cannot_be_loaded_is_named_and_waits_no_more() -> None:
    residency = Residency({A: 1}, 1)
    residency.ask(1, A, 0)
    residency.ask(2, A, 0)
    assert residency.next(0) == Load(A)
    assert residency.failed(A) == [1, 2]
    assert (residency.next(0), residency.used) == (None, 0)


def test_a_model_that_fails_is_left_alone_ever_longer() -> None:
    bench, now = Bench(), 0.0
    pauses = []
    for _ in range(20):
        bench.failed(A, now)
        pauses.append(bench.seconds_left(A, now))
        now += pauses[-1]
        assert bench.seconds_left(A, now) == 0
    assert pauses[:3] == [FIRST_BENCH_SECONDS, 2 * FIRST_BENCH_SECONDS, 4 * FIRST_BENCH_SECONDS]
    assert pauses[-1] == LAST_BENCH_SECONDS
    bench.succeeded(A)
    bench.failed(A, now)
    assert bench.seconds_left(A, now) == FIRST_BENCH_SECONDS


MODELS = [bytes([at]) for at in range(5)]
DEED = st.tuples(st.sampled_from(["ask", "ask", "leave", "work", "fail"]), st.integers(0, 4), st.floats(0, 3))


@given(needs=st.lists(st.integers(1, 8), min_size=5, max_size=5), room=st.integers(8, 20), deeds=st.lists(DEED))
def test_the_room_is_kept_the_running_are_never_unloaded_and_everybody_gets_a_turn(
    needs: list[int], room: int, deeds: list[tuple[str, int, float]]
) -> None:
    world = Driven(dict(zip(MODELS, needs, strict=True)), room)
    for deed, number, seconds in deeds:
        world.now += seconds
        world.do(deed, number)
    for _ in range(200):  # with nobody new, all that wait are served
        world.now += 1
        world.do("leave", 0)
        world.do("work", 0)
    assert not world.waiting
    assert not world.running


class Driven:
    """Does what is decided, and looks whether it was right."""

    def __init__(self, needs: dict[bytes, int], room: int) -> None:
        self.residency = Residency(needs, room)
        self.needs, self.room, self.now = needs, room, 0.0
        self.running: dict[int, bytes] = {}
        self.waiting: dict[int, bytes] = {}
        self.asked = 0

    def do(self, deed: str, number: int) -> None:
        if deed == "ask":
            self.asked += 1
            begun = self.residency.ask(self.asked, MODELS[number], self.now)
            (self.running if begun else self.waiting)[self.asked] = MODELS[number]
        elif deed == "leave" and self.running:
            id_ = list(self.running)[number % len(self.running)]
            self.residency.leave(id_, self.now)
            del self.running[id_]
        else:
            self.work(fail=deed == "fail")
        there = self.residency.present
        assert sum(self.needs[model] for model in there) <= self.residency.used <= self.room
        assert set(self.running.values()) <= set(there)
        assert Counter(there).total() == len(set(there))

    def work(self, *, fail: bool) -> None:
        while step := self.residency.next(self.now):
            match step:
                case Unload(model):
                    assert model not in self.running.values()
                    self.residency.unloaded(model)
                case Load(model) if fail:
                    for id_ in self.residency.failed(model):
                        assert self.waiting.pop(id_) == model
                case Load(model):
                    self.residency.loaded(model, self.now, 0.0)
                    self.let_in()
        self.let_in()

    def let_in(self) -> None:
        for id_ in self.residency.ready(self.now):
            self.running[id_] = self.waiting.pop(id_)
