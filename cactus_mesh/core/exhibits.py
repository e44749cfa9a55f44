"""The evidence of a dispute: signed messages from which anybody comes to the same judgement again.

The ledger keeps its hash.  An exhibit is one answer with its whole order, its receipt, and what verifiers found of it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta

from cactus_mesh.core.audit import audit_of, compare, judge
from cactus_mesh.core.delegation import open_chain
from cactus_mesh.core.thresholds import device_of, device_pair
from cactus_mesh.errors import MessageMalformed, ReceiptRejected
from cactus_mesh.messages import MAX_CHAIN, MAX_MESSAGE_BYTES, Audit, Finding, Order, Receipt, unseal

if TYPE_CHECKING:
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


class Exhibit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    request: _Envelope
    assignment: _Envelope
    delegations: Annotated[list[_Envelope], Meta(max_length=MAX_CHAIN)]
    receipt: _Envelope
    proofs: Annotated[list[Proof], Meta(max_length=4)]


class Evidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The first exhibit is the disputed answer."""

    exhibits: Annotated[list[Exhibit], Meta(min_length=1, max_length=MAX_EXHIBITS)]


_decode = msgspec.msgpack.Decoder(Evidence).decode
_decode_exhibit = msgspec.msgpack.Decoder(Exhibit).decode


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

    chain: Chain
    receipt: Sealed[Receipt]
    opinions: tuple[Opinion, ...]


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


def thresholds_for(receipt: Receipt, finding: Finding, table: Table) -> Thresholds:
    """Those for the model and for both kinds of device."""
    device = device_pair(device_of(receipt.engine), device_of(finding.engine))
    return table.find(receipt.model_digest, receipt.dtype, device)


def opinion(receipt: Receipt, finding: Sealed[Finding], table: Table) -> Opinion:
    """Raises `MessageMalformed` for a finding that does not fit the receipt."""
    thresholds = thresholds_for(receipt, finding.body, table)
    comparison = compare(receipt, finding.body, thresholds)
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
    asked = audit_of(chain, receipt.body)
    opinions = []
    for proof in exhibit.proofs:
        audit = unseal(proof.audit, Audit, now_ms=None, sender=chain.router)
        finding = unseal(proof.finding, Finding, now_ms=None, sender=audit.recipient)
        if audit.body != asked or finding.body.audit_hash != audit.digest:
            raise ReceiptRejected("this finding is about another answer than the receipt's")
        opinions.append(opinion(receipt.body, finding, table))
    return Examined(chain, receipt, tuple(opinions))
