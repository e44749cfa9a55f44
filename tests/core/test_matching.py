"""Who may serve a task, in which order, and what is said when nobody can."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cactus_mesh.core import matching
from cactus_mesh.core.matching import Index, Weights, obstacle, rank, resolve, score
from cactus_mesh.errors import (
    Busy,
    MeshError,
    NoOrchestrator,
    NotStaked,
    PriceTooLow,
    PromptTooLong,
    UnknownModel,
    UsageError,
)
from cactus_mesh.messages import PriceTerms
from tests.core.cases import candidate, key, need
from tests.samples import NOW_MS, OFFER

EVEN = Weights(spread=0.0)
"""No shuffling, so that an order can be told."""
OTHER_DIGEST = bytes(32)
DEAR, CHEAP = PriceTerms(50_000, 50_000, 50_000), PriceTerms(1, 1, 1)


def ranked(*candidates, weights=EVEN, limit=10, **changes):
    """The names of the best, in order."""
    found = rank(candidates, need(**changes), weights, now_ms=NOW_MS, rng=Random(1), limit=limit)
    return [one.orchestrator.lstrip(b"\0").decode() for one in found]


@pytest.mark.parametrize(
    ("change", "wanted", "error", "said"),
    [
        ({"lease_ends_ms": NOW_MS}, {}, NoOrchestrator, "no other orchestrator"),
        ({}, {"without": frozenset({key("one")})}, NoOrchestrator, "no other orchestrator"),
        ({"offer": {"kinds": ["chat"]}}, {}, UnknownModel, "fake does not do 'generate'; it does chat"),
        ({"offer": {"context_tokens": 16}}, {}, PromptTooLong, "room for 16 tokens, this task wants at least 17"),
        ({}, {"max_price": 1_161}, PriceTooLow, "may cost 1162 octas and its maximum price is 1161"),
        ({"stake": 99}, {"least_stake": 100}, NotStaked, "largest stake here is 99; lower the maximum price to 99000."),
        ({"busy": 4}, {}, Busy, "every orchestrator"),
        ({"slots": 0}, {}, Busy, "every orchestrator"),
    ],
)
def test_each_obstacle_is_told_by_its_own_error(change, wanted, error, said):
    found = obstacle(candidate("one", **change), need(**wanted), NOW_MS)
    assert type(found) is error
    assert said in found.message + "."


def test_what_just_fits_is_no_obstacle():
    fits = candidate(stake=100, busy=3, lease_ends_ms=NOW_MS + 1, offer={"context_tokens": 17})
    assert obstacle(fits, need(max_price=1_162, least_stake=100), NOW_MS) is None


def test_the_most_basic_obstacle_comes_first():
    nothing_fits = {"lease_ends_ms": 0, "busy": 9, "stake": 0, "offer": {"kinds": ["chat"], "context_tokens": 1}}
    repairs = [
        ({"lease_ends_ms": NOW_MS + 1}, NoOrchestrator),
        ({"offer": {"context_tokens": 1}}, UnknownModel),
        ({"offer": {}}, PromptTooLong),
        ({}, PriceTooLow),
    ]
    for repair, error in repairs:
        assert type(obstacle(candidate(**nothing_fits), need(max_price=0), NOW_MS)) is error
        nothing_fits |= repair


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"stake": 10**11}, {"stake": 10**9}),
        ({"success": 0.99}, {"success": 0.5}),
        ({"ms_per_gflop": 10.0}, {"ms_per_gflop": 1_000.0}),
        ({"ms_per_gflop": 100.0}, {"ms_per_gflop": None}),
        ({"rtt_ms": 5.0}, {"rtt_ms": 300.0}),
        ({"rtt_ms": None}, {"rtt_ms": 300.0}),
        ({"busy": 0}, {"busy": 3}),
        ({"offer": {"price": CHEAP}}, {"offer": {"price": DEAR}}),
    ],
)
def test_each_quality_moves_the_score_in_its_direction(better, worse):
    assert score(candidate(**better), Weights()) > score(candidate(**worse), Weights())
    assert ranked(candidate("worse", **worse), candidate("better", **better)) == ["better", "worse"]


def test_a_score_is_a_weighted_mean_with_each_quality_at_its_written_half():
    halfway = candidate(
        stake=10**9, success=0.5, ms_per_gflop=200.0, rtt_ms=100.0, slots=4, busy=2,
        offer={"price": PriceTerms(5_000, 5_000, 10_000)},
    )  # fmt: skip
    best = candidate(stake=10**30, success=1.0, ms_per_gflop=0.0, rtt_ms=0.0, offer={"price": PriceTerms(0, 0, 0)})
    for weights in (Weights(), Weights(stake=3, success=5, compute=7, latency=11, load=13, price=17)):
        assert score(halfway, weights) == pytest.approx(0.5)
        assert score(best, weights) == pytest.approx(1.0)
    assert score(candidate(slots=0), Weights(stake=0, success=0, compute=0, latency=0, price=0)) == 0


def test_weights_from_the_configuration_change_the_order():
    rich, quick = candidate("rich", stake=10**12, rtt_ms=500.0), candidate("quick", stake=10**9, rtt_ms=1.0)
    nothing = {"stake": 0, "success": 0, "compute": 0, "latency": 0, "load": 0, "price": 0, "spread": 0}
    assert ranked(rich, quick, weights=Weights(**{**nothing, "stake": 1})) == ["rich", "quick"]
    assert ranked(rich, quick, weights=Weights(**{**nothing, "latency": 1})) == ["quick", "rich"]


@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["stake", "latency", "spread", "stake_cover"])
def test_weights_that_would_break_the_order_are_refused(name, value):
    with pytest.raises(UsageError, match="weights"):
        Weights(**{name: value})


def test_at_least_one_weight_counts():
    with pytest.raises(UsageError, match="positive"):
        Weights(stake=0, success=0, compute=0, latency=0, load=0, price=0)


def test_equals_are_shuffled_even_without_any_spread():
    everybody = [candidate(name) for name in "abcdef"]
    orders = [rank(everybody, need(), EVEN, now_ms=NOW_MS, rng=Random(n), limit=9) for n in range(9)]
    assert any(order != orders[0] for order in orders)


def test_only_near_equals_are_shuffled():
    best = [candidate(name, stake=10**12) for name in "abcdef"]
    everybody = [*best, candidate("z", stake=10**9)]
    orders = [rank(everybody, need(), Weights(), now_ms=NOW_MS, rng=Random(n), limit=9) for n in range(50)]
    assert len({tuple(one.orchestrator for one in order) for order in orders}) > 20
    assert all(order[-1] == everybody[-1] for order in orders)


def test_a_name_means_the_digest_that_most_stake_stands_behind():
    real = [candidate(f"real {n}", stake=10**10) for n in range(3)]
    squatters = [candidate(f"squatter {n}", stake=10**8, offer={"digest": OTHER_DIGEST}) for n in range(50)]
    assert resolve([*squatters, *real], "fake") == OFFER.digest
    assert all(name.startswith("real") for name in ranked(*squatters, *real))


def test_stake_counts_once_behind_a_name_however_often_it_is_offered():
    squatter = [
        candidate("squatter", stake=10**10, offer={"digest": OTHER_DIGEST, "price": PriceTerms(n, n, n)})
        for n in range(32)
    ]
    real = [candidate(f"real {n}", stake=6 * 10**9) for n in range(2)]
    assert resolve([*squatter, *real], "fake") == OFFER.digest
    index = Index(EVEN)
    index.put(key("squatter"), squatter)
    for one in real:
        index.put(one.orchestrator, [one])
    assert index.resolve("fake") == OFFER.digest


def test_a_digest_asked_for_is_what_counts_and_not_its_name():
    other = candidate("other", stake=1, offer={"digest": OTHER_DIGEST, "name": "another"})
    assert ranked(candidate("usual"), other, model_digest=OTHER_DIGEST) == ["other"]


def test_an_orchestrator_is_asked_once_however_many_of_its_offers_fit():
    dear = candidate("one", offer={"name": "alias", "price": PriceTerms(5_000, 5_000, 5_000)})
    found = rank([dear, candidate("one"), dear], need(), EVEN, now_ms=NOW_MS, rng=Random(1), limit=9)
    assert found == [candidate("one")]


def test_no_more_are_returned_than_wanted():
    assert len(ranked(*map(candidate, range(9)), limit=4)) == 4


def test_the_obstacle_told_is_that_of_whoever_came_nearest():
    gone, dear = candidate("gone", lease_ends_ms=0), candidate("dear", offer={"price": DEAR})
    dearest = candidate("dearest", offer={"price": PriceTerms(10**9, 0, 0)})
    poor, poorest = candidate("poor", stake=60), candidate("poorest", stake=50)
    with pytest.raises(PriceTooLow, match="may cost 50850 octas"):
        ranked(gone, dearest, dear, max_price=1_000)
    with pytest.raises(NotStaked, match="largest stake here is 60;"):
        ranked(gone, dear, poorest, poor, max_price=2_000, least_stake=100)
    with pytest.raises(Busy):
        ranked(gone, dear, poor, candidate("full", busy=4), max_price=2_000, least_stake=100)


def test_an_unknown_model_is_answered_with_those_that_are_there():
    offered = [candidate(n, offer={"name": f"model {n:02}", "digest": key(n)}) for n in range(12)]
    with pytest.raises(UnknownModel, match=r"offers 'gpt'; offered here: model 00, .* model 09$"):
        ranked(*offered, model="gpt")
    with pytest.raises(UnknownModel, match="'model 00' with that digest"):
        ranked(*offered, model="model 00", model_digest=bytes(32))
    with pytest.raises(NoOrchestrator, match="knows of no orchestrator"):
        ranked()


def test_a_task_that_nobody_can_serve_costs_no_more_than_the_bound(monkeypatch):
    monkeypatch.setattr(matching, "MAX_LOOKED_AT", 5)
    poor = [candidate(n, stake=10**12 - n) for n in range(10)]
    with pytest.raises(PriceTooLow):
        ranked(*poor, candidate("cheap", stake=1, offer={"price": CHEAP}), max_price=20)
    assert ranked(*poor[:4], candidate("cheap", stake=1, offer={"price": CHEAP}), max_price=20) == ["cheap"]


def test_the_full_ones_are_not_in_the_way_of_the_others(monkeypatch):
    monkeypatch.setattr(matching, "MAX_LOOKED_AT", 5)
    full = [candidate(n, stake=10**12, busy=4) for n in range(100)]
    assert ranked(*full, candidate("free", stake=1)) == ["free"]


# --- the index is the plain ranking, only quicker ------------------------------------------------------------------

offers = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["fake", "other"]),
        "digest": st.sampled_from([OFFER.digest, OTHER_DIGEST, b"\1" * 32]),
        "context_tokens": st.sampled_from([8, 4_096]),
        "kinds": st.sampled_from([["chat"], ["generate"], ["chat", "generate"]]),
        "price": st.sampled_from([CHEAP, DEAR, OFFER.price]),
    }
)
changes = st.fixed_dictionaries(
    {
        "busy": st.integers(0, 4),
        "stake": st.sampled_from([0, 10, 10**9, 10**12]),
        "success": st.floats(0, 1),
        "rtt_ms": st.none() | st.floats(0, 1_000),
        "ms_per_gflop": st.none() | st.floats(0, 1e6),
        "lease_ends_ms": st.sampled_from([NOW_MS - 1, NOW_MS + 1]),
    }
)
puts = st.lists(st.tuples(st.integers(0, 6), changes, st.lists(offers, max_size=4)), max_size=25)
needs = st.fixed_dictionaries(
    {
        "model": st.sampled_from(["fake", "other", "neither"]),
        "model_digest": st.sampled_from([None, OTHER_DIGEST]),
        "kind": st.sampled_from(["chat", "generate"]),
        "max_price": st.sampled_from([0, 2_000, 10**6]),
        "least_stake": st.sampled_from([0, 10**9]),
        "without": st.frozensets(st.integers(0, 6).map(key), max_size=2),
    }
)


def outcome_of(call, *arguments, **options):
    try:
        return call(*arguments, now_ms=NOW_MS, rng=Random(7), limit=3, **options)
    except MeshError as error:
        return type(error), error.message


@settings(max_examples=120, deadline=None)
@given(puts=puts, wanted=needs, spread=st.sampled_from([0.0, 0.1, 2.0]))
def test_the_index_ranks_as_the_plain_function_does(puts, wanted, spread):
    weights, index, known = Weights(spread=spread), Index(Weights(spread=spread)), {}
    for name, fields, offered in puts:
        known[name] = [candidate(name, offer=offer, **fields) for offer in offered]
        index.put(key(name), known[name])
    everybody = [one for candidates in known.values() for one in candidates]
    for model in ("fake", "other"):
        assert index.resolve(model) == resolve(everybody, model)
    assert outcome_of(index.rank, need(**wanted)) == outcome_of(rank, everybody, need(**wanted), weights)


@settings(max_examples=30, deadline=None)
@given(puts=puts)
def test_nothing_is_left_of_what_was_taken_out(puts):
    index = Index(EVEN)
    for name, fields, offered in puts:
        index.put(key(name), [candidate(name, offer=offer, **fields) for offer in offered])
    for name, _, _ in puts:
        index.put(key(name), [])
    assert (len(index), index.models(), index._by_digest, index._backing) == (0, [], {}, {})
