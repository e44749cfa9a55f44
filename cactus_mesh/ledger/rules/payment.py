"""What both ways of paying a task share: is the consent good, is the claim good, who gets what.

A question answers with the `Code` that stands in the way, or None: a batch skips on it, a single entry aborts with it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from cactus_mesh.core.pricing import BPS, PPM, Split, reward, split, success_ppm
from cactus_mesh.core.settlement import NOBODY, SettlementClaim, TaskConsent
from cactus_mesh.identity import verify
from cactus_mesh.ledger.rules import codes
from cactus_mesh.ledger.rules.entry import Tx, release
from cactus_mesh.ledger.rules.events import TaskCompleted
from cactus_mesh.ledger.rules.params import MAX_COMPLEXITY_MFLOP
from cactus_mesh.ledger.rules.state import Metrics, Orchestrator, Server, State, Task, TaskKey

if TYPE_CHECKING:
    from cactus_mesh.identity import Address
    from cactus_mesh.ledger.rules.codes import Code

TASK_ID_BYTES: Final = 16
HASH_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Consent:
    """The client's part: what it signed beyond what the contract knows (chain, contract, the server that asks)."""

    client: Address
    task_id: bytes
    nonce: int
    max_price: int
    expires_at: int
    signature: bytes

    @property
    def key(self) -> TaskKey:
        return TaskKey(self.client, self.task_id)


@dataclass(frozen=True, slots=True)
class Claim:
    """The orchestrator's part, and the server's *quality_ppm*, which nobody signs but the transaction."""

    orchestrator: Address
    delegate: Address
    delegate_bps: int
    model_digest: bytes
    complexity: int
    compute_ms: int
    price: int
    result_hash: bytes
    signature: bytes
    quality_ppm: int


def consent_refused(state: State, tx: Tx, server: Server, consent: Consent) -> Code | None:
    """May the signing server promise this much of the client's deposit?"""
    client = state.clients.get(consent.client)
    if len(consent.task_id) != TASK_ID_BYTES:
        return codes.BAD_LENGTH
    if client is None:
        return codes.NO_CLIENT
    if consent.key in state.tasks:
        return codes.TASK_EXISTS
    if tx.now > consent.expires_at:
        return codes.CONSENT_EXPIRED
    if (consent.client, consent.nonce) in state.nonces:
        return codes.NONCE_USED
    if consent.max_price > client.deposit:
        return codes.INSUFFICIENT_DEPOSIT
    if server.escrowed + consent.max_price > server.max_budget:
        return codes.OVER_BUDGET
    signed = TaskConsent(
        state.chain_id, state.contract, consent.client, tx.sender,
        consent.task_id, consent.nonce, consent.max_price, consent.expires_at,
    )  # fmt: skip
    return None if verify(client.public_key, signed.to_bcs(), consent.signature) else codes.BAD_CONSENT_SIGNATURE


def claim_refused(state: State, tx: Tx, key: TaskKey, claim: Claim) -> Code | None:
    """Has the orchestrator signed for this task, in numbers that the contract computes with?"""
    orchestrator = state.orchestrators.get(claim.orchestrator)
    if len(claim.model_digest) != HASH_BYTES or len(claim.result_hash) != HASH_BYTES:
        return codes.BAD_LENGTH
    if orchestrator is None:
        return codes.NO_ORCHESTRATOR
    if (
        claim.complexity > MAX_COMPLEXITY_MFLOP
        or claim.compute_ms > state.params.longest_task_seconds * 1_000
        or claim.quality_ppm > PPM
    ):
        return codes.CLAIM_OUT_OF_BOUNDS
    if not _delegate_fits(state, claim):
        return codes.BAD_DELEGATE
    signed = SettlementClaim(
        state.chain_id, state.contract, key.client, tx.sender, claim.orchestrator, claim.delegate, claim.delegate_bps,
        key.task_id, claim.model_digest, claim.complexity, claim.compute_ms, claim.price, claim.result_hash,
    )  # fmt: skip
    return None if verify(orchestrator.public_key, signed.to_bcs(), claim.signature) else codes.BAD_CLAIM_SIGNATURE


def _delegate_fits(state: State, claim: Claim) -> bool:
    if claim.delegate == NOBODY:
        return claim.delegate_bps == 0
    return (
        claim.delegate in state.orchestrators
        and claim.delegate != claim.orchestrator
        and claim.delegate_bps <= state.params.max_delegate_bps
    )


def split_of(state: State, claim: Claim, max_price: int) -> Split:
    """min(what the orchestrator asks, the formula, the consent), divided between all four."""
    params = state.params
    formula = reward(
        params.reward,
        max_price=max_price,
        complexity=claim.complexity,
        compute_ms=claim.compute_ms,
        success_ppm=success_of(state.orchestrators[claim.orchestrator].metrics),
    )
    gross = min(claim.price, formula)
    return split(gross, max_price=max_price, fee_bps=params.reward.fee_bps, delegate_bps=claim.delegate_bps)


def success_of(metrics: Metrics) -> int:
    return success_ppm(metrics.completed, metrics.failed + metrics.timed_out)


def pay(state: State, tx: Tx, key: TaskKey, claim: Claim, max_price: int) -> tuple[Split, TaskCompleted]:
    """Move the money of a good claim out of the client's vault.  The caller accounts for it in the client's record.

    Pay goes to owners, never to operator keys: a stolen operator key earns its thief nothing.
    """
    parts = split_of(state, claim, max_price)
    source = state.clients[key.client].vault
    orchestrator = state.orchestrators[claim.orchestrator]
    release(state, source, orchestrator.owner, parts.orchestrator)
    if claim.delegate != NOBODY:
        release(state, source, state.orchestrators[claim.delegate].owner, parts.delegate)
    to_treasury = parts.fee * state.params.treasury_bps // BPS
    release(state, source, state.config.treasury, to_treasury)
    release(state, source, tx.sender, parts.fee - to_treasury)
    state.orchestrators[claim.orchestrator] = replace(orchestrator, metrics=_after(orchestrator, claim))
    done = TaskCompleted(
        key.client, key.task_id, tx.sender, claim.orchestrator, claim.delegate, max_price,
        parts.orchestrator, parts.delegate, parts.fee, parts.refund,
        claim.complexity, claim.compute_ms, claim.quality_ppm, claim.model_digest, claim.result_hash,
    )  # fmt: skip
    return parts, done


def _after(orchestrator: Orchestrator, claim: Claim) -> Metrics:
    metrics = orchestrator.metrics
    return replace(
        metrics,
        completed=metrics.completed + 1,
        compute_ms=metrics.compute_ms + claim.compute_ms,
        quality_sum=metrics.quality_sum + claim.quality_ppm,
    )


def release_escrow(state: State, key: TaskKey, task: Task, back: int) -> None:
    """Close the escrow of *task*, returning *back* of it to the client's deposit."""
    client, server = state.clients[key.client], state.servers[task.server]
    state.clients[key.client] = replace(
        client, escrowed=client.escrowed - task.max_price, deposit=client.deposit + back
    )
    state.servers[task.server] = replace(server, escrowed=server.escrowed - task.max_price)
