"""Tasks: consent, escrow, completion, failure, timeout, batches; who is paid what."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cactus_mesh.core.pricing import RewardParams, Split, reward
from cactus_mesh.core.settlement import NOBODY
from cactus_mesh.ledger import rules
from cactus_mesh.ledger.client import batch_columns
from cactus_mesh.ledger.rules import BOUNDS, codes
from cactus_mesh.ledger.rules.events import SettlementSkipped, TaskCompleted, TaskReassigned
from cactus_mesh.ledger.rules.params import MAX_COMPLEXITY_MFLOP, Params
from cactus_mesh.ledger.rules.state import NonceKey, TaskKey
from tests.ledger.world import (
    ADMIN,
    CLIENT,
    COIN,
    DELEGATE,
    ORCHESTRATOR,
    OTHER_ROUTER,
    ROUTER,
    STRANGER,
    World,
    claim_for,
    consent_for,
    operator_signature,
    person,
    settlement,
    signed,
    task_id,
)

KEY = TaskKey(CLIENT.address, task_id(1))


def _deposit(world: World) -> int:
    return world.state.clients[CLIENT.address].deposit


# --- escrow ------------------------------------------------------------------------------------------------------


def test_a_task_moves_its_maximum_price_into_escrow(world: World) -> None:
    world.create(max_price=7)
    client = world.state.clients[CLIENT.address]
    assert (client.deposit, client.escrowed) == (10 * COIN - 7, 7)
    assert world.state.servers[ROUTER.address].escrowed == 7


def test_completion_pays_everybody_and_returns_the_rest(world: World) -> None:
    world.create()
    before = {who: world.coins(who) for who in (ORCHESTRATOR, ROUTER, ADMIN)}
    (done,) = world.do(ROUTER, "complete_task", *world.complete_arguments())
    assert isinstance(done, TaskCompleted)
    assert done.payout + done.delegate_payout + done.fee + done.refund == 10_000
    assert world.coins(ORCHESTRATOR) - before[ORCHESTRATOR] == done.payout > 0
    to_treasury = done.fee * Params().treasury_bps // 10_000
    assert world.coins(ADMIN) - before[ADMIN] == to_treasury > 0
    assert world.coins(ROUTER) - before[ROUTER] == done.fee - to_treasury > 0
    assert _deposit(world) == 10 * COIN - done.payout - done.fee
    assert world.state.servers[ROUTER.address].escrowed == 0


def test_pay_is_the_least_of_claim_formula_and_consent(world: World) -> None:
    formula = reward(RewardParams(), max_price=10_000, complexity=5_000_000, compute_ms=1_500, success_ppm=900_000)
    assert 0 < formula < 5_000
    for number, max_price, asked, paid in ((1, 10_000, 5_000, formula), (2, 10_000, 300, 300), (3, 100, 5_000, 100)):
        number += 10
        world.state.orchestrators[ORCHESTRATOR.address] = replace(
            world.state.orchestrators[ORCHESTRATOR.address], metrics=rules.state.Metrics()
        )
        (done,) = world.settle(settlement(number, consent={"max_price": max_price}, claim={"price": asked}))
        assert isinstance(done, TaskCompleted)
        assert done.max_price - done.refund == paid


def test_a_delegate_gets_its_share_and_its_owner_the_money(world: World) -> None:
    before = world.coins(DELEGATE)
    (done,) = world.settle(settlement(claim={"delegate": DELEGATE.address, "delegate_bps": 9_000}))
    assert isinstance(done, TaskCompleted)
    assert world.coins(DELEGATE) - before == done.delegate_payout == (done.payout + done.delegate_payout) * 9 // 10
    assert world.state.orchestrators[ORCHESTRATOR.address].metrics.completed == 1
    assert world.state.orchestrators[DELEGATE.address].metrics.completed == 0


def test_completion_counts_towards_the_orchestrators_record(world: World) -> None:
    world.settle(signed(consent_for(), claim_for(), quality_ppm=250_000))
    metrics = world.state.orchestrators[ORCHESTRATOR.address].metrics
    assert (metrics.completed, metrics.compute_ms, metrics.quality_sum) == (1, 1_500, 250_000)


def test_failure_refunds_and_is_remembered(world: World) -> None:
    world.create()
    world.do(ROUTER, "fail_task", *KEY)
    assert _deposit(world) == 10 * COIN
    assert world.state.orchestrators[ORCHESTRATOR.address].metrics.failed == 1
    assert world.refuses(ROUTER, "complete_task", *world.complete_arguments()) == codes.TASK_CLOSED
    assert world.refuses(STRANGER, "timeout_task", *KEY) == codes.TASK_CLOSED


# --- another orchestrator goes on ----------------------------------------------------------------------------------


def test_a_lost_task_goes_on_with_another_orchestrator_which_is_paid_from_the_same_escrow(world: World) -> None:
    world.create()
    before = world.coins(DELEGATE)
    (moved,) = world.do(ROUTER, "reassign_task", *KEY, DELEGATE.address)
    assert isinstance(moved, TaskReassigned)
    assert (moved.lost, moved.orchestrator) == (ORCHESTRATOR.address, DELEGATE.address)
    assert world.state.clients[CLIENT.address].escrowed == 10_000
    assert world.refuses(ROUTER, "complete_task", *world.complete_arguments()) == codes.BAD_CLAIM_SIGNATURE
    assert world.skips(settlement()) == codes.WRONG_ORCHESTRATOR
    arguments = world.complete_arguments(orchestrator=DELEGATE.address, signer=DELEGATE)
    (done,) = world.do(ROUTER, "complete_task", *arguments)
    assert isinstance(done, TaskCompleted)
    assert world.coins(DELEGATE) - before == done.payout > 0
    assert world.state.orchestrators[ORCHESTRATOR.address].metrics == rules.state.Metrics(failed=1)


def test_a_task_is_reassigned_as_long_as_it_is_open_and_by_its_server_alone(world: World) -> None:
    assert world.refuses(ROUTER, "reassign_task", *KEY, DELEGATE.address) == codes.NO_TASK
    world.create(done_by=world.now + 100)
    assert world.refuses(OTHER_ROUTER, "reassign_task", *KEY, DELEGATE.address) == codes.NOT_TASK_SERVER
    assert world.refuses(ROUTER, "reassign_task", *KEY, ORCHESTRATOR.address) == codes.SAME_ORCHESTRATOR
    assert world.refuses(ROUTER, "reassign_task", *KEY, STRANGER.address) == codes.NO_ORCHESTRATOR
    world.now += 100
    world.do(ROUTER, "reassign_task", *KEY, DELEGATE.address)
    world.now += 1
    assert world.refuses(ROUTER, "reassign_task", *KEY, ORCHESTRATOR.address) == codes.BAD_DEADLINES
    world.do(ROUTER, "fail_task", *KEY)
    assert world.refuses(ROUTER, "reassign_task", *KEY, ORCHESTRATOR.address) == codes.TASK_CLOSED


def test_who_takes_over_a_task_must_be_good_for_a_new_one(world: World) -> None:
    world.create()
    world.do(DELEGATE, "request_unstake", DELEGATE.address, COIN)
    assert world.refuses(ROUTER, "reassign_task", *KEY, DELEGATE.address) == codes.NOT_STAKED
    world.do(DELEGATE, "cancel_unstake", DELEGATE.address)
    world.settle(signed(consent_for(2), claim_for(2, orchestrator=DELEGATE.address), orchestrator=DELEGATE))
    world.do(ROUTER, "open_dispute", CLIENT.address, task_id(2), b"e" * 32)
    assert world.refuses(ROUTER, "reassign_task", *KEY, DELEGATE.address) == codes.FROZEN


def test_a_replaced_operator_key_leaves_the_blame_for_a_lost_task_with_its_stake(world: World) -> None:
    world.create()
    successor = person("successor")
    agreed = operator_signature(successor, ORCHESTRATOR)
    world.do(ORCHESTRATOR, "set_operator", ORCHESTRATOR.address, successor.public_key, agreed)
    world.do(ROUTER, "reassign_task", *KEY, DELEGATE.address)
    assert world.state.orchestrators[successor.address].metrics.failed == 1


def test_anybody_may_time_a_task_out_after_its_deadline_only(world: World) -> None:
    world.create(done_by=world.now + 100)
    world.now += 100
    assert world.refuses(STRANGER, "timeout_task", *KEY) == codes.TOO_EARLY
    world.now += 1
    world.do(STRANGER, "timeout_task", *KEY)
    assert _deposit(world) == 10 * COIN
    assert world.state.orchestrators[ORCHESTRATOR.address].metrics.timed_out == 1


def test_a_late_completion_is_paid_until_somebody_times_the_task_out(world: World) -> None:
    world.create(done_by=world.now + 100)
    world.now += 1_000
    world.do(ROUTER, "complete_task", *world.complete_arguments())
    assert world.refuses(STRANGER, "timeout_task", *KEY) == codes.ALREADY_SETTLED


def test_unknown_tasks_are_refused(world: World) -> None:
    assert world.refuses(ROUTER, "complete_task", *world.complete_arguments()) == codes.NO_TASK
    assert world.refuses(ROUTER, "fail_task", *KEY) == codes.NO_TASK
    assert world.refuses(STRANGER, "timeout_task", *KEY) == codes.NO_TASK


def test_a_server_touches_only_its_own_tasks(world: World) -> None:
    world.create()
    assert world.refuses(OTHER_ROUTER, "complete_task", *world.complete_arguments()) == codes.NOT_TASK_SERVER
    assert world.refuses(OTHER_ROUTER, "fail_task", *KEY) == codes.NOT_TASK_SERVER


def test_deadlines_must_be_in_order_and_near(world: World) -> None:
    longest = Params().longest_task_seconds
    for accept_by, done_by in ((-1, 10), (20, 10), (10, longest + 1)):
        arguments = world.create_arguments(accept_by=world.now + accept_by, done_by=world.now + done_by)
        assert world.refuses(ROUTER, "create_task", *arguments) == codes.BAD_DEADLINES


def test_a_task_needs_a_staked_orchestrator(world: World) -> None:
    assert (
        world.refuses(ROUTER, "create_task", *world.create_arguments(orchestrator=STRANGER.address))
        == codes.NO_ORCHESTRATOR
    )
    world.do(ORCHESTRATOR, "request_unstake", ORCHESTRATOR.address, 1)
    assert world.refuses(ROUTER, "create_task", *world.create_arguments()) == codes.NOT_STAKED


def test_a_server_holds_no_more_in_escrow_than_its_budget(world: World) -> None:
    world.create(1, max_price=COIN - 10)
    assert world.refuses(ROUTER, "create_task", *world.create_arguments(2, max_price=11)) == codes.OVER_BUDGET
    assert world.skips(settlement(3, consent={"max_price": 11})) == codes.OVER_BUDGET
    world.create(4, max_price=10)
    world.do(ROUTER, "fail_task", *KEY)
    world.create(5, max_price=COIN - 10)


# --- consent -----------------------------------------------------------------------------------------------------

FORGERIES: dict[str, dict[str, Any]] = {
    "another chain": {"chain_id": 1},
    "another contract": {"contract": STRANGER.address},
    "another router": {"router": OTHER_ROUTER.address},
    "another task": {"task_id": task_id(9)},
    "another nonce": {"nonce": 9},
    "another price": {"max_price": 9_999},
    "another expiry": {"expires_at": 9},
    "another client": {"client": STRANGER.address},
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_consent_covers_only_what_the_client_signed(world: World, forgery: str) -> None:
    """The client signed something else than what the router presents."""
    other = CLIENT.sign(consent_for(**FORGERIES[forgery]).to_bcs())
    refused = world.refuses(ROUTER, "create_task", *world.create_arguments(signature=other))
    assert refused == codes.BAD_CONSENT_SIGNATURE
    assert world.skips(replace(settlement(), consent_signature=other)) == codes.BAD_CONSENT_SIGNATURE


def test_nobody_but_the_client_consents(world: World) -> None:
    for signer in (ROUTER, ORCHESTRATOR, STRANGER):
        assert world.skips(signed(consent_for(), claim_for(), client=signer)) == codes.BAD_CONSENT_SIGNATURE


def test_a_consent_expires(world: World) -> None:
    consent = {"expires_at": world.now + 10}
    world.now += 11
    assert world.skips(settlement(consent=consent)) == codes.CONSENT_EXPIRED
    assert world.refuses(ROUTER, "create_task", *world.create_arguments(**consent)) == codes.CONSENT_EXPIRED


def test_each_nonce_is_used_once(world: World) -> None:
    world.settle(settlement(1))
    assert world.skips(settlement(2, consent={"nonce": 1})) == codes.NONCE_USED
    assert world.refuses(ROUTER, "create_task", *world.create_arguments(2, nonce=1)) == codes.NONCE_USED
    assert NonceKey(CLIENT.address, 1) in world.state.nonces


def test_each_task_id_is_used_once(world: World) -> None:
    world.create(1)
    assert world.refuses(ROUTER, "create_task", *world.create_arguments(1, nonce=2)) == codes.TASK_EXISTS
    world.do(ROUTER, "fail_task", *KEY)
    assert world.refuses(ROUTER, "create_task", *world.create_arguments(1, nonce=2)) == codes.TASK_EXISTS


def test_a_client_must_have_deposited(world: World) -> None:
    consent, claim = consent_for(client=STRANGER.address), claim_for(client=STRANGER.address)
    assert world.skips(signed(consent, claim, client=STRANGER)) == codes.NO_CLIENT
    assert world.skips(settlement(consent={"max_price": 11 * COIN})) == codes.INSUFFICIENT_DEPOSIT


def test_ids_and_hashes_have_fixed_lengths(world: World) -> None:
    arguments = list(world.create_arguments())
    arguments[1] = b"short"
    assert world.refuses(ROUTER, "create_task", *arguments) == codes.BAD_LENGTH
    world.create()
    for place, bad in ((4, b"m" * 31), (8, b"")):
        wrong = list(world.complete_arguments())
        wrong[place] = bad
        assert world.refuses(ROUTER, "complete_task", *wrong) == codes.BAD_LENGTH


# --- claims ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"chain_id": 1}, {"contract": STRANGER.address}, {"router": OTHER_ROUTER.address}, {"client": STRANGER.address},
        {"delegate_bps": 1, "delegate": DELEGATE.address}, {"task_id": task_id(9)}, {"model_digest": b"x" * 32},
        {"complexity": 1}, {"compute_ms": 1}, {"price": 4_999}, {"result_hash": b"x" * 32},
    ],
)  # fmt: skip
def test_a_claim_covers_only_what_the_orchestrator_signed(world: World, change: dict[str, Any]) -> None:
    other = ORCHESTRATOR.sign(claim_for(**change).to_bcs())
    assert world.skips(replace(settlement(), claim_signature=other)) == codes.BAD_CLAIM_SIGNATURE
    world.create()
    refused = world.refuses(ROUTER, "complete_task", *world.complete_arguments(signature=other))
    assert refused == codes.BAD_CLAIM_SIGNATURE


def test_a_router_cannot_pay_an_orchestrator_that_did_not_claim(world: World) -> None:
    forged = signed(consent_for(), claim_for(), orchestrator=ROUTER)
    assert world.skips(forged) == codes.BAD_CLAIM_SIGNATURE


@pytest.mark.parametrize(
    ("delegate", "bps"),
    [
        (NOBODY, 1),
        (ORCHESTRATOR.address, 100),
        (STRANGER.address, 100),
        (DELEGATE.address, Params().max_delegate_bps + 1),
    ],
)
def test_a_delegate_is_another_registered_orchestrator_with_a_bounded_share(
    world: World, delegate: Any, bps: int
) -> None:
    assert world.skips(settlement(claim={"delegate": delegate, "delegate_bps": bps})) == codes.BAD_DELEGATE


def test_claims_are_bounded(world: World) -> None:
    for change in ({"complexity": MAX_COMPLEXITY_MFLOP + 1}, {"compute_ms": Params().longest_task_seconds * 1_000 + 1}):
        assert world.skips(settlement(claim=change)) == codes.CLAIM_OUT_OF_BOUNDS
    assert world.skips(signed(consent_for(), claim_for(), quality_ppm=1_000_001)) == codes.CLAIM_OUT_OF_BOUNDS


# --- batches -----------------------------------------------------------------------------------------------------


def test_a_bad_item_is_skipped_with_its_reason_and_harms_no_other(world: World) -> None:
    bad = replace(settlement(2), consent_signature=bytes(64))
    events = world.settle(settlement(1), bad, settlement(3))
    assert [type(event) for event in events] == [TaskCompleted, SettlementSkipped, TaskCompleted]
    assert events[1] == SettlementSkipped(
        CLIENT.address, task_id(2), ROUTER.address, codes.BAD_CONSENT_SIGNATURE.number
    )


def test_an_item_is_paid_once_however_often_it_is_sent(world: World) -> None:
    world.settle(settlement(1), settlement(1))
    paid = 10 * COIN - _deposit(world)
    assert world.skips(settlement(1)) == codes.ALREADY_SETTLED
    assert 10 * COIN - _deposit(world) == paid


def test_a_task_in_escrow_is_settled_from_its_escrow(world: World) -> None:
    world.create(1)
    (done,) = world.settle(settlement(1))
    assert isinstance(done, TaskCompleted)
    assert world.state.tasks[KEY].split == Split(done.payout, done.delegate_payout, done.fee, done.refund)
    assert world.state.clients[CLIENT.address].escrowed == 0


def test_an_escrow_is_paid_to_its_assigned_orchestrator_only(world: World) -> None:
    world.create(1, orchestrator=DELEGATE.address)
    assert world.skips(settlement(1)) == codes.WRONG_ORCHESTRATOR


def test_a_batch_leaves_other_servers_tasks_alone(world: World) -> None:
    world.create(1)
    theirs = settlement(1, consent={"router": OTHER_ROUTER.address}, claim={"router": OTHER_ROUTER.address})
    assert world.skips(theirs, signer=OTHER_ROUTER) == codes.NOT_TASK_SERVER
    world.settle(settlement(1))
    assert world.skips(theirs, signer=OTHER_ROUTER) == codes.TASK_EXISTS


def test_a_refunded_task_cannot_be_settled(world: World) -> None:
    world.create(1)
    world.do(ROUTER, "fail_task", *KEY)
    assert world.skips(settlement(1)) == codes.TASK_CLOSED


def test_finished_work_is_paid_while_the_stake_unbonds_but_not_after_it_left(world: World) -> None:
    world.do(ORCHESTRATOR, "request_unstake", ORCHESTRATOR.address, COIN)
    world.settle(settlement(1))
    world.now += Params().unbonding_seconds
    world.do(ORCHESTRATOR, "withdraw_stake", ORCHESTRATOR.address)
    assert world.skips(settlement(2)) == codes.NOT_STAKED


def test_nobody_is_paid_whose_stake_leaves_before_a_doubt_can_be_raised(world: World) -> None:
    world.do(ORCHESTRATOR, "request_unstake", ORCHESTRATOR.address, COIN)
    world.now += Params().unbonding_seconds - Params().dispute_window_seconds
    world.settle(settlement(1))
    world.now += 1
    assert world.skips(settlement(2)) == codes.NOT_STAKED
    world.do(ORCHESTRATOR, "cancel_unstake", ORCHESTRATOR.address)
    world.settle(settlement(2))


def test_a_batch_has_one_to_fifty_items_in_even_columns(world: World) -> None:
    fifty = [settlement(number) for number in range(1, 51)]
    assert world.refuses(ROUTER, "settle_batch", *batch_columns([*fifty, settlement(51)])) == codes.BAD_BATCH
    assert world.refuses(ROUTER, "settle_batch", *([[]] * 16)) == codes.BAD_BATCH
    uneven = [column[:1] for column in batch_columns(fifty)]
    uneven[7] = []
    assert world.refuses(ROUTER, "settle_batch", *uneven) == codes.BAD_BATCH
    events = world.settle(*fifty)
    assert all(isinstance(event, TaskCompleted) for event in events)


# --- arithmetic --------------------------------------------------------------------------------------------------


def test_no_intermediate_value_of_the_reward_reaches_128_bits() -> None:
    """The contract computes in u128; these are its largest operands."""
    high = {name: bound.high for name, bound in BOUNDS.items()}
    longest_ms = high["longest_task_seconds"] * 1_000
    allowed = high["allowed_base_ms"] + MAX_COMPLEXITY_MFLOP * high["allowed_us_per_mflop"]
    priced = MAX_COMPLEXITY_MFLOP * high["unit_price"]
    work = high["base"] + priced + longest_ms * high["ms_price"]
    assert max(allowed, priced, work * 1_000_000) < 2**128


@given(
    st.integers(0, 2**64 - 1), st.integers(0, MAX_COMPLEXITY_MFLOP), st.integers(0, 10**9), st.integers(0, 1_000_000)
)
def test_a_reward_never_exceeds_the_consent(max_price: int, complexity: int, compute_ms: int, success: int) -> None:
    paid = reward(
        RewardParams(), max_price=max_price, complexity=complexity, compute_ms=compute_ms, success_ppm=success
    )
    assert 0 <= paid <= max_price
