"""Brings finished tasks to the ledger: in batches beside the work, never on the token path, and again until it answers.

Decides when to send, not what is right: the contract decides that.  Everything owed stands in the journal first, so a
router that is killed goes on where it was; the contract pays a task once, however often it is sent.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from cactus_mesh.clock import wall_clock
from cactus_mesh.concurrency import open_service_nursery
from cactus_mesh.errors import LedgerAborted, LedgerDown, MeshError
from cactus_mesh.spans import about

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from cactus_mesh.clock import Clock
    from cactus_mesh.config import RouterConfig
    from cactus_mesh.core.settlement import Settlement, TaskConsent
    from cactus_mesh.identity import Address, Identity
    from cactus_mesh.journal import Journal
    from cactus_mesh.ports import Ledger, Settled

MAX_UNSETTLED: Final = 10_000
"""Finished tasks that wait for the ledger; beyond that a router takes no new ones, since it might not get them paid."""
FIRST_RETRY_SECONDS: Final = 0.5
LAST_RETRY_SECONDS: Final = 30.0
GRACE_SECONDS: Final = 10.0
"""How long a router that shuts down tries to settle what it has finished."""

log = logging.getLogger(__name__)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Finished:
    """A task to settle.  *told* hears what became of it; None when the ledger refused it for good."""

    settlement: Settlement
    escrowed: bool
    told: Callable[[Settled | None], None]


@dataclass(frozen=True, slots=True)
class Failed:
    """A task in escrow that came to nothing: its client gets the money back."""

    client: Address
    task_id: bytes
    expires_at: int
    """Of its consent, in Unix seconds."""
    told: Callable[[], None]


@asynccontextmanager
async def open_settler(
    identity: Identity, ledger: Ledger, config: RouterConfig, journal: Journal, clock: Clock = wall_clock
) -> AsyncIterator[Settler]:
    """Begins with what *journal* still holds open.

    Leaving the block stops taking tasks and settles those that wait, for at most `GRACE_SECONDS`; what is left then is
    taken up at the next start.
    """
    settler = Settler(identity, ledger, config, journal, clock)
    settler._take_up()
    async with open_service_nursery() as nursery:
        nursery.start_soon(settler._run)
        try:
            yield settler
        finally:
            settler._into.close()
            with trio.CancelScope(shield=True), trio.move_on_after(GRACE_SECONDS):
                await settler._ended.wait()
            if settler.waiting:
                log.warning("tasks are left to settle at the next start", extra={"tasks": settler.waiting})


def _key(task: Finished | Failed) -> tuple[Address, bytes]:
    if isinstance(task, Failed):
        return task.client, task.task_id
    return task.settlement.consent.client, task.settlement.consent.task_id


def _octas(task: Finished | Failed) -> int:
    return task.settlement.claim.price if isinstance(task, Finished) else 0


class Settler:
    """One router's queue to the ledger."""

    def __init__(
        self, identity: Identity, ledger: Ledger, config: RouterConfig, journal: Journal, clock: Clock
    ) -> None:
        self._identity = identity
        self._ledger = ledger
        self._config = config
        self._journal = journal
        self._clock = clock
        room = MAX_UNSETTLED + config.tasks_at_once  # those that were under way when the last place was taken
        self._into, self._queue = trio.open_memory_channel[Finished | Failed](room)
        self._ended = trio.Event()
        self.waiting = 0
        """Tasks that the ledger has not decided yet."""
        self.waiting_octas = 0
        """What is asked for them, at most."""
        self.results: Counter[str] = Counter()
        """How many the ledger has ``paid``, ``skipped`` or ``refused`` since the start."""
        self.paid: Counter[str] = Counter()
        """Octas that have gone to each party since the start."""

    def refuse_when_full(self) -> None:
        """Raises `LedgerDown` when too many finished tasks wait already."""
        if self.waiting >= MAX_UNSETTLED:
            raise LedgerDown("this router waits for its ledger to settle what is done; use another router")

    def put(self, task: Finished | Failed) -> None:
        """Queue a task, in the journal first; never blocks."""
        if isinstance(task, Finished):
            self._journal.finish(task.settlement, escrowed=task.escrowed)
        self._queue_up(task)

    def hold(self, task: Finished) -> None:
        """Note that a task is owed for, and settle it when it is `release`d, or at the next start."""
        self._journal.finish(task.settlement, escrowed=task.escrowed)
        self.waiting += 1
        self.waiting_octas += _octas(task)

    def release(self, task: Finished) -> None:
        """Queue a task that was held."""
        self._send(task)

    def escrow(self, consent: TaskConsent) -> None:
        """Note that a price is about to be put into escrow; a `Finished` or `Failed` of the same task must follow."""
        self._journal.escrow(consent)

    def never_escrowed(self, consent: TaskConsent) -> None:
        """The ledger refused the escrow, so there is nothing to follow."""
        self._journal.close([(consent.client, consent.task_id)])

    def _queue_up(self, task: Finished | Failed) -> None:
        self.waiting += 1
        self.waiting_octas += _octas(task)
        self._send(task)

    def _send(self, task: Finished | Failed) -> None:
        with contextlib.suppress(trio.ClosedResourceError):  # too late for this run; the journal has it for the next
            self._into.send_nowait(task)

    def _take_up(self) -> None:
        """Queue what an earlier run of this router left open."""
        left = self._journal.open_tasks()
        for task in left[:MAX_UNSETTLED]:
            if task.owed is not None:
                self._queue_up(Finished(task.owed, task.escrowed, lambda _: None))
            else:
                self._queue_up(Failed(task.client, task.task_id, task.expires_at, lambda: None))
        if left:
            log.info("taking up what an earlier run left unsettled", extra={"tasks": len(left)})

    async def _run(self) -> None:
        try:
            while True:
                await self._settle(await self._next_batch())
        except trio.EndOfChannel:
            self._ended.set()

    async def _next_batch(self) -> list[Finished | Failed]:
        batch = [await self._queue.receive()]
        with trio.move_on_after(self._config.settle_after_seconds):
            while len(batch) < self._config.settle_batch:
                try:
                    batch.append(await self._queue.receive())
                except trio.EndOfChannel:
                    break
        return batch

    async def _settle(self, batch: Sequence[Finished | Failed]) -> None:
        together = [task for task in batch if isinstance(task, Finished) and not task.escrowed]
        if together:
            await self._settle_together(together)
        for task in batch:
            if isinstance(task, Failed):
                refund = partial(self._ledger.fail_task, self._identity, task.client, task.task_id)
                with about(task=task.task_id.hex()):
                    await self._insist(refund, task.expires_at)
                await self._end_if_over(task.client, task.task_id, task.expires_at)
                task.told()
            elif task.escrowed:
                complete = partial(self._ledger.complete_task, self._identity, task.settlement)
                consent = task.settlement.consent
                with about(task=consent.task_id.hex()):
                    self._tell(task, await self._insist(complete, consent.expires_at))
                await self._end_if_over(consent.client, consent.task_id, consent.expires_at)
        self._journal.close([_key(task) for task in batch])
        self.waiting -= len(batch)
        self.waiting_octas -= sum(map(_octas, batch))

    def _tell(self, task: Finished, result: Settled | None) -> None:
        """Hand on, and count, what became of a task."""
        split = result.split if result is not None else None
        if split is not None:
            self.paid.update(orchestrator=split.orchestrator, delegate=split.delegate, fee=split.fee)
        known = "skipped" if result is not None else "refused"
        self.results["paid" if split is not None else known] += 1
        task.told(result)

    async def _end_if_over(self, client: Address, task_id: bytes, until: int) -> None:
        """What this router was not let complete or fail by its deadline goes back to its client."""
        if self._clock() < until * 1_000:
            return
        with contextlib.suppress(MeshError):  # the client, or its next node, can do it too
            task = await self._ledger.task(client, task_id)
            if task is not None and task.status == "created":
                await self._ledger.timeout_task(self._identity, client, task_id)
                log.info("a task in escrow was ended after its deadline", extra={"task": task_id.hex()})

    async def _settle_together(self, tasks: Sequence[Finished]) -> None:
        settlements = [task.settlement for task in tasks]
        until = max(each.consent.expires_at for each in settlements)
        answer = await self._insist(partial(self._ledger.settle, self._identity, settlements), until)
        results: Sequence[Settled | None] = answer if answer is not None else [None] * len(tasks)
        for task, result in zip(tasks, results, strict=True):
            if result is not None and result.skipped is not None and not result.settled_before:
                task_id = task.settlement.consent.task_id.hex()
                log.warning("the contract skipped a task", extra={"task": task_id, "why": result.skipped})
            self._tell(task, result)

    async def _insist(self, act: Callable[[], Awaitable[_T]], until: int) -> _T | None:
        """Do *act* until the contract answers; None when its answer is no.

        A transaction that never ran (no coins for its fee, an authorisation that lapsed) is not the contract's answer:
        it is tried again until *until* (Unix seconds), when nothing can be paid any more.
        """
        wait_seconds = FIRST_RETRY_SECONDS
        while True:
            try:
                return await act()
            except LedgerDown as error:
                log.warning("the ledger is down; settling waits", extra={"seconds": wait_seconds, "why": str(error)})
            except MeshError as error:
                final = isinstance(error, LedgerAborted) or self._clock() >= until * 1_000
                words = "the ledger refused a settlement" if final else "the ledger takes no settlement; trying again"
                log.error(words, extra={"code": error.code, "why": str(error)})
                if final:
                    return None
            await trio.sleep(wait_seconds)
            wait_seconds = min(LAST_RETRY_SECONDS, 2 * wait_seconds)
