"""The evidence of a dispute: signed messages from which anybody comes to the same judgement again.

The ledger keeps its hash.  An exhibit is one answer with its whole order, its receipt, and what verifiers found of it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta

from cactus_mesh.core.audit import audit_of, compare, compare_texts, judge
from cactus_mesh.core.delegation import open_chain
from cactus_mesh.core.draws import drawn_places, nonce_of
from cactus_mesh.core.readings import efforts_of, reads
from cactus_mesh.core.thresholds import device_of, device_pair
from cactus_mesh.errors import MessageMalformed, ReceiptRejected
from cactus_mesh.messages import (
    MAX_CHAIN,
    MAX_MESSAGE_BYTES,
    MAX_TOKENS,
    MOST_PLACES,
    PIECE_CHARACTERS,
    Audit,
    Finding,
    Order,
    Receipt,
    kind_of,
    text_digest,
    unseal,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cactus_mesh.core.audit import Comparison, Judgement
    from cactus_mesh.core.delegation import Chain
    from cactus_mesh.core.requests import Contract
    from cactus_mesh.core.thresholds import Table, Thresholds
    from cactus_mesh.identity import PublicKey
    from cactus_mesh.messages import Sealed

MAX_EXHIBITS: Final = 16
"""Answers that together raise a suspicion; each is asked of a second verifier."""
_Envelope = Annotated[bytes, Meta(max_length=MAX_MESSAGE_BYTES)]


class Proof(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The envelopes of an audit and of the finding that answers it."""

    audit: _Envelope
    finding: _Envelope


class Exhibit(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where texts were read whole, also the answer, and the secret that drew which of them were read again."""

    request: _Envelope
    assignment: _Envelope
    delegations: Annotated[list[_Envelope], Meta(max_length=MAX_CHAIN)]
    receipt: _Envelope
    proofs: Annotated[list[Proof], Meta(max_length=4)]
    text: Annotated[str, Meta(max_length=MAX_TOKENS * PIECE_CHARACTERS)] = ""
    draw_secret: Annotated[bytes, Meta(max_length=32)] = b""


class Evidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first exhibit is the disputed answer."""

    exhibits: Annotated[list[Exhibit], Meta(min_length=1, max_length=MAX_EXHIBITS)]


_decode = msgspec.msgpack.Decoder(Evidence).decode
_decode_exhibit = msgspec.msgpack.Decoder(Exhibit).decode


@dataclass(frozen=True, slots=True)
class Statement:
    """An answer as its orchestrator stands by it.  *text* and *draw_secret* only where texts were read whole."""

    chain: Chain
    receipt: Sealed[Receipt]
    text: str = ""
    draw_secret: bytes = b""

    def audit(self) -> Audit:
        """What a verifier is asked about it."""
        return audit_of(self.chain, self.receipt.body, self._places())

    def _places(self) -> list[int]:
        work = self.chain.request.sealed.body.work
        if not reads(work):
            return []
        return drawn_places(self.draw_secret, self.receipt.digest, efforts_of(work), MOST_PLACES)


@dataclass(frozen=True, slots=True)
class Opinion:
    """What follows from one verifier's finding."""

    verifier: PublicKey
    thresholds: Thresholds
    comparison: Comparison
    judgement: Judgement


@dataclass(frozen=True, slots=True)
class Examined:
    """An exhibit whose signatures and digests hold."""

    statement: Statement
    opinions: tuple[Opinion, ...]

    @property
    def chain(self) -> Chain:
        return self.statement.chain

    @property
    def receipt(self) -> Sealed[Receipt]:
        return self.statement.receipt


def encode(value: Evidence | Exhibit) -> bytes:
    return msgspec.msgpack.encode(value)


def evidence_hash(data: bytes) -> bytes:
    """What the ledger is shown of it."""
    return hashlib.sha256(data).digest()


def decode_evidence(data: bytes) -> Evidence:
    """Raises `MessageMalformed`."""
    try:
        return _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MessageMalformed(f"this is no evidence of an audit: {error}") from None


def decode_exhibit(data: bytes) -> Exhibit:
    """Raises `MessageMalformed`."""
    try:
        return _decode_exhibit(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MessageMalformed(f"this is no answer with its findings: {error}") from None


def exhibit_of(statement: Statement, proofs: Sequence[Proof]) -> Exhibit:
    chain = statement.chain
    return Exhibit(
        request=chain.request.sealed.raw,
        assignment=chain.assignment.raw,
        delegations=[link.raw for link in chain.delegations],
        receipt=statement.receipt.raw,
        proofs=list(proofs),
        text=statement.text,
        draw_secret=statement.draw_secret,
    )


def opinion(statement: Statement, asked: Audit, finding: Sealed[Finding], table: Table) -> Opinion:
    """Raises `MessageMalformed` for a finding that does not fit the receipt."""
    receipt, found = statement.receipt.body, finding.body
    device = device_pair(device_of(receipt.engine), device_of(found.engine))
    thresholds = table.find(receipt.model_digest, receipt.dtype, device, kind=kind_of(asked.work))
    if reads(asked.work):
        comparison = compare_texts(asked.work, receipt, statement.text, asked.places, found, thresholds)
    else:
        comparison = compare(receipt, found, thresholds)
    return Opinion(finding.sender, thresholds, comparison, judge(comparison, thresholds))


def examine(exhibit: Exhibit, contract: Contract, table: Table) -> Examined:
    """Come to every verifier's judgement again.

    Raises a `MessageError`, `ConsentRejected` or `DelegationRejected` where a signature or a digest does not hold, and
    `ReceiptRejected` where the pieces do not belong together.
    """
    chain = open_chain(Order(exhibit.request, exhibit.assignment, exhibit.delegations), contract, now_ms=None)
    receipt = unseal(exhibit.receipt, Receipt, now_ms=None, sender=chain.liable)
    if receipt.body.order_hash != chain.assignment.digest:
        raise ReceiptRejected("this receipt is for another order than the evidence shows")
    statement = Statement(chain, receipt, exhibit.text, exhibit.draw_secret)
    _check_text(statement)
    asked = statement.audit()
    opinions = []
    for proof in exhibit.proofs:
        audit = unseal(proof.audit, Audit, now_ms=None, sender=chain.router)
        finding = unseal(proof.finding, Finding, now_ms=None, sender=audit.recipient)
        if audit.body != asked or finding.body.audit_hash != audit.digest:
            raise ReceiptRejected("this finding is about another answer than the receipt's")
        opinions.append(opinion(statement, asked, finding, table))
    return Examined(statement, tuple(opinions))


def _check_text(statement: Statement) -> None:
    """What is shown beside the signed messages is what they were about; and only where it has to be."""
    chain = statement.chain
    if not reads(chain.request.sealed.body.work):
        if statement.text or statement.draw_secret:
            raise ReceiptRejected("this evidence shows more than belongs to it")
        return
    if text_digest(statement.text) != statement.receipt.body.text_hash:
        raise ReceiptRejected("this receipt is for another answer than the evidence shows")
    if nonce_of(statement.draw_secret) != chain.assignment.body.router_nonce:
        raise ReceiptRejected("the router was not bound to the secret that this evidence shows")
