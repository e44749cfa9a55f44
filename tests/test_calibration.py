"""What calibrating measures, where it is kept, and that what came with the program can be read."""

from __future__ import annotations

import dataclasses
from contextlib import asynccontextmanager

import pytest

from cactus_mesh.calibration import (
    AT_ONCE,
    SHIPPED,
    TEXTS,
    calibrate,
    for_any_model,
    known_thresholds,
    questions,
    remember,
)
from cactus_mesh.core.thresholds import LEAST_NOISE, UNCALIBRATED, read_table
from cactus_mesh.errors import StateMalformed
from cactus_mesh.ports import Rereading
from cactus_mesh.testing.engine import FAKE_MODEL, FakeEngine


class Rounding(FakeEngine):
    """Computes a little otherwise than it did."""

    async def replay(self, *arguments):
        honest = await super().replay(*arguments)
        logprobs = (honest.logprobs[0] + 1e-4, *honest.logprobs[1:])
        return dataclasses.replace(honest, gaps=(3e-4, *honest.gaps[1:]), logprobs=logprobs)


def opener(engine):
    @asynccontextmanager
    async def opened():
        yield engine

    return opened


async def test_an_exact_engine_gets_thresholds_no_finer_than_a_single():
    (entry,) = await calibrate([opener(FakeEngine())], 9)
    assert (entry.measured.answers, entry.measured.largest_gap, entry.measured.logprob_error) == (9, 0.0, 0.0)
    assert entry.thresholds.logprob_pass >= 10 * LEAST_NOISE
    assert entry.device == "cpu"


async def test_the_worst_of_all_pairs_of_engines_counts():
    (entry,) = await calibrate([opener(FakeEngine()), opener(Rounding())], 6)
    assert entry.measured.answers == 2 * 2 * 6
    assert entry.measured.largest_gap == pytest.approx(3e-4)
    assert entry.thresholds.gap_noise == pytest.approx(3e-3)
    assert entry.measured.logprob_error == pytest.approx(1e-4 / 4, rel=0.02)


class Crowded(FakeEngine):
    """Remembers how many ran beside each other."""

    most = 0

    def _decide(self, *arguments):
        self.most = max(self.most, self.running)
        return super()._decide(*arguments)


async def test_answers_are_made_beside_others_too():
    engine = Crowded(delay_seconds=0.001)
    await calibrate([opener(engine)], 3 * max(AT_ONCE))
    assert engine.most == max(AT_ONCE)


async def test_what_was_measured_here_goes_before_what_came_with_the_program(tmp_path):
    own = tmp_path / "thresholds.json"
    shipped = known_thresholds(own).find(FAKE_MODEL.digest, "float32", "cpu")
    assert shipped.calibrated
    entries = await calibrate([opener(Rounding())], 3)
    remember(entries, own)
    remember(for_any_model(entries), own)
    table = known_thresholds(own)
    assert table.find(FAKE_MODEL.digest, "float32", "cpu") == entries[0].thresholds
    assert table.find(bytes(32), "float32", "cpu").gap_noise == pytest.approx(3e-3)
    assert table.find(bytes(32), "bfloat16", "cpu") == UNCALIBRATED


def test_a_broken_file_is_refused_by_its_name(tmp_path):
    own = tmp_path / "thresholds.json"
    own.write_text("{")
    with pytest.raises(StateMalformed, match=r"thresholds\.json"):
        known_thresholds(own)


def test_the_questions_follow_from_their_seed():
    assert questions(20, 1) == questions(20, 1) != questions(20, 2)
    assert {sampling.temperature_milli for _, sampling in questions(9, 1)} == {0, 800, 1_000}


# --- models that read ------------------------------------------------------------------------------------------------

READER = dataclasses.replace(FAKE_MODEL, kinds=("rerank",), context_tokens=256 * 300)


class Scorer(FakeEngine):
    """Gives each document the score 0.5 when it is asked, and *again* when it reads it a second time."""

    def __init__(self, again=0.5, model=READER):
        super().__init__(model=model)
        self.again = again

    @asynccontextmanager
    async def generate(self, digest, work, *arguments):
        text = "[" + ", ".join(["0.5"] * len(work.documents)) + "]"
        async with FakeEngine(text, model=self.models[0]).generate(digest, work, *arguments) as events:
            yield events

    async def reread(self, digest, work, places):
        return Rereading(tuple((self.again,) for _ in places), (), 1)


async def test_a_model_that_reads_is_measured_by_the_distance_of_its_answers():
    (entry,) = await calibrate([opener(Scorer()), opener(Scorer(again=0.51))], 6)
    assert entry.reads == "rerank"
    assert entry.measured.largest_gap == pytest.approx(0.01)
    assert entry.measured.tokens == 2 * 2 * 2 * sum(TEXTS)
    assert entry.thresholds.gap_noise == pytest.approx(0.1)
    (wide,) = for_any_model([entry])
    assert (wide.reads, wide.thresholds) == ("rerank", entry.thresholds)


@pytest.mark.parametrize(("dtype", "like"), [("float32", "float32"), ("bfloat16", "bfloat16"), ("float16", "bfloat16")])
async def test_one_machine_cannot_tell_how_far_another_kind_is_off(dtype, like):
    model = dataclasses.replace(READER, dtype=dtype)
    (entry,) = await calibrate([opener(Scorer(model=model))], 3)
    shipped = read_table(SHIPPED.read_bytes(), "").find(bytes(32), like, "cpu", "rerank")
    assert entry.measured.largest_gap == 0
    assert entry.thresholds == shipped
