"""Whether a receipt can be believed is for its documents to say: each change to one of them is found by name."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cactus_mesh.core.delegation import Chain
from cactus_mesh.core.draws import nonce_of
from cactus_mesh.core.proofs import Proof, examine, pack, unpack
from cactus_mesh.core.receipts import Work, receipt_for
from cactus_mesh.core.requests import Contract, open_request
from cactus_mesh.core.verification import verdict_on
from cactus_mesh.errors import ReceiptRejected
from cactus_mesh.messages import Assignment, Generate, Sampling, TaskRequest, seal
from tests.samples import (
    CHAIN_ID,
    CLIENT,
    CONTRACT,
    NOW_MS,
    OFFER,
    ORCHESTRATOR,
    ROUTER,
    TASK_ID,
    VALID_MS,
    consent,
    identity,
)

HERE = Contract(CHAIN_ID, CONTRACT)
SECRET = bytes(32)
OTHER = identity("somebody else")


def proof_of(*, worker=ORCHESTRATOR, judge=ROUTER, secret=SECRET, result_of=(5, 6, 7), price=None) -> Proof:
    agreed = consent(expires_at=NOW_MS // 1_000 + 3_600)
    signed = CLIENT.sign(agreed.to_bcs())
    deadline = NOW_MS + VALID_MS
    body = TaskRequest(
        TASK_ID, bytes(16), "fake", None, Generate("a secret"), Sampling(9), agreed.max_price, deadline,
        agreed.to_bcs(), signed,
    )  # fmt: skip
    times = {"now_ms": NOW_MS, "valid_ms": VALID_MS}
    request = seal(body, CLIENT, recipient=ROUTER.public_key, **times)
    offer = OFFER if price is None else msgspec.structs.replace(OFFER, price=price)
    assigned = Assignment(TASK_ID, request.digest, nonce_of(SECRET), 0, offer, deadline, None)
    assignment = seal(assigned, ROUTER, recipient=worker.public_key, **times)
    opened = open_request(request.raw, HERE, router=ROUTER.public_key, now_ms=NOW_MS)
    chain = Chain(opened, assignment, ())
    made = Work(result_of, bytes(4 * len(result_of)), "text", "stop", 3, 10, "fake")
    receipt = seal(receipt_for(chain, HERE, made, worker), worker, recipient=ROUTER.public_key, **times)
    verdict = seal(verdict_on(receipt, (), secret, 10_000), judge, recipient=CLIENT.public_key, **times)
    return Proof(CLIENT.public_key, agreed.to_bcs(), signed, receipt.raw, verdict.raw, assignment.raw)


def broken(proof: Proof) -> set[str]:
    return {check.name for check in examine(proof).checks if check.holds is False}


def test_honest_documents_hold_and_travel_as_bytes():
    proof = unpack(pack(proof_of()))
    assert broken(proof) == set()
    assert examine(proof).holds
    assert examine(proof).claim.price > 0


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"client": OTHER.public_key}, {"consent_signature", "consent_client"}),
        ({"consent_signature": bytes(64)}, {"consent_signature"}),
        ({"consent": consent(max_price=1).to_bcs()}, {"consent_signature", "price"}),
        ({"verdict": proof_of(judge=OTHER).verdict}, {"verdict_signature", "verdict_receipt"}),
        ({"verdict": proof_of(secret=bytes([1] * 32)).verdict}, {"draw", "verdict_receipt"}),
        ({"verdict": proof_of(result_of=(9,)).verdict}, {"verdict_receipt"}),
        ({"receipt": proof_of(worker=OTHER).receipt}, {"assignment_orchestrator", "order", "verdict_receipt"}),
        ({"assignment": proof_of(worker=OTHER).assignment}, {"assignment_orchestrator", "order"}),
    ],
)
def test_a_document_of_another_task_or_party_is_named(change, found):
    assert broken(msgspec.structs.replace(proof_of(), **change)) == found


def test_what_is_not_there_is_not_said_to_hold():
    proof = msgspec.structs.replace(proof_of(), verdict=b"", assignment=b"")
    unknown = [check.name for check in examine(proof).checks if check.holds is None]
    assert unknown == ["assignment", "verdict"]
    assert examine(proof).holds


@given(st.data())
def test_no_byte_of_a_signed_document_can_be_changed_unnoticed(data):
    proof = proof_of()
    name = data.draw(st.sampled_from(["consent", "consent_signature", "receipt", "verdict", "assignment"]))
    document = bytearray(getattr(proof, name))
    at = data.draw(st.integers(0, len(document) - 1))
    document[at] ^= data.draw(st.integers(1, 255))
    assert not examine(msgspec.structs.replace(proof, **{name: bytes(document)})).holds


@given(st.binary(max_size=200))
def test_garbage_is_refused_by_name(data):
    with pytest.raises(ReceiptRejected):
        unpack(data)
