"""Models that do not fit beside each other take turns in a real worker, and each answers as it does alone."""

from __future__ import annotations

import gc
import queue
import re
import shutil
from typing import TYPE_CHECKING

import pytest
import trio

from cactus_mesh.engine import EngineSettings, open_engine, residency
from cactus_mesh.engine.frames import Admitted, Cancel, Failed, Finished, Open, Residence, Start
from cactus_mesh.engine.models import SELFTEST_FOLDER
from cactus_mesh.errors import ModelTooLarge
from cactus_mesh.messages import Generate, Sampling
from tests.engine.test_port import QUESTION, SEED, make

if TYPE_CHECKING:
    from pathlib import Path

    from cactus_mesh.engine.frames import Event
    from cactus_mesh.engine.runner.loop import Loop
    from cactus_mesh.ports import Engine

ONE_AT_A_TIME = EngineSettings(slots=8, threads=1, memory_mib=24, cache_mib=8)
"""The self-test model's weights take 9 MiB."""


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process: what was just loaded may go at once."""
    monkeypatch.setattr(residency, "LEAST_KEEP_SECONDS", 0.0)
    monkeypatch.setattr(residency, "KEEP_FACTOR", 0.0)


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two folders of one content but for a file, so that they are two models."""
    place = tmp_path_factory.mktemp("twins")
    found = [shutil.copytree(SELFTEST_FOLDER, place / name) for name in ("first", "second")]
    (found[1] / "special_tokens_map.json").write_text("{}", encoding="utf-8")
    return list(map(str, found))


def loop_of(
    words: list[str], settings: EngineSettings = ONE_AT_A_TIME, avoid: list[bytes] | None = None
) -> tuple[Loop, list[Event]]:
    from cactus_mesh.engine.runner.loop import Loop
    from cactus_mesh.engine.runner.residents import open_residents

    inbox: queue.SimpleQueue[object] = queue.SimpleQueue()
    events: list[Event] = []
    residents = open_residents(Open(words, settings, avoid or []), inbox.put, lambda _: None)
    return Loop(residents, settings.slots, inbox, events.extend), events


def start(loop: Loop, id_: int, number: int, max_tokens: int = 4) -> None:
    digest = loop._residents.facts[number].digest
    loop._inbox.put(Start(id_, digest, Generate("One day"), Sampling(max_tokens=max_tokens), bytes(32)))


def until(loop: Loop, events: list[Event], kind: type[Event], id_: int) -> int:
    """Turn until it came; its place among the events."""
    for _ in range(5_000):
        for at, event in enumerate(events):
            if isinstance(event, kind) and event.id == id_:
                return at
        loop.turn()
    return pytest.fail(f"it never came; there were {events[-5:]}")


async def a_deadline_holds(engine: Engine) -> None:
    """While a model is waited for."""
    first, second = (model.digest for model in engine.models)
    async with engine.generate(first, QUESTION, Sampling(max_tokens=900), SEED) as events:
        await anext(events)
        with trio.move_on_after(0.2) as scope:
            async with engine.generate(second, QUESTION, Sampling(max_tokens=4), SEED):
                pytest.fail("its model has no room")
        assert scope.cancelled_caught
    assert (await make(engine)).finish.finish == "stop"


async def test_two_models_with_room_for_one_answer_as_alone_and_what_waits_is_not_charged(twins: list[str]) -> None:
    with trio.fail_after(120):
        async with open_engine(twins, ONE_AT_A_TIME) as engine:
            await a_deadline_holds(engine)
            assert [model.name for model in engine.models] == ["first", "second"]
            assert len(engine.memory.loaded) == 1
            assert 0 < engine.memory.used <= engine.memory.room == 24 << 20
            answers = []

            async def ask(number: int) -> None:
                answers.append(await make(engine, QUESTION, Sampling(max_tokens=8), number))

            async with trio.open_nursery() as nursery:
                for number in (0, 1, 0, 1):
                    nursery.start_soon(ask, number)
    assert len({tuple(each.token_ids) for each in answers}) == 1
    assert max(each.finish.compute_ms for each in answers) < 1_000


def test_a_running_generation_goes_on_until_its_end_before_its_model_goes(twins: list[str]) -> None:
    loop, events = loop_of(twins)
    start(loop, 1, 0, max_tokens=60)
    until(loop, events, Admitted, 1)
    start(loop, 2, 1)
    begun = until(loop, events, Admitted, 2)
    assert until(loop, events, Finished, 1) < begun
    until(loop, events, Finished, 2)


def test_a_cancelled_wait_is_forgotten(twins: list[str]) -> None:
    loop, events = loop_of(twins)
    start(loop, 1, 0, max_tokens=60)
    start(loop, 2, 1)
    loop.turn()
    loop._inbox.put(Cancel(2))
    until(loop, events, Finished, 1)
    assert not [event for event in events if isinstance(event, Residence)]
    assert len(loop._residents) == 0


def test_who_waits_for_a_model_that_fails_to_load_hears_why_and_the_next_is_refused_at_once(
    twins: list[str], tmp_path: Path
) -> None:
    damaged = shutil.copytree(twins[1], tmp_path / "damaged")
    loop, events = loop_of([twins[0], str(damaged)])
    (damaged / "generation_config.json").write_text('{"eos_token_id": 1 }', encoding="utf-8")
    start(loop, 1, 1)
    start(loop, 2, 1)
    failed = [events[until(loop, events, Failed, id_)] for id_ in (1, 2)]
    assert {event.code for event in failed} == {"task.engine_failed"}
    assert all("damaged could not be loaded (model.refused: the files" in event.message for event in failed)
    start(loop, 3, 1)
    assert re.search(r"it is tried again in \d+ s", events[until(loop, events, Failed, 3)].message)
    start(loop, 4, 0)
    until(loop, events, Finished, 4)


def test_an_unloaded_model_leaves_nothing_behind(twins: list[str]) -> None:
    import torch

    def held() -> int:
        gc.collect()
        return sum(each.nbytes for each in gc.get_objects() if issubclass(type(each), torch.Tensor))

    loop, events = loop_of(twins)
    before = held()
    for id_ in range(1, 4):
        start(loop, id_, id_ % 2)
        until(loop, events, Finished, id_)
        assert held() < before + (2 << 20)


def test_a_model_that_is_to_be_avoided_is_loaded_when_it_is_asked_for(twins: list[str]) -> None:
    """It has ended a worker while it was loaded."""
    first = loop_of(twins)[0]._residents.facts[0].digest
    loop, events = loop_of(twins, avoid=[first])
    assert loop._residents.told().present == [loop._residents.facts[1].digest]
    start(loop, 1, 0)
    until(loop, events, Finished, 1)


def test_an_audit_unloads_nothing_that_lately_worked_and_half_of_the_slots_never_wait(twins: list[str]) -> None:
    loop, events = loop_of(twins)
    digest = loop._residents.facts[1].digest
    loop._inbox.put(Start(1, digest, Generate("One day"), Sampling(max_tokens=4), bytes(32), [5, 6], replay=True))
    failed = events[until(loop, events, Failed, 1)]
    assert failed.code == "task.busy"
    assert "second is not in memory, and no model that is at work makes room for an audit" in failed.message
    start(loop, 2, 0, max_tokens=60)
    for id_ in range(3, 3 + ONE_AT_A_TIME.slots // 2 + 1):
        start(loop, id_, 1)
    refused = events[until(loop, events, Failed, 3 + ONE_AT_A_TIME.slots // 2)]
    assert "half of the slots wait for models" in refused.message
    start(loop, 99, 0)
    assert until(loop, events, Admitted, 3) < until(loop, events, Finished, 99)


def test_what_can_never_fit_is_refused_by_name_before_anything_is_loaded() -> None:
    with pytest.raises(ModelTooLarge, match=r"cactus-selftest has weights of \d+ MiB; engine.memory_mib \(4\)"):
        loop_of(["selftest"], EngineSettings(memory_mib=4))
