"""Which orders an orchestrator takes, how many at once, and where they are done."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cactus_mesh.core import serving
from cactus_mesh.core.serving import ServingPolicy as Policy
from cactus_mesh.core.serving import Slots, refuse_unfit
from cactus_mesh.errors import (
    Busy,
    DeadlinePassed,
    DelegationRejected,
    Draining,
    DuplicateTask,
    PriceTooLow,
    RouterNotAuthorised,
    UnknownModel,
    UsageError,
)
from cactus_mesh.identity import PublicKey
from cactus_mesh.messages import Generate, PriceTerms, Sampling
from cactus_mesh.ports import ServerView
from tests.core.cases import AUTHORISED, DEADLINE_MS, chain_of, request_with
from tests.samples import NOW_MS, OFFER, TASK_ID

SOON_MS = NOW_MS + 1
SOON = SOON_MS // 1_000


def judged(chain, *, offers=(OFFER,), router=AUTHORISED, now_ms=SOON_MS):
    refuse_unfit(chain, offers, router, Policy(), now_ms=now_ms)


def offer(**changes):
    return msgspec.structs.replace(OFFER, **changes)


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_an_honest_order_of_an_authorised_router_is_taken(depth):
    judged(chain_of(depth))


@pytest.mark.parametrize(
    ("router", "state"),
    [
        (None, "is not registered"),
        (ServerView("pending", SOON + 60, 1, 0), "is pending"),
        (ServerView("revoked", SOON + 60, 1, 0), "is revoked"),
        (ServerView("revoked", SOON - 1, 1, 0), "is revoked"),
        (ServerView("authorised", SOON, 1, 0), "is expired"),
    ],
)
def test_a_router_that_the_ledger_does_not_authorise_is_told_why(router, state):
    with pytest.raises(RouterNotAuthorised, match=f"router 12D3KooW.* {state} on the ledger"):
        judged(chain_of(), router=router)


def test_a_model_that_is_not_served_is_refused_with_those_that_are():
    with pytest.raises(UnknownModel, match="it serves: another"):
        judged(chain_of(), offers=[offer(digest=bytes(32), name="another")])
    with pytest.raises(UnknownModel, match="it serves: none"):
        judged(chain_of(), offers=[])


@pytest.mark.parametrize(
    "changes",
    [
        {"price": PriceTerms(0, 0, 0)},
        {"context_tokens": 8_192},
        {"shape": msgspec.structs.replace(OFFER.shape, layers=9)},
    ],
)
def test_a_router_cannot_order_on_other_terms_than_were_offered(changes):
    with pytest.raises(PriceTooLow, match="have changed since that advert"):
        judged(chain_of(0, assignment={"offer": offer(**changes)}))


def test_a_task_that_may_cost_more_than_it_pays_is_refused():
    sampling = Sampling(max_tokens=1_000)
    judged(chain_of(0, body=request_with(sampling, max_price=11_002)))
    with pytest.raises(PriceTooLow, match="may cost 11002 octas and its maximum price is 11001"):
        judged(chain_of(0, body=request_with(sampling, max_price=11_001)))
    with pytest.raises(PriceTooLow):
        judged(chain_of(1, body=request_with(sampling), links={1: {"max_price": 11_001}}))


def test_an_order_whose_time_is_over_is_refused():
    with pytest.raises(DeadlinePassed):
        judged(chain_of(), now_ms=DEADLINE_MS)


# --- as a delegate -----------------------------------------------------------------------------------------------


def test_a_delegate_takes_its_least_share_and_no_less():
    judged(chain_of(1, links={1: {"share_bps": 5_000}}))
    with pytest.raises(DelegationRejected, match=r"49\.99 % of the liable orchestrator's price is less"):
        judged(chain_of(1, links={1: {"share_bps": 4_999}}))


def cheap(base=1_000, per_input=2_000, per_output=10_000):
    return {"assignment": {"offer": offer(price=PriceTerms(base, per_input, per_output))}}


@pytest.mark.parametrize("terms", [(0, 0, 0), (10**4, 0, 0), (10**4, 0, 10_000), (10**4, 2_000, 0), (0, 2_000, 10_000)])
def test_nobody_works_for_next_to_nothing_because_the_liable_one_is_cheap(terms):
    """Not for a high base without rates either: a long prompt or a long answer would still be done for nothing."""
    body = request_with(Sampling(max_tokens=4_000), work=Generate("long " * 8_000), max_price=10**6)
    links = {1: {"share_bps": 10_000}}
    judged(chain_of(1, body=body, links=links))
    with pytest.raises(DelegationRejected, match="less than this orchestrator's least"):
        judged(chain_of(1, body=body, links=links, **cheap(*terms)))


def test_a_small_share_of_a_high_price_is_enough():
    judged(chain_of(1, links={1: {"share_bps": 2_500}}, **cheap(2_000, 4_000, 20_000)))


def test_a_delegate_may_call_the_model_by_another_name_at_another_price():
    mine = offer(name="mine", price=PriceTerms(1_100, 2_100, 10_100))
    judged(chain_of(1), offers=[offer(digest=bytes(32)), mine])


@pytest.mark.parametrize(
    "changes",
    [{"shape": msgspec.structs.replace(OFFER.shape, heads=2**32 - 1)}, {"dtype": "int8"}, {"context_tokens": 16}],
)
def test_a_delegate_refuses_an_offer_whose_receipt_it_could_not_sign(changes):
    with pytest.raises(DelegationRejected, match="describes that model in another way"):
        judged(chain_of(1, assignment={"offer": offer(**changes)}))


@pytest.mark.parametrize(
    "changes",
    [
        {"delegated_slots": -1},
        {"delegate_share_bps": 10_001},
        {"delegate_share_bps": -1},
        {"least_share_bps": 10_001},
        {"deepest_chain": 4},
    ],
)
def test_a_policy_that_nobody_could_follow_is_refused(changes):
    with pytest.raises(UsageError):
        Policy(**changes)


@pytest.mark.parametrize("share", [0, 10_000])
def test_the_ends_of_a_policys_ranges_are_allowed(share):
    for depth in (0, 3):
        Policy(delegated_slots=0, delegate_share_bps=share, least_share_bps=share, deepest_chain=depth)


# --- slots -------------------------------------------------------------------------------------------------------


def task(number, depth=0, client=None, **changes):
    """A checked chain of its own task; only what `Slots` looks at is told apart."""
    return FakeChain(number.to_bytes(16, "big"), depth, client or b"client", **changes)


class FakeChain:
    """Stands in for a `Chain`: thousands of signatures would slow the machine test down for nothing."""

    def __init__(self, task_id, depth, client, router=b"router", done_by_ms=DEADLINE_MS):
        self.request = self.consent = self.sealed = self
        self.issued_at_ms = SOON_MS
        self.task_id = task_id
        self.client = PublicKey(client)
        self.router = PublicKey(router)
        self.delegations = (None,) * depth
        self.done_by_ms = done_by_ms


def test_a_real_chain_takes_a_slot_and_gives_it_back():
    slots, chain = Slots(1, Policy()), chain_of()
    assert slots.take(chain, now_ms=SOON_MS) == "engine"
    assert (slots.load.slots, slots.load.busy) == (1, 1)
    slots.release(chain)
    assert slots.load.busy == 0
    assert chain.request.consent.task_id == TASK_ID


def test_the_engine_comes_before_delegates_and_beyond_both_is_busy():
    slots = Slots(2, Policy(delegated_slots=1))
    assert [slots.take(task(n), now_ms=SOON_MS) for n in range(3)] == ["engine", "engine", "delegate"]
    with pytest.raises(Busy, match="all 3 slots"):
        slots.take(task(3), now_ms=SOON_MS)
    slots.release(task(0))
    assert slots.take(task(3), now_ms=SOON_MS) == "engine"


def test_a_chain_is_only_made_so_deep():
    slots = Slots(0, Policy(delegated_slots=9, deepest_chain=1))
    assert slots.take(task(0, depth=0), now_ms=SOON_MS) == "delegate"
    with pytest.raises(Busy):
        slots.take(task(1, depth=1), now_ms=SOON_MS)


def test_a_draining_orchestrator_takes_nothing_new():
    slots = Slots(2, Policy())
    slots.take(task(0), now_ms=SOON_MS)
    slots.drain()
    with pytest.raises(Draining):
        slots.take(task(1), now_ms=SOON_MS)
    assert slots.load.busy == 1


def test_no_task_is_done_twice_while_it_could_still_be_asked_for():
    slots = Slots(2, Policy())
    slots.take(task(0), now_ms=SOON_MS)
    slots.release(task(0))
    with pytest.raises(DuplicateTask):
        slots.take(task(0), now_ms=DEADLINE_MS - 1)
    assert slots.take(task(0), now_ms=DEADLINE_MS) == "engine"


def test_a_client_whose_router_died_may_come_again_through_another():
    slots = Slots(2, Policy())
    slots.take(task(0), now_ms=SOON_MS)
    with pytest.raises(Busy, match="still at work on this task"):
        slots.take(task(0, router=b"second"), now_ms=SOON_MS)
    slots.release(task(0))
    assert slots.take(task(0, router=b"second"), now_ms=SOON_MS) == "engine"


def test_nobody_can_use_up_another_clients_task_id():
    slots = Slots(2, Policy())
    slots.take(task(0, client=b"thief"), now_ms=SOON_MS)
    assert slots.take(task(0, client=b"victim"), now_ms=SOON_MS) == "engine"
    slots.release(task(0, client=b"thief"))
    assert slots.load.busy == 1


def test_a_refused_task_may_come_again():
    slots = Slots(1, Policy())
    slots.take(task(0), now_ms=SOON_MS)
    with pytest.raises(Busy):
        slots.take(task(1), now_ms=SOON_MS)
    slots.release(task(0))
    assert slots.take(task(1), now_ms=SOON_MS) == "engine"


def test_a_full_memory_of_past_tasks_refuses_instead_of_forgetting(monkeypatch):
    monkeypatch.setattr(serving, "MAX_REMEMBERED_TASKS", 5)
    slots = Slots(1, Policy())
    for n in range(5):
        slots.take(task(n), now_ms=SOON_MS)
        slots.release(task(n))
    with pytest.raises(Busy, match="too many tasks"):
        slots.take(task(99), now_ms=SOON_MS)
    assert slots.take(task(99), now_ms=DEADLINE_MS) == "engine"  # by now none of the five could come again


def test_a_request_of_before_the_start_is_refused_since_it_may_have_been_done():
    chain = task(1)
    issued_ms = chain.request.sealed.issued_at_ms
    with pytest.raises(Busy, match="only just started"):
        Slots(1, Policy(), since_ms=issued_ms + 1).take(chain, now_ms=SOON_MS)
    assert Slots(1, Policy(), since_ms=issued_ms).take(chain, now_ms=SOON_MS) == "engine"


class AnyOrder(RuleBasedStateMachine):
    """Tasks come and go; the slots are never overfull, and a task is where it was put."""

    def __init__(self):
        super().__init__()
        self.slots = Slots(2, Policy(delegated_slots=1, deepest_chain=1))
        self.running = {}

    @rule(number=st.integers(0, 9), depth=st.integers(0, 2))
    def take(self, number, depth):
        try:
            place = self.slots.take(task(number, depth), now_ms=SOON_MS)
        except DuplicateTask:
            return
        except Busy:
            assert self.count("engine") == 2
            assert depth >= 1 or self.count("delegate") == 1
            return
        assert number not in self.running
        self.running[number] = place

    @rule(number=st.integers(0, 9))
    def release(self, number):
        self.slots.release(task(number))
        self.running.pop(number, None)

    def count(self, place):
        return list(self.running.values()).count(place)

    @invariant()
    def within_limits(self):
        assert self.slots.load.busy == len(self.running)
        assert self.count("engine") <= 2
        assert self.count("delegate") <= 1


AnyOrder.TestCase.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
TestAnyOrder = AnyOrder.TestCase
