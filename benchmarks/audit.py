"""Every cheat that we know of against the audit, honest answers of every kind beside them, and what a replay costs.

Cheats run the self-test model's cheap relatives or break the rules of a task; prompts are not those of the calibration.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from benchmarks import _audit_cheats as cheats
from benchmarks import _audit_models as models
from benchmarks._audit_cheats import Signed, Task
from benchmarks._audit_costs import costs, environment, run
from benchmarks.report import Measurement, Target
from cactus_mesh.calibration import SHIPPED
from cactus_mesh.core.suspicion import Suspicion
from cactus_mesh.core.thresholds import read_table
from cactus_mesh.engine import EngineSettings, open_engine
from cactus_mesh.messages import Generate, Sampling

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

    from cactus_mesh.core.audit import Comparison, Judgement
    from cactus_mesh.core.thresholds import Thresholds
    from cactus_mesh.messages import FinishReason
    from cactus_mesh.ports import Engine, EngineModel

    Found = tuple[Comparison, Judgement]

TARGETS: Final = (
    Target("replay_share", "time of a replay, as a share of the generation's, one at a time", "<=", 0.2),
    Target("replay_share_32", "the same with 32 at once: both are then bound by arithmetic"),
    Target("amortised_share", "cost of audits at the default rate, as a share of generation", "<=", 0.01),
    Target("amortised_share_32", "the same with 32 at once"),
    Target("honest", "honest answers replayed", ">=", 1_000),
    Target("false_alarms", "of them, those that failed or raised a suspicion", "<=", 0),
    Target("honest_doubts", "of them, those that were inconclusive"),
    Target("min_gross_detection", "of each gross cheat at least this share fails per audited task", ">=", 0.95),
    Target("min_subtle_detection_50", "each subtle cheat is found within 50 audited tasks", ">=", 0.95),
)
SEED: Final = int(os.environ.get("CACTUS_BENCH_SEED", "77"))
ANSWERS: Final = int(os.environ.get("CACTUS_BENCH_ANSWERS", "80"))
"""For each gross cheat; a subtle one and the honest get more."""
HONEST: Final = int(os.environ.get("CACTUS_BENCH_HONEST", "1000"))
PLAIN_ANSWERS: Final = 20
MAX_TOKENS: Final = 64
RUNS: Final = 5
WORDS: Final = (
    *("What", "is", "the", "price", "of", "a", "router", "and", "who", "pays", "for", "it", "when", "nobody", "asks"),
    *("Tell", "me", "why", "stars", "fall", "on", "Tuesday", "my", "horse", "reads", "letters", "about", "stake"),
    *("seven", "blue", "ships", "left", "harbour", "without", "any", "captain", "explain", "receipts", "please"),
)


@dataclass(frozen=True)
class Bench:
    """The honest engine, the cheap ones, and what a verdict rests on."""

    true: Engine
    second: Engine
    """Another process of the same model with other settings."""
    cheap: Mapping[str, tuple[Engine, EngineModel]]
    thresholds: Thresholds

    @property
    def model(self) -> EngineModel:
        return self.true.models[0]

    async def make(self, task: Task) -> Signed:
        return await cheats.honest(self.true, self.model, task)

    async def judge(self, answers: Sequence[Signed]) -> list[Found]:
        found: list[Found] = []
        limiter = trio.CapacityLimiter(8)

        async def one(answer: Signed) -> None:
            async with limiter:
                found.append(await cheats.judged(self.true, self.model, answer, self.thresholds))

        async with trio.open_nursery() as nursery:
            for answer in answers:
                nursery.start_soon(one, answer)
        return found

    async def differs(self, signed: Signed) -> bool:
        """Whether it is another answer than the honest one; a cheat that changes nothing harms nobody."""
        return (await self.make(signed.task)).token_ids != signed.token_ids

    async def answers(
        self, asked: Sequence[Task], prove: Callable[[Task], Awaitable[Signed | None]], at_once: int = 16
    ) -> list[Signed]:
        """What *prove* signs for each, *at_once* at a time; None is a task that gave no occasion to cheat."""
        made: list[Signed] = []
        limiter = trio.CapacityLimiter(at_once)

        async def one(task: Task) -> None:
            async with limiter:
                signed = await prove(task)
            if signed is not None:
                made.append(signed)

        async with trio.open_nursery() as nursery:
            for task in asked:
                nursery.start_soon(one, task)
        return made


def measure() -> Measurement:
    return trio.run(_measure)


async def _measure() -> Measurement:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        await run(models.__name__, "make", name)
        async with AsyncExitStack() as stack:
            folders = [str(folder / each) for each in models.MODELS]
            true = await stack.enter_async_context(open_engine(["selftest"], EngineSettings(slots=32, threads=1)))
            second = await stack.enter_async_context(
                open_engine(["selftest"], EngineSettings(slots=32, threads=2, chunk_tokens=16))
            )
            small = await stack.enter_async_context(open_engine(folders, EngineSettings(slots=32, threads=1)))
            half = await stack.enter_async_context(
                open_engine(["selftest"], EngineSettings(slots=32, threads=1, dtype="bfloat16"))
            )
            cheap = {each.name: (small, each) for each in small.models} | {"bf16": (half, half.models[0])}
            known = read_table(SHIPPED.read_bytes(), "thresholds.json")
            thresholds = known.find(true.models[0].digest, "float32", "cpu")
            bench = Bench(true, second, cheap, thresholds)
            honest, doubts, alarms = await _honest(bench)
            rows = [*honest, *await _cheat(bench)]
        spent = await costs(folder, SEED, WORDS, RUNS)
    gross = [row for row in rows if row["kind"] == "gross"]
    subtle = [row for row in rows if row["kind"] == "subtle"]
    figures = {
        **spent,
        "honest": float(sum(_number(row, "answers") for row in honest)),
        "false_alarms": float(alarms),
        "honest_doubts": float(doubts),
        "min_gross_detection": min(_number(row, "failed_per_task") for row in gross),
        "min_subtle_detection_50": min(_number(row, "found_in_50") for row in subtle),
        "seed": float(SEED),
    }
    return Measurement(figures, RUNS, rows)


def _number(row: dict[str, object], key: str) -> float:
    value = row[key]
    assert isinstance(value, int | float)
    return value


# --- honest work -----------------------------------------------------------------------------------------------------


async def _honest(bench: Bench) -> tuple[list[dict[str, object]], int, int]:
    """Rows, doubts and false alarms of honest answers made in every way that we know of."""
    first = bench.second.models[0]

    async def elsewhere(task: Task) -> Signed:
        return await cheats.honest(bench.second, first, task)

    def continued(by: Engine) -> Callable[[Task], Awaitable[Signed]]:
        async def prove(task: Task) -> Signed:
            whole = await cheats.honest(bench.second, first, task)
            return await cheats.honest(by, bench.model, task, whole.token_ids[: len(whole.token_ids) // 2])

        return prove

    each = HONEST // 5
    ways: list[tuple[str, list[Signed]]] = []
    for number, (name, prove, at_once) in enumerate(
        (
            ("alone, other threads", elsewhere, 1),
            ("8 at once, other threads", elsewhere, 8),
            ("32 at once, other threads", elsewhere, 32),
            ("32 at once, same threads", bench.make, 32),
            ("continued in the middle", continued(bench.true), 8),
        )
    ):
        ways.append((name, await bench.answers(_tasks(each, number), prove, at_once)))
    async with open_engine(["selftest"], EngineSettings(slots=32, threads=1)) as anew:
        asked = _tasks(each // 4, 40)
        restarted = await bench.answers(asked, continued(anew), 8)
    ways.append(("continued after a restart", restarted))
    for number, kind in enumerate(models.PLAIN):
        ways.append((f"plain transformers, {kind}", await _plain(kind, _tasks(PLAIN_ANSWERS, 50 + number))))
    rows, doubts, alarms = [], 0, 0
    suspicion = Suspicion()
    for name, answers in ways:
        found = await bench.judge(answers)
        rows.append(cheats.row(f"honest: {name}", "honest", found, bench.thresholds))
        alarms += sum(verdict.result == "fail" for _, verdict in found)
        doubts += sum(verdict.result == "inconclusive" for _, verdict in found)
        for seen, _ in found:
            suspicion = suspicion.after(seen.tokens, seen.mismatches, bench.thresholds.honest_rate)
            alarms += suspicion.raised
    return rows, doubts, alarms


def _tasks(count: int, number: int, *, greedy: bool = True) -> list[Task]:
    return cheats.tasks(count, SEED * 1_000 + number, WORDS, MAX_TOKENS, greedy=greedy)


async def _plain(kind: str, asked: Sequence[Task]) -> list[Signed]:
    """Answers of transformers' own forward passes, with text and counts as the engine would tell them."""
    return await trio.to_thread.run_sync(_plain_in_a_process, kind, asked)


def _plain_in_a_process(kind: str, asked: Sequence[Task]) -> list[Signed]:
    from transformers import AutoTokenizer

    from cactus_mesh.engine.models import SELFTEST_FOLDER

    tokenizer = AutoTokenizer.from_pretrained(SELFTEST_FOLDER)
    made = []
    with process([sys.executable, "-m", models.__name__, "plain", kind]) as ask:
        for task in asked:
            sampling = {"max_tokens": MAX_TOKENS, "temperature_milli": task.sampling.temperature_milli}
            sampling |= {"top_p_milli": task.sampling.top_p_milli, "top_k": task.sampling.top_k}
            found = ask({"prompt": task.work.prompt, "sampling": sampling, "seed": task.seed.hex()})
            ids = [int(token) for token in found["token_ids"]]
            text = str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
            counted = len(tokenizer(task.work.prompt)["input_ids"])
            finish: FinishReason = "stop" if ids[-1] in tokenizer.all_special_ids else "length"
            made.append(Signed(task, tuple(ids), tuple(found["logprobs"]), text, finish, counted))
    return made


@contextmanager
def process(command: Sequence[str]) -> Iterator[Callable[[object], Any]]:
    """A line of JSON in, one out."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment())
    assert process.stdin is not None
    assert process.stdout is not None
    asking, answering = process.stdin, process.stdout
    answering.readline()

    def ask(question: object) -> Any:
        print(json.dumps(question), file=asking, flush=True)
        return json.loads(answering.readline())

    try:
        yield ask
    finally:
        asking.close()
        process.wait()
        answering.close()


# --- cheats ----------------------------------------------------------------------------------------------------------


async def _cheat(bench: Bench) -> list[dict[str, object]]:
    rows = []
    for number, (name, kind, prove, greedy) in enumerate(_all_cheats(bench)):
        count = ANSWERS * (4 if kind == "subtle" else 1)
        answers = await bench.answers(_tasks(count, 100 + number, greedy=greedy), prove)
        rows.append(cheats.row(name, kind, await bench.judge(answers), bench.thresholds))
    return rows


def _all_cheats(bench: Bench) -> list[tuple[str, str, Callable[[Task], Awaitable[Signed | None]], bool]]:
    """Name, kind, how it is done, and whether also with greedy sampling (a seed means nothing there)."""
    rng = random.Random(SEED)
    old: list[Signed] = []

    def cheap(name: str) -> Callable[[Task], Awaitable[Signed]]:
        engine, model = bench.cheap[name]
        return lambda task: cheats.honest(engine, model, task)

    def forged(name: str) -> Callable[[Task], Awaitable[Signed]]:
        engine, model = bench.cheap[name]

        async def prove(task: Task) -> Signed:
            return await cheats.forged(bench.true, bench.model, await cheats.honest(engine, model, task))

        return prove

    def asked_otherwise(change: Callable[[Task], Task]) -> Callable[[Task], Awaitable[Signed | None]]:
        async def prove(task: Task) -> Signed | None:
            other = replace(await bench.make(change(task)), task=task)
            return await cheats.forged(bench.true, bench.model, other) if await bench.differs(other) else None

        return prove

    def changed(change: Callable[[Signed], Signed | None]) -> Callable[[Task], Awaitable[Signed | None]]:
        async def prove(task: Task) -> Signed | None:
            honest = await bench.make(task)
            made = change(honest)
            harmless = made is None or made.token_ids == honest.token_ids
            return None if made is None or harmless else await cheats.forged(bench.true, bench.model, made)

        return prove

    def unforged(change: Callable[[Signed], Signed]) -> Callable[[Task], Awaitable[Signed]]:
        async def prove(task: Task) -> Signed:
            return change(await bench.make(task))

        return prove

    async def stale(task: Task) -> Signed | None:
        """An answer to the task before."""
        old.append(await bench.make(task))
        other = replace(old[max(0, len(old) - 2)], task=task)
        return await cheats.forged(bench.true, bench.model, other) if await bench.differs(other) else None

    def random_tokens(made: Signed) -> Signed:
        return replace(made, token_ids=tuple(rng.randrange(10, 2_000) for _ in made.token_ids))

    def edited(made: Signed) -> Signed:
        place = rng.randrange(len(made.token_ids))
        other = (made.token_ids[place] + rng.randrange(1, 1_000)) % 2_000
        return replace(made, token_ids=(*made.token_ids[:place], other, *made.token_ids[place + 1 :]))

    def early(made: Signed) -> Signed | None:
        """The end-of-text token half way, where nobody would have chosen it."""
        half = len(made.token_ids) // 2
        return replace(made, token_ids=(*made.token_ids[:half], 1), finish="stop") if half else None

    def padded(made: Signed) -> Signed | None:
        """Goes on after its end, for more pay."""
        if made.finish != "stop" or len(made.token_ids) >= MAX_TOKENS:
            return None
        more = MAX_TOKENS - len(made.token_ids)
        return replace(
            made, token_ids=(*made.token_ids, *(rng.randrange(10, 2_000) for _ in range(more))), finish="length"
        )

    def inflated(made: Signed) -> Signed:
        return replace(made, prompt_tokens=made.prompt_tokens + 50)

    def made_up(made: Signed) -> Signed:
        return replace(made, logprobs=(-0.5,) * len(made.logprobs))

    def half_of(task: Task) -> Task:
        words = task.work.prompt.split()
        return replace(task, work=Generate(" ".join(words[len(words) // 2 :])))

    def other_temperature(task: Task) -> Task:
        return replace(task, sampling=Sampling(max_tokens=MAX_TOKENS, temperature_milli=500))

    own_seed = asked_otherwise(lambda task: replace(task, seed=rng.randbytes(32)))
    return [
        ("bf16", "gross", cheap("bf16"), True),
        ("int8", "gross", cheap("int8"), True),
        ("int4", "gross", cheap("int4"), True),
        ("another model, all else forged", "gross", forged("other"), True),
        ("fine-tuned model", "gross", cheap("tuned"), True),
        ("a layer dropped", "gross", cheap("dropped"), True),
        ("half of the prompt, all else forged", "gross", asked_otherwise(half_of), True),
        ("another temperature, all else forged", "gross", asked_otherwise(other_temperature), False),
        ("own seed, all else forged", "gross", own_seed, False),
        ("copied from another node, all else forged", "gross", own_seed, False),
        ("random tokens, all else forged", "gross", changed(random_tokens), True),
        ("an old answer, all else forged", "gross", stale, True),
        ("one token edited, all else forged", "gross", changed(edited), True),
        ("early end, all else forged", "gross", changed(early), True),
        ("padded after its end, all else forged", "gross", changed(padded), True),
        ("prompt tokens inflated", "gross", unforged(inflated), True),
        ("logprobs made up", "gross", unforged(made_up), True),
        ("a layer dropped, all else forged", "subtle", forged("dropped"), True),
        ("int4, all else forged", "subtle", forged("int4"), True),
        ("fine-tuned, all else forged", "subtle", forged("tuned"), True),
        ("bf16, all else forged", "subtle", forged("bf16"), True),
        ("int8, all else forged", "subtle", forged("int8"), True),
    ]  # fmt: skip
