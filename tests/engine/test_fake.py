"""The fake engine's own promises: its pace, its faults, its slots."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from cactus_mesh.errors import EngineFailed
from cactus_mesh.messages import Generate, Sampling
from cactus_mesh.testing.engine import FAKE_MODEL, FAKE_TEXT, FakeEngine
from tests.engine.test_port import make

if TYPE_CHECKING:
    from trio.testing import MockClock


async def test_it_makes_sixteen_tokens_unless_told_otherwise() -> None:
    made = await make(FakeEngine())
    assert (len(made.token_ids), made.text, made.finish.finish) == (16, FAKE_TEXT, "stop")


async def test_its_pace_is_trios_clock(autojump_clock: MockClock) -> None:
    began = trio.current_time()
    await make(FakeEngine("one two", delay_seconds=10))
    assert trio.current_time() - began == pytest.approx(30)


async def test_it_fails_after_as_many_tokens_as_told_and_frees_its_slot() -> None:
    engine = FakeEngine(fail_after=3)
    async with engine.generate(FAKE_MODEL.digest, Generate("hello"), Sampling(max_tokens=9), bytes(32)) as events:
        for _ in range(3):
            await anext(events)
        assert engine.running == 1
        with pytest.raises(EngineFailed):
            await anext(events)
        assert engine.running == 0
    assert engine.started == 1
