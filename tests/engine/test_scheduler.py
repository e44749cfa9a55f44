"""What is computed when: fair, bounded, everything once, and what prompts share only by one of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cactus_mesh.engine.prefixes import BLOCK_TOKENS, Prefixes
from cactus_mesh.engine.scheduler import Keep, Move, Piece, Reuse, Scheduler, Step
from cactus_mesh.engine.shelves import Shelves


class Driven:
    """A scheduler whose steps are done at once; every last piece makes a token."""

    def __init__(self, *, slots: int = 64, step_tokens: int = 8, budget: int = 100_000, blocks: int = 0) -> None:
        shelves = Shelves(budget, min(budget, 4_096))
        self.scheduler = Scheduler(shelves, Prefixes(blocks), slots=slots, step_tokens=step_tokens)
        self.ends: dict[int, int] = {}
        self.made: dict[int, int] = {}

    def admit(self, id_: int, prompt: int | list[int], max_tokens: int = 100) -> bool:
        ids = [id_ * 10_000 + at for at in range(prompt)] if isinstance(prompt, int) else prompt
        return self.scheduler.admit(id_, ids, max_tokens)

    def step(self) -> Step:
        step = self.scheduler.next()
        assert step is not None
        self.scheduler.done(step.pieces)
        for piece in step.pieces:
            assert piece.start == self.ends.get(piece.id, piece.start)
            self.ends[piece.id] = piece.end
            if piece.last:
                self.made[piece.id] = self.made.get(piece.id, 0) + 1
                self.scheduler.made(piece.id)
        return step

    def steps(self, count: int) -> list[Step]:
        return [self.step() for _ in range(count)]


def spans(step: Step) -> dict[int, tuple[int, int]]:
    return {piece.id: (piece.start, piece.end) for piece in step.pieces}


def test_a_generation_reads_its_prompt_in_pieces_and_then_makes_a_token_each_step() -> None:
    driven = Driven(step_tokens=4)
    driven.admit(1, 10)
    assert [spans(step)[1] for step in driven.steps(5)] == [(0, 4), (4, 8), (8, 10), (10, 11), (11, 12)]
    assert driven.made == {1: 3}


def test_beyond_its_slots_nobody_is_admitted_until_one_is_dropped() -> None:
    driven = Driven(slots=2)
    assert [driven.admit(id_, 1) for id_ in (1, 2, 3)] == [True, True, False]
    driven.scheduler.drop(1)
    assert driven.admit(3, 1)


def test_all_that_decode_make_a_token_in_every_step_also_beside_a_long_prompt() -> None:
    driven = Driven()
    for id_ in (1, 2, 3):
        driven.admit(id_, 1)
    driven.step()
    driven.admit(4, 400)
    for step in driven.steps(30):
        assert set(spans(step)) == {1, 2, 3, 4}
        assert spans(step)[4][1] - spans(step)[4][0] == 8


def test_short_prompts_are_read_before_long_ones_but_the_oldest_goes_on() -> None:
    driven = Driven(step_tokens=8)
    driven.admit(1, 400)
    driven.admit(2, 300)
    driven.admit(3, 4)
    assert spans(driven.step()) == {1: (0, 4), 3: (0, 4)}


def test_one_that_comes_while_others_are_read_is_not_behind_all_of_them() -> None:
    driven = Driven(step_tokens=16)
    for id_ in range(8):
        driven.admit(id_, 1_000)
    driven.step()
    driven.admit(9, 8)
    driven.step()
    assert driven.made.get(9) == 1


def test_without_room_in_memory_one_waits_and_those_that_come_later_wait_behind_it() -> None:
    driven = Driven(budget=512)
    driven.admit(1, 5, max_tokens=250)
    driven.admit(2, 5, max_tokens=400)
    driven.admit(3, 5, max_tokens=100)
    assert set(spans(driven.step())) == {1}
    driven.scheduler.drop(1)
    assert set(spans(driven.step())) == {2}
    driven.scheduler.drop(2)
    assert set(spans(driven.step())) == {3}


def test_a_dropped_generation_takes_no_further_step_and_its_row_is_filled() -> None:
    driven = Driven()
    driven.admit(1, 2)
    driven.admit(2, 2)
    driven.steps(2)
    driven.scheduler.drop(1)
    step = driven.step()
    assert set(spans(step)) == {2}
    assert step.before == (Move(256, 1, 0),)
    driven.scheduler.drop(2)
    assert driven.scheduler.next() is None
    assert len(driven.scheduler) == 0


def test_what_was_not_done_is_done_again() -> None:
    driven = Driven(step_tokens=4)
    driven.admit(1, 6)
    assert spans(driven.scheduler.next()) == spans(driven.scheduler.next()) == {1: (0, 4)}


# --- prompts that begin alike ----------------------------------------------------------------------------------------

SHARED = list(range(2 * BLOCK_TOKENS))


def changes(steps: list[Step], kind: type) -> list[object]:
    return [change for step in steps for change in step.before if isinstance(change, kind)]


def test_a_later_prompt_begins_where_an_earlier_one_was_the_same() -> None:
    driven = Driven(step_tokens=500, blocks=8)
    driven.admit(1, [*SHARED, 7, 8])
    first = driven.steps(2)
    driven.admit(2, [*SHARED, 9])
    step = driven.step()
    assert [keep.start for keep in changes(first, Keep)] == [0, BLOCK_TOKENS]
    (reuse,) = changes([step], Reuse)
    assert reuse.numbers == tuple(keep.number for keep in changes(first, Keep))
    assert spans(step)[2] == (len(SHARED), len(SHARED) + 1)


def test_of_prompts_that_come_together_only_one_reads_what_they_share() -> None:
    driven = Driven(step_tokens=100, blocks=8)
    for id_ in range(5):
        driven.admit(id_, [*SHARED, 1_000 + id_])
    read = sum(piece.end - piece.start for step in driven.steps(6) for piece in step.pieces if piece.start < 128)
    assert read == len(SHARED) + 1
    assert all(driven.made.values())
    assert len(driven.made) == 5


def test_when_the_one_that_reads_is_dropped_another_goes_on() -> None:
    driven = Driven(step_tokens=80, blocks=8)
    driven.admit(1, [*SHARED, 1])
    driven.admit(2, [*SHARED, 2])
    driven.step()
    driven.scheduler.drop(1)
    step = driven.step()
    assert spans(step)[2] == (BLOCK_TOKENS, len(SHARED) + 1)


def test_without_room_for_beginnings_nobody_waits_for_anybody() -> None:
    driven = Driven(step_tokens=500, blocks=0)
    driven.admit(1, [*SHARED, 1])
    driven.admit(2, [*SHARED, 2])
    driven.step()
    assert driven.made == {1: 1, 2: 1}


# --- whatever comes --------------------------------------------------------------------------------------------------

prompts = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 300)), min_size=1, max_size=8)


@given(prompts, st.integers(1, 100), st.integers(0, 5), st.lists(st.integers(0, 8), max_size=4), st.integers(0, 2_000))
def test_every_generation_reads_each_of_its_tokens_once_and_makes_tokens_evenly(
    wanted: list[tuple[int, int]], step_tokens: int, blocks: int, dropped: list[int], more: int
) -> None:
    driven = Driven(step_tokens=step_tokens, blocks=blocks, budget=4_096 + more)
    for id_, (family, length) in enumerate(wanted):
        driven.admit(id_, [family * 1_000 + at for at in range(length)], max_tokens=3_000)
    left = dict(enumerate(wanted))
    for turn in range(20_000):
        if turn < len(dropped):
            driven.scheduler.drop(dropped[turn])
            left.pop(dropped[turn], None)
        for id_ in [id_ for id_ in left if driven.made.get(id_, 0) >= 5]:
            driven.scheduler.drop(id_)
            del left[id_]
        if not left:
            break
        step = driven.step()
        assert within_bounds(step, step_tokens)
    assert driven.scheduler.next() is None or left
    assert not left, "everybody came to an end"


def within_bounds(step: Step, step_tokens: int) -> bool:
    read = sum(piece.end - piece.start for piece in step.pieces if piece.end - piece.start > 1)
    places = [piece.place for piece in step.pieces]
    return read <= step_tokens and len(set(places)) == len(places)


def test_pieces_say_where_they_lie() -> None:
    driven = Driven()
    driven.admit(1, 2)
    (piece,) = driven.step().pieces
    assert isinstance(piece, Piece)
    assert (piece.place.shelf, piece.place.row, piece.last) == (256, 0, True)
