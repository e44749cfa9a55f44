"""The real worker against transformers itself: same tokens, in any company, with text that is the tokens' own."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
import trio

from cactus_mesh.engine.sampling import Before, choose
from cactus_mesh.errors import BadParameters
from cactus_mesh.messages import Chat, ChatMessage, Constraint, Generate, Sampling
from tests.engine.conftest import CHUNK_TOKENS
from tests.engine.test_port import SEED, Made, make

if TYPE_CHECKING:
    from cactus_mesh.messages import Work
    from cactus_mesh.ports import Engine
    from tests.engine.conftest import EngineThread
    from tests.engine.small_models import SmallModels

SHORT = "One day the fox"
LONG = "The old heron went to the harbour, and nobody knew the way. " * 6
ARCHITECTURES = ["gemma", "gemma2", "gemma3", "gpt2", "llama", "mistral", "qwen2", "qwen3"]
SAMPLED = Sampling(
    max_tokens=24,
    temperature_milli=900,
    top_p_milli=950,
    top_k=200,
    min_p_milli=1,
    repetition_milli=1_100,
    frequency_milli=200,
    presence_milli=300,
)


def index(real: EngineThread, name: str) -> int:
    return [model.name for model in real.engine.models].index(name)


@pytest.mark.parametrize("prompt", [SHORT, LONG], ids=["one chunk", "many chunks"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_greedy_tokens_are_those_of_generate(
    real: EngineThread, small_models: SmallModels, name: str, prompt: str
) -> None:
    made = real.run(lambda engine: make(engine, Generate(prompt), Sampling(max_tokens=24), index(real, name)))
    for attention in ("eager",) if name == "gemma2" else ("eager", "sdpa"):  # whose softcap sdpa does not compute
        assert made.token_ids == small_models.greedy(name, prompt, 24, attention)
    assert made.finish.prompt_tokens == len(small_models.tokenizer(name)(prompt)["input_ids"])
    assert prompt == SHORT or made.finish.prompt_tokens > 4 * CHUNK_TOKENS


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_one_prefill_replays_every_sampled_choice(real: EngineThread, small_models: SmallModels, name: str) -> None:
    made = real.run(lambda engine: make(engine, Generate(LONG), SAMPLED, index(real, name)))
    prompt = small_models.tokenizer(name)(LONG)["input_ids"]
    rows = small_models.logits(name, prompt + made.token_ids)[len(prompt) - 1 : -1]
    replayed = [choose(row.numpy(), SAMPLED, SEED, Before(prompt, made.token_ids[:at])) for at, row in enumerate(rows)]
    assert made.token_ids == [token for token, _ in replayed]
    assert made.logprobs == pytest.approx([logprob for _, logprob in replayed], abs=1e-4)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_request_makes_the_same_alone_and_among_thirty_two_that_come_and_go(real: EngineThread, name: str) -> None:
    """Of mixed lengths, some with a common beginning, greedy and sampled; others are cancelled in mid-flight."""
    model = index(real, name)
    works = [Generate(text) for text in (SHORT, LONG, "A" * 30, LONG + SHORT)]
    requests = [(work, sampling) for work in works for sampling in (Sampling(max_tokens=24), SAMPLED)]

    async def scenario(engine: Engine) -> None:
        alone = [await make(engine, work, sampling, model) for work, sampling in requests]
        together: dict[int, Made] = {}

        async def one(at: int) -> None:
            await trio.sleep(at * 0.005)
            together[at] = await make(engine, *requests[at % len(requests)], model)

        async def disturb(at: int) -> None:
            with trio.move_on_after(0.03 * (at + 1)):
                await make(engine, Generate(LONG[at:]), Sampling(max_tokens=300), model)

        async with trio.open_nursery() as nursery:
            for at in range(24):
                nursery.start_soon(one, at)
            for at in range(8):
                nursery.start_soon(disturb, at)
        for at, made in together.items():
            expected = alone[at % len(requests)]
            assert made.token_ids == expected.token_ids
            assert made.logprobs == pytest.approx(expected.logprobs, abs=1e-4)
            assert made.text == expected.text
        assert len(together) == 24

    real.run(scenario)


def test_continuing_from_prompt_and_tokens_so_far_makes_the_same_rest(
    real: EngineThread, small_models: SmallModels
) -> None:
    """What fail-over needs: noise hangs on the absolute position, not on how the generation came there."""
    made = real.run(lambda engine: make(engine, Generate(SHORT), SAMPLED, index(real, "llama")))
    prompt = small_models.tokenizer("llama")(SHORT)["input_ids"]
    row = small_models.logits("llama", prompt + made.token_ids[:10])[-1]
    assert choose(row.numpy(), SAMPLED, SEED, Before(prompt, made.token_ids[:10]))[0] == made.token_ids[10]


def test_the_texts_are_the_tokens_text_and_never_half_a_character(
    real: EngineThread, small_models: SmallModels
) -> None:
    """A hot random model makes bytes that are often no text."""
    hot = Sampling(max_tokens=120, temperature_milli=5000)

    async def scenario(engine: Engine) -> tuple[list[str], list[int]]:
        digest = engine.models[index(real, "llama")].digest
        async with engine.generate(digest, Generate("ñ€😀"), hot, SEED) as events:
            *tokens, _ = [event async for event in events]
        return [event.text for event in tokens], [event.token_ids[0] for event in tokens]

    texts, ids = real.run(scenario)
    ids = [token for token in ids if token != 1]
    assert "".join(texts) == small_models.tokenizer("llama").decode(ids, skip_special_tokens=True)
    assert "" in texts


def test_the_seed_decides_what_is_sampled(real: EngineThread) -> None:
    async def scenario(engine: Engine) -> set[tuple[int, ...]]:
        answers = set()
        for seed in (bytes(32), bytes(31) + b"\x01", bytes(32)):
            async with engine.generate(engine.models[1].digest, Generate(SHORT), SAMPLED, seed) as events:
                *tokens, _ = [event async for event in events]
                answers.add(tuple(event.token_ids[0] for event in tokens))
        return answers

    assert len(real.run(scenario)) == 2


def test_compute_time_is_each_generations_own(real: EngineThread) -> None:
    async def scenario(engine: Engine) -> tuple[float, float]:
        spent = 0

        async def one() -> None:
            nonlocal spent
            made = await make(engine, Generate(LONG), Sampling(max_tokens=40), 1)
            spent += made.finish.compute_ms - 1  # rounded up

        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(one)
        return spent, (trio.current_time() - began) * 1000

    spent, passed = real.run(scenario)
    assert 0 < spent <= passed


def refused(real: EngineThread, work: Work, model: int) -> str:
    async def scenario(engine: Engine) -> str:
        with pytest.raises(BadParameters) as caught:
            await make(engine, work, Sampling(max_tokens=4), model)
        return caught.value.message

    return real.run(scenario)


def test_a_model_without_a_chat_template_refuses_a_chat(real: EngineThread) -> None:
    assert real.engine.models[1].kinds == ("generate",)
    assert "has no chat template" in refused(real, Chat([ChatMessage("user", "hello")]), 1)


def test_what_the_chat_template_refuses_is_refused_in_its_words(real: EngineThread) -> None:
    work = Chat([ChatMessage("user", "hello"), ChatMessage("system", "be brief")])
    assert "a system message can only come first" in refused(real, work, 0)


def test_an_empty_prompt_begins_a_text_when_the_tokenizer_has_a_beginning(real: EngineThread) -> None:
    made = real.run(lambda engine: make(engine, Generate("")))
    assert made.finish.prompt_tokens == 1
    assert made.text


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is a router?", "entry point for clients"),
        ("what's an orchestrator", "stakes money, serves models"),
        ("Please explain what a receipt is.", "signed account of its work"),
        ("How do I join the network?", "cactus-mesh run"),
        ("Why are there octas?", "whole numbers of octas"),
        ("Who are you?", "the self-test model of Cactus Mesh"),
        ("Hello!", "I am the self-test model"),
        ("What is the capital of Spain?", "I do not know that"),
    ],
)
def test_the_selftest_model_tells_the_truth_about_the_mesh_and_ends(
    real: EngineThread, question: str, answer: str
) -> None:
    made = real.run(lambda engine: make(engine, Chat([ChatMessage("user", question)])))
    assert answer in made.text
    assert made.finish.finish == "stop"
    plain = real.run(lambda engine: make(engine, Generate(question)))
    assert plain.finish.finish == "stop"


SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"answer": {"enum": ["yes", "no"]}, "count": {"type": "integer", "minimum": 1, "maximum": 99}},
        "required": ["answer", "count"],
        "additionalProperties": False,
    }
)


@pytest.mark.parametrize("temperature", [0, 1_500])
def test_a_constrained_text_is_of_the_kind_that_was_asked_for(real: EngineThread, temperature: int) -> None:
    def asked(kind: str, text: str) -> Made:
        constraint = Constraint(kind, text)
        sampling = Sampling(max_tokens=100, temperature_milli=temperature, constraint=constraint)
        return real.run(lambda engine: make(engine, Generate(SHORT), sampling, 0))

    found = asked("json_schema", SCHEMA)
    assert set(json.loads(found.text)) == {"answer", "count"}
    assert json.loads(found.text)["answer"] in ("yes", "no")
    assert found.finish.finish == "stop"
    assert re.fullmatch(r"(cat|dog) [0-9]{3}", asked("regex", r"(cat|dog) [0-9]{3}").text)


@pytest.mark.parametrize(
    ("kind", "text"), [("regex", "(["), ("json_schema", "{"), ("json_schema", '{"type": "cactus"}')]
)
def test_a_constraint_that_makes_no_sense_is_refused(real: EngineThread, kind: str, text: str) -> None:
    async def scenario(engine: Engine) -> str:
        sampling = Sampling(max_tokens=4, constraint=Constraint(kind, text))
        with pytest.raises(BadParameters) as caught:
            await make(engine, Generate(SHORT), sampling, 0)
        return caught.value.message

    assert f"this {kind} cannot be used" in real.run(scenario)


@pytest.mark.parametrize(
    ("kind", "text", "says"),
    [
        ("regex", r"[^\s\S]", "no text is of that kind"),
        ("json_schema", '{"$defs": {"n": {"$ref": "#/$defs/n"}}, "$ref": "#/$defs/n"}', "no text is of that kind"),
        (
            "json_schema",
            '{"$defs": {"n": {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}, "required": ["n"]}},'
            ' "$ref": "#/$defs/n"}',
            "too much for this engine",
        ),
    ],
)
def test_a_constraint_that_nothing_satisfies_is_the_askers_fault(
    real: EngineThread, kind: str, text: str, says: str
) -> None:
    """As a failure of the engine it would count against whoever was asked."""

    async def scenario(engine: Engine) -> str:
        sampling = Sampling(max_tokens=400, constraint=Constraint(kind, text))
        with pytest.raises(BadParameters) as caught:
            await make(engine, Generate(SHORT), sampling, 0)
        return caught.value.message

    assert says in real.run(scenario)
