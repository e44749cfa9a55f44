"""OpenAI's API as this gateway speaks it: shapes, streams, headers, and what is refused by name."""

from __future__ import annotations

import base64
import json
import struct

import pytest
import trio

from cactus_mesh.config import ClientConfig
from cactus_mesh.testing.engine import FAKE_TEXT, FakeEngine
from tests.gateway.conftest import EMBEDDER, VECTORS, ask, open_site, open_wire, until


def events(text):
    """The data of each server-sent event."""
    return [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]


async def test_a_chat_is_answered_with_who_did_it_and_what_it_costs(site):
    reply = await site.chat()
    body = reply.json()
    assert reply.status_code == 200
    assert body["choices"][0]["message"] == {"role": "assistant", "content": FAKE_TEXT, "refusal": None}
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"] == {"prompt_tokens": 4, "completion_tokens": 16, "total_tokens": 20}
    assert body["cactus"]["receipt_verified"] is True
    assert reply.headers["x-cactus-task-id"] == body["cactus"]["task_id"]
    assert reply.headers["x-cactus-orchestrator"] == body["cactus"]["orchestrator"]
    assert int(reply.headers["x-cactus-price-octas"]) == body["cactus"]["price_octas"] <= 100_000
    assert 0 <= float(reply.headers["x-cactus-overhead-ms"]) < 10_000


async def test_a_stream_is_made_of_chunks_and_ends_with_its_usage(site):
    reply = await site.chat(stream=True, stream_options={"include_usage": True})
    *chunks, done = events(reply.text)
    chunks = [json.loads(chunk) for chunk in chunks]
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert done == "[DONE]"
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(each["delta"].get("content", "") for chunk in chunks for each in chunk["choices"]) == FAKE_TEXT
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-2]["cactus"]["receipt_verified"] is True
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 16


async def test_a_stream_begins_before_the_answer_is_whole():
    async with open_site(FakeEngine(delay_seconds=0.1)) as site, open_wire(site) as wire:
        await wire.post(ask(stream=True))
        await wire.hear(b"cactus")
        assert site.engine.running == 1


async def test_a_text_is_continued(site):
    reply = await site.http.post("/v1/completions", json={"model": "fake", "prompt": "go", "max_tokens": 3})
    (choice,) = reply.json()["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("A cactus keeps", "length")
    reply = await site.http.post("/v1/completions", json={"model": "fake", "prompt": ["go"], "stream": True})
    texts = [json.loads(each)["choices"][0]["text"] for each in events(reply.text)[:-1]]
    assert "".join(texts) == FAKE_TEXT


async def test_the_models_of_the_mesh_are_listed_with_their_prices(site):
    (model,) = (await site.http.get("/v1/models")).json()["data"]
    assert (model["id"], model["object"]) == ("fake", "model")
    assert model["cactus"]["price_octas"] == {"base": 1_000, "input_per_1k": 2_000, "output_per_1k": 10_000}
    assert (await site.http.get("/v1/models/fake")).json() == model
    assert (await site.http.get("/v1/models/some/other")).status_code == 404


@pytest.mark.parametrize(
    ("param", "changes"),
    [
        ("tools", {"tools": [{"type": "function", "function": {"name": "f"}}]}),
        ("tool_choice", {"tool_choice": "required"}),
        ("n", {"n": 2}),
        ("logit_bias", {"logit_bias": {"1": 5}}),
        ("seed", {"seed": 7}),
        ("store", {"store": True}),
        ("audio", {"audio": {"voice": "x"}}),
        ("frobnicate", {"frobnicate": 1}),
        ("response_format", {"response_format": {"type": "xml"}}),
        ("messages[0].role", {"messages": [{"role": "tool", "content": "x", "tool_call_id": "y"}]}),
        ("messages[0].tool_calls", {"messages": [{"role": "assistant", "content": "x", "tool_calls": [{"id": "y"}]}]}),
        ("messages[0].name", {"messages": [{"role": "user", "content": "x", "name": "Ann"}]}),
        (
            "messages[0].content[0]",
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        ),
    ],
    ids=str,
)
async def test_what_the_mesh_cannot_honour_is_refused_by_name(site, param, changes):
    reply = await site.chat(**changes)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (400, "gateway.unsupported", param)
    assert repr(param) in error["message"]
    assert site.engine.started == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"n": 1, "logprobs": False, "tools": [], "tool_choice": "none", "logit_bias": {}, "user": "u", "store": False},
        {"seed": 7, "temperature": 0},
        {"top_logprobs": None, "response_format": {"type": "text"}, "stream_options": None},
        {"max_completion_tokens": 5, "top_p": 1, "frequency_penalty": 0, "presence_penalty": 0.0},
        {
            "messages": [
                {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
            ]
        },
    ],
    ids=str,
)
async def test_what_changes_nothing_or_can_be_honoured_is_taken(site, changes):
    assert (await site.chat(**changes)).status_code == 200


@pytest.mark.parametrize(
    ("param", "changes"),
    [
        ("model", {"model": None}),
        ("model", {"model": 7}),
        ("messages", {"messages": []}),
        ("messages", {"messages": "hi"}),
        ("messages[0]", {"messages": ["hi"]}),
        ("messages[0].content", {"messages": [{"role": "user"}]}),
        ("max_tokens", {"max_tokens": "many"}),
        ("max_tokens", {"max_tokens": True}),
        ("temperature", {"temperature": "hot"}),
        ("stream", {"stream": "yes"}),
        ("stop", {"stop": [1]}),
        ("model_digest", {"model_digest": "abc"}),
    ],
    ids=str,
)
async def test_what_is_malformed_is_named(site, param, changes):
    reply = await site.chat(**changes)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (400, "gateway.request_malformed", param)


async def test_out_of_bounds_is_the_callers_fault(site):
    reply = await site.chat(temperature=9)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "task.bad_parameters")
    assert reply.headers["x-should-retry"] == "false"


async def test_a_vector_comes_for_each_text():
    async with open_site(FakeEngine(VECTORS, model=EMBEDDER)) as site:
        body = {"model": "embedder", "input": ["one", "two"]}
        reply = (await site.http.post("/v1/embeddings", json=body)).json()
        assert [each["embedding"] for each in reply["data"]] == json.loads(VECTORS)
        assert reply["usage"] == {"prompt_tokens": 2, "total_tokens": 2}
        assert reply["cactus"]["receipt_verified"] is True
        reply = (await site.http.post("/v1/embeddings", json={**body, "encoding_format": "base64"})).json()
        assert struct.unpack("<2f", base64.b64decode(reply["data"][0]["embedding"])) == pytest.approx((0.6, -0.8))


@pytest.mark.parametrize(
    ("param", "changes"),
    [("input", {"input": [[1, 2]]}), ("dimensions", {"dimensions": 1}), ("encoding_format", {"encoding_format": "x"})],
    ids=str,
)
async def test_what_no_embedding_can_honour_is_refused_by_name(site, param, changes):
    reply = await site.http.post("/v1/embeddings", json={"model": "embedder", "input": "one", **changes})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


async def test_vectors_that_are_none_are_the_peers_fault():
    for text in ("[[0.5]]", "nothing", '[["a"], ["b"]]', "[[1e300], [1e300]]"):
        async with open_site(FakeEngine(text, model=EMBEDDER)) as site:
            body = {"model": "embedder", "input": ["one", "two"], "encoding_format": "base64"}
            reply = await site.http.post("/v1/embeddings", json=body)
            assert (reply.status_code, reply.json()["error"]["code"]) == (502, "receipt.rejected")


async def test_a_model_that_chats_makes_no_vectors(site):
    reply = await site.http.post("/v1/embeddings", json={"model": "fake", "input": "x"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "task.unknown_model")


async def test_an_unknown_model_is_not_found_and_the_known_ones_are_told(site):
    reply = await site.chat(model="gpt-4o")
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "task.unknown_model")
    assert "fake" in reply.json()["error"]["message"]


async def test_an_unknown_path_names_those_that_there_are(site):
    reply = await site.http.get("/v1/assistants")
    assert reply.status_code == 404
    assert "/v1/chat/completions" in reply.json()["error"]["message"]
    assert (await site.http.get("/v1/chat/completions")).status_code == 404


async def test_a_full_mesh_says_when_to_come_back():
    async with open_site(FakeEngine(slots=1, delay_seconds=30)) as site, trio.open_nursery() as nursery:
        nursery.start_soon(site.chat)
        await site.busy()
        reply = await site.chat()
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "task.busy")
        assert int(reply.headers["retry-after"]) >= 1
        nursery.cancel_scope.cancel()


async def test_a_cap_or_an_empty_deposit_asks_for_money_and_not_for_patience():
    async with open_site(client_config=ClientConfig(cap_per_task=10)) as site:
        reply = await site.chat()
        assert (reply.status_code, reply.json()["error"]["code"]) == (402, "budget.exceeded")
        assert "retry-after" not in reply.headers
    async with open_site(deposit=0) as site:
        assert (await site.chat()).status_code == 402


async def test_a_failure_in_the_middle_of_a_stream_is_told_in_the_stream():
    async with open_site(FakeEngine(fail_after=3)) as site:
        reply = await site.chat(stream=True)
        error = json.loads(events(reply.text)[-1])["error"]
        assert reply.status_code == 200
        assert error["code"] in ("task.engine_failed", "task.orchestrator_lost")
        assert error["type"] == "server_error"


async def test_a_deadline_is_a_gateway_timeout():
    async with open_site(FakeEngine(delay_seconds=30)) as site:
        reply = await site.chat(deadline_seconds=0.5)
        assert (reply.status_code, reply.json()["error"]["code"]) == (504, "task.deadline_passed")


async def test_the_same_idempotency_key_is_never_paid_twice(site):
    headers = {"idempotency-key": "order-1"}
    first = await site.http.post("/v1/chat/completions", json=ask(), headers=headers)
    again = await site.http.post("/v1/chat/completions", json=ask(), headers=headers)
    assert (first.status_code, again.status_code) == (200, 409)
    assert again.json()["error"]["code"] == "task.duplicate"
    assert site.engine.started == 1


async def test_it_is_alive_ready_and_counted(site):
    await site.chat()
    await site.chat(n=2)
    assert (await site.http.get("/healthz")).json() == {"status": "ok"}
    assert (await site.http.get("/readyz")).json() == {"status": "ready", "models": 1}
    text = (await site.http.get("/metrics")).text
    assert 'cactus_mesh_gateway_requests_total{route="/v1/chat/completions",status="200"} 1.0' in text
    assert 'cactus_mesh_gateway_errors_total{code="gateway.unsupported"} 1.0' in text
    assert 'cactus_mesh_gateway_tokens_total{kind="completion"} 16.0' in text
    assert "cactus_mesh_gateway_tasks_running 0.0" in text


async def test_who_hangs_up_in_the_middle_of_a_stream_has_paid_for_what_was_made():
    async with open_site(FakeEngine(delay_seconds=0.05)) as site:
        async with open_wire(site) as wire:
            await wire.post(ask(stream=True))
            await wire.hear(b'" cactus"')
        await site.idle()
        spent = []

        async def counted() -> bool:
            text = (await site.http.get("/metrics")).text
            spent[:] = [line.split()[1] for line in text.splitlines() if "price_octas_total" in line and line[0] != "#"]
            return float(spent[0]) > 0

        await until(counted)
        assert float(spent[0]) == site.client.spent_today() > 0


async def test_a_path_of_a_clients_making_is_no_label(site):
    await site.http.get("/evil/path")
    assert "evil" not in (await site.http.get("/metrics")).text


async def test_without_a_model_it_is_alive_but_not_ready():
    async with open_site() as site:
        site.world.mesh.kill(site.client.network.peers()[0].peer)

        async def unready() -> bool:
            return (await site.http.get("/readyz")).status_code == 503

        await until(unready)
        reply = await site.http.get("/readyz")
        assert reply.headers["retry-after"] == "2"
        assert (await site.http.get("/healthz")).status_code == 200
