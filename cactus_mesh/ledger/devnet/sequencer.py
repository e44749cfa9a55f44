"""The one writer: takes transactions in their order of arrival, runs all that wait, commits them, then answers.

Readers share its lock, so that nobody ever sees what is not yet on disk.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from cactus_mesh.ledger.devnet import shapes
from cactus_mesh.ledger.devnet.refusals import Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from cactus_mesh.identity import Address
    from cactus_mesh.ledger.devnet.chain import Chain, Executed
    from cactus_mesh.ledger.devnet.store import Store
    from cactus_mesh.ledger.devnet.transactions import Submission

MAX_QUEUED: Final = 1_024
"""As many as connections; each waits for its own answer."""
MAX_COMMIT: Final = 128
"""Transactions in one commit: hides the disk's latency."""
MAX_COMMIT_SECONDS: Final = 0.05
"""Running transactions before a commit: bounds how long readers and early transactions wait for later ones."""

T = TypeVar("T")


@dataclass(slots=True)
class _Job:
    """Work on the chain, and who waits for it."""

    run: Callable[[int], list[Executed]]
    done: trio.Event = field(default_factory=trio.Event)
    executed: list[Executed] = field(default_factory=list)
    refused: Refused | None = None

    def attempt(self, now_us: int) -> None:
        try:
            self.executed = self.run(now_us)
        except Refused as refused:
            self.refused = refused


class Sequencer:
    """Serialises all access to a chain and its store.  `run` must be running.

    *version* is that of the last transaction on disk.
    """

    def __init__(self, chain: Chain, store: Store, clock: Callable[[], float]) -> None:
        self.chain = chain
        self.store = store
        self.clock = clock
        self._into, self._jobs = trio.open_memory_channel[_Job](MAX_QUEUED)
        self._lock = trio.Lock()
        self._committed = trio.Event()
        self.version = chain.version

    async def submit(self, submission: Submission) -> None:
        """Returns once it is on disk, or parked.  Raises `Refused`.  Cancelled, it may still happen."""
        await self._do(_Job(lambda now_us: self.chain.submit(submission, now_us)))

    async def mint(self, account: Address, amount: int) -> str:
        job = _Job(lambda now_us: [self.chain.mint(account, amount, now_us)])
        await self._do(job)
        return job.executed[0].hash

    async def read(self, question: Callable[[Chain, Store], T]) -> T:
        """Ask about committed state only."""
        async with self._lock:
            return question(self.chain, self.store)

    async def next_commit(self) -> None:
        await self._committed.wait()

    async def _do(self, job: _Job) -> None:
        await self._into.send(job)
        await job.done.wait()
        if job.refused is not None:
            raise job.refused

    async def run(self) -> None:
        """Never returns.  A commit that fails ends the ledger: its memory would be ahead of its disk."""
        while True:
            job = await self._jobs.receive()
            async with self._lock:
                await self._commit(self._attempt_all(job))

    def _attempt_all(self, job: _Job | None) -> list[_Job]:
        """Run *job* and those that wait behind it, within bounds."""
        now_us, begun, done = self._now_us(), time.perf_counter(), list[_Job]()
        while job is not None:
            job.attempt(now_us)
            done.append(job)
            enough = len(done) >= MAX_COMMIT or time.perf_counter() - begun > MAX_COMMIT_SECONDS
            job = None if enough else self._next_waiting()
        return done

    def _next_waiting(self) -> _Job | None:
        try:
            return self._jobs.receive_nowait()
        except trio.WouldBlock:
            return None

    @property
    def timestamp_us(self) -> int:
        """The ledger's present time, which like a chain's goes on without transactions, and never back."""
        return max(self.chain.timestamp_us, self._now_us())

    def _now_us(self) -> int:
        return math.floor(self.clock() * 1_000_000)

    async def _commit(self, jobs: list[_Job]) -> None:
        records = [shapes.record(executed) for job in jobs for executed in job.executed]
        rows = self.chain.state.take_journal()
        if records:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self.store.commit, records, rows)
            self.version = records[-1].version
            self._committed.set()
            self._committed = trio.Event()
        for job in jobs:
            job.done.set()
