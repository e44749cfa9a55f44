"""Many small doubts become one suspicion, and an honest node's do not."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cactus_mesh.core.suspicion import PATIENCE, RATES, Suspicion, likelihood

HONEST_RATE = 1e-5
rates = st.sampled_from(RATES)


def record(mismatches, tokens=64):
    suspicion = Suspicion()
    for count in mismatches:
        suspicion = suspicion.after(tokens, count, HONEST_RATE)
    return suspicion


def audited_until_suspected(rate, seed, *, tokens=64, most=200):
    rng, suspicion = random.Random(seed), Suspicion()
    while not suspicion.raised and suspicion.answers < most:
        suspicion = suspicion.after(tokens, sum(rng.random() < rate for _ in range(tokens)), HONEST_RATE)
    return suspicion.answers if suspicion.raised else math.inf


@given(rates, st.floats(1e-9, 5e-4))
def test_one_token_of_an_honest_node_is_expected_to_leave_the_evidence_as_it_is(rate, honest):
    matched, mismatched = (math.exp(likelihood(1, count, rate, honest)) for count in (0, 1))
    assert (1 - honest) * matched + honest * mismatched == pytest.approx(1)


@given(rates, st.floats(1e-9, 5e-4), st.floats(0, 1))
def test_a_node_that_mismatches_less_than_it_may_is_expected_to_lose_suspicion(rate, allowed, share):
    actual = allowed * share
    matched, mismatched = (math.exp(likelihood(1, count, rate, allowed)) for count in (0, 1))
    assert (1 - actual) * matched + actual * mismatched <= 1 + 1e-12


@given(st.lists(st.integers(0, 64), max_size=60))
def test_evidence_stays_a_number_whatever_is_seen(mismatches):
    suspicion = record(mismatches)
    assert 0 <= suspicion.evidence < math.inf
    assert (suspicion.answers, suspicion.mismatches) == (len(mismatches), sum(mismatches))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.data())
def test_one_more_mismatch_never_makes_a_node_less_suspect(mismatches, data):
    place = data.draw(st.integers(0, len(mismatches) - 1))
    worse = [*mismatches]
    worse[place] += 1
    assert record(worse).evidence >= record(mismatches).evidence


def test_a_node_without_a_mismatch_is_never_suspected():
    assert record([0] * 5_000).evidence < PATIENCE / 1_000


def test_one_or_two_mismatches_in_a_thousand_answers_are_forgiven():
    assert not record([0] * 400 + [1] + [0] * 400 + [1] + [0] * 200).raised


def test_an_honest_node_at_its_allowed_rate_is_not_suspected_in_a_hundred_thousand_answers():
    rng, suspicion = random.Random(1), Suspicion()
    for _ in range(100_000):
        mismatches = sum(rng.random() < HONEST_RATE * 64 for _ in range(1))  # one in the answer, or none
        suspicion = suspicion.after(64, mismatches, HONEST_RATE)
        assert not suspicion.raised
    assert suspicion.mismatches > 20


@pytest.mark.parametrize("rate", [0.003, 0.006, 0.01, 0.05])
def test_a_subtle_cheat_is_suspected_within_fifty_audited_answers(rate):
    """0.3 % is the least that weights of eight bits were measured to mismatch."""
    found = [audited_until_suspected(rate, seed) for seed in range(200)]
    assert sum(count <= 50 for count in found) >= 0.95 * len(found)


def test_a_long_honest_past_buys_no_credit():
    fresh, seasoned = Suspicion(), record([0] * 10_000)
    for _ in range(50):
        fresh, seasoned = fresh.after(64, 1, HONEST_RATE), seasoned.after(64, 1, HONEST_RATE)
    assert seasoned.raised
    assert seasoned.evidence >= fresh.evidence
