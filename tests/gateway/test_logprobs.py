"""Log-probabilities in OpenAI's shapes: whole and streamed, of chats and of plain texts, whatever their bytes."""

from __future__ import annotations

import json
import math
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cactus_mesh.core.likelihoods import likelihood_of, read_likelihood
from cactus_mesh.gateway.logprobs import Tokens
from cactus_mesh.testing.engine import FAKE_TEXT
from tests.gateway.test_api import events

WORDS = [FAKE_TEXT.split(" ")[0], *(f" {word}" for word in FAKE_TEXT.split(" ")[1:])]
END = {"token": "<end>", "logprob": -2.5, "bytes": None}


def choices_of(reply):
    assert reply.status_code == 200
    return [choice for event in events(reply.text)[:-1] for choice in json.loads(event)["choices"]]


async def test_a_chat_lists_the_tokens_of_its_text_with_the_likeliest(site):
    (choice,) = (await site.chat(logprobs=True, top_logprobs=2)).json()["choices"]
    content = choice["logprobs"]["content"]
    assert choice["logprobs"]["refusal"] is None
    assert [each["token"] for each in content] == WORDS
    assert bytes(byte for each in content for byte in each["bytes"]).decode() == choice["message"]["content"]
    cactus = {"token": " cactus", "logprob": -0.5, "bytes": list(b" cactus")}
    assert content[1] == {**cactus, "top_logprobs": [cactus, END]}


async def test_a_stream_has_each_token_beside_its_text(site):
    whole = (await site.chat(logprobs=True, top_logprobs=3)).json()["choices"][0]["logprobs"]["content"]
    choices = choices_of(await site.chat(logprobs=True, top_logprobs=3, stream=True))
    told = [each for choice in choices if choice["logprobs"] for each in choice["logprobs"]["content"]]
    assert told == whole
    for choice in choices:
        tokens = "".join(each["token"] for each in choice["logprobs"]["content"]) if choice["logprobs"] else ""
        assert choice["delta"].get("content", "") == tokens


@pytest.mark.parametrize("changes", [{}, {"logprobs": False}, {"logprobs": None, "top_logprobs": 0}], ids=str)
async def test_who_does_not_ask_gets_null(site, changes):
    assert (await site.chat(**changes)).json()["choices"][0]["logprobs"] is None
    assert {choice["logprobs"] for choice in choices_of(await site.chat(stream=True, **changes))} == {None}


@pytest.mark.parametrize("changes", [{"top_logprobs": 0}, {}, {"top_logprobs": None}], ids=str)
async def test_the_tokens_own_come_without_others_too(site, changes):
    (choice,) = (await site.chat(logprobs=True, **changes)).json()["choices"]
    assert {len(each["top_logprobs"]) for each in choice["logprobs"]["content"]} == {0}


@pytest.mark.parametrize("stream", [False, True])
async def test_what_belongs_to_a_stop_string_is_not_listed(site, stream):
    reply = await site.chat(logprobs=True, stop=["its water"], stream=stream)
    choices = choices_of(reply) if stream else reply.json()["choices"]
    told = [each["token"] for choice in choices if choice["logprobs"] for each in choice["logprobs"]["content"]]
    assert told == ["A", " cactus", " keeps", " its"]  # whose space is the text's


async def test_a_plain_text_has_its_own_shape(site):
    body = {"model": "fake", "prompt": "go", "logprobs": 2, "max_tokens": 3}
    (choice,) = (await site.http.post("/v1/completions", json=body)).json()["choices"]
    assert choice["logprobs"] == {
        "tokens": WORDS[:3],
        "token_logprobs": [-0.5] * 3,
        "top_logprobs": [{word: -0.5, "<end>": -2.5} for word in WORDS[:3]],
        "text_offset": [0, 1, 8],
    }
    streamed = choices_of(await site.http.post("/v1/completions", json={**body, "stream": True}))
    told = [choice["logprobs"] for choice in streamed if choice["logprobs"]]
    assert {name: [*chain(*(each[name] for each in told))] for name in told[0]} == choice["logprobs"]


async def test_a_plain_text_may_have_just_its_own_tokens_or_none(site):
    for wanted, told in ((0, [{"A": -0.5}]), (False, None), (None, None)):
        body = {"model": "fake", "prompt": "go", "logprobs": wanted, "max_tokens": 1}
        (choice,) = (await site.http.post("/v1/completions", json=body)).json()["choices"]
        assert (choice["logprobs"] and choice["logprobs"]["top_logprobs"]) == told


@pytest.mark.parametrize(
    ("param", "changes"),
    [
        ("top_logprobs", {"top_logprobs": 3}),
        ("top_logprobs", {"logprobs": False, "top_logprobs": 1}),
        ("top_logprobs", {"logprobs": True, "top_logprobs": 21}),
        ("top_logprobs", {"logprobs": True, "top_logprobs": -1}),
        ("top_logprobs", {"logprobs": True, "top_logprobs": True}),
        ("top_logprobs", {"logprobs": True, "top_logprobs": "5"}),
        ("top_logprobs", {"logprobs": True, "top_logprobs": 2.0}),
        ("logprobs", {"logprobs": 3}),
        ("logprobs", {"logprobs": "yes"}),
    ],
    ids=str,
)
async def test_what_makes_no_sense_is_refused_by_name(site, param, changes):
    reply = await site.chat(**changes)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (400, "gateway.request_malformed", param)
    assert site.engine.started == 0


@pytest.mark.parametrize("wanted", [True, -1, 21, 2.0, "3", [1], 10**30])
async def test_a_plain_text_takes_a_number_only(site, wanted):
    body = {"model": "fake", "prompt": "go", "logprobs": wanted}
    error = (await site.http.post("/v1/completions", json=body)).json()["error"]
    assert (error["code"], error["param"]) == ("gateway.request_malformed", "logprobs")


INCLUDED = {"model": "fake", "input": "go", "include": ["message.output_text.logprobs"], "top_logprobs": 2}


async def test_a_response_has_them_in_its_part_and_in_its_events(site):
    whole = (await site.http.post("/v1/responses", json=INCLUDED)).json()["output"][0]["content"][0]["logprobs"]
    assert [each["token"] for each in whole] == WORDS
    assert whole[0]["top_logprobs"][1] == {**END, "bytes": []}
    reply = await site.http.post("/v1/responses", json={**INCLUDED, "stream": True})
    told = [json.loads(each) for each in events(reply.text)]
    deltas = [each for each in told if each["type"] == "response.output_text.delta"]
    assert [*chain(*(each["logprobs"] for each in deltas))] == whole
    assert [each["logprobs"] for each in told if each["type"] == "response.output_text.done"] == [whole]
    assert told[-1]["response"]["output"][0]["content"][0]["logprobs"] == whole


@pytest.mark.parametrize(
    ("param", "changes"),
    [
        ("include", {"include": ["reasoning.encrypted_content"]}),
        ("include", {"include": "message.output_text.logprobs"}),
        ("top_logprobs", {"include": []}),
        ("top_logprobs", {"top_logprobs": 21}),
        ("logprobs", {"logprobs": True}),
    ],
    ids=str,
)
async def test_what_a_response_cannot_have_is_refused_by_name(site, param, changes):
    reply = await site.http.post("/v1/responses", json={**INCLUDED, **changes})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


async def test_texts_that_are_read_have_none(site):
    body = {"model": "fake", "input": "a", "logprobs": True}
    error = (await site.http.post("/v1/embeddings", json=body)).json()["error"]
    assert (error["code"], error["param"]) == ("gateway.unsupported", "logprobs")


async def test_the_numbers_are_those_of_the_receipt_and_none_is_above_zero(site):
    reply = await site.chat(logprobs=True, top_logprobs=20)
    for each in reply.json()["choices"][0]["logprobs"]["content"]:
        assert each["logprob"] == -0.5
        assert sum(math.exp(other["logprob"]) for other in each["top_logprobs"]) <= 1
        assert len(each["top_logprobs"]) == 20


# --- pieces ------------------------------------------------------------------------------------------------------


def token(data, special=False):
    return read_likelihood(likelihood_of([1], [-0.5], [(data, special)]), -0.5)


def test_half_a_character_is_listed_by_its_bytes():
    cactus = "\U0001f335".encode()
    tokens = [token(b"a"), token(cactus[:2]), token(cactus[2:]), token(b"b"), token(b"<end>", special=True)]
    chat = Tokens(True, cut=False).whole("a\U0001f335b", tokens, "stop")
    assert [each["token"] for each in chat["content"]] == ["a", "\\xf0\\x9f", "\\x8c\\xb5", "b"]
    assert bytes(byte for each in chat["content"] for byte in each["bytes"]).decode() == "a\U0001f335b"
    plain = Tokens(False, cut=False).whole("a\U0001f335b", tokens, "stop")
    assert plain["tokens"] == ["a", "bytes:\\xf0\\x9f", "bytes:\\x8c\\xb5", "b"]
    assert plain["text_offset"] == [0, 1, 1, 2]


@given(st.text(max_size=20), st.lists(st.integers(1, 4), max_size=60), st.integers(0, 80), st.booleans(), st.booleans())
def test_streamed_or_whole_the_listed_tokens_are_those_that_the_text_consists_of(text, sizes, seen, cut, chat):
    """The text comes later than its tokens, or ends before them."""
    data, tokens = text.encode(), []
    for size in sizes:
        tokens += [token(data[:size])] if data else []
        data = data[size:]
    tokens += [token(data), token(b"<end>", special=True)] if data else []
    kept = text[: seen % (len(text) + 1)] if cut else text
    finish = "stop_string" if cut else "stop"
    whole = Tokens(chat, cut=cut).whole(kept, tokens, finish)
    one_by_one = Tokens(chat, cut=cut)
    found = [one_by_one.take(kept[at : at + 1], tokens[at : at + 1]) for at in range(len(kept))]
    found += [one_by_one.take("", tokens[len(kept) :]), one_by_one.end(finish)]
    for name in whole:
        if whole[name] is not None:
            assert [*chain(*(each[name] for each in found if each))] == whole[name]
    listed = whole["content"] if chat else whole["tokens"]
    starts = [sum(len(each.data) for each in tokens[:at]) for at, each in enumerate(tokens) if each.data is not None]
    assert len(listed) == (sum(start < len(kept.encode()) for start in starts) if cut else len(starts))
