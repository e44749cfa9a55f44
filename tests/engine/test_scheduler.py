"""The order of the steps: fair, bounded, and the same chunks in any company."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cactus_mesh.engine.scheduler import DECODES_PER_CHUNK, Decode, Prefill, Scheduler, Step


def steps(scheduler: Scheduler, count: int) -> list[Step | None]:
    return [scheduler.next() for _ in range(count)]


def test_a_generation_reads_its_prompt_in_chunks_and_then_decodes() -> None:
    scheduler = Scheduler(slots=1, chunk_tokens=4)
    assert scheduler.admit(1, 10)
    expected = [Prefill(1, 0, 4, last=False), Prefill(1, 4, 8, last=False), Prefill(1, 8, 10, last=True)]
    assert steps(scheduler, 5) == [*expected, Decode(1), Decode(1)]


def test_beyond_its_slots_nobody_is_admitted_until_one_is_dropped() -> None:
    scheduler = Scheduler(slots=2, chunk_tokens=4)
    assert [scheduler.admit(id_, 1) for id_ in (1, 2, 3)] == [True, True, False]
    scheduler.drop(1)
    assert scheduler.admit(3, 1)


def test_decoding_generations_take_turns() -> None:
    scheduler = Scheduler(slots=3, chunk_tokens=4)
    for id_ in (1, 2, 3):
        scheduler.admit(id_, 1)
    steps(scheduler, 6)  # the three prefills, and what decodes between them
    made = [step.id for step in steps(scheduler, 9) if step is not None]
    assert [made.count(id_) for id_ in (1, 2, 3)] == [3, 3, 3]


def test_a_long_prompt_holds_nobody_up_for_more_than_a_chunk() -> None:
    scheduler = Scheduler(slots=2, chunk_tokens=4)
    scheduler.admit(1, 1)
    scheduler.next()
    scheduler.admit(2, 400)
    order = [type(step) for step in steps(scheduler, 40)]
    assert all(Decode in order[at : at + 2] for at in range(38))


def test_among_many_a_newcomer_waits_for_a_few_tokens_and_not_for_one_of_each() -> None:
    scheduler = Scheduler(slots=33, chunk_tokens=4)
    for id_ in range(32):
        scheduler.admit(id_, 1)
    steps(scheduler, 500)
    scheduler.admit(32, 9)
    order = steps(scheduler, 3 * (DECODES_PER_CHUNK + 1))
    assert sum(isinstance(step, Prefill) for step in order) == 3


def test_a_short_prompt_does_not_wait_for_a_long_one() -> None:
    scheduler = Scheduler(slots=2, chunk_tokens=4)
    scheduler.admit(1, 4000)
    scheduler.admit(2, 4)
    assert Prefill(2, 0, 4, last=True) in steps(scheduler, 2)


def test_a_dropped_generation_takes_no_further_step() -> None:
    scheduler = Scheduler(slots=2, chunk_tokens=4)
    scheduler.admit(1, 1)
    scheduler.admit(2, 9)
    steps(scheduler, 3)
    scheduler.drop(1)
    scheduler.drop(2)
    assert scheduler.next() is None
    assert len(scheduler) == 0


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=6),
    st.integers(1, 8),
    st.lists(st.integers(0, 5), max_size=4),
)
def test_every_generation_gets_its_whole_prompt_once_and_tokens_evenly(
    prompts: list[int], chunk: int, dropped: list[int]
) -> None:
    scheduler = Scheduler(slots=len(prompts), chunk_tokens=chunk)
    for id_, tokens in enumerate(prompts):
        scheduler.admit(id_, tokens)
    for id_ in dropped:
        scheduler.drop(id_)
    left = set(range(len(prompts))) - set(dropped)
    done = [step for step in steps(scheduler, 2000) if step is not None]
    for id_ in left:
        mine = [step for step in done if step.id == id_]
        chunks = [step for step in mine if isinstance(step, Prefill)]
        assert [c.start for c in chunks] == list(range(0, prompts[id_], chunk))
        assert chunks[-1].end == prompts[id_]
        assert mine.index(chunks[-1]) == len(chunks) - 1
    tail = [step.id for step in done[-100 * len(left) :]]
    assert all(abs(tail.count(id_) - 100) <= 1 for id_ in left)
