"""Evidence convinces only as a whole: every piece is signed, and about the same answer."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cactus_mesh.core.audit import audit_of, finding_of
from cactus_mesh.core.exhibits import Evidence, Exhibit, Proof, decode_evidence, encode, examine
from cactus_mesh.core.thresholds import ANY_MODEL, Entry, Table, Thresholds
from cactus_mesh.errors import MeshError, MessageMalformed, MessageWrongSender, ReceiptRejected
from cactus_mesh.ports import Replay
from tests.core.cases import STRANGER, THIS_CONTRACT, chain_of, liable_receipt, sealed, work_of
from tests.samples import ORCHESTRATOR, ROUTER, identity

VERIFIER = identity("verifier")
THRESHOLDS = Thresholds(gap_noise=1e-3, gap_fail=1.0, logprob_pass=1e-5, logprob_fail=1e-4)
TABLE = Table([Entry(digest=ANY_MODEL, name="any", dtype="float32", device="cpu", thresholds=THRESHOLDS)])
REPLAY = Replay((-0.5,) * 16, (0.0,) * 15 + (5.0,), " sand" * 16, "length", 6)


def proof_for(chain, receipt, *, asks=ROUTER, answers=VERIFIER, audit=None, finding=None):
    asked = msgspec.structs.replace(audit_of(chain, receipt.body), **(audit or {}))
    order = sealed(asked, asks, VERIFIER.public_key)
    found = msgspec.structs.replace(finding_of(order.digest, REPLAY, "fake/1"), **(finding or {}))
    return Proof(order.raw, sealed(found, answers, ROUTER.public_key).raw)


def exhibit(depth=0, receipt_changes=None, **changes):
    chain = chain_of(depth)
    receipt = liable_receipt(chain, work_of(), **(receipt_changes or {}))
    links = [link.raw for link in chain.delegations]
    proof = proof_for(chain, receipt, **changes)
    return Exhibit(chain.request.sealed.raw, chain.assignment.raw, links, receipt.raw, [proof])


@pytest.mark.parametrize("depth", [0, 2])
def test_whoever_reads_it_finds_who_is_liable_and_what_the_verifier_found(depth):
    found = examine(exhibit(depth), THIS_CONTRACT, TABLE)
    (opinion,) = found.opinions
    assert (found.chain.liable, opinion.verifier) == (ORCHESTRATOR.public_key, VERIFIER.public_key)
    assert (opinion.judgement.result, opinion.judgement.failed) == ("fail", ("replay_tokens",))


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"audit": {"token_ids": [1] * 16}}, ReceiptRejected),
        ({"audit": {"seed": bytes(32)}}, ReceiptRejected),
        ({"finding": {"audit_hash": bytes(32)}}, ReceiptRejected),
        ({"finding": {"gaps": b""}}, MessageMalformed),
        ({"asks": STRANGER}, MessageWrongSender),
        ({"answers": STRANGER}, MessageWrongSender),
        ({"receipt_changes": {"order_hash": bytes(32)}}, ReceiptRejected),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_piece_that_does_not_belong_is_refused(changes, error):
    with pytest.raises(error):
        examine(exhibit(**changes), THIS_CONTRACT, TABLE)


def test_evidence_survives_its_file():
    shown = Evidence([exhibit(), exhibit(1)])
    assert decode_evidence(encode(shown)) == shown


DATA = encode(Evidence([exhibit()]))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_change_of_any_byte_is_found(data):
    place = data.draw(st.integers(0, len(DATA) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda value: value != DATA[place]))
    changed = DATA[:place] + bytes([value]) + DATA[place + 1 :]
    with pytest.raises(MeshError):
        examine(decode_evidence(changed).exhibits[0], THIS_CONTRACT, TABLE)
