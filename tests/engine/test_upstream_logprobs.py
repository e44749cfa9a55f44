"""Log-probabilities of a server behind our port: asked for in its words, taken over, and never made up."""

from __future__ import annotations

import json

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from cactus_mesh.core.likelihoods import fault_in, read_likelihood
from cactus_mesh.engine.sse import Piece, Told
from cactus_mesh.engine.upstream import open_upstream
from cactus_mesh.engine.upstream_answers import ToldAnswer
from cactus_mesh.engine.upstream_requests import body_of
from cactus_mesh.errors import BadParameters, EngineFailed
from cactus_mesh.messages import Chat, ChatMessage, Generate, Sampling
from cactus_mesh.ports import EngineFinish, EngineTokens
from tests.engine.test_port import SEED
from tests.engine.test_upstream import transformers_server  # noqa: F401 - a fixture
from tests.engine.upstream_server import Script, event, open_server

CHAT = Chat([ChatMessage("user", "go")])
TOLD = Sampling(max_tokens=9, top_logprobs=2)
USAGE = b'data: {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}\n\n'


def said(text, *tokens, finish=None):
    """A chat's event; each of *tokens* with its log-probability and alternatives."""
    content = [
        {"token": token, "bytes": list(token.encode()), "logprob": number}
        | {"top_logprobs": [{"token": each, "bytes": list(each.encode()), "logprob": likely} for each, likely in top]}
        for token, number, top in tokens
    ]
    choice = {"delta": {"content": text}, "finish_reason": finish, "logprobs": {"content": content}}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


A = ("One", -0.5, [("One", -0.5), ("A", -1.5)])
B = (" two", -1.0, [(" one", -0.75), (" two", -1.0)])
ANSWER = [said("One", A), said(" two", B), event("", "stop"), USAGE, b"data: [DONE]\n\n"]


async def events_of(engine, work, sampling=TOLD):
    async with engine.generate(engine.models[0].digest, work, sampling, SEED) as events:
        return [each async for each in events]


async def answered(parts, sampling=TOLD, work=CHAT):
    script = Script(parts=parts)
    with trio.fail_after(20):
        async with open_server(script) as url, open_upstream(["tiny"], url) as engine:
            *tokens, finish = await events_of(engine, work, sampling)
    assert isinstance(finish, EngineFinish)
    for each in tokens:
        assert fault_in(each.likelihoods, each.token_ids, sampling) is None
    found = [read_likelihood(*pair) for each in tokens for pair in zip(each.likelihoods, each.logprobs, strict=True)]
    return "".join(each.text for each in tokens), found, finish.finish, script.asked[0]


async def test_a_chats_are_asked_for_and_taken_over() -> None:
    text, tokens, finish, asked = await answered(ANSWER)
    assert (asked["logprobs"], asked["top_logprobs"]) == (True, 2)
    assert (text, finish) == ("One two", "stop")
    assert [(token.token, token.logprob) for token in tokens] == [("One", -0.5), (" two", -1.0)]
    assert [[each.token for each in token.top] for token in tokens] == [["One", "A"], [" one", " two"]]
    assert tokens[0].token_id == tokens[0].top[0].token_id != tokens[0].top[1].token_id


async def test_a_plain_texts_have_another_shape() -> None:
    told = {"tokens": ["bytes:\\xf0\\x9f", "bytes:\\x8c\\xb5"], "token_logprobs": [-0.25, -0.125]}
    told["top_logprobs"] = [{"bytes:\\xf0\\x9f": -0.25, "A": -2.0}, {"bytes:\\x8c\\xb5": -0.125}]
    choice = {"text": "\U0001f335", "logprobs": told}
    parts = [b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n", event("", "stop"), b"data: [DONE]\n\n"]
    text, tokens, _, asked = await answered(parts, work=Generate("go"))
    assert (text, asked["logprobs"], "top_logprobs" in asked) == ("\U0001f335", 2, False)
    assert b"".join(token.data for token in tokens).decode() == text
    assert [[each.logprob for each in token.top] for token in tokens] == [[-0.25, -2.0], [-0.125]]


def test_who_does_not_ask_changes_nothing_in_the_request() -> None:
    assert not {"logprobs", "top_logprobs"} & set(body_of("m", CHAT, Sampling(max_tokens=1), SEED))
    own = body_of("m", CHAT, Sampling(max_tokens=1, top_logprobs=0), SEED)
    assert (own["logprobs"], "top_logprobs" in own) == (True, False)


@pytest.mark.parametrize("sampling", [TOLD, Sampling(max_tokens=9, top_logprobs=0)], ids=["some", "own"])
async def test_a_server_that_gives_none_is_refused_by_name_before_its_first_token(sampling) -> None:
    with pytest.raises(BadParameters, match="gives no log-probabilities; leave out top_logprobs"):
        await answered([event("One"), event("", "stop")], sampling)


LESS = {
    "stops giving them": [said("One", A), event(" two"), event("", "stop")],
    "gives fewer than it counts": [said("One", A), said("", B, finish="length")],
    "gives one without a number": [said("One", A), said(" two", (" two", None, [])), event("", "stop")],
    "has nothing to give": [event("", "stop"), b"data: [DONE]\n\n"],
}


@pytest.mark.parametrize("parts", LESS.values(), ids=LESS)
async def test_none_is_made_up(parts) -> None:
    with pytest.raises(EngineFailed, match="does not say how likely"):
        await answered(parts)


async def test_more_tokens_than_were_asked_for_are_not_passed_on() -> None:
    with pytest.raises(EngineFailed, match="more than it was asked for"):
        await answered([said("One two", A, B)], Sampling(max_tokens=1, top_logprobs=0))


async def test_several_tokens_in_one_piece_each_count() -> None:
    text, tokens, finish, _ = await answered(
        [said("One two", A, B), *ANSWER[2:]], Sampling(max_tokens=2, top_logprobs=1)
    )
    assert (text, len(tokens), finish) == ("One two", 2, "length")
    assert [[each.token for each in token.top] for token in tokens] == [["One"], [" one"]]


async def test_text_held_back_for_a_stop_string_comes_with_its_token() -> None:
    stop = Sampling(max_tokens=9, top_logprobs=0, stop=["two three"])
    text, tokens, finish, _ = await answered(ANSWER, stop)
    assert (text, [token.token for token in tokens], finish) == ("One two", ["One", " two"], "stop")
    text, tokens, finish, _ = await answered(
        [said("One", A), said(" two", B), said(" three!", (" three", -1.0, []))], stop
    )
    assert (text, len(tokens), finish) == ("One ", 3, "stop_string")


async def test_the_end_that_a_server_reports_is_a_special_token() -> None:
    _, tokens, _, _ = await answered([said("One", A), said("", ("<|im_end|>", -0.1, []), finish="stop")])
    assert [(token.token, token.data) for token in tokens] == [("One", b"One"), ("<|im_end|>", None)]


NUMBERS = st.one_of(st.floats(-20, 0), st.just(-9999.0))
TOPS = st.dictionaries(st.binary(max_size=3), NUMBERS, max_size=6)


@given(st.lists(st.tuples(st.binary(max_size=3), NUMBERS, TOPS), min_size=1, max_size=8), st.integers(0, 4))
def test_whatever_a_server_says_in_whatever_order_is_in_order(said_tokens, top) -> None:
    answer = ToldAnswer(Sampling(max_tokens=8, top_logprobs=top), top)
    for data, number, others in said_tokens:
        told = Told(data, number, tuple({**others, **({data: number} if data in others else {})}.items()))
        made = answer.take(Piece("x", told=(told,)))
        assert isinstance(made, EngineTokens)
        fault = fault_in(made.likelihoods, made.token_ids, Sampling(max_tokens=8, top_logprobs=top))
        assert fault in (None, "that sum to more than 1")


async def test_transformers_own_server_has_none_and_is_refused(transformers_server) -> None:  # noqa: F811
    for work in (CHAT, Generate("One day")):
        with pytest.raises(BadParameters, match="server behind this orchestrator"):
            await events_of(transformers_server, work)
