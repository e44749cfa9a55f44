"""The worker's one loop: take commands, make one step, tell the parent.  Between any two steps a cancel is heard."""

from __future__ import annotations

import queue
import sys
import time
import traceback
from typing import TYPE_CHECKING, Final, TypeVar

import torch
import transformers

from cactus_mesh import __version__
from cactus_mesh.engine.frames import Admitted, Alive, Cancel, Ended, Failed, Finished, Start, Token
from cactus_mesh.engine.requests import find_model
from cactus_mesh.engine.runner.generation import Generation
from cactus_mesh.engine.scheduler import Prefill, Scheduler
from cactus_mesh.errors import Busy, EngineFailed, MeshError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cactus_mesh.engine.frames import Command, Event
    from cactus_mesh.engine.runner.generation import Made
    from cactus_mesh.engine.runner.loading import LoadedModel
    from cactus_mesh.engine.scheduler import Step
    from cactus_mesh.engine.settings import EngineSettings

HEARTBEAT_SECONDS: Final = 0.5

T = TypeVar("T", "Start", "Step")


def engine_name() -> str:
    return f"cactus-mesh {__version__}, torch {torch.__version__}, transformers {transformers.__version__}"


class Loop:
    def __init__(
        self,
        models: Sequence[LoadedModel],
        settings: EngineSettings,
        inbox: queue.SimpleQueue[Command],
        emit: Callable[[Event], None],
    ) -> None:
        self._models = {model.facts.digest: model for model in models}
        self._facts = [model.facts.model() for model in models]
        self._scheduler = Scheduler(settings.slots, settings.chunk_tokens)
        self._generations: dict[int, Generation] = {}
        self._inbox = inbox
        self._emit = emit
        self._heard_at = time.monotonic()

    def run(self) -> None:
        """For ever: the process ends when its standard input does."""
        while True:
            self.turn()

    def turn(self) -> None:
        """Obey what has come, make one step, and let the parent hear from us.  Waits for commands when idle."""
        self._take_commands()
        step = self._scheduler.next()
        if step is not None:
            self._guarded(self._do, step)
        if time.monotonic() - self._heard_at >= HEARTBEAT_SECONDS:
            self._tell(Alive())

    def _take_commands(self) -> None:
        try:
            if not len(self._scheduler):
                self._obey(self._inbox.get(timeout=HEARTBEAT_SECONDS))
            while True:
                self._obey(self._inbox.get_nowait())
        except queue.Empty:
            return

    def _obey(self, command: Command) -> None:
        if isinstance(command, Start):
            self._guarded(self._start, command)
        elif isinstance(command, Cancel):
            self._drop(command.id)
            self._tell(Ended(command.id))

    def _guarded(self, action: Callable[[T], None], of: T) -> None:
        """Whatever goes wrong in one generation ends that one alone."""
        try:
            action(of)
        except MeshError as error:
            self._fail(of.id, error)
        except Exception as error:
            # the message may hold pieces of a prompt, the frames do not
            print(f"{type(error).__name__}\n{''.join(traceback.format_tb(error.__traceback__))}", file=sys.stderr)
            memory = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error)
            cause = "there is not enough memory for it" if memory else f"{type(error).__name__} in the model"
            self._fail(of.id, EngineFailed(f"the engine could not go on with this task: {cause}"))

    def _fail(self, id_: int, error: MeshError) -> None:
        self._drop(id_)
        self._tell(Failed(id_, error.code, error.message))

    def _start(self, start: Start) -> None:
        model = self._models[find_model(self._facts, start.model_digest, start.work).digest]
        generation = Generation(model, start)
        if not self._scheduler.admit(start.id, generation.prompt_tokens):
            raise Busy("all slots are taken; try again or ask another orchestrator")
        self._generations[start.id] = generation
        self._tell(Admitted(start.id))

    def _do(self, step: Step) -> None:
        generation = self._generations[step.id]
        if isinstance(step, Prefill) and not step.last:
            generation.prefill(step.start, step.end)
            return
        made = generation.first(step.start) if isinstance(step, Prefill) else generation.next()
        self._report(step.id, generation, made)

    def _report(self, id_: int, generation: Generation, made: Made) -> None:
        self._tell(Token(id_, made.token_id, made.logprob, made.text))
        if made.finish is not None:
            self._drop(id_)
            self._tell(Finished(id_, made.finish, generation.prompt_tokens, generation.compute_ms))

    def _drop(self, id_: int) -> None:
        self._scheduler.drop(id_)
        self._generations.pop(id_, None)

    def _tell(self, event: Event) -> None:
        self._heard_at = time.monotonic()
        self._emit(event)
