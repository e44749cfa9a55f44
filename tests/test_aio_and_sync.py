"""The client on asyncio and without an event loop: the same answers, errors and cancellations."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from cactus_mesh import aio, sync
from cactus_mesh.errors import BadParameters, NoBootstrap, ProtocolViolation, UnknownModel
from cactus_mesh.testing.engine import FAKE_TEXT, FakeEngine
from tests.gateway.conftest import EMBEDDER, VECTORS, listed, until
from tests.world import open_world

HELLO = [{"role": "user", "content": "hi"}]


def mesh(engine):
    """What opens a client of a whole mesh in memory, in whatever trio loop it is called."""

    @asynccontextmanager
    async def opened():
        async with open_world() as world:
            await world.orchestrator(engine=engine)
            await world.router()
            client = await world.client()
            await until(partial(listed, client))
            yield client

    return opened


def wait_until(condition):
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


# --- without a loop ------------------------------------------------------------------------------------------------


def test_an_answer_streams_and_is_paid():
    with sync.open_from(mesh(FakeEngine())) as client:
        with client.chat(HELLO, model="fake") as answer:
            assert "".join(answer) == FAKE_TEXT
        assert answer.result.task_id == answer.task_id
        assert client.paid(answer.result).paid <= answer.result.price <= answer.max_price
        assert client.spent_today() == answer.result.price
        assert [listed.offer.name for listed in client.models()] == ["fake"]


def test_texts_are_embedded():
    with sync.open_from(mesh(FakeEngine(VECTORS, model=EMBEDDER))) as client:
        result = client.embed(["one", "two"], model="embedder").wait()
        assert result.vectors() == [pytest.approx([0.6, -0.8]), [1.0, 0.0]]
        with pytest.raises(ProtocolViolation, match="not of the kind"):
            result.scores()
        with pytest.raises(BadParameters, match="as a list"):
            client.embed("one", model="embedder")


def test_pieces_have_their_tokens():
    with sync.open_from(mesh(FakeEngine())) as client:
        answer = client.generate("hi", model="fake", top_logprobs=2)
        pieces = list(answer.pieces())
        assert "".join(piece.text for piece in pieces) == FAKE_TEXT
        assert tuple(token for piece in pieces for token in piece.tokens) == answer.result.logprobs
        assert [len(token.top) for token in answer.result.logprobs] == [2] * 16


def test_threads_share_a_client():
    with sync.open_from(mesh(FakeEngine())) as client, ThreadPoolExecutor(8) as pool:
        ask = lambda _: client.generate("hi", model="fake").wait().text  # noqa: E731
        assert list(pool.map(ask, range(24))) == [FAKE_TEXT] * 24


def test_errors_come_out_as_themselves():
    with sync.open_from(mesh(FakeEngine())) as client:
        with pytest.raises(BadParameters):
            client.generate("hi", model="fake", max_tokens=0)
        with pytest.raises(UnknownModel):
            client.generate("hi", model="other").wait()
        with pytest.raises(TypeError):
            client.generate("hi", model="fake", temprature=1)


def test_leaving_an_answer_early_cancels_its_task():
    engine = FakeEngine(delay_seconds=0.05)
    with sync.open_from(mesh(engine)) as client:
        with client.generate("hi", model="fake") as answer:
            next(answer)
        wait_until(lambda: not engine.running)


def test_who_cancels_waits_for_the_price_of_what_was_made():
    with sync.open_from(mesh(FakeEngine(delay_seconds=0.05))) as client:
        with client.generate("hi", model="fake") as answer:
            next(answer)
            result = answer.cancel()
        assert result.finish == "cancelled"
        assert 0 < result.price == client.spent_today()

    async def main():
        async with aio.open_from(mesh(FakeEngine(delay_seconds=0.05))) as client:
            answer = await client.generate("hi", model="fake")
            await anext(answer)
            return await answer.cancel()

    assert asyncio.run(main()).finish == "cancelled"


def test_a_mesh_that_cannot_be_joined_says_why(tmp_path):
    with pytest.raises(NoBootstrap), sync.open_client(home=tmp_path):
        pass


def test_a_closed_client_says_so_and_leaves_no_thread():
    with sync.open_from(mesh(FakeEngine())) as client:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        client.models()
    assert not [thread for thread in threading.enumerate() if thread.name == "cactus-mesh"]


# --- asyncio -----------------------------------------------------------------------------------------------------


def test_answers_stream_side_by_side_on_asyncio():
    async def one(client):
        async with await client.chat(HELLO, model="fake") as answer:
            return "".join([piece async for piece in answer])

    async def main():
        async with aio.open_from(mesh(FakeEngine())) as client:
            texts = await asyncio.gather(*[one(client) for _ in range(16)])
            result = await (await client.generate("hi", model="fake")).wait()
            assert (await client.paid(result)).paid <= result.price
            assert await client.spent_today() > 0
            assert len(await client.models()) == 1
            return texts

    assert asyncio.run(main()) == [FAKE_TEXT] * 16


def test_pieces_have_their_tokens_on_asyncio():
    async def main():
        async with aio.open_from(mesh(FakeEngine())) as client:
            answer = await client.generate("hi", model="fake", top_logprobs=0)
            return [piece async for piece in answer.pieces()], answer.result

    pieces, result = asyncio.run(main())
    assert "".join(piece.text for piece in pieces) == FAKE_TEXT
    assert tuple(token for piece in pieces for token in piece.tokens) == result.logprobs


def test_cancelling_on_asyncio_cancels_over_there():
    engine = FakeEngine(delay_seconds=0.05)

    async def main():
        async with aio.open_from(mesh(engine)) as client:
            async with await client.generate("hi", model="fake") as answer:
                await anext(answer)
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await answer.wait()
            await asyncio.to_thread(wait_until, lambda: not engine.running)

    asyncio.run(main())


def test_giving_up_while_it_opens_ends_the_thread():
    @asynccontextmanager
    async def never():
        await trio.sleep_forever()
        yield

    async def main():
        async with asyncio.timeout(0.1):
            async with aio.open_from(never):
                pass

    with pytest.raises(TimeoutError):
        asyncio.run(main())
    wait_until(lambda: not [thread for thread in threading.enumerate() if thread.name == "cactus-mesh"])


def test_an_error_on_asyncio_is_itself(tmp_path):
    async def main():
        async with aio.open_client(home=tmp_path):
            pass

    with pytest.raises(NoBootstrap):
        asyncio.run(main())


@pytest.mark.parametrize("name", ["sync", "aio", "open_client"])
def test_what_a_dapp_imports_has_no_torch(name):
    code = f"import cactus_mesh, sys; cactus_mesh.{name}; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
