"""Which answers are audited: nobody can tell before the receipt is signed, everybody can check it afterwards."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cactus_mesh.core.draws import (
    LEAST_PPM,
    AuditPolicy,
    by_lot,
    deterring_rate,
    draw,
    drawn_places,
    is_drawn,
    nonce_of,
    rate_ppm,
    refuse_unprofitable,
)
from cactus_mesh.core.pricing import PPM
from cactus_mesh.errors import ConfigMalformed, UsageError

SECRET = bytes(32)
policies = st.builds(
    AuditPolicy,
    floor=st.floats(0.001, 1),
    newcomer_audits=st.integers(1, 1_000),
    detection=st.floats(0.5, 1),
    false_alarms=st.floats(0, 0.4),
    saving=st.floats(0.01, 1),
)
money = st.integers(0, 10**15)


def receipts(count):
    return [hashlib.sha256(str(number).encode()).digest() for number in range(count)]


def test_a_receipt_decides_its_draw_and_another_one_another():
    drawn = [draw(SECRET, receipt) for receipt in receipts(1_000)]
    assert drawn == [draw(SECRET, receipt) for receipt in receipts(1_000)]
    assert len(set(drawn)) > 990
    assert all(0 <= number < PPM for number in drawn)


def test_without_the_secret_the_draw_cannot_be_told():
    other = hashlib.sha256(b"another secret").digest()
    same = sum(is_drawn(SECRET, r, 500_000) == is_drawn(other, r, 500_000) for r in receipts(2_000))
    assert 900 < same < 1_100


@pytest.mark.parametrize("rate", [1_000, 50_000, 500_000])
def test_as_many_are_drawn_as_the_rate_says(rate):
    count = sum(is_drawn(SECRET, receipt, rate) for receipt in receipts(20_000))
    assert abs(count - 20_000 * rate / PPM) < 5 * (20_000 * rate / PPM) ** 0.5


def test_a_rate_of_one_draws_every_answer():
    assert all(is_drawn(SECRET, receipt, PPM) for receipt in receipts(1_000))


def test_the_nonce_binds_to_the_secret():
    assert len(nonce_of(SECRET)) == 16
    assert nonce_of(SECRET) != nonce_of(b"\x01" + SECRET[1:])


def test_a_newcomer_is_audited_every_time_until_it_has_passed_often_enough():
    policy = AuditPolicy(newcomer_audits=20)
    rates = [rate_ppm(policy, passed=passed, price=0, slash=0) for passed in (0, 19, 20, 40, 200, 10**6)]
    assert rates == [PPM, PPM, PPM, PPM // 2, PPM // 10, 50_000]


@given(policies, st.integers(0, 10**6), money, money)
def test_the_rate_never_falls_below_its_floor_nor_to_what_makes_cheating_pay(policy, passed, price, slash):
    share = rate_ppm(policy, passed=passed, price=price, slash=slash) / PPM
    assert max(policy.floor, LEAST_PPM / PPM) - 1e-6 <= share <= 1
    assert share == 1 or share * policy.edge * (price + slash) >= policy.saving * price * (1 - 1e-9)


@given(policies, st.integers(0, 10**4), money, money, money)
def test_more_trust_and_more_stake_never_raise_the_rate(policy, passed, price, slash, more):
    rate = rate_ppm(policy, passed=passed, price=price, slash=slash)
    assert rate_ppm(policy, passed=passed + 1, price=price, slash=slash) <= rate
    assert rate_ppm(policy, passed=passed, price=price, slash=slash + more) <= rate


def test_five_in_a_hundred_need_nineteen_times_the_reward_at_stake():
    perfect = AuditPolicy(detection=1.0, false_alarms=0.0, saving=1.0)
    assert deterring_rate(perfect, 100, 1_900) == pytest.approx(0.05)


def test_the_defaults_do_not_make_cheating_pay():
    refuse_unprofitable(AuditPolicy(), 20.0)


def test_settings_with_which_cheating_pays_are_refused_with_the_figures():
    with pytest.raises(ConfigMalformed, match=r"0\.01 x .*= 0\.1993 of it; raise audit\.floor to 0\.04516") as refused:
        refuse_unprofitable(AuditPolicy(floor=0.01), 20.0)
    assert "matching.stake_cover to 93.84" in refused.value.message


@given(policies, st.floats(0, 100))
def test_following_the_refusal_makes_the_settings_good(policy, cover):
    try:
        refuse_unprofitable(policy, cover)
    except ConfigMalformed:
        needed = policy.saving / (policy.floor * policy.edge) - 1
        refuse_unprofitable(policy, needed * (1 + 1e-9) + 1e-9)


@pytest.mark.parametrize("changes", [{"floor": 0.0}, {"floor": 1.5}, {"detection": 0.001}])
def test_a_policy_that_audits_nothing_is_refused(changes):
    with pytest.raises(UsageError):
        replace(AuditPolicy(), **changes)


@pytest.mark.parametrize("octa", [1, 10**17], ids=["small stakes", "stakes of a billion coins"])
def test_lots_are_drawn_by_stake_however_large_stakes_are(octa):
    """Chance 3 in 4; 10,000 lots are off by 0.02 once in 200,000 times, and the seed is fixed."""
    luck = random.Random(7)
    first = sum(by_lot([octa, 3 * octa], luck.random)[0] for _ in range(10_000))
    assert first / 10_000 == pytest.approx(0.75, abs=0.02)


def test_a_lot_orders_everybody_once():
    assert sorted(by_lot([5, 1, 9, 2], random.Random(1).random)) == [0, 1, 2, 3]
    assert by_lot([], random.Random(1).random) == []


# --- which texts are read again --------------------------------------------------------------------------------------


def test_all_of_a_few_texts_are_read_again_and_of_many_no_more_than_lots_are_drawn():
    assert drawn_places(SECRET, receipts(1)[0], [5] * 8, 8) == list(range(8))
    for receipt in receipts(50):
        places = drawn_places(SECRET, receipt, [5] * 200, 8)
        assert places == sorted({*places}) == drawn_places(SECRET, receipt, [5] * 200, 8)
        assert 1 <= len(places) <= 8
        assert places[-1] < 200


def test_which_texts_is_known_to_nobody_without_the_secret_or_before_the_receipt():
    (one, other), efforts = receipts(2), [1] * 10_000
    drawn = [tuple(drawn_places(key, receipt, efforts, 8)) for key in (SECRET, b"x" * 32) for receipt in (one, other)]
    assert len({*drawn}) == 4


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
def test_who_leaves_out_a_share_of_the_work_is_found_by_more_than_that_share(share):
    """However it is spread: here it is in one text of a hundred."""
    efforts = [*[1_000] * 99, round(99_000 * share / (1 - share))]
    found = sum(99 in drawn_places(SECRET, receipt, efforts, 8) for receipt in receipts(2_000)) / 2_000
    assert found == pytest.approx(1 - (1 - share) ** 8, abs=0.04)
    assert found > share


@given(
    st.lists(st.integers(1, 10**6), min_size=1, max_size=256), st.integers(1, 8), st.binary(min_size=32, max_size=32)
)
def test_any_texts_can_be_drawn_from(efforts, most, receipt):
    places = drawn_places(SECRET, receipt, efforts, most)
    assert places == sorted({*places})
    assert 0 <= places[0] <= places[-1] < len(efforts)
    assert len(places) <= max(most, len(efforts) if len(efforts) <= most else 0)
