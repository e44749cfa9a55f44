"""What has been seen is known until it expires, and never more of it than the bound."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cactus_mesh.core.memory import Seen


def test_an_entry_is_known_until_it_expires():
    seen: Seen[str] = Seen(10)
    seen.add("a", until_ms=100, now_ms=0)
    assert seen.has("a", 99)
    assert not seen.has("a", 100)
    assert not seen.has("b", 0)


def test_full_it_forgets_the_oldest():
    seen: Seen[int] = Seen(3)
    for key in range(5):
        seen.add(key, until_ms=1_000, now_ms=0)
    assert [key for key in range(5) if seen.has(key, 0)] == [2, 3, 4]


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 50)), max_size=200))
def test_it_never_holds_more_than_its_bound_and_always_the_newest(steps):
    seen: Seen[int] = Seen(7)
    for now, (key, life) in enumerate(steps):
        seen.add(key, until_ms=now + life, now_ms=now)
        assert len(seen) <= 7
        assert seen.has(key, now)
