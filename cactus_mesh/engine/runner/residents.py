"""The models in memory, each at work in a lane of its own, and those that are loaded when they are asked for.

`engine.residency` decides; here it is done.  A model is loaded in a thread, so that others go on; one at a time.
"""

from __future__ import annotations

import gc
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, assert_never

import msgspec
import torch

from cactus_mesh.engine.frames import Admitted, Failed, Residence
from cactus_mesh.engine.requests import find_model
from cactus_mesh.engine.residency import Bench, Load, Residency, Unload
from cactus_mesh.engine.runner.devices import memory_of
from cactus_mesh.engine.runner.encoders import EncoderLane, LoadedEncoder
from cactus_mesh.engine.runner.examining import examine_models
from cactus_mesh.engine.runner.lane import Lane, failure
from cactus_mesh.engine.runner.loading import load, prepare_process
from cactus_mesh.errors import Busy, EngineFailed, MeshError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from cactus_mesh.engine.frames import Event, ModelFacts, Open, Start
    from cactus_mesh.engine.runner.examining import Examined
    from cactus_mesh.engine.runner.loading import LoadedModel
    from cactus_mesh.engine.settings import EngineSettings


@dataclass(frozen=True, slots=True)
class LoadDone:
    """What a loading thread leaves behind: the model, or why there is none."""

    digest: bytes
    model: LoadedModel | LoadedEncoder | None
    error: MeshError | None
    seconds: float


def open_residents(order: Open, wake: Callable[[LoadDone], None], emit: Callable[[Sequence[Event]], None]) -> Residents:
    """Load what fits at the start.  Raises a `UsageError` with the cause."""
    settings = prepare_process(order.settings)
    room = memory_of(settings.device, settings.memory_mib)
    residents = Residents(examine_models(order.models, settings, room), settings, room, wake)
    residents.load_first(order.avoid, emit)
    return residents


class Residents:
    """*wake* is called, from another thread, with what `take` is to be given."""

    def __init__(
        self, examined: Sequence[Examined], settings: EngineSettings, room: int, wake: Callable[[LoadDone], None]
    ) -> None:
        self._examined = {each.facts.digest: each for each in examined}
        self.facts: list[ModelFacts] = [each.facts for each in examined]
        self._models = [facts.model() for facts in self.facts]
        self._settings = settings
        self._room = room
        self._wake = wake
        self._residency = Residency({digest: each.need for digest, each in self._examined.items()}, room)
        self._bench = Bench()
        self._why: dict[bytes, str] = {}
        self.lanes: list[Lane | EncoderLane] = []
        self._waiting: dict[int, Start] = {}
        self._to_load: bytes | None = None

    def __len__(self) -> int:
        """Requests, those that wait for a model included."""
        return len(self._waiting) + sum(len(lane) for lane in self.lanes)

    @property
    def device(self) -> str:
        return self._settings.device

    def told(self) -> Residence:
        return Residence(list(self._residency.present), self._residency.loading, self._residency.used, self._room)

    def load_first(self, avoid: Collection[bytes], emit: Callable[[Sequence[Event]], None]) -> None:
        """Raises a `UsageError` with the cause."""
        for digest in self._residency.first(avoid):
            emit([msgspec.structs.replace(self.told(), loading=digest)])
            began = time.monotonic()
            self._put(load(self._examined[digest], self._settings))
            self._residency.loaded(digest, time.monotonic(), time.monotonic() - began)

    # --- requests ----------------------------------------------------------------------------------------------------

    def at_work(self) -> bool:
        """Whether there is something to compute now."""
        return any(len(lane) for lane in self.lanes)

    def turn(self) -> Lane | EncoderLane | None:
        """Whose step is next: models take turns."""
        lane = next((lane for lane in self.lanes if len(lane)), None)
        if lane is not None:
            self.lanes.remove(lane)
            self.lanes.append(lane)
        return lane

    def start(self, start: Start) -> bool:
        """Whether it has begun; else it waits for its model.  Raises what it is refused with."""
        digest = find_model(self._models, start.model_digest, start.work).digest
        now = time.monotonic()
        if seconds := self._bench.seconds_left(digest, now):
            raise EngineFailed(f"{self._why[digest]}; it is tried again in {seconds:.0f} s")
        if not start.paid and self._residency.disturbs(digest, now):
            name = self._examined[digest].name
            raise Busy(f"{name} is not in memory, and no model that is at work makes room for an audit; ask another")
        if digest not in self._residency.present and len(self._waiting) >= max(1, self._settings.slots // 2):
            raise Busy("half of the slots wait for models to be loaded; try again or ask another orchestrator")
        if not self._residency.ask(start.id, digest, now, paid=start.paid):
            self._waiting[start.id] = start
            return False
        self._lane(digest).start(start)
        return True

    def drop(self, id_: int) -> None:
        """Unknown ones are fine."""
        for lane in self.lanes:
            lane.drop(id_)
        self.over(id_)

    def over(self, id_: int) -> None:
        self._waiting.pop(id_, None)
        self._residency.leave(id_, time.monotonic())

    # --- models ------------------------------------------------------------------------------------------------------

    def advance(self) -> list[Event]:
        """Do what has been decided: unload, and let in those whose model is there.  Tell it, and then `begin`."""
        events: list[Event] = []
        while step := self._residency.next(time.monotonic()):
            match step:
                case Load():
                    self._to_load = step.model
                case Unload():
                    self._unload(step.model)
                case _:
                    assert_never(step)
            events.append(self.told())
        return [*events, *self._let_in()]

    def begin(self) -> None:
        """Load what is to be loaded: not before others know which, lest it takes the whole process with it."""
        if self._to_load is not None:
            threading.Thread(target=self._load, args=(self._to_load,), daemon=True).start()
            self._to_load = None

    def take(self, done: LoadDone) -> list[Event]:
        """What a loading thread has left."""
        now = time.monotonic()
        if done.model is None:
            assert done.error is not None
            name = self._examined[done.digest].name
            self._why[done.digest] = f"{name} could not be loaded ({done.error.code}: {done.error.message})"
            self._bench.failed(done.digest, now)
            failed = self._residency.failed(done.digest)
            for id_ in failed:
                self._waiting.pop(id_, None)
            self._free()
            return [self.told(), *(Failed(id_, EngineFailed.code, self._why[done.digest]) for id_ in failed)]
        self._bench.succeeded(done.digest)
        self._put(done.model)
        self._residency.loaded(done.digest, now, done.seconds)
        return [self.told(), *self._let_in()]

    def _let_in(self) -> list[Event]:
        events: list[Event] = []
        for id_ in self._residency.ready(time.monotonic()):
            start = self._waiting.pop(id_)
            try:
                self._lane(start.model_digest).start(start)
                events.append(Admitted(id_))
            except Exception as error:  # whatever is wrong with one request is told and ends that one alone
                why = failure(error)
                events.append(Failed(id_, why.code, why.message))
        return events

    def _load(self, digest: bytes) -> None:
        """In a thread of its own."""
        began = time.monotonic()
        model: LoadedModel | LoadedEncoder | None = None
        error: MeshError | None = None
        try:
            model = load(self._examined[digest], self._settings)
        except MeshError as why:
            error = why
        except BaseException as why:  # a thread that dies in silence would leave requests waiting for ever
            error = EngineFailed(type(why).__name__)
        self._wake(LoadDone(digest, model, error, time.monotonic() - began))

    def _put(self, model: LoadedModel | LoadedEncoder) -> None:
        settings = self._settings
        self.lanes.append(EncoderLane(model, settings) if isinstance(model, LoadedEncoder) else Lane(model, settings))

    def _lane(self, digest: bytes) -> Lane | EncoderLane:
        return next(lane for lane in self.lanes if lane.model.facts.digest == digest)

    def _unload(self, digest: bytes) -> None:
        lane = self._lane(digest)
        assert not len(lane), "what is unloaded is idle"
        self.lanes.remove(lane)
        if isinstance(lane, Lane):
            lane.model.passes.close()
        del lane
        self._residency.unloaded(digest)
        self._free()

    def _free(self) -> None:
        """Give back what nobody holds any more: networks have cycles, and allocators keep what they freed."""
        gc.collect()
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()
        elif sys.platform == "linux":
            _trim()


def _trim() -> None:
    """Of glibc; other C libraries have no such function, and need none."""
    import ctypes

    libc: Any = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
