"""What every `Engine` keeps to: run against the fake and against a real worker with the self-test model."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import trio
from msgspec import structs

from cactus_mesh.errors import BadParameters, Busy, CannotContinue, PromptTooLong, UnknownModel
from cactus_mesh.messages import Chat, ChatMessage, Generate, Sampling
from cactus_mesh.ports import EngineFinish, EngineTokens
from tests.engine.conftest import SLOTS

if TYPE_CHECKING:
    from cactus_mesh.messages import Work
    from cactus_mesh.ports import Engine, EngineEvent
    from tests.engine.conftest import Run

QUESTION = Chat([ChatMessage("user", "What is a router?")])
SEED = bytes(range(32))
ENDLESS = Sampling(max_tokens=900, temperature_milli=5000)
"""Too hot to come to an end soon."""


@dataclass
class Made:
    token_ids: list[int]
    logprobs: list[float]
    text: str
    finish: EngineFinish


def made_of(events: list[EngineEvent]) -> Made:
    *tokens, finish = events
    assert isinstance(finish, EngineFinish)
    assert all(isinstance(event, EngineTokens) for event in tokens)
    ids = [token for event in tokens for token in event.token_ids]
    logprobs = [logprob for event in tokens for logprob in event.logprobs]
    assert len(ids) == len(logprobs)
    return Made(ids, logprobs, "".join(event.text for event in tokens), finish)


async def make(engine: Engine, work: Work = QUESTION, sampling: Sampling | None = None, model: int = 0) -> Made:
    digest = engine.models[model].digest
    async with engine.generate(digest, work, sampling or Sampling(max_tokens=64), SEED) as events:
        return made_of([event async for event in events])


async def go_on(engine: Engine, whole: Made, cut: int, sampling: Sampling | None = None) -> Made:
    """What follows the first *cut* tokens of *whole*, which it repeats."""
    sampling = sampling or Sampling(max_tokens=64)
    before = whole.token_ids[:cut]
    async with engine.generate(engine.models[0].digest, QUESTION, sampling, SEED, before) as events:
        found = [event async for event in events]
    given = 0
    for event in found:
        if isinstance(event, EngineTokens):
            assert given >= cut or given + len(event.token_ids) <= cut, "no event has both old tokens and new ones"
            given += len(event.token_ids)
    return made_of(found)


@pytest.mark.parametrize("sampling", [Sampling(max_tokens=24), Sampling(max_tokens=24, temperature_milli=900)])
def test_another_engines_beginning_is_continued_as_if_it_were_its_own(run: Run[None], sampling: Sampling) -> None:
    async def scenario(engine: Engine) -> None:
        whole = await make(engine, sampling=sampling)
        for cut in {1, 2, len(whole.token_ids) // 2, len(whole.token_ids) - 1, len(whole.token_ids)}:
            made = await go_on(engine, whole, cut, sampling)
            assert (made.token_ids, made.text, made.finish.finish) == (
                whole.token_ids,
                whole.text,
                whole.finish.finish,
            )
            assert made.logprobs == pytest.approx(whole.logprobs, abs=1e-4)
            assert made.finish.prompt_tokens == whole.finish.prompt_tokens

    run(scenario)


@pytest.mark.parametrize("stop", [[], ["a", "zzz zzz"]])
def test_a_generation_that_is_stopped_ends_with_what_it_has_made(run: Run[None], stop: list[str]) -> None:
    async def scenario(engine: Engine) -> None:
        digest, sampling = engine.models[0].digest, structs.replace(ENDLESS, stop=stop)
        async with engine.generate(digest, QUESTION, sampling, SEED) as events:
            first = await anext(events)
            events.stop()
            made = made_of([first, *[event async for event in events]])
            events.stop()
        assert made.finish.finish in ("cancelled", "stop_string" if stop else "cancelled")
        assert 1 <= len(made.token_ids) < 900
        assert made.finish.compute_ms >= 1
        found = await engine.replay(digest, QUESTION, sampling, SEED, made.token_ids)
        assert (found.text, found.prompt_tokens) == (made.text, made.finish.prompt_tokens)
        assert found.finish == (None if made.finish.finish == "cancelled" else made.finish.finish)

    run(scenario)


@pytest.mark.parametrize("place", [0, 3])
def test_a_beginning_that_it_would_not_have_made_is_refused(run: Run[None], place: int) -> None:
    async def scenario(engine: Engine) -> None:
        whole = await make(engine)
        for wrong in (whole.token_ids[place] + 1, 2**32 - 1):
            forged = Made([*whole.token_ids], [], "", whole.finish)
            forged.token_ids[place] = wrong
            with pytest.raises(CannotContinue):
                await go_on(engine, forged, 6)
        with pytest.raises(CannotContinue):
            await go_on(engine, Made([7] * 65, [], "", whole.finish), 65)
        over = Made([*whole.token_ids, 7], [], "", whole.finish)
        with pytest.raises(CannotContinue):
            await go_on(engine, over, len(over.token_ids))
        assert (await make(engine)).token_ids == whole.token_ids

    run(scenario)


def refusal(
    run: Run[Exception], work: Work = QUESTION, sampling: Sampling | None = None, **changes: bytes
) -> Exception:
    """The error that entering raises."""

    async def scenario(engine: Engine) -> Exception:
        digest, seed = changes.get("digest", engine.models[0].digest), changes.get("seed", SEED)
        with pytest.raises((BadParameters, PromptTooLong, UnknownModel)) as caught:
            async with engine.generate(digest, work, sampling or Sampling(max_tokens=4), seed):
                pytest.fail("it was admitted")
        await make(engine, sampling=Sampling(max_tokens=1))  # and it took no slot and broke nothing
        return caught.value

    return run(scenario)


def test_it_names_itself_and_its_models(run: Run[None]) -> None:
    async def scenario(engine: Engine) -> None:
        assert 0 < len(engine.name) <= 200
        assert engine.slots == SLOTS
        for model in engine.models:
            assert len(model.digest) == 32
            assert model.context_tokens > 0
            assert "generate" in model.kinds

    run(scenario)


def test_an_answer_that_ends_by_itself_has_its_end_among_the_token_ids(run: Run[Made]) -> None:
    made = run(make)
    assert made.finish.finish == "stop"
    assert made.text.endswith(".")
    assert len(made.token_ids) > 10
    assert made.finish.prompt_tokens > 0
    assert made.finish.compute_ms > 0
    assert all(logprob <= 0 for logprob in made.logprobs)


def test_the_same_request_gives_the_same_answer(run: Run[list[Made]]) -> None:
    async def scenario(engine: Engine) -> list[Made]:
        return [await make(engine, sampling=Sampling(max_tokens=20, temperature_milli=900)) for _ in range(2)]

    first, second = run(scenario)
    assert (first.token_ids, first.logprobs, first.text) == (second.token_ids, second.logprobs, second.text)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_max_tokens_ends_it_by_length(run: Run[Made], count: int) -> None:
    made = run(lambda engine: make(engine, sampling=Sampling(max_tokens=count)))
    assert (len(made.token_ids), made.finish.finish) == (count, "length")


def test_a_stop_string_ends_it_and_is_cut_from_the_text_but_not_from_the_ids(run: Run[tuple[Made, Made]]) -> None:
    async def scenario(engine: Engine) -> tuple[Made, Made]:
        whole = await make(engine)
        stop = whole.text[10:14]
        return whole, await make(engine, sampling=Sampling(max_tokens=64, stop=["never", stop]))

    whole, cut = run(scenario)
    assert cut.finish.finish == "stop_string"
    assert cut.text == whole.text[: whole.text.index(whole.text[10:14])]
    assert cut.token_ids == whole.token_ids[: len(cut.token_ids)]
    assert len(cut.token_ids) < len(whole.token_ids)


def test_text_that_only_began_like_a_stop_string_is_not_lost(run: Run[tuple[Made, Made]]) -> None:
    async def scenario(engine: Engine) -> tuple[Made, Made]:
        whole = await make(engine)
        return whole, await make(engine, sampling=Sampling(max_tokens=64, stop=[whole.text[-9:] + " and more"]))

    whole, other = run(scenario)
    assert (other.text, other.finish.finish) == (whole.text, "stop")


def test_the_iterator_ends_after_the_finish(run: Run[None]) -> None:
    async def scenario(engine: Engine) -> None:
        async with engine.generate(engine.models[0].digest, QUESTION, Sampling(max_tokens=2), SEED) as events:
            assert len([event async for event in events]) == 3
            with pytest.raises(StopAsyncIteration):
                await anext(events)

    run(scenario)


def test_beyond_its_slots_it_is_busy_and_leaving_a_block_frees_the_slot(run: Run[None]) -> None:
    async def scenario(engine: Engine) -> None:
        for _ in range(3):
            async with AsyncExitStack() as stack:
                for _ in range(engine.slots):  # admitted within moments, long before the first comes to its end
                    await stack.enter_async_context(engine.generate(engine.models[0].digest, QUESTION, ENDLESS, SEED))
                with pytest.raises(Busy):
                    await make(engine)
        assert (await make(engine)).finish.finish == "stop"

    run(scenario)


def test_a_finished_generation_gives_its_slot_back_inside_its_block(run: Run[None]) -> None:
    async def scenario(engine: Engine) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(engine.slots):
                nursery.start_soon(finish_and_make_another, engine)

    async def finish_and_make_another(engine: Engine) -> None:
        async with engine.generate(engine.models[0].digest, QUESTION, Sampling(max_tokens=1), SEED) as events:
            assert len([event async for event in events]) == 2
            await make(engine)

    run(scenario)


def test_a_cancelled_reader_frees_its_slot(run: Run[None]) -> None:
    async def scenario(engine: Engine) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(engine.slots):
                nursery.start_soon(read_until_cancelled, engine)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        await make(engine)

    async def read_until_cancelled(engine: Engine) -> None:
        async with engine.generate(engine.models[0].digest, QUESTION, Sampling(max_tokens=900), SEED) as events:
            async for _ in events:
                pass
            await trio.sleep_forever()

    run(scenario)


def test_another_model_is_unknown(run: Run[Exception]) -> None:
    error = refusal(run, digest=bytes(32))
    assert isinstance(error, UnknownModel)
    assert "there are: " in error.message


def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers(run: Run[Exception]) -> None:
    error = refusal(run, Generate("word " * 5_000))
    assert isinstance(error, PromptTooLong)
    context = run(context_of)
    assert f"takes {context}" in error.message
    assert "the prompt has 500" in error.message or "the prompt has 1" in error.message


async def context_of(engine: Engine) -> int:
    return engine.models[0].context_tokens


def test_max_tokens_that_do_not_fit_beside_the_prompt_are_refused_with_the_most_that_do(run: Run[Exception]) -> None:
    error = refusal(run, sampling=Sampling(max_tokens=16_000))
    assert isinstance(error, PromptTooLong)
    assert "max_tokens can be at most" in error.message
    most = int(error.message.rsplit(" ", 1)[1])

    async def scenario(engine: Engine) -> None:
        digest = engine.models[0].digest
        async with engine.generate(digest, QUESTION, Sampling(max_tokens=most), SEED):
            pass
        with pytest.raises(PromptTooLong):
            async with engine.generate(digest, QUESTION, Sampling(max_tokens=most + 1), SEED):
                pytest.fail("it was admitted")

    run(scenario)


@pytest.mark.parametrize(
    "work",
    [
        Generate("x" * 200_001),
        Generate("\ud800"),
        Chat([]),
        Chat([ChatMessage("tool", "hello")]),
        Chat([ChatMessage("user", "hi")] * 257),
    ],
    ids=["too many characters", "half a character", "no message", "unknown role", "too many messages"],
)
def test_work_outside_the_protocols_bounds_is_refused(run: Run[Exception], work: Work) -> None:
    assert isinstance(refusal(run, work), BadParameters)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_tokens=0),
        Sampling(max_tokens=1, temperature_milli=-1),
        Sampling(max_tokens=1, top_p_milli=0),
        Sampling(max_tokens=1, top_k=-1),
        Sampling(max_tokens=1, stop=[""]),
        Sampling(max_tokens=1, stop=["x"] * 9),
    ],
    ids=repr,
)
def test_sampling_outside_the_protocols_bounds_is_refused(run: Run[Exception], sampling: Sampling) -> None:
    assert isinstance(refusal(run, sampling=sampling), BadParameters)


def test_a_seed_of_another_length_is_refused(run: Run[Exception]) -> None:
    assert isinstance(refusal(run, seed=b"short"), BadParameters)
