"""Stakes and deposits: what goes in, what waits, what comes out, and who may move it."""

from __future__ import annotations

import pytest

from cactus_mesh.ledger.rules import codes
from cactus_mesh.ledger.rules.params import Params
from cactus_mesh.ledger.rules.state import MAX_PENDING
from tests.ledger.world import (
    CLIENT,
    COIN,
    DELEGATE,
    ORCHESTRATOR,
    STRANGER,
    World,
    operator_signature,
    person,
    settlement,
    task_id,
)

OPERATOR = ORCHESTRATOR.address
NEW_KEY = person("new operator key")


def test_an_orchestrator_registers_with_at_least_the_minimum_stake(world: World) -> None:
    too_little = (STRANGER.public_key, b"", COIN - 1)
    assert world.refuses(STRANGER, "register_orchestrator", *too_little) == codes.STAKE_TOO_LOW
    world.do(STRANGER, "register_orchestrator", STRANGER.public_key, b"", COIN)
    assert world.coins(STRANGER) == 99 * COIN
    again = (STRANGER.public_key, b"", COIN)
    assert world.refuses(STRANGER, "register_orchestrator", *again) == codes.ORCHESTRATOR_EXISTS


def test_a_stake_needs_the_coins(world: World) -> None:
    too_much = (STRANGER.public_key, b"", 101 * COIN)
    assert world.refuses(STRANGER, "register_orchestrator", *too_much) == codes.INSUFFICIENT_COINS
    assert world.refuses(ORCHESTRATOR, "add_stake", OPERATOR, 1_000 * COIN) == codes.INSUFFICIENT_COINS


def test_a_key_must_have_32_bytes(world: World) -> None:
    assert world.refuses(STRANGER, "register_orchestrator", b"short", b"", COIN) == codes.BAD_PUBLIC_KEY
    assert world.refuses(STRANGER, "register_client", b"") == codes.BAD_PUBLIC_KEY
    assert world.refuses(STRANGER, "deposit", bytes(33), 1) == codes.BAD_PUBLIC_KEY


def test_a_cold_owner_registers_a_hot_operator_that_agrees(world: World) -> None:
    agreed = operator_signature(NEW_KEY, STRANGER)
    world.do(STRANGER, "register_orchestrator", NEW_KEY.public_key, agreed, COIN)
    record = world.state.orchestrators[NEW_KEY.address]
    assert (record.owner, record.public_key) == (STRANGER.address, NEW_KEY.public_key)


def test_nobody_registers_the_key_of_somebody_who_did_not_agree_to_it(world: World) -> None:
    for signature in (b"", bytes(64), operator_signature(NEW_KEY, CLIENT)):
        stolen = (NEW_KEY.public_key, signature, COIN)
        assert world.refuses(STRANGER, "register_orchestrator", *stolen) == codes.BAD_OPERATOR_SIGNATURE


@pytest.mark.parametrize("entry", ["add_stake", "request_unstake", "cancel_unstake", "withdraw_stake", "set_operator"])
def test_only_the_owner_moves_a_stake(world: World, entry: str) -> None:
    arguments = {
        "add_stake": (1,),
        "request_unstake": (1,),
        "set_operator": (NEW_KEY.public_key, operator_signature(NEW_KEY, STRANGER)),
    }.get(entry, ())
    assert world.refuses(STRANGER, entry, OPERATOR, *arguments) == codes.NOT_OWNER
    assert world.refuses(STRANGER, entry, STRANGER.address, *arguments) == codes.NO_ORCHESTRATOR


def test_stake_leaves_only_after_the_unbonding_time(world: World) -> None:
    world.do(ORCHESTRATOR, "request_unstake", OPERATOR, COIN)
    assert world.state.orchestrators[OPERATOR].stake == 0
    world.now += Params().unbonding_seconds - 1
    assert world.refuses(ORCHESTRATOR, "withdraw_stake", OPERATOR) == codes.NO_STAKE_DUE
    world.now += 1
    world.do(ORCHESTRATOR, "withdraw_stake", OPERATOR)
    assert world.coins(ORCHESTRATOR) == 100 * COIN


def test_only_what_is_due_leaves(world: World) -> None:
    world.do(ORCHESTRATOR, "request_unstake", OPERATOR, 1)
    world.now += 10
    world.do(ORCHESTRATOR, "request_unstake", OPERATOR, 2)
    world.now += Params().unbonding_seconds - 10
    world.do(ORCHESTRATOR, "withdraw_stake", OPERATOR)
    assert world.coins(ORCHESTRATOR) == 99 * COIN + 1
    assert [due.amount for due in world.state.orchestrators[OPERATOR].unbonding] == [2]


def test_an_unbonding_can_be_cancelled(world: World) -> None:
    assert world.refuses(ORCHESTRATOR, "cancel_unstake", OPERATOR) == codes.NOTHING_UNBONDING
    world.do(ORCHESTRATOR, "request_unstake", OPERATOR, COIN)
    world.do(ORCHESTRATOR, "cancel_unstake", OPERATOR)
    assert world.state.orchestrators[OPERATOR].stake == COIN
    world.create()


def test_unbondings_are_bounded_in_number_and_amount(world: World) -> None:
    assert world.refuses(ORCHESTRATOR, "request_unstake", OPERATOR, 0) == codes.ZERO_AMOUNT
    assert world.refuses(ORCHESTRATOR, "request_unstake", OPERATOR, COIN + 1) == codes.INSUFFICIENT_STAKE
    assert world.refuses(ORCHESTRATOR, "add_stake", OPERATOR, 0) == codes.ZERO_AMOUNT
    for _ in range(MAX_PENDING):
        world.do(ORCHESTRATOR, "request_unstake", OPERATOR, 1)
    assert world.refuses(ORCHESTRATOR, "request_unstake", OPERATOR, 1) == codes.TOO_MANY_UNBONDINGS


def test_frozen_stake_can_neither_leave_nor_change_hands_nor_take_tasks(world: World) -> None:
    world.do(ORCHESTRATOR, "add_stake", OPERATOR, 1)
    world.do(ORCHESTRATOR, "request_unstake", OPERATOR, 1)
    world.now += Params().unbonding_seconds
    world.settle(settlement())
    world.do(CLIENT, "open_dispute", CLIENT.address, task_id(1), b"e" * 32)
    assert world.refuses(ORCHESTRATOR, "withdraw_stake", OPERATOR) == codes.FROZEN
    change = (OPERATOR, NEW_KEY.public_key, operator_signature(NEW_KEY, ORCHESTRATOR))
    assert world.refuses(ORCHESTRATOR, "set_operator", *change) == codes.FROZEN
    assert world.refuses(person("router"), "create_task", *world.create_arguments(2)) == codes.FROZEN


def test_a_stolen_operator_key_is_replaced_and_worthless_from_then_on(world: World) -> None:
    world.create(1)
    agreed = operator_signature(NEW_KEY, ORCHESTRATOR)
    world.do(ORCHESTRATOR, "set_operator", OPERATOR, NEW_KEY.public_key, agreed)
    assert world.state.orchestrators[NEW_KEY.address].stake == COIN
    assert world.skips(settlement(2)) == codes.NO_ORCHESTRATOR
    assert world.refuses(person("router"), "complete_task", *world.complete_arguments(1)) == codes.NO_ORCHESTRATOR
    thief = (ORCHESTRATOR.public_key, b"", COIN)
    assert world.refuses(ORCHESTRATOR, "register_orchestrator", *thief) == codes.ORCHESTRATOR_EXISTS
    world.do(person("router"), "fail_task", CLIENT.address, world.create_arguments(1)[1])


def test_an_operator_key_serves_one_stake(world: World) -> None:
    agreed = operator_signature(DELEGATE, ORCHESTRATOR)
    taken = (OPERATOR, DELEGATE.public_key, agreed)
    assert world.refuses(ORCHESTRATOR, "set_operator", *taken) == codes.ORCHESTRATOR_EXISTS


def test_anybody_may_deposit_for_a_client_who_then_owns_it(world: World) -> None:
    friend = person("friend without coins")
    world.do(STRANGER, "deposit", friend.public_key, 5)
    record = world.state.clients[friend.address]
    assert (record.deposit, record.public_key) == (5, friend.public_key)
    assert world.refuses(STRANGER, "request_withdrawal", 5) == codes.NO_CLIENT
    world.do(friend, "request_withdrawal", 5)
    world.now += Params().withdrawal_seconds
    world.do(friend, "withdraw")
    assert world.coins(friend) == 5


def test_a_deposit_needs_coins_and_an_amount(world: World) -> None:
    assert world.refuses(CLIENT, "deposit", CLIENT.public_key, 0) == codes.ZERO_AMOUNT
    assert world.refuses(CLIENT, "deposit", CLIENT.public_key, 91 * COIN) == codes.INSUFFICIENT_COINS


def test_a_withdrawal_waits_out_the_longest_task(world: World) -> None:
    world.do(CLIENT, "request_withdrawal", COIN)
    world.now += Params().withdrawal_seconds - 1
    assert world.refuses(CLIENT, "withdraw") == codes.NO_WITHDRAWAL_DUE
    world.now += 1
    world.do(CLIENT, "withdraw")
    assert world.coins(CLIENT) == 91 * COIN
    assert world.refuses(CLIENT, "withdraw") == codes.NO_WITHDRAWAL_DUE


def test_money_on_its_way_out_cannot_be_promised_again(world: World) -> None:
    world.do(CLIENT, "request_withdrawal", 10 * COIN)
    assert world.refuses(person("router"), "create_task", *world.create_arguments()) == codes.INSUFFICIENT_DEPOSIT
    assert world.skips(settlement()) == codes.INSUFFICIENT_DEPOSIT


def test_money_in_escrow_cannot_be_withdrawn(world: World) -> None:
    world.create(max_price=COIN)
    assert world.refuses(CLIENT, "request_withdrawal", 10 * COIN) == codes.INSUFFICIENT_DEPOSIT
    world.do(CLIENT, "request_withdrawal", 9 * COIN)


def test_withdrawals_are_bounded_in_number(world: World) -> None:
    assert world.refuses(CLIENT, "request_withdrawal", 0) == codes.ZERO_AMOUNT
    for _ in range(MAX_PENDING):
        world.do(CLIENT, "request_withdrawal", 1)
    assert world.refuses(CLIENT, "request_withdrawal", 1) == codes.TOO_MANY_WITHDRAWALS


def test_a_client_may_replace_the_key_that_signs_its_consents(world: World) -> None:
    world.do(CLIENT, "register_client", STRANGER.public_key)
    assert world.skips(settlement()) == codes.BAD_CONSENT_SIGNATURE
    assert world.state.clients[CLIENT.address].deposit == 10 * COIN
