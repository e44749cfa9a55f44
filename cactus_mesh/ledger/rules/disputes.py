"""When a completed task was no good: a bonded dispute, an answer, a decision; or two signed claims that contradict.

A slash is capped, makes the client whole first, and gives the rest to the treasury.  One incident is punished once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from cactus_mesh.core.settlement import SettlementClaim
from cactus_mesh.identity import PUBLIC_KEY_BYTES, PublicKey, address, verify
from cactus_mesh.ledger.rules import codes
from cactus_mesh.ledger.rules.codes import Abort, require
from cactus_mesh.ledger.rules.entry import Tx, entry, lock, release, shift
from cactus_mesh.ledger.rules.events import (
    DisputeClosed,
    DisputeContested,
    DisputeOpened,
    EquivocationReported,
    Event,
    Slashed,
)
from cactus_mesh.ledger.rules.payment import HASH_BYTES, TASK_ID_BYTES
from cactus_mesh.ledger.rules.stakes import liable_operator, orchestrator_of
from cactus_mesh.ledger.rules.state import (
    Dispute,
    DisputeStatus,
    Due,
    Orchestrator,
    SlashKey,
    State,
    TaskKey,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cactus_mesh.identity import Address


@entry
def open_dispute(state: State, tx: Tx, client: Address, task_id: bytes, evidence_hash: bytes) -> list[Event]:
    """The task's client or server doubts it, and puts down a bond.  The stake is frozen until the decision."""
    key = TaskKey(client, task_id)
    task = state.tasks.get(key)
    if task is None:
        raise Abort(codes.NO_TASK)
    require(len(evidence_hash) == HASH_BYTES, codes.BAD_LENGTH)
    require(tx.sender in (client, task.server), codes.NOT_TASK_PARTY)
    require(task.status == "completed", codes.NOT_DISPUTABLE)
    require(key not in state.disputes, codes.DISPUTE_EXISTS)
    require(tx.now <= task.ended_at + state.params.dispute_window_seconds, codes.DISPUTE_TOO_LATE)
    require(SlashKey(task.orchestrator, client, task_id) not in state.slashes, codes.ALREADY_SLASHED)
    operator = liable_operator(state, task.orchestrator)
    worker, bond = orchestrator_of(state, operator), state.params.dispute_bond
    lock(state, tx.sender, worker.vault, bond)
    state.orchestrators[operator] = replace(worker, open_disputes=worker.open_disputes + 1, bonds=worker.bonds + bond)
    act_by = tx.now + state.params.contest_seconds
    state.disputes[key] = Dispute(
        task.orchestrator, tx.sender, bond, evidence_hash, b"", opened_at=tx.now, act_by=act_by, status="open"
    )
    return [DisputeOpened(client, task_id, task.orchestrator, tx.sender, bond, evidence_hash, act_by)]


def _dispute(state: State, key: TaskKey) -> Dispute:
    dispute = state.disputes.get(key)
    if dispute is None:
        raise Abort(codes.NO_DISPUTE)
    return dispute


@entry
def contest_dispute(state: State, tx: Tx, client: Address, task_id: bytes, answer_hash: bytes) -> list[Event]:
    """The owner of the stake answers in time, so that the arbiter has to decide."""
    key = TaskKey(client, task_id)
    dispute = _dispute(state, key)
    worker = orchestrator_of(state, liable_operator(state, dispute.orchestrator))
    require(worker.owner == tx.sender, codes.NOT_OWNER)
    require(len(answer_hash) == HASH_BYTES, codes.BAD_LENGTH)
    require(dispute.status == "open", codes.WRONG_DISPUTE_STATUS)
    require(tx.now <= dispute.act_by, codes.CONTEST_TOO_LATE)
    act_by = tx.now + state.params.arbitration_seconds
    state.disputes[key] = replace(dispute, status="contested", answer_hash=answer_hash, act_by=act_by)
    return [DisputeContested(client, task_id, dispute.orchestrator, answer_hash, act_by)]


@entry
def resolve_dispute(state: State, tx: Tx, client: Address, task_id: bytes, upheld: bool) -> list[Event]:
    """The arbiter decides a contested dispute.  A dismissed one costs the opener its bond, for the owner's trouble."""
    require(tx.sender == state.config.arbiter, codes.NOT_ARBITER)
    key = TaskKey(client, task_id)
    dispute = _dispute(state, key)
    require(dispute.status == "contested", codes.WRONG_DISPUTE_STATUS)
    return _close(state, key, dispute, "upheld" if upheld else "dismissed")


@entry
def finalize_dispute(state: State, tx: Tx, client: Address, task_id: bytes) -> list[Event]:
    """Anybody, after the deadline: an uncontested dispute is upheld, one that the arbiter left undecided lapses."""
    key = TaskKey(client, task_id)
    dispute = _dispute(state, key)
    require(dispute.status in ("contested", "open"), codes.WRONG_DISPUTE_STATUS)
    require(tx.now > dispute.act_by, codes.TOO_EARLY)
    return _close(state, key, dispute, "upheld" if dispute.status == "open" else "lapsed")


def _close(state: State, key: TaskKey, dispute: Dispute, status: DisputeStatus) -> list[Event]:
    operator = liable_operator(state, dispute.orchestrator)
    worker = orchestrator_of(state, operator)
    bond_to = worker.owner if status == "dismissed" else dispute.opener
    release(state, worker.vault, bond_to, dispute.bond)
    state.orchestrators[operator] = replace(
        worker, open_disputes=worker.open_disputes - 1, bonds=worker.bonds - dispute.bond
    )
    state.disputes[key] = replace(dispute, status=status)
    closed = DisputeClosed(key.client, key.task_id, dispute.orchestrator, status, bond_to)
    incident = SlashKey(dispute.orchestrator, key.client, key.task_id)
    if status != "upheld" or incident in state.slashes:
        return [closed]
    return [closed, _slash(state, incident)]


@entry
def report_equivocation(
    state: State, tx: Tx, client: Address, server: Address, public_key: PublicKey, task_id: bytes,
    *columns: Sequence[Any],
) -> list[Event]:  # fmt: skip
    """Anybody shows two claims for one task, signed by one operator key, with different results.

    The columns are those of a batch's claims without the orchestrator and the quality, two entries each.
    """
    require(len(public_key) == PUBLIC_KEY_BYTES, codes.BAD_PUBLIC_KEY)
    require(len(task_id) == TASK_ID_BYTES, codes.BAD_LENGTH)
    require(all(len(column) == 2 for column in columns), codes.BAD_BATCH)
    operator = address(public_key)
    incident = SlashKey(operator, client, task_id)
    orchestrator_of(state, liable_operator(state, operator))
    require(incident not in state.slashes, codes.ALREADY_SLASHED)
    results: list[bytes] = []
    for delegate, bps, model_digest, complexity, compute_ms, price, result_hash, signature in zip(
        *columns, strict=True
    ):
        require(len(model_digest) == HASH_BYTES and len(result_hash) == HASH_BYTES, codes.BAD_LENGTH)
        claim = SettlementClaim(
            state.chain_id, state.contract, client, server, operator, delegate, bps, task_id, model_digest,
            complexity, compute_ms, price, result_hash,
        )  # fmt: skip
        require(verify(public_key, claim.to_bcs(), signature), codes.BAD_CLAIM_SIGNATURE)
        results.append(result_hash)
    first, second = results
    require(first != second, codes.NO_EQUIVOCATION)
    reported = EquivocationReported(client, task_id, server, operator, tx.sender, first, second)
    return [reported, _slash(state, incident)]


EQUIVOCATION_COLUMNS: Final = 8


def _slash(state: State, incident: SlashKey) -> Slashed:
    """Take at most max_slash of the stake, the active first: to the client what it paid, to the treasury the rest."""
    operator = liable_operator(state, incident.operator)
    worker = orchestrator_of(state, operator)
    amount = min(state.params.max_slash, worker.bonded)
    to_client = min(amount, _loss(state, incident))
    if to_client > 0:
        record = state.clients[incident.client]
        shift(state, worker.vault, record.vault, to_client)
        state.clients[incident.client] = replace(record, deposit=record.deposit + to_client)
    release(state, worker.vault, state.config.treasury, amount - to_client)
    state.orchestrators[operator] = _diminished(worker, amount)
    state.slashes[incident] = True
    return Slashed(operator, incident.client, incident.task_id, amount, to_client)


def _loss(state: State, incident: SlashKey) -> int:
    task = state.tasks.get(TaskKey(incident.client, incident.task_id))
    if task is None or task.split is None or task.orchestrator != incident.operator:
        return 0
    return task.split.paid


def _diminished(worker: Orchestrator, amount: int) -> Orchestrator:
    active = min(amount, worker.stake)
    left, unbonding = amount - active, []
    for due in worker.unbonding:
        taken = min(left, due.amount)
        left -= taken
        if due.amount > taken:
            unbonding.append(Due(due.amount - taken, due.release_at))
    metrics = replace(worker.metrics, slashed=worker.metrics.slashed + 1)
    return replace(worker, stake=worker.stake - active, unbonding=tuple(unbonding), metrics=metrics)
