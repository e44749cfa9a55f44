"""Honest receipts hold; each thing that can be forged fails by the name of its own check."""

from __future__ import annotations

import ast
import inspect
import math
import struct
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cactus_mesh.core import verification
from cactus_mesh.core.receipts import pack_logprobs, receipt_for, unpack_logprobs
from cactus_mesh.core.settlement import NOBODY, SettlementClaim
from cactus_mesh.core.verification import CLOCK_SLACK_MS, failed_checks, most_prompt_tokens, verdict_on
from cactus_mesh.messages import (
    MAX_TOKENS,
    Chat,
    ChatMessage,
    Embed,
    Generate,
    Partial,
    PriceTerms,
    Receipt,
    Sampling,
    unseal,
)
from tests.core.cases import (
    STRANGER,
    THIS_CONTRACT,
    WORKERS,
    chain_of,
    liable_receipt,
    receipts_of,
    request_with,
    sealed,
    seen_of,
    work_of,
)
from tests.samples import CLIENT, DELEGATE, NOW_MS, OFFER, ORCHESTRATOR, ROUTER

WORK = work_of()
DIRECT, DELEGATED, TWICE = chain_of(0), chain_of(1), chain_of(2)
HASH = bytes(32)


def failed(receipt, chain=DIRECT, work=WORK, below=0, **seen):
    return failed_checks(receipt, chain, THIS_CONTRACT, seen_of(work, **seen), below=below)


def claimed(chain=DIRECT, **changes):
    """A receipt whose claim differs, and is signed again."""
    claim = replace(SettlementClaim.from_bcs(liable_receipt(chain, WORK).body.claim), **changes).to_bcs()
    return liable_receipt(chain, WORK, claim=claim, claim_signature=ORCHESTRATOR.sign(claim))


# --- honest ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", range(4))
def test_an_honest_receipt_holds_at_every_step_of_its_chain(depth):
    chain = chain_of(depth)
    for below, body in enumerate(reversed(receipts_of(chain, WORK))):
        giver = (ROUTER, *WORKERS)[below].public_key
        receipt = sealed(body, WORKERS[below], giver)
        assert failed(receipt, chain, below=below) == ()


def test_a_delegated_claim_names_the_worker_its_share_and_the_lowest_price():
    direct, delegated = (
        SettlementClaim.from_bcs(liable_receipt(chain, WORK).body.claim) for chain in (DIRECT, DELEGATED)
    )
    assert (direct.delegate, direct.delegate_bps) == (NOBODY, 0)
    assert (delegated.delegate, delegated.delegate_bps) == (DELEGATE.address, 8_900)
    assert direct.orchestrator == delegated.orchestrator == ORCHESTRATOR.address
    cheap = chain_of(1, links={1: {"max_price": 500}})
    assert SettlementClaim.from_bcs(liable_receipt(cheap, WORK).body.claim).price == 500


@settings(max_examples=60, deadline=None)
@given(
    max_tokens=st.integers(1, 64),
    share=st.floats(0.01, 1),
    prompt=st.text(max_size=60),
    finish=st.sampled_from(["stop", "stop_string"]),
    elapsed=st.integers(0, 10**6),
    depth=st.integers(0, 2),
    logprob=st.floats(max_value=0, width=32, allow_nan=False, allow_infinity=False),
)
def test_an_honest_receipt_holds_for_any_counts(max_tokens, share, prompt, finish, elapsed, depth, logprob):
    count = max(1, int(share * max_tokens))
    body = request_with(Sampling(max_tokens=max_tokens, stop=["\n"]), work=Generate(prompt))
    work = work_of(
        count,
        finish="length" if count == max_tokens else finish,
        logprobs=pack_logprobs([logprob] * count),
        prompt_tokens=max(1, len(prompt.encode())),
        compute_ms=elapsed,
    )
    chain = chain_of(depth, body=body)
    assert failed(liable_receipt(chain, work), chain, work, elapsed_ms=elapsed) == ()


# --- forged ------------------------------------------------------------------------------------------------------

FORGED = {
    "order": {"order_hash": HASH},
    "task": {"task_id": bytes(16)},
    "prompt": {"prompt_hash": HASH},
    "sampling": {"sampling_hash": HASH},
    "text": {"text_hash": HASH},
    "logprobs": {"logprobs": b""},
    "claim_signature": {"claim_signature": bytes(64)},
    "finish": {"finish": "stop_string"},
}


@pytest.mark.parametrize(("name", "change"), FORGED.items())
def test_each_forged_field_fails_by_its_own_name(name, change):
    assert failed(liable_receipt(DIRECT, WORK, **change)) == (name,)


@pytest.mark.parametrize("depth", [0, 2])
def test_an_end_before_the_end_holds_only_for_who_asked_for_it(depth):
    chain, work = chain_of(depth), work_of(finish="cancelled")
    receipt = liable_receipt(chain, work)
    assert failed(receipt, chain, work, stopped=True) == ()
    assert failed(receipt, chain, work)[0] == "finish"
    assert failed(liable_receipt(chain, WORK), chain, WORK, stopped=True) == ()


@pytest.mark.parametrize("depth", [0, 2])
@pytest.mark.parametrize(
    ("token_ids", "text", "holds"),
    [
        ([100, 101], " sand sand", True),
        ([100, 999], " sand sand", False),
        ([100, 101], " sand dust", False),
        (list(range(100, 117)), " sand" * 17, False),
    ],
)
def test_the_streamed_tokens_go_on_from_those_that_the_order_names(depth, token_ids, text, holds):
    chain = chain_of(depth, assignment={"partial": Partial(token_ids, text)})
    assert failed(liable_receipt(chain, WORK), chain, WORK) == (() if holds else ("partial",))


@pytest.mark.parametrize("change", [{"model_digest": HASH}, {"dtype": "int8"}])
def test_another_model_or_dtype_fails(change):
    assert failed(liable_receipt(DIRECT, WORK, **change)) == ("model",)


@pytest.mark.parametrize(
    "changes",
    [
        {"delegate": DELEGATE.address, "delegate_bps": 9_000},
        {"price": 1_173},
        {"complexity": 1},
        {"compute_ms": 41},
        {"result_hash": HASH},
        {"model_digest": HASH},
        {"client": STRANGER.address},
        {"router": STRANGER.address},
        {"orchestrator": STRANGER.address},
        {"task_id": bytes(16)},
        {"chain_id": 1},
        {"contract": NOBODY},
    ],
)
def test_a_claim_that_does_not_follow_from_the_work_fails(changes):
    assert failed(claimed(**changes)) == ("claim",)


@pytest.mark.parametrize("changes", [{"delegate_bps": 9_500}, {"delegate": NOBODY, "delegate_bps": 0}])
def test_a_liable_orchestrator_cannot_change_its_delegates_share(changes):
    assert failed(claimed(DELEGATED, **changes), DELEGATED) == ("claim", "delegate_receipt")


@pytest.mark.parametrize("claim", [b"", b"x" * 1_024, b"\x80" * 300])
def test_a_claim_that_cannot_be_read_fails(claim):
    forged = liable_receipt(DIRECT, WORK, claim=claim, claim_signature=ORCHESTRATOR.sign(claim))
    assert failed(forged) == ("claim",)


def test_a_receipt_by_somebody_else_fails():
    body = receipts_of(DIRECT, WORK)[-1]
    assert failed(sealed(body, STRANGER, ROUTER.public_key)) == ("signer",)


def test_a_claim_signed_by_somebody_else_fails():
    claim = liable_receipt(DIRECT, WORK).body.claim
    assert failed(liable_receipt(DIRECT, WORK, claim_signature=CLIENT.sign(claim))) == ("claim_signature",)


def test_tokens_or_text_other_than_those_that_were_streamed_fail():
    receipt = liable_receipt(DIRECT, WORK)
    assert failed(receipt, token_ids=(*WORK.token_ids[:-1], 7)) == ("tokens",)
    assert failed(receipt, token_ids=()) == ("tokens",)
    assert failed(receipt, text="sand") == ("text",)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.01, 1e30])
def test_a_logprob_that_is_none_fails(value):
    forged = work_of(logprobs=pack_logprobs([-0.5] * 15 + [value]))
    assert failed(liable_receipt(DIRECT, forged)) == ("logprobs",)


@pytest.mark.parametrize("size", [0, 1, 63, 65, 68])
def test_logprobs_must_be_one_for_each_token(size):
    assert failed(liable_receipt(DIRECT, WORK, logprobs=bytes(size))) == ("logprobs",)


def test_logprobs_are_read_as_they_were_written():
    assert unpack_logprobs(pack_logprobs([0.0, -1.5])) == (0.0, -1.5)
    with pytest.raises(struct.error):
        unpack_logprobs(bytes(5))


@pytest.mark.parametrize(
    ("tokens", "finish", "stop", "plausible"),
    [
        (16, "length", [], True),
        (15, "length", [], False),
        (15, "stop", [], True),
        (15, "stop_string", [], False),
        (15, "stop_string", ["."], True),
        (0, "stop", [], False),
        (0, "length", [], False),
        (0, "stop_string", ["."], False),
    ],
)
def test_a_finish_reason_must_fit_the_counts_and_the_request(tokens, finish, stop, plausible):
    work = work_of(tokens, finish=finish)
    chain = chain_of(0, body=request_with(Sampling(max_tokens=16, stop=stop)))
    assert failed(liable_receipt(chain, work), chain, work) == (() if plausible else ("finish",))


def test_more_tokens_than_asked_for_or_than_the_model_holds_fail():
    long = work_of(17)
    assert failed(liable_receipt(DIRECT, long), work=long) == ("length",)
    for room, holds in ((21, False), (22, True)):
        small = msgspec.structs.replace(OFFER, context_tokens=room)
        chain = chain_of(0, assignment={"offer": small})
        assert failed(liable_receipt(chain, WORK), chain) == (() if holds else ("length",))


def test_a_prompt_counts_at_least_one_token_and_at_most_its_bytes():
    text = "Tell me of the desert"
    most = most_prompt_tokens(Generate(text))
    assert most == len(text) + 2 * verification.TEMPLATE_TOKENS_PER_MESSAGE
    for count, holds in ((0, False), (1, True), (most, True), (most + 1, False)):
        work = work_of(prompt_tokens=count)
        assert failed(liable_receipt(DIRECT, work)) == (() if holds else ("prompt_tokens",))


def test_each_message_of_a_chat_may_cost_its_template():
    turns = [ChatMessage("user", "aé"), ChatMessage("assistant", "b")]
    assert most_prompt_tokens(Chat(turns)) == 3 + 64 + 1 + 64 + 64


VECTORS = "[[0.600000024, -0.800000012], [1, 0]]"


def reading_work(text, tokens, **changes):
    fields = {"token_ids": [0] * tokens, "logprobs": pack_logprobs([0.0] * tokens), **changes}
    return work_of(tokens, text=text, finish="stop", **fields)


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize(
    ("text", "tokens", "changes", "names"),
    [
        (VECTORS, 1, {}, ()),
        (VECTORS, 2, {}, ("pieces",)),
        (VECTORS, 1, {"token_ids": [5]}, ("pieces",)),
        (VECTORS, 1, {"logprobs": pack_logprobs([-0.5])}, ("pieces",)),
        (VECTORS.replace(", ", "," + " " * 999), 4, {}, ("form",)),
        (VECTORS.replace("1, 0", "1.0, 0"), 1, {}, ("form",)),
        (VECTORS[:-9] + "]", 1, {}, ("form",)),
    ],
)
def test_an_answer_about_texts_is_written_in_the_one_form_and_billed_by_its_length(depth, text, tokens, changes, names):
    chain = chain_of(depth, body=request_with(work=Embed(["one", "two"], "mean")))
    work = reading_work(text, tokens, **changes)
    found = failed(liable_receipt(chain, work), chain, work)
    assert found == (*names, *(f"delegate_{name}" for name in names if depth))


TOLD = Sampling(max_tokens=16, top_logprobs=2)


@pytest.mark.parametrize("depth", [0, 2])
def test_log_probabilities_other_than_those_that_were_streamed_fail(depth):
    chain, silent = chain_of(depth, body=request_with(TOLD)), chain_of(depth)
    receipt = liable_receipt(chain, WORK)
    assert failed(receipt, chain, logprobs=WORK.logprobs) == ()
    for forged in (pack_logprobs([-0.5] * 15 + [-0.4]), WORK.logprobs[4:], b""):
        assert failed(receipt, chain, logprobs=forged)[0] == "streamed_logprobs"
        assert failed(liable_receipt(silent, WORK), silent, logprobs=forged) == ()  # nobody has asked


def test_what_another_machine_had_streamed_is_not_held_against_who_went_on():
    partial = Partial([100, 101], " sand sand")
    chain = chain_of(1, body=request_with(TOLD), assignment={"partial": partial}, links={1: {"partial": partial}})
    receipt = liable_receipt(chain, WORK)
    other = pack_logprobs([-0.4, -0.6])
    assert failed(receipt, chain, logprobs=other + WORK.logprobs[8:]) == ()
    assert "streamed_logprobs" in failed(receipt, chain, logprobs=other + pack_logprobs([-0.4]) + WORK.logprobs[12:])


def test_more_compute_time_than_has_passed_fails():
    for compute_ms, holds in ((100 + CLOCK_SLACK_MS, True), (101 + CLOCK_SLACK_MS, False)):
        work = work_of(compute_ms=compute_ms)
        assert failed(liable_receipt(DIRECT, work)) == (() if holds else ("compute_time",))
        assert failed(liable_receipt(DIRECT, work), elapsed_ms=None) == ()


# --- delegated ---------------------------------------------------------------------------------------------------


def with_inner(inner, signer=DELEGATE, chain=DELEGATED, **changes):
    """The liable orchestrator's receipt over *inner*, signed by *signer*."""
    raw = None if inner is None else sealed(inner, signer, ORCHESTRATOR.public_key).raw
    return liable_receipt(chain, WORK, delegate_receipt=raw, **changes)


def inner_receipt(**changes):
    return msgspec.structs.replace(receipts_of(DELEGATED, WORK)[0], **changes)


def test_a_delegated_task_needs_the_delegates_own_receipt():
    assert failed(with_inner(None), DELEGATED) == ("delegate_receipt",)
    assert failed(liable_receipt(DELEGATED, WORK, delegate_receipt=b"junk"), DELEGATED) == ("delegate_receipt",)


@pytest.mark.parametrize("change", [{"order_hash": HASH}, {"claim": b"another"}])
def test_a_delegates_receipt_must_be_for_this_order_and_this_claim(change):
    names = failed(with_inner(inner_receipt(**change)), DELEGATED)
    assert names[0] == "delegate_receipt"


def test_a_delegates_receipt_must_be_the_delegates():
    assert failed(with_inner(inner_receipt(), signer=STRANGER), DELEGATED) == ("delegate_receipt",)


def test_a_delegate_must_have_signed_the_claim_itself():
    forged = inner_receipt(claim_signature=bytes(64))
    assert failed(with_inner(forged), DELEGATED) == ("delegate_signature",)


@pytest.mark.parametrize("name", sorted(FORGED.keys() - {"order", "claim_signature"}))
def test_what_a_delegate_forges_fails_under_its_name(name):
    change = FORGED[name]
    assert f"delegate_{name}" in failed(with_inner(inner_receipt(**change)), DELEGATED)


def test_work_done_without_a_delegate_carries_no_receipt_of_one():
    inner = sealed(inner_receipt(), DELEGATE, ORCHESTRATOR.public_key).raw
    assert failed(liable_receipt(DIRECT, WORK, delegate_receipt=inner)) == ("delegate_receipt",)


def test_a_missing_receipt_at_the_second_step_is_found_too():
    middle = msgspec.structs.replace(receipts_of(TWICE, WORK)[1], delegate_receipt=None)
    assert failed(with_inner(middle, chain=TWICE), TWICE) == ("delegate_receipt",)


def test_an_orchestrator_checks_the_receipt_of_its_own_delegate():
    honest, forged = receipts_of(TWICE, WORK)[1], inner_receipt(text_hash=HASH)
    assert failed(sealed(honest, DELEGATE, ORCHESTRATOR.public_key), TWICE, below=1) == ()
    assert failed(sealed(forged, DELEGATE, ORCHESTRATOR.public_key), DELEGATED, below=1) == ("text",)


# --- the rest ----------------------------------------------------------------------------------------------------


def test_every_check_has_been_made_to_fail():
    """Reads the names from the source, so that a new check without a test here is found."""
    tree = ast.parse(inspect.getsource(verification))
    yields = [node.value.elts[0] for node in ast.walk(tree) if isinstance(node, ast.Yield)]
    names = {node.value for node in yields if isinstance(node, ast.Constant)}
    made_to_fail = {*FORGED, "signer", "partial", "model", "tokens", "length", "prompt_tokens", "pieces", "form"}
    made_to_fail |= {"streamed_logprobs"}
    assert names == made_to_fail | {"compute_time", "claim", "delegate_receipt", "delegate_signature"}


def test_no_offer_however_absurd_breaks_the_checker():
    most = 2**63 - 1
    shape = msgspec.structs.replace(OFFER.shape, matmul_parameters=most, layers=2**32 - 1, heads=2**32 - 1)
    offer = msgspec.structs.replace(OFFER, shape=shape, price=PriceTerms(most, most, most))
    chain = chain_of(0, assignment={"offer": offer})
    receipt = sealed(receipts_of(DIRECT, WORK)[-1], ORCHESTRATOR, ROUTER.public_key)
    assert failed(receipt, chain) == ("order", "claim")


def test_the_largest_receipt_that_may_be_made_fits_into_a_message():
    body = request_with(Sampling(max_tokens=MAX_TOKENS))
    chain = chain_of(3, body=body, assignment={"offer": msgspec.structs.replace(OFFER, context_tokens=2**31)})
    work = work_of(
        MAX_TOKENS,
        token_ids=[2**32 - 1] * MAX_TOKENS,
        logprobs=pack_logprobs([-0.5] * MAX_TOKENS),
        text="",
        finish="length",
    )
    receipt = liable_receipt(chain, work)
    assert failed(unseal(receipt.raw, Receipt, now_ms=NOW_MS), chain, work) == ()


def test_a_verdict_names_the_receipt_and_the_checks_that_failed():
    receipt = liable_receipt(DIRECT, WORK)
    good, bad = verdict_on(receipt, (), bytes(32), 1), verdict_on(receipt, ("text",), bytes(32), 1)
    assert (good.result, good.failed_checks, good.receipt_hash) == ("pass", [], receipt.digest)
    assert (bad.result, bad.failed_checks, bad.replayed) == ("fail", ["text"], False)


def test_the_worker_signs_the_claim_that_the_ledger_is_shown():
    receipt = receipt_for(DELEGATED, THIS_CONTRACT, WORK, DELEGATE)
    liable = liable_receipt(DELEGATED, WORK).body
    assert receipt.claim == liable.claim
    assert receipt.claim_signature != liable.claim_signature
