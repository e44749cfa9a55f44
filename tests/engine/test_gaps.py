"""A token that an honest machine chose is never far from being chosen, and one that nobody chose is."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cactus_mesh.engine.gaps import judge
from cactus_mesh.engine.sampling import Before, choose
from cactus_mesh.errors import EngineFailed
from cactus_mesh.messages import Sampling

SEED = bytes(range(32))
BEFORE = Before([1, 2, 3], [4, 4, 5])
GREEDY, WARM = Sampling(max_tokens=9), Sampling(max_tokens=9, temperature_milli=700)
samplings = st.builds(
    Sampling,
    max_tokens=st.just(9),
    temperature_milli=st.sampled_from((0, 300, 1_000, 2_000)),
    top_p_milli=st.sampled_from((1_000, 1_000, 950, 500)),
    top_k=st.sampled_from((0, 0, 1, 5, 40)),
    min_p_milli=st.sampled_from((0, 0, 50, 500)),
    frequency_milli=st.sampled_from((0, 0, 500)),
)
numbers = st.integers(0, 2**32 - 1)


def logits_of(number, size=64, spread=3.0):
    return np.random.default_rng(number).normal(0, spread, size)


@settings(max_examples=200)
@given(numbers, samplings)
def test_what_is_chosen_has_no_gap_and_its_own_logprob(number, sampling):
    logits = logits_of(number)
    chosen, logprob = choose(logits, sampling, SEED, BEFORE)
    assert judge(logits, chosen, sampling, SEED, BEFORE) == (logprob, 0.0)


@settings(max_examples=1_000, deadline=None)
@given(numbers, samplings, st.sampled_from((1e-6, 1e-3, 0.05, 0.5)))
def test_what_a_machine_with_slightly_other_numbers_chooses_has_a_gap_of_that_order(number, sampling, noise):
    logits = logits_of(number)
    other = logits + np.random.default_rng(number + 1).uniform(-noise, noise, len(logits))
    claimed, _ = choose(other, sampling, SEED, BEFORE)
    assert judge(logits, claimed, sampling, SEED, BEFORE)[1] <= 3 * noise


@settings(max_examples=300)
@given(numbers, samplings, st.integers(0, 63))
def test_a_gap_is_never_below_zero_and_zero_only_for_the_choice(number, sampling, claimed):
    logits = logits_of(number)
    gap = judge(logits, claimed, sampling, SEED, BEFORE)[1]
    assert gap >= 0
    assert (gap == 0) == (claimed == choose(logits, sampling, SEED, BEFORE)[0])


@given(numbers, st.integers(0, 63))
def test_a_greedy_gap_is_the_distance_to_the_highest(number, claimed):
    logits = logits_of(number)
    assert judge(logits, claimed, GREEDY, SEED, BEFORE)[1] == pytest.approx(logits.max() - logits[claimed])


def test_the_tokens_of_another_seed_are_far_from_this_one():
    rng = np.random.default_rng(3)
    gaps = []
    for position in range(200):
        logits, before = rng.normal(0, 1.0, 500), Before([0] * position, [])
        claimed, _ = choose(logits, WARM, bytes(32), before)
        gaps.append(judge(logits, claimed, WARM, SEED, before)[1])
    assert sum(gap > 0.5 for gap in gaps) > 180


def test_what_a_constraint_forbids_and_what_is_no_token_are_infinitely_far():
    logits, allowed = logits_of(1), np.ones(64, dtype=np.bool_)
    allowed[7] = False
    assert judge(logits, 7, WARM, SEED, BEFORE, allowed)[1] == math.inf
    assert judge(logits, 64, WARM, SEED, BEFORE) == (-math.inf, math.inf)


def test_a_model_without_numbers_judges_nobody():
    with pytest.raises(EngineFailed):
        judge(np.full(8, np.nan), 1, WARM, SEED, BEFORE)
