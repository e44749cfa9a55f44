"""The worker's one loop: take commands, make one step, tell the parent.  Between any two steps a cancel is heard."""

from __future__ import annotations

import queue
import time
from typing import TYPE_CHECKING, Final

import torch
import transformers

from cactus_mesh import __version__
from cactus_mesh.engine.frames import ENDS, Admitted, Alive, Cancel, Ended, Failed, Pulse, Start, Stop
from cactus_mesh.engine.runner.lane import failure
from cactus_mesh.engine.runner.residents import LoadDone
from cactus_mesh.errors import Busy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cactus_mesh.engine.frames import Command, Event
    from cactus_mesh.engine.runner.residents import Residents

HEARTBEAT_SECONDS: Final = 0.5
PULSE_SECONDS: Final = 2.0


def engine_name(device: str) -> str:
    """The kind of device comes last: what is computed on different kinds differs more."""
    device = torch.device(device).type
    versions = f"cactus-mesh {__version__}, torch {torch.__version__}, transformers {transformers.__version__}"
    return f"{versions} on {device}"


class Loop:
    """*emit* takes all that is to be told at once."""

    def __init__(
        self,
        residents: Residents,
        slots: int,
        inbox: queue.SimpleQueue[Command | LoadDone],
        emit: Callable[[Sequence[Event]], None],
    ) -> None:
        self._residents = residents
        self._slots = slots
        self._inbox = inbox
        self._emit = emit
        self._heard_at = self._shown_at = time.monotonic()
        self._steps = 0
        self._tasks = 0

    def run(self) -> None:
        """For ever: the process ends when its standard input does."""
        while True:
            self.turn()

    def turn(self) -> None:
        """Obey what has come, make one step for one model, and let the parent hear.  Waits for commands when idle."""
        self._take_commands()
        self._tell(self._residents.advance())
        self._residents.begin()
        lane = self._residents.turn()
        if lane is not None:
            self._steps += 1
            self._tasks += len(lane)
            self._tell(lane.step())
            self._show()
        if time.monotonic() - self._heard_at >= HEARTBEAT_SECONDS:
            self._tell([Alive()])

    def _show(self) -> None:
        now = time.monotonic()
        if now - self._shown_at >= PULSE_SECONDS:
            self._shown_at = now
            taken, room = (sum(each) for each in zip(*(lane.memory for lane in self._residents.lanes), strict=True))
            self._tell([Pulse(self._steps, self._tasks, taken, room)])

    def _take_commands(self) -> None:
        try:
            if not self._residents.at_work():
                self._obey(self._inbox.get(timeout=HEARTBEAT_SECONDS))
            while True:
                self._obey(self._inbox.get_nowait())
        except queue.Empty:
            return

    def _obey(self, command: Command | LoadDone) -> None:
        if isinstance(command, Start):
            self._tell(self._start(command))
        elif isinstance(command, Cancel):
            self._residents.drop(command.id)
            self._tell([Ended(command.id)])
        elif isinstance(command, Stop):
            for lane in self._residents.lanes:
                self._tell(lane.stop(command.id))
        elif isinstance(command, LoadDone):
            self._tell(self._residents.take(command))

    def _start(self, start: Start) -> list[Event]:
        """Nothing is told of one that waits for its model."""
        try:
            if len(self._residents) >= self._slots:
                raise Busy("all slots are taken; try again or ask another orchestrator")
            begun = self._residents.start(start)
        except Exception as error:  # whatever is wrong with one request is told and ends that one alone
            self._residents.drop(start.id)
            why = failure(error)
            return [Failed(start.id, why.code, why.message)]
        return [Admitted(start.id)] if begun else []

    def _tell(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, ENDS):
                self._residents.over(event.id)
        if events:
            self._heard_at = time.monotonic()
            self._emit(events)
