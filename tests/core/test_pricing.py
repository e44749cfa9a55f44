"""Integers from work to money: nothing minted, nothing lost, nothing rounded in anybody's favour but the payer's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cactus_mesh.core.pricing import BPS, PPM, RewardParams, Split, asked_price, complexity, reward, split, success_ppm
from cactus_mesh.messages import ModelShape, PriceTerms
from tests.samples import OFFER

U63, U64 = 2**63 - 1, 2**64 - 1
money, count, share = st.integers(0, U63), st.integers(0, U64), st.integers(0, BPS)
params = st.builds(
    RewardParams,
    base=st.integers(0, 10**9),
    unit_price=st.integers(0, 10**9),
    ms_price=st.integers(0, 10**6),
    allowed_base_ms=st.integers(0, 600_000),
    allowed_us_per_mflop=st.integers(0, 10**6),
    fee_bps=st.integers(0, 2_000),
)
"""Within the bounds that the contract sets its administrator."""


def test_the_worked_example_of_the_contract():
    """The table in docs/contract.md: a newcomer, 5,000,000 MFLOP in 1,500 ms, 40 % of it for a delegate."""
    gross = reward(
        RewardParams(), max_price=10_000, complexity=5_000_000, compute_ms=1_500, success_ppm=success_ppm(0, 0)
    )
    assert gross == (200 + 750 + 1_500) * 950_000 // 1_000_000 == 2_327
    parts = split(gross, max_price=10_000, fee_bps=500, delegate_bps=4_000)
    assert parts == Split(orchestrator=1_327, delegate=884, fee=116, refund=7_673)
    assert parts.paid == 2_327


@given(terms=params, price=money, work=st.integers(0, 10**15), compute_ms=count, success=st.integers(0, PPM))
def test_a_reward_is_never_above_the_consent_and_never_overflows_the_contract(terms, price, work, compute_ms, success):
    gross = reward(terms, max_price=price, complexity=work, compute_ms=compute_ms, success_ppm=success)
    assert 0 <= gross <= price
    allowed_ms = terms.allowed_base_ms + work * terms.allowed_us_per_mflop // 1_000
    largest = (terms.base + work * terms.unit_price // PPM + allowed_ms * terms.ms_price) * PPM
    assert max(largest, work * terms.unit_price, work * terms.allowed_us_per_mflop) < 2**128


@given(terms=params, work=st.integers(0, 10**15), compute_ms=st.integers(0, U63), success=st.integers(0, PPM - 1))
def test_more_work_and_more_success_never_earn_less(terms, work, compute_ms, success):
    def earned(**changes):
        fields = {"complexity": work, "compute_ms": compute_ms, "success_ppm": success}
        return reward(terms, max_price=2**200, **{**fields, **changes})

    assert earned() <= earned(success_ppm=success + 1)
    assert earned() <= earned(compute_ms=compute_ms + 1)
    assert earned() <= earned(complexity=work + 1)


def test_compute_time_counts_only_as_far_as_the_work_explains_it():
    def earned(compute_ms):
        return reward(RewardParams(), max_price=U63, complexity=10_000, compute_ms=compute_ms, success_ppm=PPM)

    assert earned(3_000) == earned(U63) == 200 + 1 + 3_000
    assert earned(2_999) == earned(3_000) - 1


@given(gross=money, more=money, fee=share, delegate=share)
def test_a_split_always_sums_to_the_maximum_price(gross, more, fee, delegate):
    parts = split(gross, max_price=gross + more, fee_bps=fee, delegate_bps=delegate)
    shares = (parts.orchestrator, parts.delegate, parts.fee, parts.refund)
    assert min(shares) >= 0
    assert sum(shares) == gross + more
    assert parts.paid == gross
    assert parts.fee * BPS <= gross * fee
    assert parts.delegate * BPS <= (gross - parts.fee) * delegate


@given(prompt=st.integers(0, 2**32 - 1), output=st.integers(0, 2**32 - 1))
def test_complexity_is_the_formula_rounded_up(prompt, output):
    shape = ModelShape(matmul_parameters=1_000_001, layers=3, heads=5, head_dim=7)
    n = prompt + output
    exact = 2 * 1_000_001 * n + 4 * 3 * 5 * 7 * n * n
    assert complexity(shape, prompt, output) * 1_000_000 >= exact > (complexity(shape, prompt, output) - 1) * 1_000_000


@pytest.mark.parametrize(
    ("counts", "asked"), [((0, 0), 1_000), ((1, 0), 1_002), ((0, 1), 1_010), ((500, 16), 2_160), ((1, 1), 1_012)]
)
def test_what_an_orchestrator_asks(counts, asked):
    assert asked_price(OFFER.price, *counts) == asked


@given(money, money, money, st.integers(0, 2**32), st.integers(0, 2**32))
def test_what_is_asked_is_rounded_up_and_never_below_the_base(base, per_input, per_output, prompt, output):
    asked = asked_price(PriceTerms(base, per_input, per_output), prompt, output)
    exact = per_input * prompt + per_output * output
    assert (asked - base - 1) * 1_000 < exact <= (asked - base) * 1_000


@given(count, count)
def test_success_is_a_share_that_success_raises_and_failure_lowers(completed, failed):
    assert 0 <= success_ppm(completed, failed) <= PPM
    assert success_ppm(completed + 1, failed) >= success_ppm(completed, failed) >= success_ppm(completed, failed + 1)
    assert success_ppm(0, 0) == 900_000
