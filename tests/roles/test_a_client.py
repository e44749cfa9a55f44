"""The client by itself: what it refuses to ask, and what it does when a router is no good."""

from __future__ import annotations

import pytest
import trio

from cactus_mesh.errors import BadParameters, DeadlinePassed, PeerFailed, PromptTooLong
from cactus_mesh.messages import MAX_PROMPT_CHARACTERS
from cactus_mesh.router import SUBMIT_METHOD
from cactus_mesh.routers import OTHERS_SECONDS
from cactus_mesh.testing.engine import FAKE_TEXT
from tests.world import identity, open_world


@pytest.mark.parametrize(
    ("prompt", "changes", "error", "says"),
    [
        ("x" * (MAX_PROMPT_CHARACTERS + 1), {}, PromptTooLong, "shorten it"),
        ("half \udcff", {}, BadParameters, "UTF-8"),
        ("hi", {"deadline_seconds": 0}, BadParameters, "more than 0"),
        ("hi", {"deadline_seconds": float("nan")}, BadParameters, "more than 0"),
        ("hi", {"deadline_seconds": 3_601}, BadParameters, "at most 3600 s"),
        ("hi", {"max_tokens": 0}, BadParameters, "max_tokens"),
    ],
)
async def test_what_no_router_would_take_is_refused_at_once(autojump_clock, prompt, changes, error, says):
    async with open_world() as world:
        client = await world.client()
        with pytest.raises(error, match=says):
            client.generate(prompt, model="fake", **changes)


async def test_a_request_that_comes_too_late_is_told_of_its_deadline(autojump_clock):
    async with open_world() as world:
        await world.router()
        await world.orchestrator()
        client = await world.client()
        await world.settle_down()
        world.mesh.latency_seconds = 0.5
        with pytest.raises(DeadlinePassed):
            await client.generate("hi", model="fake", deadline_seconds=0.2).wait()


async def test_a_router_that_breaks_down_is_passed_over_for_the_next(autojump_clock):
    async with open_world() as world:
        broken = world.mesh.join(identity("broken"), roles=["router"])
        world.ledger.authorise(identity("broken"))

        async def fail(call) -> None:
            raise PeerFailed("a bug")

        broken.serve(SUBMIT_METHOD, fail, at_once=1)
        await broken.provide("role/router")
        await world.router()
        await world.orchestrator()
        client = await world.client()
        await world.settle_down()
        await client.network.connect(broken.peer_id)  # the only one that it knows, as it would its bootstrap peer

        assert (await client.generate("go", model="fake").wait()).text == FAKE_TEXT


async def test_a_router_that_is_gone_keeps_nobody_waiting(autojump_clock, monkeypatch):
    async with open_world() as world:
        gone = world.mesh.join(identity("gone"), roles=["router"])
        await gone.provide("role/router")
        await world.router()
        await world.orchestrator()
        client = await world.client()
        await world.settle_down()
        connect = client.network.connect

        async def hang(peer, *addresses, **others):
            if peer == gone.peer_id:
                await trio.sleep_forever()
            return await connect(peer, *addresses, **others)

        monkeypatch.setattr(client.network, "connect", hang)
        with trio.fail_after(OTHERS_SECONDS + 3):
            assert (await client.generate("go", model="fake").wait()).text == FAKE_TEXT


async def test_a_known_router_that_has_gone_is_not_asked_again(autojump_clock):
    async with open_world() as world:
        await world.orchestrator()
        await world.router("first")
        client = await world.client()
        await world.settle_down()
        assert (await client.generate("go", model="fake").wait()).router == identity("first").peer_id
        await world.router("second")
        await world.settle_down()
        await client.network.connect(identity("second").peer_id)
        world.mesh.kill(identity("first").peer_id)

        assert await client._routers.nearest() == [identity("second").public_key]
