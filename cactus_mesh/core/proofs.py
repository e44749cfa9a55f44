"""A finished task's signed documents, kept together, and what anybody can check of them without network or ledger.

They hold who owed what to whom and the answer's token ids, never the prompt; so whether the prompt was the one that was
asked is for those to check who have it (`core.verification`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec
from msgspec import Meta

from cactus_mesh.core.draws import is_drawn, is_fair
from cactus_mesh.core.pricing import asked_price, complexity
from cactus_mesh.core.settlement import NOBODY, SettlementClaim, TaskConsent
from cactus_mesh.errors import MessageError, ReceiptRejected
from cactus_mesh.identity import PublicKey, address, peer_id, verify
from cactus_mesh.messages import (
    MAX_CHAIN,
    MAX_MESSAGE_BYTES,
    Assignment,
    Delegation,
    Receipt,
    Verdict,
    output_digest,
    unseal,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cactus_mesh.messages import Sealed

FORMAT: Final = 1

_Document = Annotated[bytes, Meta(max_length=MAX_MESSAGE_BYTES)]
_Link = Assignment | Delegation


class Proof(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is kept of one task; what was not seen is empty.  *consent* is BCS, the rest are sealed messages."""

    client: Annotated[bytes, Meta(min_length=32, max_length=32)]
    consent: Annotated[bytes, Meta(max_length=512)]
    consent_signature: Annotated[bytes, Meta(max_length=64)]
    receipt: _Document
    verdict: _Document = b""
    assignment: _Document = b""
    delegations: Annotated[list[_Document], Meta(max_length=MAX_CHAIN)] = []
    format: Literal[1] = FORMAT


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Proof).decode


def pack(proof: Proof) -> bytes:
    return _encode(proof)


def unpack(data: bytes) -> Proof:
    """Raises `ReceiptRejected` for what is no proof, or one of a newer version."""
    try:
        return _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ReceiptRejected(f"these documents cannot be read ({error}); export them again") from None


@dataclass(frozen=True, slots=True)
class Check:
    """*holds* is None where the document that it needs is not there."""

    name: str
    holds: bool | None
    words: str


@dataclass(frozen=True, slots=True)
class Examined:
    """What the documents say and whether they bear one another out; *claim* is None when there is none to read."""

    checks: tuple[Check, ...]
    receipt: Receipt | None = None
    claim: SettlementClaim | None = None
    audited: bool | None = None
    """Whether the lot fell on this answer."""

    @property
    def holds(self) -> bool:
        return all(check.holds is not False for check in self.checks)


@dataclass(frozen=True, slots=True)
class _Opened:
    proof: Proof
    consent: TaskConsent
    receipt: Sealed[Receipt]
    claim: SettlementClaim
    verdict: Sealed[Verdict] | None
    assignment: Sealed[Assignment] | None
    delegations: tuple[Sealed[Delegation], ...]


def examine(proof: Proof) -> Examined:
    """Check signatures, digests, and that price, parties and tokens are the same in every document."""
    try:
        opened = _open(proof)
    except (MessageError, ValueError) as error:
        return Examined((Check("readable", False, f"a document is not what it should be: {error}"),))
    checks = (
        *_receipt_checks(opened),
        *_delegate_checks(opened),
        *_consent_checks(opened),
        *_assignment_checks(opened),
        *_verdict_checks(opened),
    )
    verdict = opened.verdict
    audited = None if verdict is None else _drawn(verdict.body, opened.receipt.digest)
    return Examined(checks, opened.receipt.body, opened.claim, audited)


def _drawn(verdict: Verdict, receipt_hash: bytes) -> bool:
    return is_drawn(verdict.draw_secret, receipt_hash, verdict.audit_ppm)


def _open(proof: Proof) -> _Opened:
    """Every signature of a sealed message is checked here.  Raises `MessageError` or ValueError."""
    receipt = unseal(proof.receipt, Receipt, now_ms=None)
    return _Opened(
        proof,
        TaskConsent.from_bcs(proof.consent),
        receipt,
        SettlementClaim.from_bcs(receipt.body.claim),
        unseal(proof.verdict, Verdict, now_ms=None) if proof.verdict else None,
        unseal(proof.assignment, Assignment, now_ms=None) if proof.assignment else None,
        tuple(unseal(raw, Delegation, now_ms=None) for raw in proof.delegations),
    )


def _receipt_checks(opened: _Opened) -> Iterator[Check]:
    receipt, claim, signer = opened.receipt.body, opened.claim, opened.receipt.sender
    tokens = len(receipt.token_ids)
    yield Check("receipt_signature", True, f"{peer_id(signer)} signed the receipt")
    party = {claim.orchestrator, claim.delegate}
    yield Check("receipt_signer", address(signer) in party, "who signed it is a party of the claim")
    signed = verify(signer, receipt.claim, receipt.claim_signature)
    yield Check("claim_signature", signed, f"and so the claim of {claim.price:,} octas in it")
    yield Check("claim_task", claim.task_id == receipt.task_id, "receipt and claim are for the same task")
    same = claim.model_digest == receipt.model_digest and claim.compute_ms == receipt.compute_ms
    yield Check("claim_work", same, "they name the same model and compute time")
    bound = claim.result_hash == output_digest(receipt.token_ids)
    yield Check("claim_tokens", bound, f"the claim commits to the {tokens} tokens of the receipt")
    yield Check("logprobs", len(receipt.logprobs) == 4 * tokens, "there is a log-probability for each token")


def _delegate_checks(opened: _Opened) -> Iterator[Check]:
    """Receipts within the receipt: each delegate's own word over the same claim."""
    body, last = opened.receipt.body, opened.receipt.sender
    while body.delegate_receipt is not None:
        try:
            inner = unseal(body.delegate_receipt, Receipt, now_ms=None)
        except MessageError as error:
            yield Check("delegate_receipt", False, f"a delegate's receipt is not genuine: {error}")
            return
        words = f"{peer_id(inner.sender)}, who did the work, signed the same claim and tokens"
        same = inner.body.claim == body.claim and inner.body.token_ids == body.token_ids
        signed = verify(inner.sender, inner.body.claim, inner.body.claim_signature)
        yield Check("delegate_receipt", same and signed and inner.body.task_id == body.task_id, words)
        body, last = inner.body, inner.sender
    if opened.claim.delegate != NOBODY and opened.receipt.sender == last and not _is_delegate(opened):
        yield Check("delegate_receipt", False, "the claim names a delegate whose receipt is not there")
    elif last != opened.receipt.sender:
        named = opened.claim.delegate == address(last)
        yield Check("delegate_named", named, "the claim names that worker as its delegate")


def _is_delegate(opened: _Opened) -> bool:
    """Whether the outer receipt is the delegate's own, as that one itself keeps it."""
    return opened.claim.delegate == address(opened.receipt.sender)


def _consent_checks(opened: _Opened) -> Iterator[Check]:
    proof, consent, claim = opened.proof, opened.consent, opened.claim
    client = PublicKey(proof.client)
    if proof.consent_signature:
        signed = verify(client, proof.consent, proof.consent_signature)
        yield Check(
            "consent_signature", signed, f"{peer_id(client)} consented to pay up to {consent.max_price:,} octas"
        )
    own = address(client) == consent.client == claim.client
    yield Check("consent_client", own, "the claim is on the account of the client's key")
    same = (consent.task_id, consent.router) == (claim.task_id, claim.router)
    yield Check("consent_task", same, "consent and claim name the same task and router")
    chain = (consent.chain_id, consent.contract) == (claim.chain_id, claim.contract)
    yield Check("consent_contract", chain, f"they name the same contract, on chain {claim.chain_id}")
    yield Check("price", claim.price <= consent.max_price, "no more is claimed than was consented to")


def _assignment_checks(opened: _Opened) -> Iterator[Check]:
    assignment, claim, receipt = opened.assignment, opened.claim, opened.receipt.body
    if assignment is None:
        yield Check("assignment", None, "the router's order is not there, so neither are the prices it was given at")
        return
    by_router = address(assignment.sender) == claim.router
    yield Check("assignment_signature", by_router, f"router {peer_id(assignment.sender)} signed the order")
    liable = assignment.recipient is not None and address(assignment.recipient) == claim.orchestrator
    yield Check("assignment_orchestrator", liable, "it was given to the orchestrator that the claim names")
    yield Check("order", _follows(opened, assignment), "the receipt is for that order")
    offer = assignment.body.offer
    asked = asked_price(offer.price, receipt.prompt_tokens, len(receipt.token_ids))
    terms = f"{receipt.prompt_tokens} tokens in and {len(receipt.token_ids)} out, at its offer's prices"
    yield Check("asked_price", claim.price <= asked, f"no more than {asked:,} octas is claimed, the price of {terms}")
    work = complexity(offer.shape, receipt.prompt_tokens, len(receipt.token_ids))
    same = claim.complexity == work and claim.model_digest == offer.digest
    yield Check("complexity", same, f"{work:,} MFLOP are claimed, which is what they take with {offer.name}")


def _follows(opened: _Opened, assignment: Sealed[Assignment]) -> bool:
    """The receipt answers the assignment, or a delegation that leads back to it."""
    parent: Sealed[Assignment] | Sealed[Delegation] = assignment
    orders = {(assignment.digest, assignment.recipient)}
    for link in opened.delegations:
        if link.body.parent_hash != parent.digest or link.sender != parent.recipient:
            return False
        orders.add((link.digest, link.recipient))
        parent = link
    return (opened.receipt.body.order_hash, opened.receipt.sender) in orders


def _verdict_checks(opened: _Opened) -> Iterator[Check]:
    verdict, claim = opened.verdict, opened.claim
    if verdict is None:
        yield Check("verdict", None, "there is no verdict of the router")
        return
    by_router = address(verdict.sender) == claim.router
    yield Check("verdict_signature", by_router, f"router {peer_id(verdict.sender)} signed the verdict")
    body = verdict.body
    same = body.receipt_hash == opened.receipt.digest and body.task_id == claim.task_id
    yield Check("verdict_receipt", same, "the verdict is about this receipt")
    failed = f": {', '.join(body.failed_checks)}" if body.failed_checks else ""
    yield Check("verdict_result", body.result == "pass", f"the verdict is {body.result}{failed}")
    if opened.assignment is not None:
        fair = is_fair(body.draw_secret, opened.assignment.body.router_nonce, body.audit_ppm)
        drawn = "was" if _drawn(body, opened.receipt.digest) else "was not"
        yield Check("draw", fair, f"the lot was drawn fairly; the answer {drawn} chosen to be audited")
