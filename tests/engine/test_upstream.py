"""Another server behind our port: what it is asked, what becomes of its answers, and every way in which it can fail."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from cactus_mesh.engine import upstream
from cactus_mesh.engine.models import SELFTEST_FOLDER
from cactus_mesh.engine.sse import MAX_LINE_BYTES, Stream
from cactus_mesh.engine.upstream import Upstream, open_upstream
from cactus_mesh.engine.upstream_requests import body_of
from cactus_mesh.errors import BadParameters, Busy, CannotContinue, EngineFailed, ModelMissing
from cactus_mesh.messages import Chat, ChatMessage, Constraint, Embed, Generate, Sampling
from tests.engine.test_port import SEED, Made, make
from tests.engine.upstream_server import Script, answer, event, open_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

SHORT = Sampling(max_tokens=3)
LONG = Sampling(max_tokens=9)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "FIRST_RETRY_SECONDS", 0.001)
    monkeypatch.setattr(upstream, "HEALTH_SECONDS", 0.01)


async def answered(script: Script, sampling: Sampling = LONG, work: Chat | Generate | None = None) -> Made:
    with trio.fail_after(20):
        async with open_server(script) as url, open_upstream(["tiny"], url) as engine:
            return await make(engine, work or Generate("Say it"), sampling)


async def test_its_pieces_are_our_tokens() -> None:
    made = await answered(Script())
    assert (made.text, made.finish.finish, made.finish.prompt_tokens) == ("One two.", "stop", 7)
    assert len(made.token_ids) == len(set(made.token_ids)) == 4  # the end counts too
    assert made.finish.compute_ms >= 1


async def test_a_chat_goes_to_the_servers_chat() -> None:
    script = Script()
    await answered(script, work=Chat([ChatMessage("user", "hello")]))
    assert script.asked[0]["path"] == "/v1/chat/completions"
    assert script.asked[0]["messages"] == [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize("parts", [["One", " two", "."], ["One two."]], ids=["one by one", "several at once"])
async def test_an_answer_that_ends_by_length_has_exactly_as_many_tokens_as_were_asked_for(parts: list[str]) -> None:
    made = await answered(Script(parts=answer(*parts, finish="length")), SHORT)
    assert (made.text, made.finish.finish, len(made.token_ids)) == ("One two.", "length", 3)


async def test_a_stop_string_is_found_here_over_the_edges_of_pieces() -> None:
    made = await answered(Script(parts=answer("One t", "wo. Thr", "ee")), Sampling(max_tokens=9, stop=["two. T"]))
    assert (made.text, made.finish.finish) == ("One ", "stop_string")
    whole = await answered(Script(parts=answer("One", " tw")), Sampling(max_tokens=2, stop=[" two"]))
    assert (whole.text, whole.finish.finish) == ("One tw", "length")


async def test_logprobs_are_taken_where_there_are_some() -> None:
    part = b'data: {"choices": [{"text": "x", "logprobs": {"token_logprobs": [-0.25, -0.5]}}]}\n\n'
    made = await answered(Script(parts=[part, *answer("y")]))
    assert made.logprobs == [-0.75, 0.0, 0.0]


def test_fields_that_only_some_servers_know_are_sent_only_when_they_matter() -> None:
    plain = body_of("m", Generate("x"), Sampling(max_tokens=1), SEED)
    assert not {"top_k", "min_p", "repetition_penalty", "response_format"} & set(plain)
    rich = body_of("m", Generate("x"), Sampling(max_tokens=1, top_k=5, min_p_milli=50, frequency_milli=-500), SEED)
    assert (rich["top_k"], rich["min_p"], rich["frequency_penalty"]) == (5, 0.05, -0.5)
    assert 0 <= rich["seed"] < 2**31
    with pytest.raises(BadParameters, match="no regular expressions"):
        body_of("m", Generate("x"), Sampling(max_tokens=1, constraint=Constraint("regex", "x")), SEED)
    schema = Sampling(max_tokens=1, constraint=Constraint("json_schema", '{"type": "object"}'))
    assert body_of("m", Generate("x"), schema, SEED)["response_format"]["json_schema"]["schema"] == {"type": "object"}


# --- when things go wrong --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("at_once")
async def test_a_server_that_fails_at_first_is_asked_again() -> None:
    script = Script(statuses=[500, 503])
    assert (await answered(script)).text == "One two."
    assert len(script.asked) == 3
    with pytest.raises(EngineFailed, match="failed 3 times: because of the test"):
        await answered(Script(statuses=[500] * 3))


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, BadParameters),
        (422, BadParameters),
        (429, Busy),
        (307, EngineFailed),
        (401, EngineFailed),
        (404, EngineFailed),
    ],
)
async def test_what_it_refuses_is_refused_at_once(status: int, error: type[Exception]) -> None:
    script = Script(statuses=[status])
    with pytest.raises(error):
        await answered(script)
    assert len(script.asked) == 1


@pytest.mark.parametrize(
    "script",
    [
        Script(parts=[event("One")], breaks_off=True),
        Script(parts=[event("One")]),
        Script(parts=[event("One"), b"data: nonsense\n\n"]),
        Script(parts=[event("One"), b'data: {"error": {"message": "out of memory"}}\n\n']),
        Script(parts=[event("One"), b"data: " + b"x" * (MAX_LINE_BYTES + 1)]),
    ],
    ids=["connection lost", "no last word", "nonsense", "an error", "an endless line"],
)
async def test_an_answer_that_breaks_off_fails_by_name(script: Script) -> None:
    with pytest.raises(EngineFailed, match="broke off"):
        await answered(script)


@pytest.mark.parametrize(
    "parts",
    [
        [part.replace(b"\n", b"\r\n") for part in answer("One", " two", ".")],
        [b": keep-alive\n\n", b"event: message\n", *answer("One", " two", ".")],
        [
            b'data: {"choices": []}\n\n',
            b'data: {"choices": [{"delta": {"role": "assistant"}}]}\n\n',
            *answer("One", " two", "."),
        ],
        [event("One"), event(" two"), event(".", "stop")],
        [bytes([byte]) for part in answer("One", " two", ".") for byte in part],
    ],
    ids=["CRLF", "comments", "empty choices", "no usage and no last word", "byte by byte"],
)
async def test_servers_write_their_streams_in_many_ways(parts: list[bytes]) -> None:
    assert (await answered(Script(parts=parts))).text == "One two."


async def test_a_server_that_hangs_is_ill_and_a_key_may_end_with_a_new_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "LOOK_SECONDS", 0.1)

    async def hang(_: trio.SocketStream) -> None:
        await trio.sleep_forever()

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            (listener,) = await nursery.start(partial(trio.serve_tcp, hang, 0, host="127.0.0.1"))
            port = listener.socket.getsockname()[1]
            with pytest.raises(EngineFailed, match="said nothing for"):
                async with open_upstream(["tiny"], f"http://127.0.0.1:{port}/v1"):
                    pytest.fail("it never gets here")
            nursery.cancel_scope.cancel()
        monkeypatch.undo()
        async with open_server(Script()) as url, open_upstream(["tiny"], url, key="sk-secret\n") as engine:
            assert (await make(engine)).text == "One two."


async def test_more_than_was_asked_for_is_not_passed_on() -> None:
    with pytest.raises(EngineFailed, match="more than it was asked for"):
        await answered(Script(parts=answer("a", "b", "c", "d")), SHORT)


async def test_leaving_early_hangs_up_and_frees_the_slot() -> None:
    script = Script(parts=[event("One")], hangs=True)
    with trio.fail_after(20):
        async with open_server(script) as url, open_upstream(["tiny"], url, slots=1) as engine:
            digest = engine.models[0].digest
            async with engine.generate(digest, Generate("go"), LONG, SEED) as events:
                await anext(events)
                with pytest.raises(Busy):
                    await make(engine)
            await script.gone.wait()
            script.hangs, script.parts = False, answer("two")
            assert (await make(engine)).text == "two"


async def test_a_stop_is_heard_with_the_next_piece_which_is_not_paid() -> None:
    script = Script(parts=answer("One", " two", " three"))
    async with (
        open_server(script) as url,
        open_upstream(["tiny"], url) as engine,
        engine.generate(engine.models[0].digest, Generate("go"), LONG, SEED) as events,
    ):
        first = await anext(events)
        events.stop()
        (last,) = [event async for event in events]
    assert first.text == "One"
    assert (last.finish, last.prompt_tokens) == ("cancelled", 1)


async def test_nobody_there_or_another_model_is_said_when_it_is_opened() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        with pytest.raises(EngineFailed, match="does not answer"):
            async with open_upstream(["tiny"], url):
                pytest.fail("it never gets here")
    async with open_server(Script()) as url:
        with pytest.raises(ModelMissing, match="has no model 'large'; it has: tiny"):
            async with open_upstream(["large"], url):
                pytest.fail("it never gets here")


@pytest.mark.usefixtures("at_once")
async def test_while_the_server_is_ill_nobody_waits_for_it_and_later_it_is_used_again() -> None:
    script = Script()
    with trio.fail_after(20):
        async with open_server(script) as url, open_upstream(["tiny"], url) as engine:
            script.models = []
            await until(lambda: not engine.healthy)
            with pytest.raises(EngineFailed, match="has no model 'tiny'"):
                await make(engine)
            script.models = None  # well, and lists nothing
            await until(lambda: engine.healthy)
            assert (await make(engine)).text == "One two."


async def until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 - real sockets, bounded by the caller
        await trio.sleep(0.005)


async def test_it_neither_continues_nor_replays() -> None:
    async with open_server(Script()) as url, open_upstream(["tiny"], url) as engine:
        digest = engine.models[0].digest
        with pytest.raises(CannotContinue):
            async with engine.generate(digest, Generate("go"), LONG, SEED, [1]):
                pytest.fail("it never gets here")
        with pytest.raises(BadParameters, match="cannot replay"):
            await engine.replay(digest, Generate("go"), LONG, SEED, [1])
        with pytest.raises(BadParameters, match="cannot read texts again"):
            await engine.reread(digest, Embed(["go"]), [0])


def test_a_stream_may_come_in_any_pieces() -> None:
    data = b"".join(answer("Ein", " Kaktus 🌵", "."))
    for size in (1, 3, 1000):
        stream = Stream()
        pieces = [piece for at in range(0, len(data), size) for piece in stream.feed(data[at : at + size])]
        assert "".join(piece.text for piece in pieces) == "Ein Kaktus 🌵."
        assert stream.over


# --- a real one ------------------------------------------------------------------------------------------------------


@pytest.fixture
async def transformers_server() -> AsyncIterator[Upstream]:
    if any(importlib.util.find_spec(name) is None for name in ("fastapi", "uvicorn", "openai", "accelerate")):
        pytest.skip("needs transformers[serving]")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(SELFTEST_FOLDER), "--device", "cpu"]
    command += ["--dtype", "float32", "--host", "127.0.0.1", "--port", str(port)]
    quiet = subprocess.DEVNULL
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet) as server:  # noqa: ASYNC220 - at once
        try:
            with trio.fail_after(120):
                while server.poll() is None and not await _listens(port):  # noqa: ASYNC110 - another process
                    await trio.sleep(0.1)
                async with open_upstream([str(SELFTEST_FOLDER)], f"http://127.0.0.1:{port}/v1") as engine:
                    yield engine
        finally:
            server.kill()


async def _listens(port: int) -> bool:
    try:
        await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
    except OSError:
        return False
    return True


async def test_transformers_own_server_gives_the_answer_that_our_engine_gives(transformers_server: Upstream) -> None:
    made = await make(transformers_server, Chat([ChatMessage("user", "What is a router?")]), Sampling(max_tokens=60))
    assert made.text.strip().startswith("A router is the entry point for clients")
    short = await make(transformers_server, Generate("One day"), Sampling(max_tokens=5))
    assert (len(short.token_ids), short.finish.finish) == (5, "length")
    assert short.finish.prompt_tokens >= 1
