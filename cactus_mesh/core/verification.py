"""The cheap checks of a receipt: everything about it that can be known without running the model.

Returns the names of the checks that failed; none failed is the verdict "pass", first form.  What a replay of the model
finds on a random sample of receipts is judged in `core.audit`.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from msgspec import UNSET

from cactus_mesh.core.delegation import goes_on_from
from cactus_mesh.core.readings import reads, well_formed
from cactus_mesh.core.receipts import claim_for, unpack_logprobs
from cactus_mesh.core.settlement import SettlementClaim
from cactus_mesh.errors import MessageError
from cactus_mesh.identity import verify
from cactus_mesh.messages import (
    PIECE_CHARACTERS,
    Partial,
    Receipt,
    Verdict,
    sampling_digest,
    text_digest,
    texts_of,
    unseal,
    work_digest,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cactus_mesh.core.delegation import Chain
    from cactus_mesh.core.requests import Contract
    from cactus_mesh.messages import Delegation, Sampling, Sealed, Work

TEMPLATE_TOKENS_PER_MESSAGE: Final = 64
"""How many tokens a chat template may add to each message, and a tokenizer to each prompt, beyond one per byte."""
CLOCK_SLACK_MS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Witnessed:
    """What the checker saw for itself: the streamed tokens and text and, when it watched the work, how long it took.

    *stopped*: it has asked for the end, or was asked to.  *logprobs*: of each token, as a receipt has them, where the
    request asks for them.
    """

    token_ids: Sequence[int]
    text: str
    elapsed_ms: int | None
    stopped: bool = False
    logprobs: bytes | bytearray = b""


def failed_checks(
    receipt: Sealed[Receipt], chain: Chain, contract: Contract, seen: Witnessed, *, below: int = 0
) -> tuple[str, ...]:
    """Check *receipt* against the order it answers and the whole *chain* that the order led to.

    The router and the client check the liable orchestrator's receipt (*below* 0 delegations); an orchestrator that
    delegates checks the receipt of its own delegate, *below* as many delegations as lead to that one.
    """
    names = [name for name, holds in _checks(receipt, chain, contract, seen, below) if not holds]
    return tuple(dict.fromkeys(names))


def _checks(
    receipt: Sealed[Receipt], chain: Chain, contract: Contract, seen: Witnessed, below: int
) -> Iterator[tuple[str, bool]]:
    body = receipt.body
    link = chain.delegations[below - 1] if below else chain.assignment
    signer = link.recipient
    yield "signer", receipt.sender == signer
    yield "partial", goes_on_from(chain.partial, Partial(list(seen.token_ids), seen.text))
    yield "order", body.order_hash == link.digest
    yield from _work_checks(body, chain, contract, seen)
    yield "claim_signature", signer is not None and verify(signer, body.claim, body.claim_signature)
    yield from _delegate_checks(body, chain, contract, seen, below)


def _work_checks(body: Receipt, chain: Chain, contract: Contract, seen: Witnessed) -> Iterator[tuple[str, bool]]:
    request, offer = chain.request.sealed.body, chain.assignment.body.offer
    count, limit = len(body.token_ids), request.sampling.max_tokens
    yield "task", body.task_id == request.task_id
    yield "model", body.model_digest == offer.digest and body.dtype == offer.dtype
    yield "prompt", body.prompt_hash == work_digest(request.work)
    yield "sampling", body.sampling_hash == sampling_digest(request.sampling)
    yield "tokens", body.token_ids == list(seen.token_ids)
    yield "text", body.text_hash == text_digest(seen.text)
    yield "length", count <= limit and body.prompt_tokens + count <= offer.context_tokens
    if reads(request.work):
        yield "pieces", body.token_ids == [0] * math.ceil(len(seen.text) / PIECE_CHARACTERS) and not any(body.logprobs)
        yield "form", well_formed(request.work, seen.text)
    yield "finish", _finish_is_plausible(body, request.sampling, stopped=seen.stopped)
    yield "logprobs", _logprobs_are_plausible(body.logprobs, count)
    yield "streamed_logprobs", _logprobs_are_as_streamed(body, chain, seen)
    yield "prompt_tokens", 1 <= body.prompt_tokens <= most_prompt_tokens(request.work)
    yield "compute_time", seen.elapsed_ms is None or body.compute_ms <= seen.elapsed_ms + CLOCK_SLACK_MS
    yield "claim", _claim_follows(body, chain, contract)


def _finish_is_plausible(body: Receipt, sampling: Sampling, *, stopped: bool) -> bool:
    match body.finish:
        case "length":
            return len(body.token_ids) == sampling.max_tokens
        case "stop_string":
            return bool(sampling.stop) and len(body.token_ids) > 0
        case "stop":
            return len(body.token_ids) > 0
        case "cancelled":
            return stopped and len(body.token_ids) > 0


def _logprobs_are_plausible(data: bytes, count: int) -> bool:
    if len(data) != 4 * count:
        return False
    try:
        values = unpack_logprobs(data)
    except struct.error:
        return False
    return all(math.isfinite(value) and value <= 1e-4 for value in values)


def _logprobs_are_as_streamed(body: Receipt, chain: Chain, seen: Witnessed) -> bool:
    """From where its signer went on: before that they were streamed by another machine, whose numbers differ a bit."""
    if chain.request.sealed.body.sampling.top_logprobs is UNSET:
        return True
    own = 4 * len(chain.partial.token_ids) if chain.partial is not None else 0
    return body.logprobs[own:] == seen.logprobs[own:]


def most_prompt_tokens(work: Work) -> int:
    """No tokenizer makes more tokens than bytes, apart from what a template adds."""
    texts = texts_of(work)
    return sum(len(text.encode()) for text in texts) + TEMPLATE_TOKENS_PER_MESSAGE * (len(texts) + 1)


def _claim_follows(body: Receipt, chain: Chain, contract: Contract) -> bool:
    expected = claim_for(
        chain, contract, prompt_tokens=body.prompt_tokens, token_ids=body.token_ids, compute_ms=body.compute_ms
    )
    try:
        return SettlementClaim.from_bcs(body.claim) == expected
    except ValueError:
        return False


def _delegate_checks(
    body: Receipt, chain: Chain, contract: Contract, seen: Witnessed, below: int
) -> Iterator[tuple[str, bool]]:
    """Down the chain: each delegate's receipt lies in the receipt above it, over the same claim."""
    for link in chain.delegations[below:]:
        inner = _inner_receipt(body, link)
        yield "delegate_receipt", inner is not None and inner.claim == body.claim
        if inner is None or link.recipient is None:
            return
        yield "delegate_signature", verify(link.recipient, inner.claim, inner.claim_signature)
        for name, holds in _work_checks(inner, chain, contract, seen):
            yield f"delegate_{name}", holds
        body = inner
    yield "delegate_receipt", body.delegate_receipt is None


def _inner_receipt(body: Receipt, link: Sealed[Delegation]) -> Receipt | None:
    """The receipt inside *body*, when it is by the recipient of *link* and for that order."""
    if body.delegate_receipt is None:
        return None
    try:
        inner = unseal(body.delegate_receipt, Receipt, now_ms=None, sender=link.recipient).body
    except MessageError:
        return None
    return inner if inner.order_hash == link.digest else None


def verdict_on(receipt: Sealed[Receipt], failed: Sequence[str], draw_secret: bytes, audit_ppm: int) -> Verdict:
    """The word that a router signs.  Without a replay, a pass says only that the cheap checks hold."""
    return Verdict(
        task_id=receipt.body.task_id,
        receipt_hash=receipt.digest,
        result="fail" if failed else "pass",
        replayed=False,
        failed_checks=list(failed),
        draw_secret=draw_secret,
        audit_ppm=audit_ppm,
    )
