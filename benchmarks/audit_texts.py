"""Audits of models that read texts whole: every cheat that we know of, honest answers of every kind, and the cost.

Vectors of a trained model (MiniLM, where its package is installed), and vectors, labels and scores of random ones.
"""

from __future__ import annotations

import hashlib
import os
import random
import sys
import tempfile
import time
from array import array
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from benchmarks import _audit_text_models as models
from benchmarks._audit_cheats import Signed, Task, receipt, row
from benchmarks._audit_costs import run
from benchmarks.audit import process
from benchmarks.report import Measurement, Target, median
from cactus_mesh.calibration import SHIPPED, read_texts
from cactus_mesh.core.audit import compare_texts, finding_of_texts, judge
from cactus_mesh.core.draws import AuditPolicy, drawn_places
from cactus_mesh.core.readings import Reading, efforts_of, passages_of, read, well_formed, written
from cactus_mesh.core.suspicion import Suspicion
from cactus_mesh.core.thresholds import read_table
from cactus_mesh.engine import EngineSettings, open_engine
from cactus_mesh.messages import MOST_PLACES, Classify, Embed, Generate, Rerank, Sampling

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from cactus_mesh.core.audit import Comparison, Judgement
    from cactus_mesh.core.readings import Reads
    from cactus_mesh.core.thresholds import Thresholds
    from cactus_mesh.ports import Engine, EngineModel

    Found = tuple[Comparison, Judgement]
    Cheat = Callable[["Bench", Reads], Awaitable["Said"]]

TARGETS: Final = (
    Target("honest", "honest answers audited", ">=", 1_000),
    Target("false_alarms", "of them, those that failed or raised a suspicion", "<=", 0),
    Target("honest_doubts", "of them, those that were inconclusive"),
    Target("min_gross_detection", "of each gross cheat at least this share fails per audited task", ">=", 0.95),
    Target("min_subtle_detection_50", "each subtle cheat is found within 50 audited tasks", ">=", 0.95),
    Target("reread_share_64", "time to read texts of an answer to 64 again, as a share of the answer's", "<=", 0.2),
    Target("amortised_share_64", "the same at the default rate of audits", "<=", 0.01),
)
SEED: Final = int(os.environ.get("CACTUS_BENCH_SEED", "77"))
ANSWERS: Final = int(os.environ.get("CACTUS_BENCH_ANSWERS", "40"))
HONEST: Final = int(os.environ.get("CACTUS_BENCH_HONEST", "1200"))
RUNS: Final = 5
COUNTS: Final = (1, 2, 5, 12, 30)
"""Texts of an answer."""
AVX2: Final = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
"""Another processor, as far as libraries choose their kernels by it."""
NO_TASK: Final = Task(Generate(""), Sampling(max_tokens=1), bytes(32))
WORDS: Final = (
    *("what", "is", "the", "price", "of", "a", "router", "and", "who", "pays", "for", "it", "when", "nobody", "asks"),
    *("stars", "fall", "on", "Tuesday", "my", "horse", "reads", "letters", "seven", "blue", "ships", "left", "harbour"),
)


@dataclass(frozen=True)
class Said:
    """What is claimed about the texts of *work*."""

    work: Reads
    reading: Reading
    prompt_tokens: int


@dataclass(frozen=True)
class Bench:
    """One model: the engine that audits, the one of cheats and honest others, and what a verdict rests on."""

    name: str
    true: Engine
    made_by: Engine
    thresholds: Thresholds
    rng: random.Random

    @property
    def model(self) -> EngineModel:
        return _model(self.true, self.name)

    async def ask(self, work: Reads, name: str = "", *, about: Reads | None = None) -> Said:
        """What *name* makes of *work*, claimed to be *about* other work of as many texts."""
        text = await read_texts(self.made_by, _model(self.made_by, name or self.name), work)
        asked = about or work
        counted = await self.true.reread(self.model.digest, asked, [0])
        return Said(asked, read(work, text), counted.prompt_tokens)

    async def judged(self, said: Said) -> Found:
        text = f"[{', '.join(written(said.work, said.reading.rows, said.reading.labels))}]"
        assert well_formed(said.work, text), "no cheap check would have found it"
        signed = receipt(Signed(NO_TASK, (), (), text, "stop", said.prompt_tokens), self.model)
        lots = hashlib.sha256(text.encode()).digest()
        places = drawn_places(self.rng.randbytes(32), lots, efforts_of(said.work), MOST_PLACES)
        again = await self.true.reread(self.model.digest, said.work, places)
        finding = finding_of_texts(bytes(32), again, self.true.name)
        found = compare_texts(said.work, signed, text, places, finding, self.thresholds)
        return found, judge(found, self.thresholds)

    def works(self, count: int, seed: int) -> list[Reads]:
        rng = random.Random(f"{self.name} {SEED} {seed}")
        return [self.work(_texts(rng, COUNTS[number % len(COUNTS)])) for number in range(count)]

    def work(self, texts: list[str]) -> Reads:
        if self.name == "ranks":
            return Rerank(models.QUERY, texts)
        return Classify(texts) if self.name == "classifies" else Embed(texts)


def _model(engine: Engine, name: str) -> EngineModel:
    return next(model for model in engine.models if model.name == name)


def _texts(rng: random.Random, count: int) -> list[str]:
    return [" ".join(rng.choices(WORDS, k=rng.choice((3, 12, 60)))) for _ in range(count)]


def measure() -> Measurement:
    return trio.run(_measure)


async def _measure() -> Measurement:
    table = read_table(SHIPPED.read_bytes(), "thresholds.json")
    honest: list[dict[str, object]] = []
    cheats: list[dict[str, object]] = []
    alarms, doubts, share = 0, 0, 0.0
    with tempfile.TemporaryDirectory() as folder:
        await run(models.__name__, "make", folder)
        for name in models.names():
            async with AsyncExitStack() as stack:
                true = await stack.enter_async_context(_open([f"{folder}/{name}"], threads=1))
                cheap = [f"{folder}/{name}{way}" for way in ("", *(f"-{way}" for way in models.CHEAP))]
                made_by = await stack.enter_async_context(_open(cheap, threads=2))
                model = true.models[0]
                thresholds = table.find(model.digest, model.dtype, "cpu", kind=model.kinds[0])
                bench = Bench(name, true, made_by, thresholds, random.Random(SEED))
                rows, some_alarms, some_doubts = await _honest(bench, Path(folder))
                honest += rows
                alarms, doubts = alarms + some_alarms, doubts + some_doubts
                cheats += [await _row(bench, *cheat) for cheat in _cheats(bench)]
                share = await _share(bench) if name == "embeds" else share
    return Measurement(
        {
            "honest": float(sum(_number(row, "answers") for row in honest)),
            "false_alarms": float(alarms),
            "honest_doubts": float(doubts),
            "min_gross_detection": min(_number(row, "failed_per_task") for row in cheats if row["kind"] == "gross"),
            "min_subtle_detection_50": min(_number(row, "found_in_50") for row in cheats if row["kind"] == "subtle"),
            "reread_share_64": share,
            "amortised_share_64": AuditPolicy().floor * share,
            "seed": float(SEED),
        },
        RUNS,
        [*honest, *cheats],
    )


def _number(row: dict[str, object], key: str) -> float:
    value = row[key]
    assert isinstance(value, int | float)
    return value


@asynccontextmanager
async def _open(
    folders: Sequence[str], environment: dict[str, str] | None = None, *, threads: int
) -> AsyncIterator[Engine]:
    """With *environment* for its worker alone."""
    os.environ.update(environment or {})
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(open_engine(folders, EngineSettings(slots=32, threads=threads)))
        for name in environment or {}:
            del os.environ[name]
        yield engine


# --- honest work -----------------------------------------------------------------------------------------------------


async def _honest(bench: Bench, folder: Path) -> tuple[list[dict[str, object]], int, int]:
    """Rows, false alarms and doubts of honest answers made in every way that we know of."""
    each = HONEST // (4 * len(models.names()))
    ways = [
        ("the same threads", await _made(replace(bench, made_by=bench.true), bench.works(each, 1))),
        ("other threads", await _made(bench, bench.works(each, 2))),
    ]
    async with _open([str(folder / bench.name)], AVX2, threads=1) as other:
        ways.append(("another kind of processor", await _made(replace(bench, made_by=other), bench.works(each, 3))))
    for number, attention in enumerate(models.PLAIN):
        works = bench.works(each // 2, 4 + number)
        rows = await trio.to_thread.run_sync(_plain, bench.name, folder, attention, works)
        ways.append((f"plain transformers, {attention}", await _claimed(bench, works, rows)))
    rows_shown, alarms, doubts = [], 0, 0
    suspicion = Suspicion()
    for name, said in ways:
        found = [await bench.judged(each) for each in said]
        rows_shown.append(row(f"{bench.name}, honest: {name}", "honest", found, bench.thresholds))
        alarms += sum(verdict.result == "fail" for _, verdict in found)
        doubts += sum(verdict.result == "inconclusive" for _, verdict in found)
        for seen, _ in found:
            suspicion = suspicion.after(seen.tokens, seen.mismatches, bench.thresholds.honest_rate)
            alarms += suspicion.raised
    return rows_shown, alarms, doubts


async def _made(bench: Bench, works: Sequence[Reads]) -> list[Said]:
    """Eight beside each other."""
    made: list[Said] = []
    limiter = trio.CapacityLimiter(8)

    async def one(work: Reads) -> None:
        async with limiter:
            made.append(await bench.ask(work))

    async with trio.open_nursery() as nursery:
        for work in works:
            nursery.start_soon(one, work)
    return made


def _plain(name: str, folder: Path, attention: str, works: Sequence[Reads]) -> list[list[list[float]]]:
    command = [sys.executable, "-m", models.__name__, "plain", str(folder), name, attention]
    with process(command) as ask:
        return [ask(passages_of(work)) for work in works]


async def _claimed(bench: Bench, works: Sequence[Reads], rows: Sequence[list[list[float]]]) -> list[Said]:
    said = []
    for work, each in zip(works, rows, strict=True):
        asked = await bench.true.reread(bench.model.digest, work, [0])
        said.append(Said(work, _reading(each, asked.labels), asked.prompt_tokens))
    return said


def _reading(rows: Sequence[Sequence[float]], labels: tuple[str, ...]) -> Reading:
    return Reading(tuple(array("f", row) for row in rows), labels)


# --- cheats ----------------------------------------------------------------------------------------------------------


async def _row(bench: Bench, name: str, kind: str, cheat: Cheat, least: int) -> dict[str, object]:
    """Of answers to at least so many texts: where there is nothing to cheat with nobody is harmed."""
    works = [work for work in bench.works(3 * ANSWERS, 100) if len(passages_of(work)) >= least][:ANSWERS]
    found = [await bench.judged(await cheat(bench, work)) for work in works]
    return row(f"{bench.name}: {name}", kind, found, bench.thresholds)


def _cheats(bench: Bench) -> list[tuple[str, str, Cheat, int]]:
    """Name, kind, how it is done, and to how few texts."""
    rng = random.Random(SEED)

    def cheaper(way: str) -> Cheat:
        return lambda bench, work: bench.ask(work, f"{bench.name}-{way}")

    def otherwise(change: Callable[[str], str]) -> Cheat:
        return lambda bench, work: bench.ask(bench.work([change(text) for text in passages_of(work)]), about=work)

    def made_up(share: float) -> Cheat:
        """Of that share of the texts the words are shuffled and half of them left out."""

        def change(text: str) -> str:
            words = text.split()
            return " ".join(rng.sample(words, (len(words) + 1) // 2)) if rng.random() < share else text

        return otherwise(change)

    def rearranged(change: Callable[[list[Sequence[float]]], Sequence[Sequence[float]]]) -> Cheat:
        async def cheat(bench: Bench, work: Reads) -> Said:
            said = await bench.ask(work)
            return replace(said, reading=_reading(change(list(said.reading.rows)), said.reading.labels))

        return cheat

    async def pooled_otherwise(bench: Bench, work: Reads) -> Said:
        assert isinstance(work, Embed)
        return await bench.ask(Embed(work.inputs, "cls"), about=work)

    async def inflated(bench: Bench, work: Reads) -> Said:
        said = await bench.ask(work)
        return replace(said, prompt_tokens=said.prompt_tokens + max(1, said.prompt_tokens // 20))

    def edited(rows: list[Sequence[float]]) -> list[Sequence[float]]:
        """In every text the first two numbers are exchanged, or a score is a hundredth higher."""
        return [[row[1], row[0], *row[2:]] if len(row) > 1 else [row[0] + 0.01 * max(1, abs(row[0]))] for row in rows]

    found: list[tuple[str, str, Cheat, int]] = [
        *((way, "gross", cheaper(way), 1) for way in ("other", "dropped", "int4", "int8")),
        *((way, "subtle", cheaper(way), 1) for way in ("tuned", "bf16", "fp16")),
        ("first half of each text", "gross", otherwise(lambda text: text[: len(text) // 2 + 1]), 1),
        ("an old answer", "gross", otherwise(lambda _: " ".join(rng.choices(WORDS, k=12))), 1),
        ("in another order", "gross", rearranged(lambda rows: rows[::-1]), 2),
        ("one for all", "gross", rearranged(lambda rows: [rows[0]] * len(rows)), 2),
        ("numbers edited", "gross", rearranged(edited), 1),
        ("prompt tokens inflated by a twentieth", "gross", inflated, 1),
        ("half of the texts made up", "gross", made_up(0.5), 12),
        ("a tenth of the texts made up", "subtle", made_up(0.1), 12),
    ]
    if bench.name in ("embeds", "minilm"):
        found.append(("pooled otherwise", "gross", pooled_otherwise, 1))
    return found


# --- what it costs ---------------------------------------------------------------------------------------------------


async def _share(bench: Bench) -> float:
    """Seconds for an audit of an answer to 64 texts, over those for the answer."""
    shares = []
    for number in range(RUNS):
        work = bench.work(_texts(random.Random(number), 64))
        began = time.perf_counter()
        await read_texts(bench.true, bench.model, work)
        half_way = time.perf_counter()
        places = drawn_places(bench.rng.randbytes(32), bytes(32), efforts_of(work), MOST_PLACES)
        await bench.true.reread(bench.model.digest, work, places)
        shares.append((time.perf_counter() - half_way) / (half_way - began))
    return median(shares)
