"""One task: escrowed beside the work, then completed, failed, or timed out; or settled straight from the deposit.

A task is settled once, a nonce spent once; whatever ends a task, payout + delegate + fee + refund = max_price.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from cactus_mesh.ledger.rules import codes
from cactus_mesh.ledger.rules.codes import Abort, Code, require
from cactus_mesh.ledger.rules.entry import Tx, entry, require_running
from cactus_mesh.ledger.rules.events import (
    Event,
    SettlementSkipped,
    TaskCompleted,
    TaskCreated,
    TaskFailed,
    TaskReassigned,
    TaskTimedOut,
)
from cactus_mesh.ledger.rules.payment import Claim, Consent, claim_refused, consent_refused, pay, release_escrow
from cactus_mesh.ledger.rules.servers import authorised_server, server_of
from cactus_mesh.ledger.rules.stakes import liable_operator, orchestrator_of
from cactus_mesh.ledger.rules.state import Metrics, NonceKey, State, Task, TaskKey, TaskStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cactus_mesh.identity import Address

MAX_BATCH: Final = 50
"""Two signature checks an item: keeps the largest batch well within one transaction's gas and 64 KiB."""


def _demand(refused: Code | None) -> None:
    if refused is not None:
        raise Abort(refused)


def _open_task(state: State, key: TaskKey) -> Task:
    task = state.tasks.get(key)
    if task is None:
        raise Abort(codes.NO_TASK)
    require(task.status != "completed", codes.ALREADY_SETTLED)
    require(task.status == "created", codes.TASK_CLOSED)
    return task


@entry
def create_task(
    state: State, tx: Tx,
    client: Address, task_id: bytes, nonce: int, max_price: int, expires_at: int, consent_signature: bytes,
    orchestrator: Address, accept_by: int, done_by: int,
) -> list[Event]:  # fmt: skip
    """Move *max_price* from the client's deposit into escrow for *orchestrator*.

    After *accept_by* a belated transaction creates nothing; after *done_by* anybody may time the task out.
    """
    require_running(state)
    server = authorised_server(state, tx)
    require(tx.now <= accept_by <= done_by <= tx.now + state.params.longest_task_seconds, codes.BAD_DEADLINES)
    _require_takes_tasks(state, orchestrator)
    consent = Consent(client, task_id, nonce, max_price, expires_at, consent_signature)
    _demand(consent_refused(state, tx, server, consent))

    record = state.clients[client]
    state.clients[client] = replace(record, deposit=record.deposit - max_price, escrowed=record.escrowed + max_price)
    state.servers[tx.sender] = replace(server, escrowed=server.escrowed + max_price)
    state.nonces[NonceKey(client, nonce)] = True
    state.tasks[consent.key] = Task(tx.sender, orchestrator, "created", max_price, done_by)
    return [TaskCreated(client, task_id, tx.sender, orchestrator, max_price, done_by)]


def _require_takes_tasks(state: State, orchestrator: Address) -> None:
    """Only a stake that is large enough, and that nobody disputes, answers for new work."""
    worker = orchestrator_of(state, orchestrator)
    require(worker.stake >= state.params.min_stake, codes.NOT_STAKED)
    require(not worker.frozen, codes.FROZEN)


@entry
def reassign_task(state: State, tx: Tx, client: Address, task_id: bytes, orchestrator: Address) -> list[Event]:
    """The server's word that the orchestrator did not deliver and another goes on: the escrow stays, for that one.

    A failure on the record of the one who was lost.  Until done_by, which does not move.
    """
    require_running(state)
    authorised_server(state, tx)
    key = TaskKey(client, task_id)
    task = _open_task(state, key)
    require(task.server == tx.sender, codes.NOT_TASK_SERVER)
    require(task.orchestrator != orchestrator, codes.SAME_ORCHESTRATOR)
    require(tx.now <= task.done_by, codes.BAD_DEADLINES)
    _require_takes_tasks(state, orchestrator)
    state.tasks[key] = replace(task, orchestrator=orchestrator)
    _blame(state, task, "failed")
    return [TaskReassigned(client, task_id, tx.sender, task.orchestrator, orchestrator)]


@entry
def complete_task(
    state: State, tx: Tx,
    client: Address, task_id: bytes, delegate: Address, delegate_bps: int, model_digest: bytes, complexity: int,
    compute_ms: int, price: int, result_hash: bytes, claim_signature: bytes, quality_ppm: int,
) -> list[Event]:  # fmt: skip
    """Pay the assigned orchestrator from escrow on its signed claim.  Late is fine until somebody times it out."""
    authorised_server(state, tx)
    key = TaskKey(client, task_id)
    task = _open_task(state, key)
    require(task.server == tx.sender, codes.NOT_TASK_SERVER)
    claim = Claim(
        task.orchestrator, delegate, delegate_bps, model_digest, complexity, compute_ms, price, result_hash,
        claim_signature, quality_ppm,
    )  # fmt: skip
    _demand(claim_refused(state, tx, key, claim))
    return [_complete(state, tx, key, task, claim)]


def _complete(state: State, tx: Tx, key: TaskKey, task: Task, claim: Claim) -> TaskCompleted:
    parts, done = pay(state, tx, key, claim, task.max_price)
    release_escrow(state, key, task, parts.refund)
    state.tasks[key] = replace(task, status="completed", ended_at=tx.now, split=parts, result_hash=claim.result_hash)
    return done


@entry
def fail_task(state: State, tx: Tx, client: Address, task_id: bytes) -> list[Event]:
    """The server's word that the orchestrator did not deliver: refund, and a failure on its record."""
    authorised_server(state, tx)
    key = TaskKey(client, task_id)
    task = _open_task(state, key)
    require(task.server == tx.sender, codes.NOT_TASK_SERVER)
    _refund(state, tx, key, task, "failed")
    return [TaskFailed(client, task_id, task.server, task.orchestrator, task.max_price)]


@entry
def timeout_task(state: State, tx: Tx, client: Address, task_id: bytes) -> list[Event]:
    """Anybody may end a task after done_by, so that a vanished server can't keep a client's money."""
    key = TaskKey(client, task_id)
    task = _open_task(state, key)
    require(tx.now > task.done_by, codes.TOO_EARLY)
    _refund(state, tx, key, task, "timed_out")
    return [TaskTimedOut(client, task_id, task.server, task.orchestrator, task.max_price)]


def _refund(state: State, tx: Tx, key: TaskKey, task: Task, status: TaskStatus) -> None:
    release_escrow(state, key, task, task.max_price)
    state.tasks[key] = replace(task, status=status, ended_at=tx.now)
    _blame(state, task, status)


def _blame(state: State, task: Task, status: TaskStatus) -> None:
    operator = liable_operator(state, task.orchestrator)  # a replaced operator key leaves the blame with its stake
    worker = orchestrator_of(state, operator)
    state.orchestrators[operator] = replace(worker, metrics=_blamed(worker.metrics, status))


def _blamed(metrics: Metrics, status: TaskStatus) -> Metrics:
    if status == "failed":
        return replace(metrics, failed=metrics.failed + 1)
    return replace(metrics, timed_out=metrics.timed_out + 1)


@entry
def settle_batch(state: State, tx: Tx, *columns: Sequence[Any]) -> list[Event]:
    """Pay up to `MAX_BATCH` finished tasks, each from its escrow if it has one, else straight from the deposit.

    The columns are those of `Consent` without its key's duplicates, then those of `Claim`, one entry an item; see
    `BATCH_COLUMNS`.  An item that can't be paid is skipped with an event that says why and aborts nothing.
    """
    authorised_server(state, tx)
    require(1 <= len(columns[0]) <= MAX_BATCH, codes.BAD_BATCH)
    require(all(len(column) == len(columns[0]) for column in columns), codes.BAD_BATCH)
    return [
        _settle_one(state, tx, Consent(*row[:_CONSENT_COLUMNS]), Claim(*row[_CONSENT_COLUMNS:]))
        for row in zip(*columns, strict=True)
    ]


_CONSENT_COLUMNS: Final = 6
BATCH_COLUMNS: Final = (
    "clients", "task_ids", "nonces", "max_prices", "expires_at", "consent_signatures",
    "orchestrators", "delegates", "delegate_bps", "model_digests", "complexities", "compute_ms", "prices",
    "result_hashes", "claim_signatures", "qualities_ppm",
)  # fmt: skip


def _settle_one(state: State, tx: Tx, consent: Consent, claim: Claim) -> Event:
    task = state.tasks.get(consent.key)
    if task is None:
        refused = _direct_refused(state, tx, consent, claim)
    else:
        refused = _escrowed_refused(state, tx, consent, claim, task)
    if refused is not None:
        return SettlementSkipped(consent.client, consent.task_id, tx.sender, refused.number)
    if task is None:
        return _pay_from_deposit(state, tx, consent, claim)
    return _complete(state, tx, consent.key, task, claim)


def _direct_refused(state: State, tx: Tx, consent: Consent, claim: Claim) -> Code | None:
    """Unlike a new task, a finished one is paid while the stake is unbonding or frozen: both can still be slashed.

    Only what stays for this task's dispute window counts, so that nobody is paid and gone before a doubt can be raised.
    """
    refused = consent_refused(state, tx, server_of(state, tx.sender), consent)
    refused = refused or claim_refused(state, tx, consent.key, claim)
    until = tx.now + state.params.dispute_window_seconds
    if refused is None and state.orchestrators[claim.orchestrator].bonded_until(until) < state.params.min_stake:
        return codes.NOT_STAKED
    return refused


def _escrowed_refused(state: State, tx: Tx, consent: Consent, claim: Claim, task: Task) -> Code | None:
    """The consent was spent when the escrow was made; of it only client and task id matter here."""
    if task.server != tx.sender:
        return codes.NOT_TASK_SERVER if task.status == "created" else codes.TASK_EXISTS
    if task.status != "created":
        return codes.ALREADY_SETTLED if task.status == "completed" else codes.TASK_CLOSED
    if task.orchestrator != claim.orchestrator:
        return codes.WRONG_ORCHESTRATOR
    return claim_refused(state, tx, consent.key, claim)


def _pay_from_deposit(state: State, tx: Tx, consent: Consent, claim: Claim) -> TaskCompleted:
    parts, done = pay(state, tx, consent.key, claim, consent.max_price)
    client = state.clients[consent.client]
    state.clients[consent.client] = replace(client, deposit=client.deposit - parts.paid)
    state.nonces[NonceKey(consent.client, consent.nonce)] = True
    state.tasks[consent.key] = Task(
        tx.sender, claim.orchestrator, "completed", consent.max_price, tx.now, tx.now, parts, claim.result_hash
    )
    return done
