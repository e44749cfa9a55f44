"""The worker's one loop: take commands, make one step, tell the parent.  Between any two steps a cancel is heard."""

from __future__ import annotations

import queue
import time
from typing import TYPE_CHECKING, Final

import torch
import transformers

from cactus_mesh import __version__
from cactus_mesh.engine.frames import Admitted, Alive, Cancel, Ended, Failed, Start, Stop
from cactus_mesh.engine.requests import find_model
from cactus_mesh.engine.runner.encoders import EncoderLane, LoadedEncoder
from cactus_mesh.engine.runner.lane import Lane, failure
from cactus_mesh.errors import Busy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cactus_mesh.engine.frames import Command, Event
    from cactus_mesh.engine.runner.loading import LoadedModel
    from cactus_mesh.engine.settings import EngineSettings

HEARTBEAT_SECONDS: Final = 0.5


def engine_name(models: Sequence[LoadedModel | LoadedEncoder]) -> str:
    """The kind of device comes last: what is computed on different kinds differs more."""
    device = models[0].network.device.type if models else "cpu"
    versions = f"cactus-mesh {__version__}, torch {torch.__version__}, transformers {transformers.__version__}"
    return f"{versions} on {device}"


class Loop:
    """*emit* takes all that is to be told at once."""

    def __init__(
        self,
        models: Sequence[LoadedModel | LoadedEncoder],
        settings: EngineSettings,
        inbox: queue.SimpleQueue[Command],
        emit: Callable[[Sequence[Event]], None],
    ) -> None:
        self._facts = [model.facts.model() for model in models]
        self._lanes = [
            EncoderLane(model, settings) if isinstance(model, LoadedEncoder) else Lane(model, settings)
            for model in models
        ]
        self._lane_of = {lane.model.facts.digest: lane for lane in self._lanes}
        self._slots = settings.slots
        self._inbox = inbox
        self._emit = emit
        self._heard_at = time.monotonic()

    def run(self) -> None:
        """For ever: the process ends when its standard input does."""
        while True:
            self.turn()

    def turn(self) -> None:
        """Obey what has come, make one step for one model, and let the parent hear.  Waits for commands when idle."""
        self._take_commands()
        lane = next((lane for lane in self._lanes if len(lane)), None)
        if lane is not None:
            self._lanes.remove(lane)
            self._lanes.append(lane)  # models take turns
            self._tell(lane.step())
        if time.monotonic() - self._heard_at >= HEARTBEAT_SECONDS:
            self._tell([Alive()])

    def _take_commands(self) -> None:
        try:
            if not self._busy():
                self._obey(self._inbox.get(timeout=HEARTBEAT_SECONDS))
            while True:
                self._obey(self._inbox.get_nowait())
        except queue.Empty:
            return

    def _busy(self) -> int:
        return sum(len(lane) for lane in self._lanes)

    def _obey(self, command: Command) -> None:
        if isinstance(command, Start):
            self._tell([self._start(command)])
        elif isinstance(command, Cancel):
            for lane in self._lanes:
                lane.drop(command.id)
            self._tell([Ended(command.id)])
        elif isinstance(command, Stop):
            for lane in self._lanes:
                self._tell(lane.stop(command.id))

    def _start(self, start: Start) -> Event:
        try:
            if self._busy() >= self._slots:
                raise Busy("all slots are taken; try again or ask another orchestrator")
            self._lane_of[find_model(self._facts, start.model_digest, start.work).digest].start(start)
        except Exception as error:  # whatever is wrong with one request is told and ends that one alone
            why = failure(error)
            return Failed(start.id, why.code, why.message)
        return Admitted(start.id)

    def _tell(self, events: Sequence[Event]) -> None:
        if events:
            self._heard_at = time.monotonic()
            self._emit(events)
