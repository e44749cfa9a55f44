"""Making receipts: what an orchestrator signs about its work, and the claim within it that the ledger settles on.

Under delegation both sign the same claim: the delegate by its own receipt, the liable orchestrator by the one that
carries it.  So neither can misstate the share to the other.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cactus_mesh.core.pricing import asked_price, complexity
from cactus_mesh.core.settlement import NOBODY, SettlementClaim
from cactus_mesh.identity import address
from cactus_mesh.messages import Receipt, output_digest, sampling_digest, text_digest, work_digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cactus_mesh.core.delegation import Chain
    from cactus_mesh.core.requests import Contract
    from cactus_mesh.identity import Identity
    from cactus_mesh.messages import FinishReason, Sealed


@dataclass(frozen=True, slots=True)
class Work:
    """What came out of the engine for one task."""

    token_ids: Sequence[int]
    logprobs: bytes
    """One little-endian f32 per token."""
    text: str
    finish: FinishReason
    prompt_tokens: int
    compute_ms: int
    engine: str


def pack_logprobs(logprobs: Sequence[float]) -> bytes:
    return struct.pack(f"<{len(logprobs)}f", *logprobs)


def unpack_logprobs(data: bytes) -> tuple[float, ...]:
    """Raises struct.error unless *data* is whole f32 values."""
    return struct.unpack(f"<{len(data) // 4}f", data)


def claim_for(
    chain: Chain, contract: Contract, *, prompt_tokens: int, token_ids: Sequence[int], compute_ms: int
) -> SettlementClaim:
    """The one claim that follows from an order, the counts, the tokens and the compute time."""
    offer = chain.assignment.body.offer
    consent = chain.request.consent
    asked = asked_price(offer.price, prompt_tokens, len(token_ids))
    return SettlementClaim(
        chain_id=contract.chain_id,
        contract=contract.address,
        client=consent.client,
        router=consent.router,
        orchestrator=address(chain.liable),
        delegate=address(chain.worker) if chain.delegations else NOBODY,
        delegate_bps=chain.share_bps if chain.delegations else 0,
        task_id=consent.task_id,
        model_digest=offer.digest,
        complexity=complexity(offer.shape, prompt_tokens, len(token_ids)),
        compute_ms=compute_ms,
        price=min(asked, chain.max_price),
        result_hash=output_digest(token_ids),
    )


def receipt_for(chain: Chain, contract: Contract, work: Work, identity: Identity) -> Receipt:
    """What the worker of *chain* signs about its own work."""
    request, offer = chain.request.sealed.body, chain.assignment.body.offer
    claim = claim_for(
        chain, contract, prompt_tokens=work.prompt_tokens, token_ids=work.token_ids, compute_ms=work.compute_ms
    ).to_bcs()
    return Receipt(
        task_id=request.task_id,
        order_hash=chain.order_hash,
        model_digest=offer.digest,
        dtype=offer.dtype,
        prompt_hash=work_digest(request.work),
        sampling_hash=sampling_digest(request.sampling),
        token_ids=list(work.token_ids),
        logprobs=work.logprobs,
        text_hash=text_digest(work.text),
        finish=work.finish,
        prompt_tokens=work.prompt_tokens,
        compute_ms=work.compute_ms,
        engine=work.engine,
        claim=claim,
        claim_signature=identity.sign(claim),
        delegate_receipt=None,
    )


def receipt_over(delegated: Sealed[Receipt], order_hash: bytes, identity: Identity) -> Receipt:
    """What an orchestrator signs about work that it delegated: the same claim, under its own order."""
    done = delegated.body
    return Receipt(
        task_id=done.task_id,
        order_hash=order_hash,
        model_digest=done.model_digest,
        dtype=done.dtype,
        prompt_hash=done.prompt_hash,
        sampling_hash=done.sampling_hash,
        token_ids=done.token_ids,
        logprobs=done.logprobs,
        text_hash=done.text_hash,
        finish=done.finish,
        prompt_tokens=done.prompt_tokens,
        compute_ms=done.compute_ms,
        engine=done.engine,
        claim=done.claim,
        claim_signature=identity.sign(done.claim),
        delegate_receipt=delegated.raw,
    )
