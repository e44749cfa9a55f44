"""What a router makes of its own experience and of other routers' word."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cactus_mesh.core import reputation
from cactus_mesh.core.reputation import HALF_LIFE_SECONDS, WORD_OF_ONE_ROUTER, Reputation
from cactus_mesh.messages import Outcome
from tests.core.cases import key
from tests.samples import OFFER

ME, OTHER, WORKER, RIVAL = map(key, ("me", "other", "worker", "rival"))
NEWCOMER = 0.9


def outcome(number=0, result="completed", worker=WORKER, **changes):
    fields = {"complexity": 1_000_000, "compute_ms": 500, "first_token_ms": 40}
    task_id = number.to_bytes(16, "big")
    return Outcome(
        task_id=task_id,
        orchestrator=worker,
        delegate=None,
        model_digest=OFFER.digest,
        result=result,
        **{**fields, **changes},
    )


def after(count, result, router, book=None, now=0.0, **changes):
    """A reputation that has heard *count* outcomes of *router*."""
    book = book or Reputation(ME)
    before = len(book._heard)
    for number in range(before, before + count):
        assert book.fold(outcome(number, result, **changes), router, now)
    return book


def test_a_newcomer_is_believed_to_succeed_nine_times_in_ten():
    assert Reputation(ME).standing(WORKER, 0).success == NEWCOMER


@pytest.mark.parametrize("result", ["failed", "rejected", "timed_out"])
def test_every_failure_lowers_the_standing_and_every_success_raises_it(result):
    assert after(1, result, ME).standing(WORKER, 0).success < NEWCOMER
    assert after(1, "completed", ME).standing(WORKER, 0).success > NEWCOMER


def test_experience_fades_by_half_in_a_half_life():
    book = after(20, "failed", ME)
    fresh, later = (book.standing(WORKER, now).success for now in (0, HALF_LIFE_SECONDS))
    assert fresh == pytest.approx(9 / 30)
    assert later == pytest.approx(9 / 20)
    assert book.standing(WORKER, 50 * HALF_LIFE_SECONDS).success == pytest.approx(NEWCOMER)


def test_a_clock_that_goes_back_does_not_strengthen_what_was_said():
    book = after(10, "failed", ME, now=1_000.0)
    assert book.standing(WORKER, 0.0).success == book.standing(WORKER, 1_000.0).success


def test_own_experience_counts_in_full():
    assert after(1_000, "failed", ME).standing(WORKER, 0).success == pytest.approx(9 / 1_010)
    assert after(90, "completed", ME).standing(WORKER, 0).success == pytest.approx(99 / 100)


def test_the_word_of_one_router_is_bounded_however_often_it_is_repeated():
    bounded = 9 / (10 + WORD_OF_ONE_ROUTER)
    assert after(1_000, "failed", OTHER).standing(WORKER, 0).success == pytest.approx(bounded)
    assert Reputation(ME).standing(WORKER, 0, on_ledger=(0, 10**9)).success == pytest.approx(bounded)


def test_a_word_heard_before_changes_nothing():
    book = after(1, "failed", OTHER)
    before = book.standing(WORKER, 0)
    assert not book.fold(outcome(0, "failed"), OTHER, 0)
    assert not book.fold(outcome(0, "completed"), OTHER, 0)
    assert book.standing(WORKER, 0) == before


def test_a_task_that_one_failed_and_the_next_completed_counts_for_both():
    book = Reputation(ME)
    assert book.fold(outcome(0, "failed", worker=RIVAL), ME, 0)
    assert book.fold(outcome(0, "completed", worker=WORKER), ME, 0)
    assert book.standing(RIVAL, 0).success < NEWCOMER < book.standing(WORKER, 0).success


def test_speeds_blend_towards_the_newest():
    book = after(1, "completed", ME, compute_ms=500)
    assert book.standing(WORKER, 0).ms_per_gflop == 0.5
    after(1, "completed", ME, book, compute_ms=1_000)
    assert book.standing(WORKER, 0).ms_per_gflop == pytest.approx(0.6)
    assert book.standing(WORKER, 0).first_token_ms == 40


def test_nobody_has_a_speed_before_it_was_seen_at_work():
    assert after(3, "failed", ME).standing(WORKER, 0).ms_per_gflop is None
    assert after(1, "completed", ME, complexity=0).standing(WORKER, 0).ms_per_gflop is None


def test_a_lying_router_cannot_set_a_speed_that_others_know_better():
    book = after(100, "completed", OTHER, compute_ms=2**63 - 1)
    for honest in ("a", "b"):
        after(1, "completed", key(honest), book, compute_ms=500)
    assert book.standing(WORKER, 0).ms_per_gflop == 0.5
    after(1, "completed", ME, book, compute_ms=700)
    assert book.standing(WORKER, 0).ms_per_gflop == 0.7


def test_no_flood_of_routers_drowns_ones_own_experience():
    book = after(50, "failed", ME)
    for number in range(reputation.MAX_ROUTERS_HEARD + 10):
        after(1, "completed", key(number), book)
    assert book._records[WORKER].own.failed == 50
    assert len(book._records[WORKER].others) == reputation.MAX_ROUTERS_HEARD


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr(reputation, "MAX_ORCHESTRATORS", 3)
    monkeypatch.setattr(reputation, "MAX_REMEMBERED_WORDS", 5)
    book = Reputation(ME)
    for number in range(10):
        book.fold(outcome(number, worker=key(number)), OTHER, 0)
    assert (len(book._records), len(book._heard)) == (3, 5)
    assert book.standing(key(9), 0).success > NEWCOMER == book.standing(key(0), 0).success


@given(
    words=st.lists(
        st.tuples(
            st.sampled_from([ME, OTHER, RIVAL]),
            st.sampled_from(["completed", "failed"]),
            st.integers(0, 2**63 - 1),
            st.integers(0, 2**63 - 1),
        ),
        max_size=30,
    ),
    ledger=st.tuples(st.integers(0, 2**64), st.integers(0, 2**64)),
)
def test_a_standing_is_always_a_share_whatever_was_said(words, ledger):
    book = Reputation(ME)
    for number, (router, result, complexity, compute_ms) in enumerate(words):
        book.fold(outcome(number, result, complexity=complexity, compute_ms=compute_ms), router, float(number))
    standing = book.standing(WORKER, 100.0, on_ledger=ledger)
    assert 0 < standing.success < 1
    assert standing.ms_per_gflop is None or standing.ms_per_gflop >= 0
