"""What has been here before, until it could not come again anyway."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cactus_mesh.core.memory import Seen


def test_what_was_added_is_known_until_its_time():
    seen = Seen(10)
    seen.add("a", until_ms=100, now_ms=0)
    assert seen.has("a", 99)
    assert not seen.has("a", 100)
    assert not seen.has("b", 0)


def test_what_has_expired_makes_room_by_itself():
    seen = Seen(10)
    for name in "abc":
        seen.add(name, until_ms=100, now_ms=0)
    seen.add("d", until_ms=300, now_ms=200)
    assert len(seen) == 1


def test_full_it_forgets_what_it_has_known_longest():
    seen = Seen(2)
    for name in "aba":
        seen.add(name, until_ms=100, now_ms=0)
    seen.add("c", until_ms=100, now_ms=0)
    assert [name for name in "abc" if seen.has(name, 0)] == ["a", "c"]


def test_it_is_full_until_its_oldest_expires():
    seen: Seen[str] = Seen(2)
    seen.add("a", until_ms=100, now_ms=0)
    assert not seen.full(0)
    seen.add("b", until_ms=200, now_ms=0)
    assert seen.full(99)
    assert not seen.full(100)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 50), st.integers(0, 9)), max_size=50), st.integers(1, 5))
def test_it_never_holds_more_than_its_limit_and_never_what_was_not_added(steps, limit):
    seen, until, now = Seen(limit), {}, 0
    for name, lease, passed in steps:
        now += passed
        seen.add(name, now + lease, now)
        until[name] = now + lease
        assert len(seen) <= limit
        assert all(until[each] > now for each in range(10) if seen.has(each, now))
        assert seen.has(name, now) == (lease > 0)
