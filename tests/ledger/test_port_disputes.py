"""Disputes and contradictions, whatever is behind the port: who may do what by when, and who pays in the end."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from cactus_mesh.errors import LedgerAborted, NotStaked
from tests.ledger.world import CLIENT, COIN, ORCHESTRATOR, ROUTER, STRANGER, person, task_id

if TYPE_CHECKING:
    from cactus_mesh.core.settlement import SettlementClaim
    from cactus_mesh.identity import Identity
    from cactus_mesh.ports import DisputeView, OrchestratorView
    from tests.ledger.stage import Stage

EVIDENCE, ANSWER = b"e" * 32, b"a" * 32
FEES = COIN // 100
TASK = (CLIENT.address, task_id(1))


async def _dispute(stage: Stage) -> DisputeView:
    dispute = await stage.ledger.dispute(*TASK)
    assert dispute is not None
    return dispute


async def _orchestrator(stage: Stage) -> OrchestratorView:
    orchestrator = await stage.ledger.orchestrator(ORCHESTRATOR.address)
    assert orchestrator is not None
    return orchestrator


async def _deposit(stage: Stage) -> int:
    client = await stage.ledger.client(CLIENT.address)
    assert client is not None
    return client.deposit


async def _opened(stage: Stage, *, contested: bool = False) -> int:
    """A task settled and disputed by its client; returns what the client had paid for it."""
    (settled,) = await stage.ledger.settle(ROUTER, [stage.item()])
    assert settled.split is not None
    await stage.ledger.open_dispute(CLIENT, *TASK, EVIDENCE)
    if contested:
        await stage.ledger.contest_dispute(ORCHESTRATOR, *TASK, ANSWER)
    return settled.split.paid


async def test_a_dispute_freezes_the_stake_and_shows_its_deadline(stage: Stage) -> None:
    assert await stage.ledger.dispute(*TASK) is None
    params = (await stage.ledger.governance()).params
    await _opened(stage)
    dispute = await _dispute(stage)
    assert (dispute.status, dispute.orchestrator, dispute.opener) == ("open", ORCHESTRATOR.address, CLIENT.address)
    assert (dispute.bond, dispute.act_by) == (params["dispute_bond"], int(stage.clock()) + params["contest_seconds"])
    assert (await _orchestrator(stage)).frozen
    await stage.ledger.request_unstake(ORCHESTRATOR, ORCHESTRATOR.address, COIN)
    stage.clock.seconds += params["unbonding_seconds"]
    with pytest.raises(LedgerAborted, match="E_FROZEN"):
        await stage.ledger.withdraw_stake(ORCHESTRATOR, ORCHESTRATOR.address)
    assert await stage.conserved()


async def test_only_a_tasks_parties_doubt_it_once_and_in_time(stage: Stage) -> None:
    ledger, window = stage.ledger, (await stage.ledger.governance()).params["dispute_window_seconds"]
    with pytest.raises(LedgerAborted, match="E_NO_TASK"):
        await ledger.open_dispute(CLIENT, *TASK, EVIDENCE)
    await ledger.settle(ROUTER, [stage.item(1), stage.item(2)])
    with pytest.raises(LedgerAborted, match="E_NOT_TASK_PARTY"):
        await ledger.open_dispute(STRANGER, *TASK, EVIDENCE)
    await ledger.open_dispute(ROUTER, *TASK, EVIDENCE)
    with pytest.raises(LedgerAborted, match="E_DISPUTE_EXISTS"):
        await ledger.open_dispute(CLIENT, *TASK, EVIDENCE)
    stage.clock.seconds += window + 1
    with pytest.raises(LedgerAborted, match="E_DISPUTE_TOO_LATE"):
        await ledger.open_dispute(CLIENT, CLIENT.address, task_id(2), EVIDENCE)


async def test_an_unanswered_dispute_is_upheld_by_anybody_after_its_deadline(stage: Stage) -> None:
    paid, before = await _opened(stage), await _deposit(stage)
    with pytest.raises(LedgerAborted, match="E_TOO_EARLY"):
        await stage.ledger.finalize_dispute(STRANGER, *TASK)
    stage.clock.seconds = (await _dispute(stage)).act_by + 1
    with pytest.raises(LedgerAborted, match="E_CONTEST_TOO_LATE"):
        await stage.ledger.contest_dispute(ORCHESTRATOR, *TASK, ANSWER)
    await stage.ledger.finalize_dispute(STRANGER, *TASK)
    orchestrator, params = await _orchestrator(stage), (await stage.ledger.governance()).params
    assert (await _dispute(stage)).status == "upheld"
    assert (orchestrator.stake, orchestrator.slashed, orchestrator.frozen) == (COIN - params["max_slash"], 1, False)
    assert await _deposit(stage) == before + paid, "the victim is paid first, what it had lost"
    assert await stage.conserved()


@pytest.mark.parametrize(("upheld", "status", "slashed"), [(True, "upheld", 1), (False, "dismissed", 0)])
async def test_a_contested_dispute_is_the_arbiters(stage: Stage, upheld: bool, status: str, slashed: int) -> None:
    await _opened(stage)
    with pytest.raises(LedgerAborted, match="E_WRONG_DISPUTE_STATUS"):
        await stage.ledger.resolve_dispute(stage.admin, *TASK, upheld=upheld)
    with pytest.raises(LedgerAborted, match="E_NOT_OWNER"):
        await stage.ledger.contest_dispute(STRANGER, *TASK, ANSWER)
    await stage.ledger.contest_dispute(ORCHESTRATOR, *TASK, ANSWER)
    assert (await _dispute(stage)).status == "contested"
    with pytest.raises(LedgerAborted, match="E_NOT_ARBITER"):
        await stage.ledger.resolve_dispute(CLIENT, *TASK, upheld=upheld)
    before = await stage.ledger.balance(ORCHESTRATOR.address)
    await stage.ledger.resolve_dispute(stage.admin, *TASK, upheld=upheld)
    assert ((await _dispute(stage)).status, (await _orchestrator(stage)).slashed) == (status, slashed)
    bond = 0 if upheld else (await _dispute(stage)).bond
    assert await stage.ledger.balance(ORCHESTRATOR.address) == before + bond
    assert await stage.conserved()


async def test_what_the_arbiter_leaves_undecided_lapses(stage: Stage) -> None:
    before = await stage.ledger.balance(CLIENT.address)
    await _opened(stage, contested=True)
    stage.clock.seconds = (await _dispute(stage)).act_by + 1
    await stage.ledger.finalize_dispute(STRANGER, *TASK)
    assert (await _dispute(stage)).status == "lapsed"
    assert ((await _orchestrator(stage)).stake, (await _orchestrator(stage)).slashed) == (COIN, 0)
    assert before - FEES < await stage.ledger.balance(CLIENT.address) <= before, "the bond is back"
    assert await stage.conserved()


# --- two claims that contradict --------------------------------------------------------------------------------------


def _claims(stage: Stage, key: Identity, *results: bytes) -> list[tuple[SettlementClaim, bytes]]:
    claims = [replace(stage.item().claim, result_hash=result) for result in results]
    return [(claim, key.sign(claim.to_bcs())) for claim in claims]


async def test_anybody_reports_a_contradiction_once(stage: Stage) -> None:
    proof = _claims(stage, ORCHESTRATOR, b"1" * 32, b"2" * 32)
    await stage.ledger.report_equivocation(STRANGER, ORCHESTRATOR.public_key, *proof)
    orchestrator, params = await _orchestrator(stage), (await stage.ledger.governance()).params
    assert (orchestrator.stake, orchestrator.slashed) == (COIN - params["max_slash"], 1)
    with pytest.raises(LedgerAborted, match="E_ALREADY_SLASHED"):
        await stage.ledger.report_equivocation(CLIENT, ORCHESTRATOR.public_key, *proof)
    assert await stage.conserved()


async def test_what_is_no_contradiction_costs_nothing(stage: Stage) -> None:
    ledger, key = stage.ledger, ORCHESTRATOR.public_key
    with pytest.raises(LedgerAborted, match="E_NO_EQUIVOCATION"):
        await ledger.report_equivocation(STRANGER, key, *_claims(stage, ORCHESTRATOR, b"1" * 32, b"1" * 32))
    with pytest.raises(LedgerAborted, match="E_BAD_CLAIM_SIGNATURE"):
        await ledger.report_equivocation(STRANGER, key, *_claims(stage, STRANGER, b"1" * 32, b"2" * 32))
    unknown = person("unknown")
    with pytest.raises(NotStaked, match="E_NO_ORCHESTRATOR"):
        await ledger.report_equivocation(STRANGER, unknown.public_key, *_claims(stage, unknown, b"1" * 32, b"2" * 32))
    assert (await _orchestrator(stage)).stake == COIN
