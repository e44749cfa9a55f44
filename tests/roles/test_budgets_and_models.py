"""What a client may spend, and what it is told that it can ask for."""

from __future__ import annotations

import pytest
import trio

from cactus_mesh import events as events_module
from cactus_mesh.config import ClientConfig, PriceConfig
from cactus_mesh.errors import (
    BadParameters,
    EngineFailed,
    MeshError,
    NoRouter,
    OrchestratorLost,
    PriceOverBudget,
    UnknownModel,
)
from cactus_mesh.events import TaskDone, TaskFailed, TaskSent
from cactus_mesh.messages import PriceTerms
from cactus_mesh.testing.engine import FakeEngine
from tests.world import open_world

LOOK_UP_SECONDS = 4_000


async def test_a_cap_refuses_a_task_before_anything_is_sent(autojump_clock):
    async with open_world() as world:
        client = await world.client(config=ClientConfig(cap_per_task=1_000))
        with pytest.raises(PriceOverBudget, match="cap for a task is 1000"):
            client.generate("hi", model="fake", max_price=1_001)
        assert client.spent_today() == 0


async def test_a_finished_task_counts_with_its_price_and_not_its_maximum(autojump_clock):
    async with open_world() as world:
        await world.router()
        await world.orchestrator()
        client = await world.client(config=ClientConfig(cap_per_day=100_000))
        await world.settle_down()
        answer = client.generate("hi", model="fake", max_price=100_000)
        assert client.spent_today() == answer.max_price == 100_000
        result = await answer.wait()
        assert client.spent_today() == result.price < result.max_price == 100_000
        with pytest.raises(PriceOverBudget, match="of today's 100000"):
            client.generate("hi", model="fake", max_price=100_000)


async def test_a_task_that_nobody_took_costs_nothing(autojump_clock):
    async with open_world() as world:
        client = await world.client()
        with pytest.raises(NoRouter):
            await client.generate("hi", model="fake").wait()
        assert client.spent_today() == 0


async def test_a_task_that_failed_in_the_middle_counts_until_the_ledger_has_the_last_word(autojump_clock):
    async with open_world() as world:
        await world.router()
        await world.orchestrator(engine=FakeEngine(fail_after=3))
        client = await world.client()
        await world.settle_down()
        with pytest.raises((EngineFailed, OrchestratorLost)):
            await client.generate("hi", model="fake", max_price=5_000).wait()
        assert client.spent_today() == 5_000
        await trio.sleep(LOOK_UP_SECONDS)
        assert client.spent_today() == 0


async def test_a_router_tells_what_can_be_asked_for_and_at_what_price(autojump_clock):
    async with open_world() as world:
        await world.router()
        await world.orchestrator("one", price=PriceConfig(base=1, input_per_1k=20, output_per_1k=3))
        await world.orchestrator("two", price=PriceConfig(base=2, input_per_1k=10, output_per_1k=30))
        client = await world.client()
        await world.settle_down()
        (listed,) = await client.models()
        assert (listed.offer.name, listed.orchestrators) == ("fake", 2)
        assert listed.dearest == PriceTerms(base=2, input_per_1k=20, output_per_1k=30)


async def test_a_mesh_without_orchestrators_lists_no_models(autojump_clock):
    async with open_world() as world:
        await world.router()
        client = await world.client()
        await world.settle_down()
        assert await client.models() == []


async def test_no_router_is_told_as_that(autojump_clock):
    async with open_world() as world:
        client = await world.client()
        with pytest.raises(MeshError, match="not connected"):
            await client.models()


async def test_an_option_that_there_is_not_is_named(autojump_clock):
    async with open_world() as world:
        client = await world.client()
        with pytest.raises(TypeError, match="'temprature'"):
            client.generate("hi", model="fake", temprature=1.0)
        with pytest.raises(BadParameters, match="not both"):
            client.generate("hi", model="fake", regex="a+", json_schema={"type": "object"})


async def test_a_watcher_hears_of_what_is_sent_done_and_failed(autojump_clock):
    async with open_world() as world:
        await world.router()
        await world.orchestrator()
        client = await world.client()
        await world.settle_down()
        with client.watch() as events:
            result = await client.generate("hi", model="fake").wait()
            with pytest.raises(UnknownModel):
                await client.generate("hi", model="other").wait()
            heard = [events.receive_nowait() for _ in range(4)]
        assert [type(event) for event in heard] == [TaskSent, TaskDone, TaskSent, TaskFailed]
        assert heard[1] == TaskDone(result.task_id, result)
        assert heard[3].error.code == "task.unknown_model"


async def test_a_watcher_that_falls_behind_stops_nobody(autojump_clock, monkeypatch):
    monkeypatch.setattr(events_module, "EVENTS_WAITING", 1)
    async with open_world() as world:
        await world.router()
        await world.orchestrator()
        client = await world.client()
        await world.settle_down()
        with client.watch() as events:
            await client.generate("hi", model="fake").wait()
            assert isinstance(events.receive_nowait(), TaskSent)
            with pytest.raises(trio.WouldBlock):
                events.receive_nowait()
