"""A replay bears out every honest answer to the token, and nothing else: fake engine and real worker alike."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest

from cactus_mesh.errors import BadParameters, UnknownModel
from cactus_mesh.messages import Constraint, Generate, Sampling
from tests.engine.test_port import QUESTION, SEED, made_of, make

if TYPE_CHECKING:
    from cactus_mesh.messages import Work
    from cactus_mesh.ports import Engine, Replay
    from tests.engine.conftest import EngineThread, Run
    from tests.engine.test_port import Made

SAMPLINGS = (
    Sampling(max_tokens=24),
    Sampling(max_tokens=24, temperature_milli=900),
    Sampling(max_tokens=24, temperature_milli=1_500, top_p_milli=900, top_k=50),
    Sampling(max_tokens=3),
    Sampling(max_tokens=1, temperature_milli=900),
    Sampling(max_tokens=24, stop=["a"]),
)
LONG = Generate("The river keeps an old letter under the winter road and asks the morning why. " * 3)
PLAIN = (
    *SAMPLINGS[:3],
    Sampling(max_tokens=24, temperature_milli=1_500, min_p_milli=50, repetition_milli=1_200, frequency_milli=300),
)


async def replay(engine: Engine, token_ids: list[int], sampling: Sampling, work: Work = QUESTION, n: int = 0) -> Replay:
    return await engine.replay(engine.models[n].digest, work, sampling, SEED, token_ids)


def bears_out(made: Made, found: Replay) -> bool:
    assert found.logprobs == pytest.approx(made.logprobs, abs=1e-4)
    same = (found.text, found.finish, found.prompt_tokens) == (made.text, made.finish.finish, made.finish.prompt_tokens)
    return same and max(found.gaps) < 1e-3


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_an_honest_answer_is_borne_out(run: Run[None], sampling: Sampling) -> None:
    async def scenario(engine: Engine) -> None:
        made = await make(engine, sampling=sampling)
        assert bears_out(made, await replay(engine, made.token_ids, sampling))

    run(scenario)


@pytest.mark.parametrize("sampling", PLAIN, ids=str)
@pytest.mark.parametrize("model", range(1, 9))
def test_every_family_bears_out_its_own_answers(real: EngineThread, model: int, sampling: Sampling) -> None:
    async def scenario(engine: Engine) -> None:
        made = await make(engine, LONG, sampling, model)
        found = await replay(engine, made.token_ids, sampling, LONG, model)
        assert found.gaps == pytest.approx([0.0] * len(made.token_ids), abs=1e-3)
        assert bears_out(made, found)

    real.run(scenario)


def test_an_edited_token_stands_out_and_those_before_it_do_not(run: Run[None]) -> None:
    async def scenario(engine: Engine) -> None:
        sampling = Sampling(max_tokens=12)
        made = await make(engine, sampling=sampling)
        edited = [*made.token_ids[:5], made.token_ids[5] + 7, *made.token_ids[6:]]
        found = await replay(engine, edited, sampling)
        assert max(found.gaps[:5]) < 1e-3
        assert found.gaps[5] > 1e-3

    run(scenario)


def test_an_answer_that_stops_short_does_not_end(run: Run[None]) -> None:
    async def scenario(engine: Engine) -> None:
        made = await make(engine)
        found = await replay(engine, made.token_ids[:-1], Sampling(max_tokens=64))
        assert found.finish is None
        assert made.text.startswith(found.text)

    run(scenario)


def test_an_answer_that_goes_on_after_its_end_has_none(run: Run[None]) -> None:
    async def scenario(engine: Engine) -> None:
        made = await make(engine)
        assert made.finish.finish == "stop"
        found = await replay(engine, [*made.token_ids, *made.token_ids[:2]], Sampling(max_tokens=64))
        assert found.finish is None
        assert min(found.gaps[-2:]) > 1

    run(scenario)


def test_the_answer_to_another_question_is_not_borne_out(run: Run[None]) -> None:
    async def scenario(engine: Engine) -> None:
        sampling = Sampling(max_tokens=24, temperature_milli=900)
        made = await make(engine, LONG, sampling)
        found = await replay(engine, made.token_ids, sampling)
        assert found.prompt_tokens != made.finish.prompt_tokens

    run(scenario)


def test_a_forged_early_end_is_far_from_being_chosen(real: EngineThread) -> None:
    async def scenario(engine: Engine) -> None:
        made = await make(engine)
        end = made.token_ids[-1]
        found = await replay(engine, [*made.token_ids[:4], end], Sampling(max_tokens=64))
        assert found.finish == "stop"
        assert found.gaps[-1] > 1
        assert found.logprobs[-1] < -1

    real.run(scenario)


def test_ids_that_are_no_tokens_of_the_model_are_found_out_in_their_places(real: EngineThread) -> None:
    async def scenario(engine: Engine) -> None:
        sampling = Sampling(max_tokens=24, frequency_milli=100)
        made = await make(engine, sampling=sampling)
        found = await replay(engine, [*made.token_ids[:3], 2**32 - 1, *made.token_ids[4:]], sampling)
        assert (found.gaps[3], found.logprobs[3]) == (math.inf, -math.inf)
        assert max(found.gaps[:3]) < 1e-3

    real.run(scenario)


def test_what_leaves_its_constraint_is_infinitely_far(real: EngineThread) -> None:
    async def scenario(engine: Engine) -> None:
        sampling = Sampling(
            max_tokens=24, temperature_milli=1_000, constraint=Constraint("regex", "(cat|dog) [0-9]{3}")
        )
        made = await make(engine, LONG, sampling)
        assert bears_out(made, await replay(engine, made.token_ids, sampling, LONG))
        free = await make(engine, LONG, Sampling(max_tokens=8))
        assert math.inf in (await replay(engine, free.token_ids, sampling, LONG)).gaps

    real.run(scenario)


def test_replays_and_generations_go_on_beside_each_other(real: EngineThread) -> None:
    async def scenario(engine: Engine) -> None:
        sampling = Sampling(max_tokens=24, temperature_milli=900)
        made = await make(engine, LONG, sampling)
        async with engine.generate(engine.models[0].digest, LONG, sampling, SEED) as events:
            first = await anext(events)
            found = await replay(engine, made.token_ids, sampling, LONG)
            again = made_of([first, *[event async for event in events]])
        assert bears_out(made, found)
        assert again.token_ids == made.token_ids

    real.run(scenario)


@pytest.mark.parametrize("token_ids", [[], [1] * 25, [-1]])
def test_what_is_no_answer_is_refused(run: Run[None], token_ids: list[int]) -> None:
    async def scenario(engine: Engine) -> None:
        with pytest.raises(BadParameters):
            await replay(engine, token_ids, Sampling(max_tokens=24))

    run(scenario)


def test_an_unknown_model_is_refused(run: Run[None]) -> None:
    async def scenario(engine: Engine) -> None:
        with pytest.raises(UnknownModel):
            await engine.replay(bytes(32), QUESTION, Sampling(max_tokens=24), SEED, [1])

    run(scenario)
