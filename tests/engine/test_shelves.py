"""Where texts lie: under the cap at all times, each in its own row, the rows of a shelf without gaps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cactus_mesh.engine.shelves import SMALLEST_SHELF_TOKENS, Move, Place, Resize, Shelves


def test_a_text_lies_on_the_shelf_of_the_next_power_of_two() -> None:
    shelves = Shelves(budget=100_000, context=3_000)
    for id_, tokens in enumerate([1, 256, 257, 600, 2_000]):
        assert shelves.place(id_, tokens) is not None
    assert [shelves.where(id_).shelf for id_ in range(5)] == [256, 256, 512, 1024, 2048]


def test_the_longest_text_has_exactly_the_context() -> None:
    shelves = Shelves(budget=3_000, context=3_000)
    assert shelves.place(1, 2_900) == [Resize(3_000, 1)]


def test_without_room_nothing_changes_and_later_there_is_some() -> None:
    shelves = Shelves(budget=512, context=512)
    shelves.place(1, 200)
    shelves.place(2, 200)
    assert shelves.place(3, 200) is None
    shelves.remove(1)
    assert shelves.place(3, 200) == []


def test_rows_that_lie_idle_make_room_for_another_shelf() -> None:
    shelves = Shelves(budget=1_024, context=1_024)
    for id_ in range(3):
        shelves.place(id_, 256)
    for id_ in range(2):
        shelves.remove(id_)
    assert shelves.place(9, 512) == [Resize(256, 1), Resize(512, 1)]


def test_the_last_row_takes_the_place_of_one_that_is_removed() -> None:
    shelves = Shelves(budget=10_000, context=256)
    for id_ in range(3):
        shelves.place(id_, 9)
    assert shelves.remove(0) == [Move(256, 2, 0)]
    assert shelves.where(2) == Place(256, 0)
    assert shelves.remove(1) == []


@given(
    st.integers(1, 4_000),
    st.integers(0, 4_000),
    st.lists(st.one_of(st.integers(1, 4_000), st.integers(-20, 0)), max_size=60),
)
def test_whatever_comes_and_goes_the_cap_holds_and_rows_are_dense(context: int, more: int, steps: list[int]) -> None:
    shelves = Shelves(budget=context + more, context=context)
    placed: list[int] = []
    rows: dict[int, int] = {}
    for id_, step in enumerate(steps):
        if step > 0:
            changes = shelves.place(id_, min(step, context))
            assert changes is not None or placed, "alone, everything finds room"
            if changes is not None:
                placed.append(id_)
                rows |= {change.shelf: change.rows for change in changes}
        elif placed:
            shelves.remove(placed.pop(-step % len(placed)))
        used = [shelves.where(each) for each in placed]
        assert len(set(used)) == len(used)
        for shelf in {place.shelf for place in used}:
            here = sorted(place.row for place in used if place.shelf == shelf)
            assert here == list(range(len(here)))
            assert len(here) <= rows[shelf]
        assert sum(shelf * count for shelf, count in rows.items()) == shelves.taken <= context + more


@pytest.mark.parametrize("tokens", [1, SMALLEST_SHELF_TOKENS, 5_000])
def test_alone_a_text_always_finds_room(tokens: int) -> None:
    shelves = Shelves(budget=tokens, context=tokens)
    assert shelves.place(1, tokens) == [Resize(min(tokens, max(tokens, SMALLEST_SHELF_TOKENS)), 1)]
