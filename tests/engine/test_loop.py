"""The worker's loop, turned by hand in this process: cancels are heard at once, and a failure ends one task alone."""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING

import pytest

from cactus_mesh.engine import EngineSettings
from cactus_mesh.engine.frames import Admitted, Alive, Cancel, Ended, Failed, Finished, Open, Start, Token
from cactus_mesh.messages import Generate, Sampling

if TYPE_CHECKING:
    from collections.abc import Callable

    from cactus_mesh.engine.frames import Event
    from cactus_mesh.engine.runner.loading import LoadedModel
    from cactus_mesh.engine.runner.loop import Loop
    from cactus_mesh.engine.runner.passes import Read

LONG = "The old heron went to the harbour. " * 12


class Driven:
    def __init__(self, model: LoadedModel, slots: int = 2) -> None:
        from cactus_mesh.engine.runner import residents
        from cactus_mesh.engine.runner.loop import Loop

        self.model = model
        self.inbox: queue.SimpleQueue[object] = queue.SimpleQueue()
        self.events: list[Event] = []
        settings = EngineSettings(slots=slots, chunk_tokens=16)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(residents, "load", lambda *_: model)
            there = residents.open_residents(Open(["selftest"], settings), self.inbox.put, lambda _: None)
        self.loop: Loop = Loop(there, slots, self.inbox, self.events.extend)

    def start(self, id_: int, prompt: str = "One day", max_tokens: int = 200) -> None:
        sampling = Sampling(max_tokens=max_tokens)
        self.inbox.put(Start(id_, self.model.facts.digest, Generate(prompt), sampling, bytes(32)))

    def turn(self, times: int = 1) -> list[Event]:
        """The events of the next turns."""
        before = len(self.events)
        for _ in range(times):
            self.loop.turn()
        return self.events[before:]

    def until(self, found: Callable[[Event], bool]) -> None:
        for _ in range(1000):
            if any(found(event) for event in self.turn()):
                return
        pytest.fail(f"it never came; there were {self.events[-5:]}")


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    from cactus_mesh.engine.runner.loading import load_models

    return load_models(["selftest"], EngineSettings())[0]


@pytest.fixture
def driven(model: LoadedModel) -> Driven:
    return Driven(model)


def test_after_a_cancel_there_is_no_further_step_and_the_slot_is_free(driven: Driven) -> None:
    driven.start(1)
    driven.start(2)
    driven.turn(8)
    driven.inbox.put(Cancel(1))
    driven.start(3)
    assert driven.turn()[:2] == [Ended(1), Admitted(3)]
    assert {event.id for event in driven.turn(20)} == {2, 3}


def test_a_cancel_is_heard_in_the_middle_of_a_prompt(driven: Driven) -> None:
    driven.start(1, LONG)
    driven.turn(2)
    driven.inbox.put(Cancel(1))
    assert driven.turn() == [Ended(1)]


def test_a_cancel_of_what_is_over_is_confirmed_too(driven: Driven) -> None:
    driven.inbox.put(Cancel(99))
    assert driven.turn() == [Ended(99)]


def test_others_make_tokens_while_a_long_prompt_is_read(driven: Driven) -> None:
    driven.start(1)
    driven.turn(3)
    driven.start(2, LONG)
    made = driven.turn(12)
    assert sum(isinstance(event, Token) and event.id == 1 for event in made) >= 5
    assert Admitted(2) in made


def test_beyond_the_slots_the_worker_refuses_too(driven: Driven) -> None:
    for id_ in (1, 2, 3):
        driven.start(id_)
    refusals = [event for event in driven.turn() if isinstance(event, Failed)]
    assert [(event.id, event.code) for event in refusals] == [(3, "task.busy")]


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("boom: the prompt was 'One day'")])
def test_a_failure_in_one_generation_ends_that_one_alone(
    driven: Driven, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    driven.start(1)
    driven.start(2, max_tokens=5)
    driven.turn(2)
    honest = driven.model.passes.run

    def fail(reads: list[Read]) -> object:
        if any(read.piece.id == 1 for read in reads):
            raise error
        return honest(reads)

    monkeypatch.setattr(driven.model.passes, "run", fail)
    driven.until(lambda event: isinstance(event, Failed) and (event.id, event.code) == (1, "task.engine_failed"))
    driven.until(lambda event: isinstance(event, Finished) and event.id == 2)
    assert "One day" not in capsys.readouterr().err
    assert all("One day" not in event.message for event in driven.events if isinstance(event, Failed))


def test_output_that_is_not_a_number_fails_by_name_and_spoils_no_other(driven: Driven) -> None:
    driven.start(1)
    driven.start(2, max_tokens=12)
    driven.turn(2)
    memory = driven.model.passes.memory
    place = driven.loop._residents.lanes[0]._scheduler.where(1)
    memory.layer(place.shelf, 0)[1][place.row] = float("nan")
    driven.until(lambda event: isinstance(event, Failed) and "not a number" in event.message)
    driven.until(lambda event: isinstance(event, Finished) and event.id == 2)
    assert not any(memory.layer(place.shelf, 0)[1].isnan().flatten())


def test_an_idle_worker_lets_itself_be_heard(driven: Driven, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cactus_mesh.engine.runner.loop.HEARTBEAT_SECONDS", 0.001)
    driven.until(lambda event: isinstance(event, Alive))


def test_special_tokens_in_a_prompt_are_read_and_never_shown(driven: Driven) -> None:
    driven.start(1, "<|user|>What is a router?<|end|><|assistant|>")
    driven.until(lambda event: isinstance(event, Finished))
    text = "".join(event.text for event in driven.events if isinstance(event, Token))
    assert text.startswith("A router is the entry point")
    assert "<|" not in text
