"""The official OpenAI client for Python, unmodified, at the gateway: what its users do and what they catch."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import openai
import pytest
import trio

from cactus_mesh.config import ClientConfig, GatewayConfig
from cactus_mesh.gateway.keys import add_key
from cactus_mesh.testing.engine import FAKE_TEXT, FakeEngine
from tests.gateway.conftest import EMBEDDER, VECTORS, open_site

HELLO = [{"role": "user", "content": "What is a router?"}]


@asynccontextmanager
async def open_openai(engine=None, *, key="none", timeout=20.0, retries=0, **changes):
    """A site, and a function that runs another with the official client in a thread."""
    async with open_site(engine, **changes) as site:

        def run(function):
            client = openai.OpenAI(base_url=f"{site.url}/v1", api_key=key, timeout=timeout, max_retries=retries)
            with client:
                return function(client)

        async def ask(function):
            with trio.fail_after(60):
                return await trio.to_thread.run_sync(run, function)

        yield site, ask


def chat(client, **changes):
    return client.chat.completions.create(**{"model": "fake", "messages": HELLO, **changes})


async def test_a_chat_has_its_text_its_usage_and_its_receipts_task():
    async with open_openai() as (_, ask):
        answer = await ask(chat)
    assert answer.choices[0].message.content == FAKE_TEXT
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == 20
    assert answer._request_id == answer.cactus["task_id"]


async def test_a_stream_has_the_same_text_and_its_usage_at_the_end():
    async with open_openai() as (_, ask):
        chunks = await ask(lambda client: list(chat(client, stream=True, stream_options={"include_usage": True})))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == FAKE_TEXT
    assert chunks[-1].usage.completion_tokens == 16
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)


async def test_the_streaming_helper_puts_the_answer_together():
    def helped(client):
        with client.chat.completions.stream(model="fake", messages=HELLO) as stream:
            return stream.get_final_completion()

    async with open_openai() as (_, ask):
        assert (await ask(helped)).choices[0].message.content == FAKE_TEXT


async def test_a_completion_continues_a_text():
    def complete(client):
        return client.completions.create(model="fake", prompt="go", max_tokens=3)

    async with open_openai() as (_, ask):
        answer = await ask(complete)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("A cactus keeps", "length")


async def test_log_probabilities_are_parsed_whole_streamed_and_put_together():
    wanted = {"logprobs": True, "top_logprobs": 3}

    def several(client):
        chunks = [chunk.choices[0].logprobs for chunk in chat(client, stream=True, **wanted) if chunk.choices]
        with client.chat.completions.stream(model="fake", messages=HELLO, **wanted) as stream:
            helped = stream.get_final_completion()
        return chat(client, **wanted), [each for told in chunks if told for each in told.content], helped

    async with open_openai() as (_, ask):
        whole, streamed, helped = await ask(several)
    told = whole.choices[0].logprobs.content
    assert "".join(each.token for each in told) == bytes(b for each in told for b in each.bytes).decode() == FAKE_TEXT
    assert [(len(each.top_logprobs), each.logprob) for each in told] == [(3, -0.5)] * 15
    assert [each.model_dump() for each in told] == [each.model_dump() for each in streamed]
    assert [each.model_dump() for each in told] == [each.model_dump() for each in helped.choices[0].logprobs.content]


async def test_log_probabilities_of_a_response_are_parsed_whole_and_put_together():
    wanted = {"model": "fake", "input": "go", "include": ["message.output_text.logprobs"], "top_logprobs": 2}

    def both(client):
        with client.responses.stream(**wanted) as stream:
            list(stream)
            return client.responses.create(**wanted), stream.get_final_response()

    async with open_openai() as (_, ask):
        found = [answer.output[0].content[0].logprobs for answer in await ask(both)]
    assert "".join(each.token for each in found[0]) == FAKE_TEXT
    assert [[each.model_dump() for each in told] for told in found] == [[each.model_dump() for each in found[0]]] * 2


async def test_log_probabilities_of_a_plain_text_are_parsed():
    def complete(client):
        return client.completions.create(model="fake", prompt="go", max_tokens=3, logprobs=2)

    async with open_openai() as (_, ask):
        told = (await ask(complete)).choices[0].logprobs
    assert (told.tokens, told.token_logprobs, told.text_offset) == (["A", " cactus", " keeps"], [-0.5] * 3, [0, 1, 8])
    assert told.top_logprobs[0] == {"A": -0.5, "<end>": -2.5}


async def test_the_models_are_listed_and_one_is_looked_up():
    async with open_openai() as (_, ask):
        assert [model.id for model in await ask(lambda client: list(client.models.list()))] == ["fake"]
        assert (await ask(lambda client: client.models.retrieve("fake"))).owned_by == "cactus-mesh"
        with pytest.raises(openai.NotFoundError):
            await ask(lambda client: client.models.retrieve("gpt-4o"))


TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


@pytest.mark.parametrize(
    ("param", "changes"),
    [("tools", {"tools": [TOOL]}), ("n", {"n": 2}), ("logit_bias", {"logit_bias": {"1": 5}}), ("seed", {"seed": 1})],
)
async def test_what_the_mesh_cannot_do_is_a_bad_request_that_names_it(param, changes):
    async with open_openai() as (_, ask):
        with pytest.raises(openai.BadRequestError) as caught:
            await ask(lambda client: chat(client, **changes))
    assert (caught.value.code, caught.value.param) == ("gateway.unsupported", param)


async def test_a_response_comes_whole_and_as_events():
    def stream(client):
        with client.responses.stream(model="fake", input="What is a router?") as events:
            kinds = [event.type for event in events]
            return kinds, events.get_final_response()

    def whole(client):
        return client.responses.create(model="fake", input="go", instructions="Be brief", max_output_tokens=3)

    async with open_openai() as (_, ask):
        kinds, final = await ask(stream)
        short = await ask(whole)
        with pytest.raises(openai.BadRequestError) as caught:
            await ask(lambda client: client.responses.create(model="fake", input="go", previous_response_id="resp_1"))
    assert (kinds[0], kinds[-1]) == ("response.created", "response.completed")
    assert (final.output_text, final.status, final.usage.output_tokens) == (FAKE_TEXT, "completed", 16)
    assert (short.output_text, short.status, short.incomplete_details.reason) == (
        "A cactus keeps",
        "incomplete",
        "max_output_tokens",
    )
    assert caught.value.param == "previous_response_id"


async def test_a_response_that_breaks_raises_where_it_breaks():
    async with open_openai(FakeEngine(fail_after=3)) as (_, ask):
        with pytest.raises(openai.APIError) as caught:
            await ask(lambda client: list(client.responses.create(model="fake", input="go", stream=True)))
    assert caught.value.code in ("task.engine_failed", "task.orchestrator_lost")


async def test_embeddings_come_as_lists_of_numbers():
    async with open_openai(FakeEngine(VECTORS, model=EMBEDDER)) as (_, ask):
        answer = await ask(lambda client: client.embeddings.create(model="embedder", input=["one", "two"]))
    assert [each.embedding for each in answer.data] == [pytest.approx([0.6, -0.8]), [1.0, 0.0]]
    assert answer.usage.prompt_tokens == 2


async def test_keys_are_what_the_client_takes_them_for(tmp_path):
    path = tmp_path / "keys.json"
    key = add_key(path, "laptop")
    async with open_openai(key=key, keys_file=path) as (_, ask):
        assert (await ask(chat)).choices
    async with open_openai(key="sk-wrong", keys_file=path) as (_, ask):
        with pytest.raises(openai.AuthenticationError) as caught:
            await ask(chat)
    assert caught.value.code == "gateway.key_rejected"


@pytest.mark.parametrize(
    ("kind", "code", "changes"),
    [
        (openai.NotFoundError, "task.unknown_model", {"model": "gpt-4o"}),
        (openai.BadRequestError, "task.bad_parameters", {"temperature": 9.0}),
        (openai.BadRequestError, "task.prompt_too_long", {"messages": [{"role": "user", "content": "x" * 200_001}]}),
        (openai.APIStatusError, "task.price_too_low", {"extra_body": {"max_price": 1}}),
        (openai.InternalServerError, "task.deadline_passed", {"extra_body": {"deadline_seconds": 0.2}}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_an_error_is_of_the_clients_class_with_our_code(kind, code, changes):
    async with open_openai(FakeEngine(delay_seconds=0.1)) as (_, ask):
        with pytest.raises(kind) as caught:
            await ask(lambda client: chat(client, **changes))
    assert caught.value.code == code


async def test_a_cap_is_told_once_and_not_tried_again():
    async with open_openai(client_config=ClientConfig(cap_per_task=10), retries=3) as (site, ask):
        with pytest.raises(openai.APIStatusError) as caught:
            await ask(chat)
        text = (await site.http.get("/metrics")).text
    assert (caught.value.status_code, caught.value.code) == (402, "budget.exceeded")
    assert 'requests_total{route="/v1/chat/completions",status="402"} 1.0' in text


async def test_a_limit_is_a_rate_limit_error_and_the_client_comes_back_by_itself():
    engine = FakeEngine(delay_seconds=0.03)
    limits = GatewayConfig(port=0, tasks_at_once=1)
    async with open_openai(engine, config=limits) as (site, ask), trio.open_nursery() as nursery:
        nursery.start_soon(ask, chat)
        await site.busy()
        with pytest.raises(openai.RateLimitError) as caught:
            await ask(chat)
    assert caught.value.response.headers["retry-after"] == "1"
    async with open_openai(engine, config=limits, retries=3) as (site, ask), trio.open_nursery() as nursery:
        nursery.start_soon(ask, chat)
        await site.busy()
        assert (await ask(chat)).choices


async def test_a_stream_that_breaks_raises_where_it_breaks():
    async with open_openai(FakeEngine(fail_after=3)) as (_, ask):
        with pytest.raises(openai.APIError) as caught:
            await ask(lambda client: list(chat(client, stream=True)))
    assert caught.value.code in ("task.engine_failed", "task.orchestrator_lost")


async def test_closing_a_stream_cancels_its_task():
    def begin_and_close(client):
        with chat(client, stream=True) as stream:
            next(iter(stream))

    async with open_openai(FakeEngine(delay_seconds=0.3)) as (site, ask):
        await ask(begin_and_close)
        await site.idle()
        assert site.engine.started == 1


async def test_a_timeout_of_the_client_cancels_its_task():
    async with open_openai(FakeEngine(delay_seconds=5), timeout=0.5) as (site, ask):
        with pytest.raises(openai.APITimeoutError):
            await ask(chat)
        await site.idle()


async def test_the_asynchronous_client_streams_side_by_side():
    async def several(url):
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:

            async def one():
                stream = await client.chat.completions.create(model="fake", messages=HELLO, stream=True)
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

            return await asyncio.gather(*[one() for _ in range(8)])

    async with open_openai() as (site, _):
        texts = await trio.to_thread.run_sync(lambda: asyncio.run(several(site.url)))
    assert texts == [FAKE_TEXT] * 8
