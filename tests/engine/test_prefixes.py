"""What prompts share is found again, and nothing else is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cactus_mesh.engine.prefixes import BLOCK_TOKENS, Prefixes, keys_of

A, B, C = (list(range(at, at + BLOCK_TOKENS)) for at in (0, 1_000, 2_000))


def test_the_last_token_is_never_part_of_a_block() -> None:
    assert [len(keys_of(A * times)) for times in (1, 2)] == [0, 1]
    assert len(keys_of([*A, 7])) == 1


def test_a_block_is_known_by_all_that_came_before_it() -> None:
    end = [7]
    assert keys_of(A + B + end)[0] == keys_of(A + C + end)[0]
    assert keys_of(A + B + end)[1] != keys_of(C + B + end)[1]
    assert not set(keys_of(A + B + end)) & set(keys_of(B + A + end))


def test_blocks_are_found_from_the_first_on() -> None:
    prefixes = Prefixes(8)
    keys = keys_of(A + B + C + [7])
    assert prefixes.match(keys) == []
    numbers = [prefixes.keep(key) for key in keys[:2]]
    assert prefixes.match(keys) == numbers
    assert prefixes.match(keys[1:]) == [numbers[1]]
    assert prefixes.keep(keys[0]) is None


def test_the_block_that_was_not_used_for_longest_makes_room_and_beginnings_stay_longest() -> None:
    prefixes = Prefixes(3)
    first, second = keys_of(A + B + [7])
    for key in (first, second, b"other"):
        prefixes.keep(key)
    prefixes.match([first, second])
    prefixes.keep(b"one more")
    assert [key in prefixes for key in (first, second, b"other")] == [True, True, False]
    prefixes.keep(b"and more")
    assert [key in prefixes for key in (first, second)] == [True, False]


def test_without_room_nothing_is_kept() -> None:
    assert Prefixes(0).keep(b"key") is None


@given(st.lists(st.binary(min_size=1, max_size=1), max_size=40), st.integers(1, 6))
def test_no_number_is_given_twice(keys: list[bytes], room: int) -> None:
    prefixes = Prefixes(room)
    kept: dict[bytes, int] = {}
    for key in keys:
        number = prefixes.keep(key)
        if number is not None:
            kept = {other: taken for other, taken in kept.items() if taken != number} | {key: number}
        assert all(prefixes.match([other]) == [taken] for other, taken in kept.items())
        assert len(kept) <= room
