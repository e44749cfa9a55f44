"""The idioms that several layers build on, in virtual time."""

from __future__ import annotations

import threading
from functools import partial

import pytest
import trio

from cactus_mesh.concurrency import LONG_TEXT_CHARACTERS, beside, open_batches, open_service_nursery


class Broken(Exception):
    pass


async def source(*steps):
    """Numbers are waits in seconds, strings are items, an exception is raised."""
    for step in steps:
        match step:
            case int():
                await trio.sleep(step)
            case str():
                yield step
            case _:
                raise step


async def batches_of(*steps, window=10, into=None):
    """Each batch as text, with the time of its coming."""
    came, began = [] if into is None else into, trio.current_time()
    async with open_batches(source(*steps), window) as batches:
        async for batch in batches:
            came.append((round(trio.current_time() - began), "".join(batch)))
    return came


async def fail(error):
    raise error


async def test_the_first_item_does_not_wait_and_the_rest_come_by_windows(autojump_clock):
    came = await batches_of("a", 1, "b", 1, "c", 20, "d", 1, "e", 100)
    assert came == [(0, "a"), (10, "bc"), (22, "d"), (32, "e")]


async def test_the_end_is_not_held_back_by_a_window(autojump_clock):
    assert await batches_of("a", 1, "b") == [(0, "a"), (1, "b")]


async def test_an_empty_source_gives_no_batch(autojump_clock):
    assert await batches_of() == []
    assert await batches_of(5) == []


async def test_what_came_before_an_error_is_delivered_before_it(autojump_clock):
    came = []
    with pytest.raises(Broken):
        await batches_of("a", 1, "b", "c", Broken(), into=came)
    assert came == [(0, "a"), (1, "bc")]


async def test_a_slow_reader_gets_everything_in_order(autojump_clock):
    came = []
    async with open_batches(source(*"abcdef"), 1) as batches:
        async for batch in batches:
            await trio.sleep(30)
            came += batch
    assert "".join(came) == "abcdef"


async def test_leaving_early_stops_the_source(autojump_clock):
    began = trio.current_time()
    async with open_batches(source("a", 10_000, "b"), 1) as batches:
        assert await anext(batches) == ["a"]
    assert trio.current_time() < began + 10_000


async def test_leaving_the_block_cancels_its_services():
    async with open_service_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)


async def with_services(*errors, block):
    async with open_service_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        for error in errors:
            nursery.start_soon(fail, error)
        await block()


@pytest.mark.parametrize("where", ["block", "service"])
async def test_a_single_failure_comes_out_as_itself(where):
    broken = Broken()
    broken.__cause__ = ValueError("the cause")
    errors, block = ([broken], trio.sleep_forever) if where == "service" else ([], partial(fail, broken))
    with pytest.raises(Broken) as caught:
        await with_services(*errors, block=block)
    assert isinstance(caught.value.__cause__, ValueError)


async def test_several_failures_stay_a_group():
    with pytest.raises(ExceptionGroup) as caught:
        await with_services(Broken(), ValueError(), block=trio.sleep_forever)
    assert {type(error) for error in caught.value.exceptions} == {Broken, ValueError}


@pytest.mark.parametrize(("characters", "here"), [(LONG_TEXT_CHARACTERS, True), (LONG_TEXT_CHARACTERS + 1, False)])
async def test_a_long_look_is_taken_beside_the_loop(characters, here):
    assert (await beside(characters, threading.get_ident) == threading.get_ident()) == here
