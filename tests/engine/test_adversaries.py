"""Cheats against the real engine's audit, each with everything else forged that one true pass can forge.

``python -m benchmarks audit`` has the longer list, with cheaper models, and says how often each is found.
"""

from __future__ import annotations

import dataclasses
import random
from typing import TYPE_CHECKING

import msgspec
import pytest

from cactus_mesh.calibration import SHIPPED
from cactus_mesh.core.audit import compare, finding_of, judge
from cactus_mesh.core.receipts import pack_logprobs
from cactus_mesh.core.thresholds import read_table
from cactus_mesh.messages import Generate, Sampling, text_digest
from tests.engine.test_port import made_of
from tests.samples import bodies

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from cactus_mesh.core.audit import Judgement
    from cactus_mesh.ports import Engine
    from tests.engine.conftest import EngineThread
    from tests.engine.test_port import Made

    Cheat = Callable[[Engine, "Task"], Awaitable[Made]]

TRUE, OTHER = 1, 4
"""Places of the claimed model and of another one among those of the fixture."""
LENGTH = 24
TABLE = read_table(SHIPPED.read_bytes(), "thresholds.json")
RNG = random.Random(5)


@dataclasses.dataclass(frozen=True)
class Task:
    prompt: str
    sampling: Sampling
    seed: bytes


TASKS = [
    Task(f"Question {number}: why does the river keep an old letter under the road?", sampling, bytes([number]) * 32)
    for number, sampling in enumerate(
        [Sampling(max_tokens=LENGTH, temperature_milli=1_000), Sampling(max_tokens=LENGTH, temperature_milli=700)] * 2
    )
]


async def answer(engine: Engine, task: Task, model: int = TRUE) -> Made:
    digest = engine.models[model].digest
    async with engine.generate(digest, Generate(task.prompt), task.sampling, task.seed) as events:
        return made_of([event async for event in events])


async def verdict(engine: Engine, task: Task, claimed: Made, *, forge: bool) -> Judgement:
    model = engine.models[TRUE]
    replay = await engine.replay(model.digest, Generate(task.prompt), task.sampling, task.seed, claimed.token_ids)
    receipt = msgspec.structs.replace(
        bodies()["receipt"],
        token_ids=claimed.token_ids,
        logprobs=pack_logprobs(replay.logprobs if forge else claimed.logprobs),
        text_hash=text_digest(replay.text if forge else claimed.text),
        finish=claimed.finish.finish,
        prompt_tokens=replay.prompt_tokens if forge else claimed.finish.prompt_tokens,
    )
    thresholds = TABLE.find(model.digest, model.dtype, "cpu")
    return judge(compare(receipt, finding_of(bytes(32), replay, engine.name), thresholds), thresholds)


def with_tokens(made: Made, token_ids: list[int], finish: str | None = None) -> Made:
    ended = dataclasses.replace(made.finish, finish=finish or made.finish.finish)
    return dataclasses.replace(made, token_ids=token_ids, finish=ended)


async def another_model(engine: Engine, task: Task) -> Made:
    return await answer(engine, task, OTHER)


async def half_of_the_prompt(engine: Engine, task: Task) -> Made:
    return await answer(engine, dataclasses.replace(task, prompt=task.prompt[len(task.prompt) // 2 :]))


async def another_temperature(engine: Engine, task: Task) -> Made:
    return await answer(engine, dataclasses.replace(task, sampling=Sampling(max_tokens=LENGTH, temperature_milli=300)))


async def its_own_seed(engine: Engine, task: Task) -> Made:
    return await answer(engine, dataclasses.replace(task, seed=b"x" * 32))


async def an_old_answer(engine: Engine, task: Task) -> Made:
    return await answer(engine, dataclasses.replace(task, prompt="An earlier question", seed=b"y" * 32))


async def random_tokens(engine: Engine, task: Task) -> Made:
    return with_tokens(await answer(engine, task), [RNG.randrange(5, 2_000) for _ in range(LENGTH)])


async def one_token_edited(engine: Engine, task: Task) -> Made:
    made, place = await answer(engine, task), RNG.randrange(LENGTH)
    edited = [*made.token_ids[:place], (made.token_ids[place] + 7) % 2_000, *made.token_ids[place + 1 :]]
    return with_tokens(made, edited)


async def an_early_end(engine: Engine, task: Task) -> Made:
    made = await answer(engine, task)
    return with_tokens(made, [*made.token_ids[:6], 1], "stop")


async def an_end_without_its_token(engine: Engine, task: Task) -> Made:
    made = await answer(engine, task)
    return with_tokens(made, made.token_ids[:6], "stop")


async def more_after_the_end(engine: Engine, task: Task) -> Made:
    made = await answer(engine, task)
    return with_tokens(made, [*made.token_ids[:6], 1, *made.token_ids[7:]])


async def prompt_tokens_inflated(engine: Engine, task: Task) -> Made:
    made = await answer(engine, task)
    return dataclasses.replace(
        made, finish=dataclasses.replace(made.finish, prompt_tokens=made.finish.prompt_tokens + 9)
    )


async def logprobs_made_up(engine: Engine, task: Task) -> Made:
    made = await answer(engine, task)
    return dataclasses.replace(made, logprobs=[-0.5] * LENGTH)


async def another_text(engine: Engine, task: Task) -> Made:
    return dataclasses.replace(await answer(engine, task), text="Buy now.")


FORGED = [
    *(another_model, half_of_the_prompt, another_temperature, its_own_seed, an_old_answer, random_tokens),
    *(one_token_edited, an_early_end, an_end_without_its_token, more_after_the_end),
]
PLAIN = [prompt_tokens_inflated, logprobs_made_up, another_text]


@pytest.mark.parametrize("cheat", FORGED, ids=lambda cheat: cheat.__name__)
def test_a_cheat_that_forges_all_the_rest_fails_its_first_audit(real: EngineThread, cheat: Cheat) -> None:
    async def scenario(engine: Engine) -> None:
        for task in TASKS:
            assert (await verdict(engine, task, await cheat(engine, task), forge=True)).result == "fail"

    real.run(scenario)


@pytest.mark.parametrize("cheat", PLAIN, ids=lambda cheat: cheat.__name__)
def test_a_false_statement_about_true_tokens_fails_its_first_audit(real: EngineThread, cheat: Cheat) -> None:
    async def scenario(engine: Engine) -> None:
        for task in TASKS:
            assert (await verdict(engine, task, await cheat(engine, task), forge=False)).result == "fail"

    real.run(scenario)


@pytest.mark.parametrize("forge", [False, True])
def test_honest_answers_pass(real: EngineThread, forge: bool) -> None:
    async def scenario(engine: Engine) -> None:
        for task in TASKS:
            assert (await verdict(engine, task, await answer(engine, task), forge=forge)).result == "pass"

    real.run(scenario)
