"""Whose advert is current, and how often one is sent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cactus_mesh.core import adverts
from cactus_mesh.core.adverts import (
    ADVERTS_PER_SECOND,
    MAX_HEARTBEAT_SECONDS,
    MIN_HEARTBEAT_SECONDS,
    AdvertBook,
    heartbeat_seconds,
    lease_seconds,
)
from cactus_mesh.messages import MAX_VALIDITY_MS, Advert, Sealed
from tests.core.cases import key
from tests.samples import NOW_MS


def advert(peer="a", sequence=1, expires_in_ms=15_000):
    body = Advert(sequence, ["orchestrator"], [], [], 1, 0, "", "")
    return Sealed(body, key(peer), None, bytes(16), NOW_MS, NOW_MS + expires_in_ms, b"")


def test_only_a_newer_advert_replaces_the_one_that_is_known():
    book = AdvertBook()
    assert book.hear(advert(sequence=5), NOW_MS)
    assert not book.hear(advert(sequence=5), NOW_MS)
    assert not book.hear(advert(sequence=4, expires_in_ms=99_000), NOW_MS)
    assert book.hear(advert(sequence=6), NOW_MS)
    assert book.get(key("a")).body.sequence == 6
    assert len(book) == 1


def test_an_expired_advert_is_not_taken_in():
    assert not AdvertBook().hear(advert(expires_in_ms=0), NOW_MS)


def test_a_peer_disappears_when_its_lease_ends():
    book = AdvertBook()
    for peer, lease_ms in (("a", 1_000), ("b", 3_000), ("c", 2_000)):
        book.hear(advert(peer, expires_in_ms=lease_ms), NOW_MS)
    assert book.expire(NOW_MS + 999) == []
    assert book.expire(NOW_MS + 2_000) == [key("a"), key("c")]
    assert [one.sender for one in book] == [key("b")]


def test_a_renewed_lease_is_not_ended_by_the_old_one():
    book = AdvertBook()
    book.hear(advert(sequence=1, expires_in_ms=1_000), NOW_MS)
    book.hear(advert(sequence=2, expires_in_ms=9_000), NOW_MS)
    assert book.expire(NOW_MS + 1_000) == []


def test_when_the_book_is_full_the_first_to_expire_makes_room(monkeypatch):
    monkeypatch.setattr(adverts, "MAX_ADVERTS", 2)
    book = AdvertBook()
    for peer, lease_ms in (("a", 2_000), ("b", 1_000), ("c", 3_000)):
        assert book.hear(advert(peer, expires_in_ms=lease_ms), NOW_MS)
    assert {one.sender for one in book} == {key("a"), key("c")}


@given(st.lists(st.tuples(*(st.integers(low, high) for low, high in ((0, 4), (0, 9), (-1, 50), (0, 30))))))
def test_the_book_holds_the_newest_unexpired_advert_of_each_peer(heard):
    book, newest, now = AdvertBook(), {}, 0
    for peer, sequence, lease_ms, step in heard:
        now += step
        for gone in book.expire(NOW_MS + now):
            assert newest.pop(gone)[1] <= now
        sent = advert(peer, sequence, now + lease_ms)
        known = newest.get(key(peer))
        fresh = lease_ms > 0 and (known is None or sequence > known[0])
        assert book.hear(sent, NOW_MS + now) == fresh
        if fresh:
            newest[key(peer)] = sequence, now + lease_ms
    assert {one.sender: one.body.sequence for one in book} == {peer: known[0] for peer, known in newest.items()}
    assert len(book._by_expiry) == len(book)


@pytest.mark.parametrize("peers", [1, 50, 500, 5_000, 12_000])
def test_a_peer_receives_no_more_adverts_however_large_the_network(peers):
    assert peers / heartbeat_seconds(peers) <= ADVERTS_PER_SECOND


@given(st.integers(0, 10**9))
def test_a_heartbeat_stays_within_its_bounds_and_a_lease_within_a_messages_validity(peers):
    assert MIN_HEARTBEAT_SECONDS <= heartbeat_seconds(peers) <= MAX_HEARTBEAT_SECONDS
    assert heartbeat_seconds(peers) <= heartbeat_seconds(peers + 1)
    assert 2 * heartbeat_seconds(peers) < lease_seconds(peers) <= MAX_VALIDITY_MS / 1_000
