"""Evidence convinces only as a whole: every piece is signed, and about the same answer."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cactus_mesh.core.audit import audit_of, finding_of, finding_of_texts
from cactus_mesh.core.draws import nonce_of
from cactus_mesh.core.exhibits import (
    Evidence,
    Exhibit,
    Proof,
    Statement,
    decode_evidence,
    encode,
    examine,
    exhibit_of,
)
from cactus_mesh.core.readings import MOST_WIDTH, written
from cactus_mesh.core.receipts import pack_logprobs
from cactus_mesh.core.thresholds import ANY_MODEL, Entry, Table, Thresholds
from cactus_mesh.errors import MeshError, MessageMalformed, MessageWrongSender, ReceiptRejected
from cactus_mesh.messages import MOST_PLACES, Embed, Sampling
from cactus_mesh.ports import Replay, Rereading
from tests.core.cases import STRANGER, THIS_CONTRACT, chain_of, liable_receipt, request_with, sealed, work_of
from tests.samples import ORCHESTRATOR, ROUTER, identity

VERIFIER = identity("verifier")
THRESHOLDS = Thresholds(gap_noise=1e-3, gap_fail=1.0, logprob_pass=1e-5, logprob_fail=1e-4)
TABLE = Table(
    [
        Entry(digest=ANY_MODEL, name="any", dtype="float32", device="cpu", thresholds=THRESHOLDS, reads=reads)
        for reads in (None, "embed")
    ]
)
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


# --- texts that were read whole --------------------------------------------------------------------------------------

SECRET = b"s" * 32
TEXTS = [f"text {number}" for number in range(40)]


def statement(width=2, texts=TEXTS):
    """Each text has the same vector."""
    work = Embed(list(texts))
    row = [1.0, *[0.0] * (width - 1)]
    text = f"[{', '.join(written(work, [row] * len(texts)))}]"
    pieces = -(-len(text) // 1_000)
    body = request_with(Sampling(max_tokens=16_384), work=work)
    chain = chain_of(body=body, assignment={"router_nonce": nonce_of(SECRET)})
    made = work_of(
        pieces,
        token_ids=[0] * pieces,
        logprobs=pack_logprobs([0.0] * pieces),
        text=text,
        finish="stop",
        prompt_tokens=80,
    )
    return Statement(chain, liable_receipt(chain, made), text, SECRET)


def reread(said, row=(1.0, 0.0), **changes):
    asked = msgspec.structs.replace(said.audit(), **changes)
    order = sealed(asked, ROUTER, VERIFIER.public_key)
    found = Rereading((row,) * len(asked.places), (), 80)
    return Proof(order.raw, sealed(finding_of_texts(order.digest, found, "fake/1"), VERIFIER, ROUTER.public_key).raw)


@pytest.mark.parametrize(("row", "result"), [((1.0, 0.0), "pass"), ((0.0, 1.0), "fail")])
def test_from_the_answer_and_the_secret_anybody_sees_which_texts_were_drawn_and_what_was_found(row, result):
    said = statement()
    (opinion,) = examine(exhibit_of(said, [reread(said, row)]), THIS_CONTRACT, TABLE).opinions
    assert opinion.judgement.result == result
    assert 1 <= opinion.comparison.tokens <= MOST_PLACES


def test_the_widest_answer_has_a_finding_that_fits_into_a_message():
    said = statement(width=MOST_WIDTH, texts=TEXTS[:8])
    assert said.audit().places == list(range(8))
    (opinion,) = examine(exhibit_of(said, [reread(said, (1.0,) * MOST_WIDTH)]), THIS_CONTRACT, TABLE).opinions
    assert opinion.judgement.failed == ("replay_texts",)


@pytest.mark.parametrize(
    "changes",
    [{"text": "[]"}, {"draw_secret": bytes(32)}, {"draw_secret": b""}, {"text": ""}],
    ids=str,
)
def test_another_answer_or_secret_than_was_signed_for_is_refused(changes):
    said = statement()
    shown = msgspec.structs.replace(exhibit_of(said, [reread(said)]), **changes)
    with pytest.raises(ReceiptRejected):
        examine(shown, THIS_CONTRACT, TABLE)


def test_a_finding_about_texts_of_the_routers_choice_is_refused():
    said = statement()
    chosen = [place for place in range(40) if place not in said.audit().places][:8]
    with pytest.raises(ReceiptRejected, match="another answer"):
        examine(exhibit_of(said, [reread(said, places=chosen)]), THIS_CONTRACT, TABLE)


def test_evidence_shows_no_text_of_an_answer_that_was_not_read_whole():
    shown = msgspec.structs.replace(exhibit(), text="sand")
    with pytest.raises(ReceiptRejected, match="more than belongs"):
        examine(shown, THIS_CONTRACT, TABLE)


def test_evidence_of_tokens_has_no_word_of_texts_and_so_is_what_it_always_was():
    told = encode(exhibit())
    assert [word for word in (b"draw_secret", b"text\xa0", b"places", b"numbers") if word in told] == []


def test_a_signed_answer_that_is_none_is_refused():
    said = statement()
    other = Statement(said.chain, liable_receipt(said.chain, work_of(1, text="sand")), "sand", SECRET)
    with pytest.raises(MessageMalformed):
        examine(exhibit_of(other, [reread(other)]), THIS_CONTRACT, TABLE)


# --- any of it ------------------------------------------------------------------------------------------------------

DATA = encode(Evidence([exhibit()]))
SAID = statement()
ABOUT_TEXTS = encode(Evidence([exhibit_of(SAID, [reread(SAID)])]))


@settings(max_examples=200, deadline=None)
@given(st.sampled_from([DATA, ABOUT_TEXTS]), st.data())
def test_any_change_of_any_byte_is_found(shown, data):
    place = data.draw(st.integers(0, len(shown) - 1))
    value = data.draw(st.integers(0, 255).filter(lambda value: value != shown[place]))
    changed = shown[:place] + bytes([value]) + shown[place + 1 :]
    with pytest.raises(MeshError):
        examine(decode_evidence(changed).exhibits[0], THIS_CONTRACT, TABLE)
