"""The `Engine` of the node: admits generations up to the slots and keeps a worker process running beneath them.

Never imports torch.  A lost worker ends its generations with `EngineFailed` and is replaced, ever more slowly; after
`MAX_RESTARTS` in a row that finished nothing the engine gives up and says so to everybody who asks.
"""

from __future__ import annotations

import importlib.util
import itertools
import logging
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Final, assert_never

import trio

from cactus_mesh.concurrency import open_service_nursery
from cactus_mesh.engine.frames import (
    ENDS,
    MAX_FRAME_BYTES,
    Admitted,
    Alive,
    Cancel,
    Ended,
    Failed,
    Finished,
    LoadFailed,
    Open,
    Pulse,
    Ready,
    Replayed,
    Reread,
    Residence,
    Start,
    Stop,
    Token,
    to_frame,
)
from cactus_mesh.engine.generated import Events
from cactus_mesh.engine.requests import (
    SEED_BYTES,
    check_answer,
    check_before,
    check_parameters,
    check_places,
    find_model,
)
from cactus_mesh.engine.residency import Bench
from cactus_mesh.engine.settings import EngineSettings
from cactus_mesh.engine.worker import WORKER_COMMAND, Worker, WorkerLost, open_worker
from cactus_mesh.errors import Busy, EngineFailed, MissingExtra, PromptTooLong, from_wire
from cactus_mesh.messages import Sampling
from cactus_mesh.ports import EngineMemory, Replay, Rereading

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from cactus_mesh.engine.frames import Event, OfGeneration
    from cactus_mesh.messages import Work
    from cactus_mesh.ports import EngineModel

logger = logging.getLogger(__name__)

MAX_RESTARTS: Final = 5
"""In a row: whatever ends the worker that often will end it again."""
_UNUSED: Final = Sampling(max_tokens=1)
"""Nothing is chosen where texts are read."""
FIRST_BACKOFF_SECONDS: Final = 0.5
LAST_BACKOFF_SECONDS: Final = 30.0


@asynccontextmanager
async def open_engine(models: Sequence[str], settings: EngineSettings | None = None) -> AsyncIterator[Service]:
    """An `Engine` that runs *models*: ``"selftest"``, folders, or hub ids.  Entering returns once all are loaded.

    Raises `MissingExtra`, `ModelMissing`, `ModelRefused`, `ModelMalformed`, `ModelUnsupported`, `ModelTooLarge`,
    `ConfigMalformed` or `EngineFailed`.  Leaving ends the worker and with it all generations.
    """
    if missing := [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]:
        raise MissingExtra(
            f"running models needs {' and '.join(missing)}; install with: pip install 'cactus-mesh[inference]'"
        )
    async with open_service(models, settings or EngineSettings(), WORKER_COMMAND) as service:
        yield service


@asynccontextmanager
async def open_service(
    models: Sequence[str], settings: EngineSettings, command: Sequence[str]
) -> AsyncIterator[Service]:
    """As `open_engine`, with any program as the worker that speaks the frames of `engine.frames`."""
    service = Service(models, settings, command)
    async with open_service_nursery() as nursery:
        await nursery.start(service.keep_running)
        yield service


class _Generation:
    """Where a generation's events go, and how many tokens it may still make."""

    def __init__(self, max_tokens: int) -> None:
        # an admission, a token each and an end: sending never waits for a slow reader
        self.sender, self.receiver = trio.open_memory_channel["OfGeneration"](max_tokens + 2)
        self.tokens_left = max_tokens


class _Running:
    """A worker that is ready, and its generations."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.generations: dict[int, _Generation] = {}
        self.leaving: set[int] = set()
        """Generations that were cancelled, until the worker confirms it."""
        self.finished_any = False

    def begin(self, start: Start, frame: bytes) -> trio.MemoryReceiveChannel[OfGeneration]:
        try:
            self.worker.send(frame)
        except (trio.WouldBlock, trio.BrokenResourceError):
            raise EngineFailed("the engine's worker does not answer; try again") from None
        generation = self.generations[start.id] = _Generation(start.sampling.max_tokens)
        return generation.receiver

    def leave(self, id_: int) -> None:
        """Cancel a generation unless it is over."""
        if self.generations.pop(id_, None) is not None:
            self.leaving.add(id_)
            with suppress(trio.WouldBlock, trio.BrokenResourceError):  # then the worker is lost and all ends anyway
                self.worker.send(to_frame(Cancel(id_)))

    def stop(self, id_: int) -> None:
        """Have a generation end with what it has made, unless it is over."""
        if id_ in self.generations:
            with suppress(trio.WouldBlock, trio.BrokenResourceError):  # then the worker is lost and all ends anyway
                self.worker.send(to_frame(Stop(id_)))

    def deliver(self, event: OfGeneration) -> bool:
        """Hand *event* to its generation; whether that is over now."""
        generation = self.generations.get(event.id)
        if generation is None:
            if event.id not in self.leaving:
                raise WorkerLost("spoke of a task that it was not given")
            return False
        if isinstance(event, Token):
            generation.tokens_left -= 1
            if generation.tokens_left < 0:
                raise WorkerLost("made more tokens than it was asked for")
        generation.sender.send_nowait(event)
        over = isinstance(event, ENDS)
        if over:
            del self.generations[event.id]
            self.finished_any |= not isinstance(event, Failed)
        return over

    def end(self, reason: str) -> None:
        """End all generations with `EngineFailed`."""
        for id_, generation in self.generations.items():
            generation.sender.send_nowait(Failed(id_, EngineFailed.code, reason))
        self.generations.clear()


class Service:
    """Obtained from `open_engine`."""

    def __init__(self, models: Sequence[str], settings: EngineSettings, command: Sequence[str]) -> None:
        self._words = list(models)
        self._command = command
        self._settings = settings
        self._name = ""
        self._models: tuple[EngineModel, ...] = ()
        self._taken: set[int] = set()
        """Generations that hold a slot, also while they wait for a worker."""
        self._ids = itertools.count(1)
        self._running: _Running | None = None
        self._given_up: str | None = None
        self._changed = trio.Event()
        self._residence: Residence | None = None
        self._bench = Bench()
        """Models whose loading has ended a worker, and with it all other work."""
        self.pulse: Pulse | None = None
        """The last one of the worker; None before it had anything to do."""

    @property
    def name(self) -> str:
        return self._name

    @property
    def models(self) -> tuple[EngineModel, ...]:
        return self._models

    @property
    def slots(self) -> int:
        return self._settings.slots

    @property
    def memory(self) -> EngineMemory | None:
        found = self._residence
        if found is None:
            return None
        loaded = tuple(model.name for model in self._models if model.digest in found.present)
        loading = next((model.name for model in self._models if model.digest == found.loading), None)
        return EngineMemory(found.used, found.room, loaded, loading)

    @property
    def worker_pid(self) -> int | None:
        """The process that holds the models; None while it is being replaced."""
        return self._running.worker.pid if self._running is not None else None

    # --- generations -------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def generate(
        self, model_digest: bytes, work: Work, sampling: Sampling, seed: bytes, before: Sequence[int] = ()
    ) -> AsyncIterator[Events]:
        check_parameters(work, sampling, seed)
        check_before(sampling, before)
        self._refuse_benched(find_model(self._models, model_digest, work))
        start = Start(next(self._ids), model_digest, work, sampling, seed, list(before))
        async with self._begun(start) as events:
            yield events

    async def replay(
        self, model_digest: bytes, work: Work, sampling: Sampling, seed: bytes, token_ids: Sequence[int]
    ) -> Replay:
        check_parameters(work, sampling, seed)
        check_answer(sampling, token_ids)
        self._refuse_benched(find_model(self._models, model_digest, work))
        start = Start(next(self._ids), model_digest, work, sampling, seed, list(token_ids), replay=True)
        async with self._begun(start) as events:
            return await events.replayed()

    async def reread(self, model_digest: bytes, work: Work, places: Sequence[int]) -> Rereading:
        check_parameters(work, _UNUSED, bytes(SEED_BYTES))
        check_places(work, places)
        self._refuse_benched(find_model(self._models, model_digest, work))
        start = Start(next(self._ids), model_digest, work, _UNUSED, bytes(SEED_BYTES), places=list(places))
        async with self._begun(start) as events:
            return await events.reread()

    def _refuse_benched(self, model: EngineModel) -> None:
        if seconds := self._bench.seconds_left(model.digest, trio.current_time()):
            raise EngineFailed(
                f"loading {model.name} has ended the engine's worker; it is tried again in {seconds:.0f} s"
            )

    @asynccontextmanager
    async def _begun(self, start: Start) -> AsyncIterator[Events]:
        """Give the worker something to do, in a slot of its own."""
        frame = to_frame(start)
        if len(frame) > MAX_FRAME_BYTES:
            raise PromptTooLong(f"the prompt has {len(frame)} bytes; the engine takes at most {MAX_FRAME_BYTES}")
        if len(self._taken) >= self.slots:
            raise Busy(f"all {self.slots} slots are taken; try again or ask another orchestrator")
        self._taken.add(start.id)
        try:
            running = await self._running_worker()
            try:
                events = Events(running.begin(start, frame), partial(running.stop, start.id))
                await events.admitted()
                yield events
            finally:
                running.leave(start.id)
        finally:
            self._taken.discard(start.id)

    async def _running_worker(self) -> _Running:
        """Waits while the worker is being replaced.  Raises `EngineFailed` when it will not be."""
        await trio.lowlevel.checkpoint()
        while self._running is None or len(self._running.leaving) >= self.slots:
            if self._given_up is not None:
                raise EngineFailed(self._given_up)
            await self._changed.wait()
        return self._running

    def _tell_waiting(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    # --- the worker --------------------------------------------------------------------------------------------------

    async def keep_running(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run a worker and replace it when it is lost.  What goes wrong before the first is ready is raised."""
        lost_in_a_row = 0
        try:
            while self._given_up is None:
                reason, finished_any = await self._run_worker(task_status)
                lost_in_a_row = 1 if finished_any else lost_in_a_row + 1
                if lost_in_a_row > MAX_RESTARTS:
                    self._give_up(f"the engine's worker {reason}, {lost_in_a_row} times in a row; restart the node")
                if self._given_up is None:
                    await self._back_off(lost_in_a_row, reason)
            logger.error("no other worker is started: %s", self._given_up)
        finally:
            if self._given_up is None:
                self._give_up("the engine is closed")

    async def _run_worker(self, task_status: trio.TaskStatus[None]) -> tuple[str, bool]:
        """Why the worker was lost, and whether it had finished anything."""
        running: _Running | None = None
        reason = ""
        async with open_worker(self._settings, 4 * self.slots + 1, self._command) as worker:
            try:
                await self._load(worker, task_status)
                running = self._running = _Running(worker)
                self._tell_waiting()
                await self._listen(running)
            except WorkerLost as loss:  # caught in here: a cancelled nursery would wrap it
                reason = self._told(loss)
            finally:
                self._residence = None
        if not self._models:
            raise EngineFailed(f"the engine's worker {reason} while it loaded {', '.join(self._words)}")
        return reason, running is not None and running.finished_any

    def _told(self, loss: WorkerLost) -> str:
        """How the worker was lost; a model that it was loading is suspected, and not tried again for a while."""
        if self._residence is not None and self._residence.loading is not None:
            self._bench.failed(self._residence.loading, trio.current_time())
        return f"{loss}{self._loading_name()}"

    def _loading_name(self) -> str:
        memory = self.memory
        return f" while it loaded {memory.loading}" if memory is not None and memory.loading else ""

    async def _load(self, worker: Worker, task_status: trio.TaskStatus[None]) -> None:
        with suppress(trio.BrokenResourceError):  # it has ended already, and the reader says how
            worker.send(to_frame(Open(self._words, self._settings, self._benched())))
        while isinstance(event := await worker.receive(self._settings.load_seconds), Residence):
            self._residence = event
            logger.info("loading model %s of %s", len(event.present) + 1, len(self._words))
        if isinstance(event, LoadFailed):
            if not self._models:
                raise from_wire(event.code, event.message)
            raise WorkerLost(f"could not load its models again ({event.message})")
        if not isinstance(event, Ready):
            raise WorkerLost("spoke before it was ready")
        models = tuple(facts.model() for facts in event.models)
        if not self._models:
            self._name, self._models = event.engine, models
            task_status.started()
        elif models != self._models:
            self._give_up("the model's files were changed on disk while it was served; restart the node")
            raise WorkerLost("found other models than before")

    def _benched(self) -> list[bytes]:
        now = trio.current_time()
        return [model.digest for model in self._models if self._bench.seconds_left(model.digest, now)]

    async def _listen(self, running: _Running) -> None:
        reason = "the engine was closed before this task was done"
        try:
            while True:
                self._hear(running, await running.worker.receive(self._settings.stall_seconds))
        except WorkerLost as loss:
            where = self._loading_name()
            reason = f"the engine's worker {loss}{where}; it is being replaced, so ask again"
            raise
        finally:
            self._running = None
            running.end(reason)

    def _hear(self, running: _Running, event: Event) -> None:
        match event:
            case Alive():
                pass
            case Residence():
                self._residence = event
                for digest in event.present:
                    self._bench.succeeded(digest)
            case Pulse():
                self.pulse = event
            case Ended():
                running.leaving.discard(event.id)
                self._tell_waiting()
            case Admitted() | Token() | Finished() | Replayed() | Reread() | Failed():
                if running.deliver(event):
                    self._taken.discard(event.id)
            case Ready() | LoadFailed():
                raise WorkerLost("loaded its models a second time")
            case _:
                assert_never(event)

    async def _back_off(self, lost_in_a_row: int, reason: str) -> None:
        seconds = min(LAST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2 ** (lost_in_a_row - 1))
        logger.warning("the engine's worker %s; starting another in %.1f s", reason, seconds)
        await trio.sleep(seconds)

    def _give_up(self, reason: str) -> None:
        self._given_up = reason
        self._tell_waiting()
