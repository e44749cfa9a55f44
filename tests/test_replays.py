"""The replay cache under load: what it forgets, and what it never does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cactus_mesh.errors import MessageOverload, MessageReplayed
from cactus_mesh.messages import ReplayCache, Sealed


def message(number, sender=0, expires_at_ms=100):
    return Sealed(None, bytes([sender]) * 32, None, number.to_bytes(16, "big"), 0, expires_at_ms, b"")


def count(cache):
    return sum(len(seen.ids) for seen in cache._seen.values())


def test_many_senders_together_stay_within_the_bound(monkeypatch):
    monkeypatch.setattr(ReplayCache, "MAX_MESSAGES", 50)
    cache = ReplayCache()
    for number in range(1_000):
        cache.admit(message(number, sender=number % 20), 0)
    assert cache._count == count(cache) <= 50


def test_a_flood_of_one_sender_pushes_out_nobody(monkeypatch):
    monkeypatch.setattr(ReplayCache, "MAX_PER_SENDER", 5)
    cache = ReplayCache()
    cache.admit(message(0, sender=1), 0)
    for number in range(5):
        cache.admit(message(number), 0)
    with pytest.raises(MessageOverload):
        cache.admit(message(5), 0)
    with pytest.raises(MessageReplayed):
        cache.admit(message(0, sender=1), 0)


def test_a_sender_that_uses_long_validities_does_not_block_its_own_short_ones(monkeypatch):
    monkeypatch.setattr(ReplayCache, "MAX_PER_SENDER", 3)
    cache = ReplayCache()
    cache.admit(message(0, expires_at_ms=3_600_000), 0)
    for number in range(1, 100):
        cache.admit(message(number, expires_at_ms=number + 1), number)
    assert count(cache) == 2


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2), st.integers(1, 30), st.integers(0, 9)), max_size=60))
def test_nothing_is_admitted_twice_before_it_expires(steps):
    cache, until, now = ReplayCache(), {}, 0
    for number, sender, lease, passed in steps:
        now += passed
        key = (number, sender)
        if until.get(key, 0) > now:
            with pytest.raises(MessageReplayed):
                cache.admit(message(*key, now + lease), now)
        else:
            cache.admit(message(*key, now + lease), now)
            until[key] = now + lease
    assert cache._count == count(cache)
