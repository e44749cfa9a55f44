"""From a replay's numbers to a verdict, and from honest replays to what a verdict may rest on."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cactus_mesh.core.audit import Comparison, compare, judge
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
    write_table,
)
from cactus_mesh.errors import StateMalformed
from cactus_mesh.messages import text_digest
from cactus_mesh.ports import Replay
from tests.samples import OFFER, bodies

THRESHOLDS = Thresholds(gap_noise=1e-3, gap_fail=1.0, logprob_pass=1e-5, logprob_fail=1e-4)
CLAIM = msgspec.structs.replace(bodies()["receipt"], text_hash=text_digest("sand"))
HONEST = Replay(logprobs=(-0.5, 0.5 - 1.0, -0.5), gaps=(0.0, 0.0, 0.0), text="sand", finish="stop", prompt_tokens=5)
CLAIMED_LOGPROBS = (0.5, 0.5, 0.5)  # what the sample's bytes say; a replay with these agrees


def replay(**changes):
    fields = {name: getattr(HONEST, name) for name in Replay.__slots__} | {"logprobs": CLAIMED_LOGPROBS}
    return Replay(**{**fields, **changes})


def result(thresholds=THRESHOLDS, **changes):
    return judge(compare(CLAIM, replay(**changes), thresholds), thresholds)


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
        write_table(Table([entry()])).replace(b'"gap_fail": 1.0', b'"gap_fail": 1e-9'),
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
