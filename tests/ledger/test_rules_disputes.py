"""Disputes and contradictions: who may doubt, who decides, who pays, and that it costs once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from cactus_mesh.ledger.rules import codes
from cactus_mesh.ledger.rules.events import Slashed
from cactus_mesh.ledger.rules.params import Params, values_of
from cactus_mesh.ledger.rules.state import TaskKey
from tests.ledger.world import (
    ADMIN,
    CLIENT,
    COIN,
    DELEGATE,
    ORCHESTRATOR,
    ROUTER,
    STRANGER,
    World,
    claim_for,
    contradiction,
    operator_signature,
    person,
    settlement,
    task_id,
)

if TYPE_CHECKING:
    from cactus_mesh.identity import Identity

OPERATOR = ORCHESTRATOR.address
TASK = TaskKey(CLIENT.address, task_id(1))
EVIDENCE, ANSWER = b"e" * 32, b"a" * 32
BOND, SLASH = Params().dispute_bond, Params().max_slash
PAID = 2_327
"""What the client paid for `settlement`."""


@pytest.fixture
def disputed(world: World) -> World:
    world.settle(settlement())
    world.do(CLIENT, "open_dispute", *TASK, EVIDENCE)
    return world


def lost(world: World, operator: Identity = ORCHESTRATOR) -> int:
    return COIN - world.state.orchestrators[operator.address].stake


def test_an_uncontested_dispute_is_upheld_and_makes_the_client_whole(disputed: World) -> None:
    deposit, treasury = disputed.state.clients[CLIENT.address].deposit, disputed.coins(ADMIN)
    disputed.now += Params().contest_seconds
    assert disputed.refuses(STRANGER, "finalize_dispute", *TASK) == codes.TOO_EARLY
    disputed.now += 1
    disputed.do(STRANGER, "finalize_dispute", *TASK)
    assert disputed.state.disputes[TASK].status == "upheld"
    assert disputed.state.clients[CLIENT.address].deposit == deposit + PAID
    assert disputed.coins(ADMIN) == treasury + SLASH - PAID
    assert lost(disputed) == SLASH
    assert disputed.coins(CLIENT) == 90 * COIN, "the bond came back"
    assert not disputed.state.orchestrators[OPERATOR].frozen


def test_the_arbiter_may_dismiss_a_contested_dispute_and_the_owner_keeps_the_bond(disputed: World) -> None:
    assert disputed.refuses(ADMIN, "resolve_dispute", *TASK, False) == codes.WRONG_DISPUTE_STATUS
    disputed.do(ORCHESTRATOR, "contest_dispute", *TASK, ANSWER)
    assert disputed.refuses(STRANGER, "resolve_dispute", *TASK, True) == codes.NOT_ARBITER
    owner = disputed.coins(ORCHESTRATOR)
    disputed.do(ADMIN, "resolve_dispute", *TASK, False)
    assert (disputed.coins(ORCHESTRATOR), lost(disputed)) == (owner + BOND, 0)
    assert disputed.refuses(ADMIN, "resolve_dispute", *TASK, True) == codes.WRONG_DISPUTE_STATUS


def test_the_arbiter_may_be_another_account_than_the_administrator(disputed: World) -> None:
    disputed.do(ADMIN, "set_arbiter", STRANGER.address)
    assert disputed.refuses(STRANGER, "set_arbiter", STRANGER.address) == codes.NOT_ADMIN
    disputed.do(ORCHESTRATOR, "contest_dispute", *TASK, ANSWER)
    assert disputed.refuses(ADMIN, "resolve_dispute", *TASK, True) == codes.NOT_ARBITER
    disputed.do(STRANGER, "resolve_dispute", *TASK, True)
    assert lost(disputed) == SLASH


def test_what_the_arbiter_leaves_undecided_lapses_and_returns_the_bond(disputed: World) -> None:
    disputed.do(ORCHESTRATOR, "contest_dispute", *TASK, ANSWER)
    assert disputed.refuses(STRANGER, "finalize_dispute", *TASK) == codes.TOO_EARLY
    disputed.now += Params().arbitration_seconds + 1
    disputed.do(STRANGER, "finalize_dispute", *TASK)
    assert (disputed.coins(CLIENT), lost(disputed)) == (90 * COIN, 0)
    assert disputed.refuses(STRANGER, "finalize_dispute", *TASK) == codes.WRONG_DISPUTE_STATUS


def test_only_the_owner_contests_in_time_and_once(disputed: World) -> None:
    assert disputed.refuses(ORCHESTRATOR, "contest_dispute", *TASK, b"short") == codes.BAD_LENGTH
    assert disputed.refuses(CLIENT, "contest_dispute", *TASK, ANSWER) == codes.NOT_OWNER
    disputed.now += Params().contest_seconds + 1
    assert disputed.refuses(ORCHESTRATOR, "contest_dispute", *TASK, ANSWER) == codes.CONTEST_TOO_LATE
    disputed.now -= 1
    disputed.do(ORCHESTRATOR, "contest_dispute", *TASK, ANSWER)
    assert disputed.refuses(ORCHESTRATOR, "contest_dispute", *TASK, ANSWER) == codes.WRONG_DISPUTE_STATUS


def test_only_the_client_and_the_server_of_a_completed_task_dispute_it_and_in_time(world: World) -> None:
    assert world.refuses(CLIENT, "open_dispute", *TASK, EVIDENCE) == codes.NO_TASK
    world.create(1)
    assert world.refuses(CLIENT, "open_dispute", *TASK, EVIDENCE) == codes.NOT_DISPUTABLE
    world.do(ROUTER, "complete_task", *world.complete_arguments(1))
    assert world.refuses(CLIENT, "open_dispute", *TASK, b"") == codes.BAD_LENGTH
    assert world.refuses(STRANGER, "open_dispute", *TASK, EVIDENCE) == codes.NOT_TASK_PARTY
    world.now += Params().dispute_window_seconds + 1
    assert world.refuses(ROUTER, "open_dispute", *TASK, EVIDENCE) == codes.DISPUTE_TOO_LATE
    world.now -= 1
    world.do(ROUTER, "open_dispute", *TASK, EVIDENCE)
    assert world.refuses(CLIENT, "open_dispute", *TASK, EVIDENCE) == codes.DISPUTE_EXISTS


def test_there_is_nothing_to_contest_resolve_or_finalize_without_a_dispute(world: World) -> None:
    assert world.refuses(ORCHESTRATOR, "contest_dispute", *TASK, ANSWER) == codes.NO_DISPUTE
    assert world.refuses(ADMIN, "resolve_dispute", *TASK, True) == codes.NO_DISPUTE
    assert world.refuses(STRANGER, "finalize_dispute", *TASK) == codes.NO_DISPUTE


def test_a_bond_needs_the_coins(world: World) -> None:
    world.settle(settlement())
    world.do(CLIENT, "deposit", STRANGER.public_key, world.coins(CLIENT))
    assert world.refuses(CLIENT, "open_dispute", *TASK, EVIDENCE) == codes.INSUFFICIENT_COINS


def test_unbonding_stake_is_slashed_too_the_oldest_first(disputed: World) -> None:
    for amount in (5, COIN - SLASH, SLASH - 15):
        disputed.do(ORCHESTRATOR, "request_unstake", OPERATOR, amount)
    disputed.now += Params().contest_seconds + 1
    disputed.do(STRANGER, "finalize_dispute", *TASK)
    record = disputed.state.orchestrators[OPERATOR]
    left = COIN - SLASH - (SLASH - 10 - 5)
    assert (record.stake, [due.amount for due in record.unbonding]) == (0, [left, SLASH - 15])


def test_a_stake_smaller_than_the_slash_pays_the_client_first(disputed: World) -> None:
    values = values_of(Params()) | {"max_slash": 10**14}
    disputed.do(ADMIN, "set_params", *values.values())
    disputed.do(ORCHESTRATOR, "request_unstake", OPERATOR, 1_000)
    disputed.now += Params().contest_seconds + 1
    *_, event = disputed.do(STRANGER, "finalize_dispute", *TASK)
    assert event == Slashed(OPERATOR, *TASK, COIN, PAID)
    assert disputed.state.orchestrators[OPERATOR].bonded == 0


def test_a_replaced_operator_key_does_not_escape(world: World) -> None:
    world.settle(settlement())
    new = person("new operator key")
    agreed = operator_signature(new, ORCHESTRATOR)
    world.do(ORCHESTRATOR, "set_operator", OPERATOR, new.public_key, agreed)
    world.do(CLIENT, "open_dispute", *TASK, EVIDENCE)
    world.now += Params().contest_seconds + 1
    world.do(STRANGER, "finalize_dispute", *TASK)
    assert lost(world, new) == SLASH
    assert world.state.orchestrators[new.address].metrics.slashed == 1


def lies(operator: Identity = ORCHESTRATOR) -> tuple[Any, ...]:
    claims = (claim_for(orchestrator=operator.address, result_hash=each * 32) for each in (b"1", b"2"))
    return contradiction(operator, *claims)


def test_anybody_may_prove_that_an_operator_signed_two_results_for_one_task(world: World) -> None:
    world.do(STRANGER, "report_equivocation", *lies())
    assert lost(world) == SLASH
    assert world.refuses(STRANGER, "report_equivocation", *lies()) == codes.ALREADY_SLASHED


def test_an_equivocation_makes_a_client_that_paid_whole(world: World) -> None:
    world.settle(settlement())
    _, event = world.do(STRANGER, "report_equivocation", *lies())
    assert event == Slashed(OPERATOR, *TASK, SLASH, PAID)
    assert world.refuses(CLIENT, "open_dispute", *TASK, EVIDENCE) == codes.ALREADY_SLASHED


def test_one_incident_is_punished_once_also_when_it_was_disputed(disputed: World) -> None:
    disputed.do(STRANGER, "report_equivocation", *lies())
    disputed.now += Params().contest_seconds + 1
    disputed.do(STRANGER, "finalize_dispute", *TASK)
    assert (lost(disputed), disputed.coins(CLIENT)) == (SLASH, 90 * COIN)


def test_the_claims_of_another_operator_on_a_paid_task_compensate_nobody(world: World) -> None:
    world.settle(settlement())
    *_, event = world.do(STRANGER, "report_equivocation", *lies(DELEGATE))
    assert event == Slashed(DELEGATE.address, *TASK, SLASH, 0)


PUBLIC_KEY, TASK_ID, MODELS, SIGNATURES = 2, 3, 6, 11


def test_what_does_not_prove_an_equivocation(world: World) -> None:
    good = list(lies())

    def refused(position: int, value: Any) -> codes.Code:
        arguments = [*good[:position], value, *good[position + 1 :]]
        return world.refuses(STRANGER, "report_equivocation", *arguments)

    assert refused(PUBLIC_KEY, b"short") == codes.BAD_PUBLIC_KEY
    assert refused(TASK_ID, b"short") == codes.BAD_LENGTH
    assert refused(MODELS, [b"m" * 32]) == codes.BAD_BATCH
    assert refused(MODELS, [b"m" * 32, b"m"]) == codes.BAD_LENGTH
    assert refused(PUBLIC_KEY, STRANGER.public_key) == codes.NO_ORCHESTRATOR
    assert refused(PUBLIC_KEY, DELEGATE.public_key) == codes.BAD_CLAIM_SIGNATURE
    assert refused(SIGNATURES, [good[SIGNATURES][0], bytes(64)]) == codes.BAD_CLAIM_SIGNATURE
    same = contradiction(ORCHESTRATOR, claim_for(), claim_for(price=1))
    assert world.refuses(STRANGER, "report_equivocation", *same) == codes.NO_EQUIVOCATION
