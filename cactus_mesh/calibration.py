"""Measures how far honest replays are from what was claimed, and keeps the thresholds that follow from it.

Answers are made under one load and setting of threads and replayed under another, on prompts made for the purpose.
"""

from __future__ import annotations

import random
import secrets
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from cactus_mesh.core.audit import error_of
from cactus_mesh.core.readings import distance, passages_of, read
from cactus_mesh.core.receipts import pack_logprobs, unpack_logprobs
from cactus_mesh.core.thresholds import (
    ANY_MODEL,
    Entry,
    Measured,
    Table,
    device_of,
    device_pair,
    measured_thresholds,
    read_table,
    reading_of,
    reading_thresholds,
    write_table,
)
from cactus_mesh.errors import StateMalformed
from cactus_mesh.files import write_private
from cactus_mesh.messages import MAX_INPUTS, MAX_TOKENS, MOST_PLACES, Classify, Embed, Generate, Rerank, Sampling
from cactus_mesh.ports import EngineTokens

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from cactus_mesh.core.readings import Reads
    from cactus_mesh.core.thresholds import ReadsAs, Thresholds
    from cactus_mesh.ports import Engine, EngineModel

SHIPPED: Final = Path(__file__).with_name("thresholds.json")
AT_ONCE: Final = (1, 8, 32)
ANSWER_TOKENS: Final = 32
TEXTS: Final = (1, 4, 24)
"""In one question to a model that reads: alone, and beside others that are padded to the longest."""
SEED: Final = 20_260
WORDS: Final = (
    *("the", "a", "river", "night", "old", "garden", "keeps", "under", "seven", "light", "of", "and", "walks", "not"),
    *("stone", "morning", "letter", "she", "he", "asks", "why", "blue", "fire", "winter", "road", "sings", "to", "or"),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """An honest answer and how it was asked for."""

    work: Generate
    sampling: Sampling
    seed: bytes
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]


def known_thresholds(own: Path) -> Table:
    """Those that came with the program, and above them those of the file *own*, if it is there."""
    table = read_table(SHIPPED.read_bytes(), str(SHIPPED))
    try:
        data = own.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return table
    except OSError as error:
        raise StateMalformed(f"cannot read {own}: {error.strerror}") from None
    return table.with_entries(read_table(data, str(own)).entries)


def remember(entries: Sequence[Entry], own: Path) -> None:
    """Add *entries* to the file *own*."""
    table = read_table(own.read_bytes(), str(own)) if own.exists() else Table()
    write_private(own, write_table(table.with_entries(entries)))


def questions(count: int, seed: int) -> list[tuple[Generate, Sampling]]:
    """Prompts of several lengths, a third of them to be answered greedily and a third with top-p."""
    rng = random.Random(seed)
    kinds = (
        Sampling(max_tokens=ANSWER_TOKENS),
        Sampling(max_tokens=ANSWER_TOKENS, temperature_milli=1_000),
        Sampling(max_tokens=ANSWER_TOKENS, temperature_milli=800, top_p_milli=950, top_k=100),
    )
    return [
        (Generate(" ".join(rng.choices(WORDS, k=rng.choice((4, 12, 40, 120))))), kinds[number % len(kinds)])
        for number in range(count)
    ]


def texts_to_read(model: EngineModel, kind: ReadsAs, count: int, seed: int) -> list[Reads]:
    """Questions to a model that reads, with texts of all lengths that it takes."""
    rng = random.Random(seed)
    longest = model.context_tokens // MAX_INPUTS

    def some_text() -> str:
        return " ".join(rng.choices(WORDS, k=max(1, int(longest * rng.choice((0.02, 0.1, 0.3))))))

    asked: list[Reads] = []
    for number in range(count):
        texts = [some_text() for _ in range(TEXTS[number % len(TEXTS)])]
        if kind == "embed":
            asked.append(Embed(texts, rng.choice(("mean", "cls"))))
        else:
            asked.append(Classify(texts) if kind == "classify" else Rerank(some_text(), texts))
    return asked


async def answer(engine: Engine, model: EngineModel, work: Generate, sampling: Sampling) -> Answer:
    seed = secrets.token_bytes(32)
    token_ids: list[int] = []
    logprobs: list[float] = []
    async with engine.generate(model.digest, work, sampling, seed) as events:
        async for event in events:
            if isinstance(event, EngineTokens):
                token_ids += event.token_ids
                logprobs += event.logprobs
    claimed = unpack_logprobs(pack_logprobs(logprobs))  # as a receipt has them
    return Answer(work, sampling, seed, tuple(token_ids), claimed)


async def answers(
    engine: Engine, model: EngineModel, asked: Sequence[tuple[Generate, Sampling]], at_once: int
) -> list[Answer]:
    """One answer to each, *at_once* at a time."""
    found: list[Answer] = []
    limiter = trio.CapacityLimiter(at_once)

    async def one(work: Generate, sampling: Sampling) -> None:
        async with limiter:
            found.append(await answer(engine, model, work, sampling))

    async with trio.open_nursery() as nursery:
        for work, sampling in asked:
            nursery.start_soon(one, work, sampling)
    return found


async def worst_of(engine: Engine, model: EngineModel, made: Sequence[Answer]) -> Measured:
    """Replay *made* on *engine*: the largest gap of any token and the largest error of any answer."""
    gap = error = 0.0
    for each in made:
        replay = await engine.replay(model.digest, each.work, each.sampling, each.seed, each.token_ids)
        gap = max(gap, *replay.gaps)
        error = max(error, error_of(each.logprobs, unpack_logprobs(pack_logprobs(replay.logprobs))))
    tokens = sum(len(each.token_ids) for each in made)
    return Measured(tokens=tokens, answers=len(made), largest_gap=gap, logprob_error=error)


async def read_texts(engine: Engine, model: EngineModel, work: Reads) -> str:
    async with engine.generate(model.digest, work, Sampling(max_tokens=MAX_TOKENS), bytes(32)) as events:
        return "".join([event.text async for event in events if isinstance(event, EngineTokens)])


async def worst_reading_of(engine: Engine, model: EngineModel, made: Sequence[tuple[Reads, str]]) -> Measured:
    """Read all texts of *made* again on *engine*, as an audit would: the largest distance."""
    gap, count = 0.0, 0
    for work, text in made:
        claimed, places = read(work, text), range(len(passages_of(work)))
        for start in places[::MOST_PLACES]:
            some = places[start : start + MOST_PLACES]
            found = await engine.reread(model.digest, work, some)
            gap = max(gap, *(distance(work, claimed.rows[at], row) for at, row in zip(some, found.rows, strict=True)))
        count += len(places)
    return Measured(tokens=count, answers=len(made), largest_gap=gap, logprob_error=0.0)


def worse(one: Measured, other: Measured) -> Measured:
    return Measured(
        tokens=one.tokens + other.tokens,
        answers=one.answers + other.answers,
        largest_gap=max(one.largest_gap, other.largest_gap),
        logprob_error=max(one.logprob_error, other.logprob_error),
    )


async def calibrate(
    openers: Sequence[Callable[[], AbstractAsyncContextManager[Engine]]],
    count: int,
    seed: int = SEED,
    tell: Callable[[str], None] = lambda _: None,
) -> list[Entry]:
    """An entry for each model and pair of kinds of device, over *count* answers of each engine that *openers* open.

    All engines have the same models; each one's answers are replayed on all of them.
    """
    found: dict[tuple[bytes, str], Entry] = {}
    each_time = -(-count // len(AT_ONCE))
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(opener()) for opener in openers]
        for number, maker in enumerate(engines):
            for model in maker.models:
                worst = await _answered(maker, model, each_time, seed + 1_000 * number, tell)
                for judge in engines:
                    device = device_pair(device_of(maker.name), device_of(judge.name))
                    measured = await worst(judge)
                    _merge(found, model, device, measured)
                    tell(f"{model.name}: replayed; largest gap {measured.largest_gap:.2g}, "
                         f"largest error {measured.logprob_error:.2g}")  # fmt: skip
    return list(found.values())


async def _answered(
    maker: Engine, model: EngineModel, each_time: int, seed: int, tell: Callable[[str], None]
) -> Callable[[Engine], Awaitable[Measured]]:
    """Have *maker* answer, and give what holds its answers against what another engine finds."""
    reading = reading_of(model.kinds[0])
    if reading is not None:
        works = texts_to_read(model, reading, len(AT_ONCE) * each_time, seed)
        read_out = [(work, await read_texts(maker, model, work)) for work in works]
        tell(f"{model.name}: {len(works)} answers")
        return lambda judge: worst_reading_of(judge, model, read_out)
    made: list[Answer] = []
    for place, at_once in enumerate(AT_ONCE):
        made += await answers(maker, model, questions(each_time, seed + place), at_once)
        tell(f"{model.name}: {len(made)} answers, {at_once} at once")
    return lambda judge: worst_of(judge, model, made)


def _merge(found: dict[tuple[bytes, str], Entry], model: EngineModel, device: str, measured: Measured) -> None:
    old = found.get((model.digest, device))
    if old is not None and old.measured is not None:
        measured = worse(old.measured, measured)
    reading = reading_of(model.kinds[0])
    found[model.digest, device] = Entry(
        digest=model.digest.hex(),
        name=model.name,
        dtype=model.dtype,
        device=device,
        thresholds=_thresholds(measured, model.dtype, reading),
        measured=measured,
        reads=reading,
    )


def _thresholds(measured: Measured, dtype: str, reading: ReadsAs | None) -> Thresholds:
    if reading is None:
        return measured_thresholds(measured)
    shipped = [entry for entry in read_table(SHIPPED.read_bytes(), str(SHIPPED)).entries if entry.reads == reading]
    known = {entry.dtype: entry.measured.largest_gap for entry in shipped if entry.measured is not None}
    return reading_thresholds(measured, known[dtype] if dtype in known else max(known.values()))


def for_any_model(entries: Sequence[Entry]) -> list[Entry]:
    """For each dtype and device the widest of what was measured, for models that nobody has calibrated."""
    widest: dict[tuple[str, str, ReadsAs | None], Measured] = {}
    for entry in entries:
        key = entry.dtype, entry.device, entry.reads
        if entry.measured is not None:
            widest[key] = worse(widest[key], entry.measured) if key in widest else entry.measured
    return [
        Entry(
            digest=ANY_MODEL,
            name="any",
            dtype=dtype,
            device=device,
            thresholds=_thresholds(measured, dtype, reading),
            measured=measured,
            reads=reading,
        )
        for (dtype, device, reading), measured in widest.items()
    ]
