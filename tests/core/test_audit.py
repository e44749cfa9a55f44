"""From a replay's numbers to a verdict, and from honest replays to what a verdict may rest on."""

from __future__ import annotations

import math
import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cactus_mesh.core.audit import (
    Comparison,
    audit_of,
    compare,
    compare_texts,
    error_of,
    finding_of,
    finding_of_texts,
    judge,
)
from cactus_mesh.core.thresholds import (
    ANY_MODEL,
    UNCALIBRATED,
    Entry,
    Measured,
    Table,
    Thresholds,
    device_of,
    device_pair,
    measured_thresholds,
    read_table,
    reading_thresholds,
    write_table,
)
from cactus_mesh.errors import MessageMalformed, StateMalformed
from cactus_mesh.messages import Classify, Embed, Rerank, seed_of, text_digest
from cactus_mesh.ports import Replay, Rereading
from tests.core.cases import chain_of, liable_receipt, work_of
from tests.samples import CLIENT, DELEGATE, OFFER, ORCHESTRATOR, ROUTER, bodies

THRESHOLDS = Thresholds(gap_noise=1e-3, gap_fail=1.0, logprob_pass=1e-5, logprob_fail=1e-4)
CLAIM = msgspec.structs.replace(bodies()["receipt"], text_hash=text_digest("sand"))
HONEST = {"logprobs": (0.5,) * 3, "gaps": (0.0,) * 3, "text": "sand", "finish": "stop", "prompt_tokens": 5}
"""What a replay of the sample receipt finds when all of it is true."""


def finding(**changes):
    return finding_of(bytes(32), Replay(**{**HONEST, **changes}), "fake/1")


def result(thresholds=THRESHOLDS, **changes):
    return judge(compare(CLAIM, finding(**changes), thresholds), thresholds)


def found(**changes):
    return Comparison(**{"tokens": 100, "mismatches": 0, "largest_gap": 0.0, "logprob_error": 0.0, **changes})


def test_an_answer_that_is_borne_out_passes():
    assert result() == judge(found(), THRESHOLDS)
    assert result().result == "pass"


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"prompt_tokens": 6}, "replay_prompt_tokens"),
        ({"finish": "length"}, "replay_finish"),
        ({"finish": None}, "replay_finish"),
        ({"text": "stone"}, "replay_text"),
        ({"gaps": (0.0, 2.0, 0.0)}, "replay_tokens"),
        ({"gaps": (0.0, 0.01, 0.01)}, "replay_tokens"),
        ({"gaps": (0.0, math.inf, 0.0)}, "replay_tokens"),
        ({"logprobs": (0.5, 0.5, 0.51)}, "replay_logprobs"),
        ({"logprobs": (0.5, 0.5, -math.inf)}, "replay_logprobs"),
    ],
)
def test_each_false_claim_fails_by_its_name(changes, name):
    assert (result(**changes).result, result(**changes).failed) == ("fail", (name,))


@pytest.mark.parametrize(
    ("changes", "names"),
    [({"gaps": (0.0, 0.01, 0.0)}, ("replay_tokens",)), ({"logprobs": (0.5, 0.5, 0.50005)}, ("replay_logprobs",))],
)
def test_what_is_only_doubtful_is_inconclusive(changes, names):
    assert (result(**changes).result, result(**changes).failed) == ("inconclusive", names)


@pytest.mark.parametrize(
    "changes",
    [{"gaps": (0.0, 0.0)}, {"logprobs": ()}, {"gaps": (0.0, math.nan, 0.0)}, {"gaps": (0.0, -1.0, 0.0)}],
)
def test_a_finding_that_is_none_is_its_verifiers_fault(changes):
    with pytest.raises(MessageMalformed):
        result(**changes)


def test_a_verifier_is_told_the_work_and_its_tokens_but_nobody_who_had_a_part_in_it():
    chain = chain_of(1)
    receipt = liable_receipt(chain, work_of())
    audit = audit_of(chain, receipt.body)
    request, assignment = chain.request.sealed.body, chain.assignment.body
    assert audit.seed == seed_of(request.nonce, assignment.router_nonce, request.task_id)
    assert (audit.work, audit.token_ids) == (request.work, receipt.body.token_ids)
    told = msgspec.msgpack.encode(audit)
    parties = [CLIENT.public_key, ROUTER.public_key, ORCHESTRATOR.public_key, DELEGATE.public_key, request.task_id]
    assert not any(party in told for party in parties)


@pytest.mark.parametrize("finish", [None, "stop"])
def test_an_answer_that_was_cut_short_may_end_anywhere(finish):
    cut = msgspec.structs.replace(CLAIM, finish="cancelled")
    assert judge(compare(cut, finding(finish=finish), THRESHOLDS), THRESHOLDS).result == "pass"
    late = finding(finish=None, gaps=(0.0, 0.0, math.inf))
    assert judge(compare(cut, late, THRESHOLDS), THRESHOLDS).failed == ("replay_tokens",)


def test_rounding_is_neither():
    assert result(gaps=(0.0, 5e-4, 0.0), logprobs=(0.5, 0.5, 0.50001)).result == "pass"


def test_a_model_that_nobody_calibrated_fails_only_on_what_is_exact():
    assert result(UNCALIBRATED, gaps=(5.0, 5.0, 5.0)).result == "inconclusive"
    assert result(UNCALIBRATED, text="stone").result == "fail"


@given(
    tokens=st.integers(1, 1_000),
    mismatches=st.integers(0, 1_000),
    gap=st.floats(0, 10),
    error=st.floats(0, 1),
    more=st.integers(0, 5),
)
def test_a_worse_answer_is_never_judged_better(tokens, mismatches, gap, error, more):
    order = ["pass", "inconclusive", "fail"]
    mismatches = min(mismatches, tokens)
    one = judge(found(tokens=tokens, mismatches=mismatches, largest_gap=gap, logprob_error=error), THRESHOLDS)
    worse = found(
        tokens=tokens, mismatches=min(tokens, mismatches + more), largest_gap=gap * 2, logprob_error=error * 2
    )
    assert order.index(judge(worse, THRESHOLDS).result) >= order.index(one.result)


# --- texts that are read again ---------------------------------------------------------------------------------------

WORK = Classify(["one", "two", "three"])
SAID = '[{"no": 0.25, "yes": 0.75}, {"no": 0.5, "yes": 0.5}, {"no": 1, "yes": 0}]'
READ = {"rows": ((0.25, 0.75), (1.0, 0.0)), "labels": ("no", "yes"), "prompt_tokens": 5}


def texts_result(text=SAID, thresholds=THRESHOLDS, *, numbers=None, **changes):
    found = finding_of_texts(bytes(32), Rereading(**{**READ, **changes}), "fake/1")
    found = found if numbers is None else msgspec.structs.replace(found, numbers=numbers)
    return judge(compare_texts(WORK, CLAIM, text, [0, 2], found, thresholds), thresholds)


def test_texts_that_say_the_same_when_they_are_read_again_pass():
    assert texts_result().result == "pass"
    assert texts_result(rows=((0.25001, 0.74999), (1.0, 0.0))).result == "pass"


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"prompt_tokens": 4}, "replay_prompt_tokens"),
        ({"labels": ("yes", "no")}, "replay_labels"),
        ({"labels": ("no", "yea")}, "replay_labels"),
        ({"rows": ((0.75, 0.25), (1.0, 0.0))}, "replay_texts"),
        ({"rows": ((0.25, 0.75), (0.0, 1.0))}, "replay_texts"),
        ({"rows": ((0.2505, 0.7495), (0.99, 0.01))}, "replay_texts"),
    ],
)
def test_each_false_claim_about_texts_fails_by_its_name(changes, name):
    assert (texts_result(**changes).result, texts_result(**changes).failed) == ("fail", (name,))


def test_other_numbers_for_each_text_than_the_model_has_fail():
    assert "replay_width" in texts_result(rows=((0.25, 0.5, 0.25), (1.0, 0.0, 0.0))).failed


def test_one_text_that_is_a_little_off_is_a_doubt():
    doubted = texts_result(rows=((0.2505, 0.7495), (1.0, 0.0)))
    assert (doubted.result, doubted.failed) == ("inconclusive", ("replay_texts",))


def test_without_thresholds_texts_fail_only_on_what_is_exact():
    unknown = Table([]).find(bytes(32), "float32", "cuda", kind="classify")
    assert texts_result(thresholds=unknown, rows=((0.24, 0.76), (1.0, 0.0))).result == "pass"
    assert texts_result(thresholds=unknown, rows=((0.75, 0.25), (0.0, 1.0))).result == "inconclusive"
    assert texts_result(thresholds=unknown, labels=("yes", "no")).result == "fail"


@pytest.mark.parametrize(
    "numbers", [b"", bytes(12), bytes(13), bytes.fromhex("0000c07f") * 4, bytes.fromhex("0000807f") * 4]
)
def test_a_finding_about_texts_that_is_none_is_its_verifiers_fault(numbers):
    with pytest.raises(MessageMalformed):
        texts_result(numbers=numbers)


def test_a_verifier_is_told_which_texts_and_not_what_was_claimed():
    chain = chain_of()
    receipt = liable_receipt(chain, work_of())
    assert audit_of(chain, receipt.body, [1, 4]).places == [1, 4]


# --- thresholds --------------------------------------------------------------------------------------------------

MEASURED = Measured(tokens=19_200, answers=600, largest_gap=3e-6, logprob_error=8e-7)


def entry(**changes):
    fields = {"digest": OFFER.digest.hex(), "name": "fake", "dtype": "float32", "device": "cpu"}
    return Entry(**{**fields, "thresholds": measured_thresholds(MEASURED), "measured": MEASURED, **changes})


@given(st.floats(0, 0.1), st.floats(0, 0.1))
def test_everything_that_was_measured_passes_with_room(gap, error):
    measured = Measured(tokens=1, answers=1, largest_gap=gap, logprob_error=error)
    thresholds = measured_thresholds(measured)
    worst = found(mismatches=int(gap > thresholds.gap_noise), largest_gap=gap, logprob_error=error)
    assert judge(worst, thresholds).result == "pass"
    assert thresholds.gap_noise >= 10 * gap
    assert thresholds.logprob_pass >= 10 * error


def test_a_table_survives_its_file():
    table = Table([entry(), entry(digest=ANY_MODEL, measured=None)])
    assert read_table(write_table(table), "here").entries == table.entries


def test_a_models_own_entry_goes_before_that_for_any_model():
    wide = Thresholds(gap_noise=1, gap_fail=2, logprob_pass=1, logprob_fail=2)
    table = Table([entry(digest=ANY_MODEL, thresholds=wide), entry()])
    assert table.find(OFFER.digest, "float32", "cpu") == entry().thresholds
    assert table.find(bytes(32), "float32", "cpu") == wide
    assert table.find(bytes(32), "bfloat16", "cpu") == table.find(bytes(32), "float32", "cuda") == UNCALIBRATED


@pytest.mark.parametrize("work", [Embed(["x"]), Classify(["x"]), Rerank("q", ["x"])])
def test_what_is_read_has_thresholds_of_its_own_kind(work):
    kind = msgspec.to_builtins(work)["kind"]
    tokens, texts = entry(digest=ANY_MODEL), entry(digest=ANY_MODEL, reads=kind, thresholds=UNCALIBRATED)
    table = Table([tokens, texts])
    assert table.find(bytes(32), "float32", "cpu", kind=kind) == texts.thresholds
    assert table.find(bytes(32), "float32", "cpu", kind="chat") == tokens.thresholds
    assert read_table(write_table(table), "here").entries == table.entries


@given(st.floats(0, 0.1), st.floats(0, 0.1))
def test_distances_that_were_measured_here_or_elsewhere_pass_with_room(gap, elsewhere):
    thresholds = reading_thresholds(Measured(tokens=1, answers=1, largest_gap=gap, logprob_error=0.0), elsewhere)
    assert thresholds.gap_noise >= 10 * max(gap, elsewhere)
    assert thresholds.gap_fail == pytest.approx(3 * thresholds.gap_noise)


def test_a_later_calibration_replaces_an_earlier_one():
    newer = Thresholds(gap_noise=1, gap_fail=2, logprob_pass=1, logprob_fail=2)
    table = Table([entry()]).with_entries([entry(thresholds=newer)])
    assert [each.thresholds for each in table.entries] == [newer]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'{"version": 2, "entries": []}',
        b'{"version": 1, "entries": [{"digest": "xy"}]}',
        write_table(Table([entry()])).replace(b'"gap_fail"', b'"gap_fall"'),
        re.sub(rb'"gap_fail": [^,]+', b'"gap_fail": 1e-9', write_table(Table([entry()]))),
    ],
)
def test_a_file_that_is_none_is_refused_by_its_name(data):
    with pytest.raises(StateMalformed, match=r"thresholds\.json .*calibrate"):
        read_table(data, "thresholds.json")


def test_an_engines_label_tells_its_kind_of_device():
    assert device_of("cactus-mesh 1, torch 2 on cuda:1") == "cuda"
    assert device_of("cactus-mesh 1, torch 2 on cpu") == device_of("fake/1") == device_of("x on fire") == "cpu"
    assert device_pair("cpu", "cpu") == "cpu"
    assert device_pair("cuda", "cpu") == device_pair("cpu", "cuda") == "cpu+cuda"


def test_one_token_that_is_far_off_weighs_more_than_many_that_are_hardly_off():
    assert error_of([0.0] * 16, [4e-4] + [0.0] * 15) == pytest.approx(1e-4)
    assert error_of([0.0] * 16, [5e-5] * 16) == pytest.approx(5e-5)
    assert error_of([], []) == 0


@pytest.mark.parametrize("claim", [math.inf, -math.inf, math.nan])
def test_a_claim_that_is_no_number_is_infinitely_far_off(claim):
    assert error_of([claim, -1.0], [-1.0, -1.0]) == math.inf
    assert error_of([claim], [claim]) == math.inf
