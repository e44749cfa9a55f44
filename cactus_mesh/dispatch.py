"""Drives one `core.routing.TaskMachine` over the network: its effects become calls, what comes back becomes events.

A router dispatches to orchestrators, an orchestrator that delegates dispatches to its delegates; a `Plan` is the
difference between the two.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, assert_never

import trio

from cactus_mesh.concurrency import beside, open_service_nursery
from cactus_mesh.core import routing
from cactus_mesh.core.verification import Witnessed
from cactus_mesh.errors import Busy, MeshError, ProtocolViolation
from cactus_mesh.identity import peer_id
from cactus_mesh.messages import (
    Acceptance,
    Accepted,
    Chunk,
    Done,
    Progress,
    StreamItem,
    decode_item,
    encode_unsigned,
    unseal,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cactus_mesh.clock import Clock
    from cactus_mesh.concurrency import Stop
    from cactus_mesh.core.delegation import Chain
    from cactus_mesh.core.matching import Candidate
    from cactus_mesh.directory import Directory
    from cactus_mesh.messages import Order, Partial, Receipt, Sampling, Sealed
    from cactus_mesh.ports import Network

RUN_METHOD: Final = "task.run"
STOP_METHOD: Final = "task.stop"
ITEMS_UNDER_WAY: Final = 32
"""Between an attempt and its machine; the orchestrator's credit is used up soon after."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """A finished attempt: what was sent back, and what the checks of it found."""

    done: Done
    chain: Chain
    receipt: Sealed[Receipt]
    failed_checks: tuple[str, ...]
    text: str = ""
    """What was streamed, where an audit needs it: of texts that were read whole."""


@dataclass(frozen=True, slots=True)
class Placed:
    """An order as given to one candidate; *digest* is how its acceptance and receipt must name it."""

    order: Order
    digest: bytes


class Plan(Protocol):
    """What a dispatch is for."""

    task_id: bytes
    sampling: Sampling
    deadline_ms: int
    partial: Partial | None
    """What had been streamed before this dispatch."""
    stop: Stop
    """When nobody wants the rest any more."""

    def place(self, candidate: Candidate, attempt: int, partial: Partial | None) -> Placed:
        """Sign the order for *candidate*, who goes on from *partial*."""
        ...

    def examine(self, candidate: Candidate, done: Done, seen: Witnessed) -> Evidence:
        """Check what *candidate* sent at its end, maybe in a thread.

        Raises `MessageError` or `DelegationRejected` on evidence that is not even well formed.
        """
        ...

    async def progress(self, candidate: Candidate, attempt: int) -> None: ...

    async def forward(self, chunk: Chunk) -> None:
        """Pass *chunk* on, at the latest when told to `let_go`."""
        ...

    async def let_go(self) -> None:
        """All that has come is dealt with: nothing that is held back leaves together with more."""
        ...

    def record(self, report: routing.Record, evidence: Evidence | None) -> None:
        """Note what an attempt says of its orchestrator."""
        ...


@dataclass(frozen=True, slots=True)
class Dispatcher:
    network: Network
    directory: Directory
    clock: Clock
    patience: routing.Patience

    async def dispatch(self, plan: Plan, candidates: Sequence[Candidate]) -> Evidence:
        """Get *plan* done by the first of *candidates* that can; returns evidence that passed its checks.

        Raises a `MeshError` that says why the task failed.  Cancelling stops the work at the orchestrator.
        """
        machine = routing.TaskMachine(
            candidates,
            sampling=plan.sampling,
            deadline_ms=plan.deadline_ms,
            patience=self.patience,
            partial=plan.partial,
        )
        async with open_service_nursery() as nursery:
            run = _Run(self, plan, machine, nursery)
            plan.stop.then(run.wake)
            return await run.to_the_end()


class _Run:
    """One dispatch under way."""

    def __init__(self, dispatcher: Dispatcher, plan: Plan, machine: routing.TaskMachine, nursery: trio.Nursery) -> None:
        self._dispatcher = dispatcher
        self._clock = dispatcher.clock
        self._plan = plan
        self._machine = machine
        self._nursery = nursery
        self._into, self._items = trio.open_memory_channel[tuple[int, StreamItem | MeshError]](ITEMS_UNDER_WAY)
        self._scopes: dict[int, trio.CancelScope] = {}
        self._placed: dict[int, tuple[Candidate, Placed, int]] = {}
        self._evidence: Evidence | None = None
        self._wake_at_ms: float = math.inf
        self._waiting = trio.CancelScope()

    def wake(self) -> None:
        """Look again whether this is still wanted."""
        self._waiting.cancel()

    async def to_the_end(self) -> Evidence:
        effects = self._machine.begin(self._clock())
        while True:
            for effect in effects:
                match effect:
                    case routing.Succeed():
                        assert self._evidence is not None, "success follows from evidence"
                        return self._evidence
                    case routing.Fail(error=error):
                        raise error
                    case _:
                        await self._do(effect)
            if not self._items.statistics().current_buffer_used:
                await self._plan.let_go()
            event = await self._next_event()
            effects = self._machine.handle(event, self._clock())

    async def _do(
        self,
        effect: routing.Assign | routing.Abandon | routing.Stop | routing.Forward | routing.WakeAt | routing.Record,
    ) -> None:
        match effect:
            case routing.Assign(attempt=attempt, candidate=candidate, partial=partial):
                placed = self._plan.place(candidate, attempt, partial)
                self._placed[attempt] = candidate, placed, self._clock()
                scope = self._scopes[attempt] = trio.CancelScope()
                self._nursery.start_soon(self._attempt, attempt, candidate, placed.order, scope)
            case routing.Abandon(attempt=attempt):
                self._scopes[attempt].cancel()
            case routing.Stop(attempt=attempt):
                self._nursery.start_soon(self._tell_to_stop, *self._placed[attempt][:2])
            case routing.Forward(start=start, token_ids=token_ids, text=text, likelihoods=likelihoods):
                chunk = Chunk(self._plan.task_id, start, list(token_ids), text, list(likelihoods))
                await self._plan.forward(chunk)
            case routing.WakeAt(at_ms=at_ms):
                self._wake_at_ms = at_ms
            case routing.Record():
                self._plan.record(effect, self._evidence)
            case _:
                assert_never(effect)

    async def _attempt(self, attempt: int, candidate: Candidate, order: Order, scope: trio.CancelScope) -> None:
        directory = self._dispatcher.directory
        directory.begin_task(candidate.orchestrator)
        try:
            with scope:
                await self._take((attempt, await self._converse(attempt, candidate, order)))
        finally:
            directory.end_task(candidate.orchestrator)

    async def _tell_to_stop(self, candidate: Candidate, placed: Placed) -> None:
        """One that does not hear it is given up when its time is over."""
        with suppress(MeshError):
            await self._dispatcher.network.ask(peer_id(candidate.orchestrator), STOP_METHOD, placed.digest)

    async def _converse(self, attempt: int, candidate: Candidate, order: Order) -> Done | MeshError:
        """Pass on what the orchestrator sends, and return how it ended."""
        try:
            peer = await self._dispatcher.directory.reach(candidate.orchestrator)
            async with self._dispatcher.network.call(peer, RUN_METHOD, encode_unsigned(order)) as reply:
                async for raw in reply:
                    item = decode_item(raw)
                    if isinstance(item, Done):
                        return item
                    await self._take((attempt, item))
        except MeshError as error:
            return error
        return ProtocolViolation(f"orchestrator {peer} ended the task without a receipt")

    async def _take(self, item: tuple[int, StreamItem | MeshError]) -> None:
        """Without letting others run first while there is room, so that what came at once is handled at once."""
        try:
            self._into.send_nowait(item)
        except trio.WouldBlock:
            await self._into.send(item)

    async def _next_event(self) -> routing.Event:
        if self._plan.stop.asked and not self._machine.unwanted:
            return routing.Unwanted()
        received = await self._receive()
        if received is None or received[0] != max(self._placed):
            return routing.Woke()
        return await self._event_of(*received)

    async def _receive(self) -> tuple[int, StreamItem | MeshError] | None:
        """What comes next, or None when the machine's time is up first.

        What has come already goes before the time, or a slow client would count against the orchestrator.
        """
        try:
            return self._items.receive_nowait()
        except trio.WouldBlock:
            pass
        with trio.move_on_after(max(0.0, (self._wake_at_ms - self._clock()) / 1_000)) as self._waiting:
            return await self._items.receive()
        return None

    async def _event_of(self, attempt: int, item: StreamItem | MeshError) -> routing.Event:
        if isinstance(item, Busy):
            self._dispatcher.directory.found_full(self._placed[attempt][0].orchestrator)
        if isinstance(item, MeshError):
            return routing.AttemptFailed(attempt, item)
        try:
            return await self._event_of_item(attempt, item)
        except MeshError as error:
            name = peer_id(self._placed[attempt][0].orchestrator)
            return routing.AttemptFailed(attempt, ProtocolViolation(f"orchestrator {name} broke the rules: {error}"))

    async def _event_of_item(self, attempt: int, item: StreamItem) -> routing.Event:
        candidate, placed, asked_at_ms = self._placed[attempt]
        match item:
            case Accepted(acceptance=raw):
                accepted = unseal(raw, Acceptance, now_ms=self._clock(), sender=candidate.orchestrator)
                if accepted.body.order_hash != placed.digest:
                    raise ProtocolViolation("it accepted another order")
                await self._plan.progress(candidate, attempt)
                return routing.Accepted(attempt)
            case Chunk():
                if item.task_id != self._plan.task_id:
                    raise ProtocolViolation("it sent tokens of another task")
                return routing.Tokens(attempt, item.start, item.token_ids, item.text, item.likelihoods)
            case Done():
                elapsed_ms = self._clock() - asked_at_ms
                machine = self._machine
                seen = Witnessed(machine.token_ids, machine.text, elapsed_ms, machine.unwanted, machine.logprobs)
                look = partial(self._plan.examine, candidate, item, seen)
                self._evidence = await beside(len(seen.text), look)
                return routing.Finished(attempt, self._evidence.failed_checks)
            case Progress():
                raise ProtocolViolation("it sent progress, which only a router does")
            case _:
                assert_never(item)
