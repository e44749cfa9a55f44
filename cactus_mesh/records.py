"""A home's own history of its tasks: who did what for whom, what it cost, and the signed documents that prove it.

Never holds a prompt or a text; a receipt has the answer's token ids, so keeping receipts is the user's to choose.
Writing is beside the work: what ended is collected, and a thread commits it a few times a second.
"""

from __future__ import annotations

import dataclasses
import logging
import sqlite3
import time
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import trio

from cactus_mesh.concurrency import open_service_nursery
from cactus_mesh.database import open_database
from cactus_mesh.errors import StateMalformed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from pathlib import Path

    from cactus_mesh.core.keeping import RecordPolicy
    from cactus_mesh.core.pricing import Split
    from cactus_mesh.identity import Address, PeerId

VERSION: Final = 1
FLUSH_SECONDS: Final = 0.5
"""Between commits; whoever looks sees a task so much later."""
MAX_WAITING: Final = 10_000
"""Not written yet; beyond that the newest are lost and counted, rather than the work slowed."""
LAST_FLUSH_SECONDS: Final = 5.0
DAY_SECONDS: Final = 86_400
THINNED_AT_ONCE: Final = 500
ID_BYTES: Final = 16

Part = Literal["client", "orchestrator", "router"]
State = Literal["cancelled", "done", "failed"]
PARTS: Final[tuple[Part, ...]] = ("client", "orchestrator", "router")
STATES: Final[tuple[State, ...]] = ("cancelled", "done", "failed")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecord:
    """One task as one party of it saw it end.  Amounts in octas; None is what this party does not know.

    *price* is what the receipt claims, the most that is paid; *paid* and its parts are the ledger's word, once known.
    """

    task_id: bytes
    role: Part
    party: PeerId
    """Whose record it is: the key that this home had then."""
    chain: str
    """Chain id and contract: amounts of different ledgers do not add up."""
    at: float
    """Unix seconds: when it was asked for, taken or handed over to be settled."""
    state: State
    code: str = ""
    model: str
    kind: str
    client: Address
    router: PeerId | None = None
    orchestrator: PeerId | None = None
    delegate: PeerId | None = None
    prompt_tokens: int | None = None
    tokens: int | None = None
    first_token_ms: int | None = None
    latency_ms: int | None = None
    compute_ms: int | None = None
    max_price: int
    price: int | None = None
    until: int
    """Unix seconds: the ledger settles the task until then."""
    paid: int | None = None
    to_orchestrator: int | None = None
    to_delegate: int | None = None
    fee: int | None = None
    proof: bytes | None = None
    """`core.proofs.Proof`, packed; None where receipts are not kept."""

    def settled(self, split: Split | None) -> TaskRecord:
        """With what the ledger paid, nothing where it settled nothing."""
        parts = (split.orchestrator, split.delegate, split.fee) if split is not None else (0, 0, 0)
        return dataclasses.replace(self, paid=sum(parts), to_orchestrator=parts[0], to_delegate=parts[1], fee=parts[2])

    @property
    def to_be_paid(self) -> bool:
        """Whether the ledger still has a word to say."""
        return self.paid is None and (self.state != "failed" or self.orchestrator is not None)


_COLUMNS: Final = tuple(column.name for column in dataclasses.fields(TaskRecord))
_LISTED: Final = ", ".join(_COLUMNS)
_WITHOUT_PROOF: Final = ", ".join("NULL" if name == "proof" else name for name in _COLUMNS)
_INSERT: Final = f"INSERT OR REPLACE INTO tasks ({_LISTED}) VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608
_TO_BE_PAID: Final = "paid IS NULL AND (state != 'failed' OR orchestrator IS NOT NULL)"
_SCHEMA: Final = """
CREATE TABLE tasks (
    number INTEGER PRIMARY KEY, task_id BLOB NOT NULL, role TEXT NOT NULL, party TEXT NOT NULL, chain TEXT NOT NULL,
    at REAL NOT NULL, state TEXT NOT NULL, code TEXT NOT NULL, model TEXT NOT NULL, kind TEXT NOT NULL,
    client TEXT NOT NULL, router TEXT, orchestrator TEXT, delegate TEXT, prompt_tokens INTEGER, tokens INTEGER,
    first_token_ms INTEGER, latency_ms INTEGER, compute_ms INTEGER, max_price INTEGER NOT NULL, price INTEGER,
    until INTEGER NOT NULL, paid INTEGER, to_orchestrator INTEGER, to_delegate INTEGER, fee INTEGER, proof BLOB,
    UNIQUE (task_id, role, party)
);
CREATE INDEX tasks_at ON tasks (at);
CREATE INDEX tasks_unpaid ON tasks (chain, at) WHERE paid IS NULL;
CREATE INDEX tasks_proven ON tasks (number) WHERE proof IS NOT NULL
"""
_REMEDY: Final = "start again: only the history of tasks is lost with it"


# --- writing -----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def open_recorder(path: Path, policy: RecordPolicy) -> AsyncIterator[Recorder]:
    """Takes records for the length of the block and commits the last of them on the way out.

    Raises `StateMalformed` for a file that holds no records, or those of a newer version.
    """
    recorder = Recorder(path, policy)
    if not policy.keep:
        yield recorder
        return
    await trio.to_thread.run_sync(recorder._write, [])
    async with open_service_nursery() as nursery:
        nursery.start_soon(recorder._run)
        try:
            yield recorder
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(LAST_FLUSH_SECONDS):
                await recorder._flush()


class Recorder:
    def __init__(self, path: Path, policy: RecordPolicy) -> None:
        self._path = path
        self._policy = policy
        self._waiting: list[TaskRecord] = []
        self._woken = trio.Event()
        self._turn = trio.Lock()
        self.lost = 0
        """Records that came faster than they could be written, or that the disk did not take."""

    @property
    def keeps_receipts(self) -> bool:
        return self._policy.keep and self._policy.receipts

    def note(self, record: TaskRecord) -> None:
        """Keep *record*, soon; never blocks."""
        if not self._policy.keep:
            return
        if len(self._waiting) >= MAX_WAITING:
            self.lost += 1
            return
        self._waiting.append(record)
        self._woken.set()

    async def _run(self) -> None:
        while True:
            await self._woken.wait()
            await trio.sleep(FLUSH_SECONDS)
            await self._flush()

    async def _flush(self) -> None:
        async with self._turn:
            batch, self._waiting, self._woken = self._waiting, [], trio.Event()
            if not batch:
                return
            try:
                await trio.to_thread.run_sync(partial(self._write, batch))
            except (StateMalformed, sqlite3.Error, OSError) as error:
                self.lost += len(batch)
                log.error("records of tasks were lost", extra={"tasks": len(batch), "why": str(error)})

    def _write(self, batch: Sequence[TaskRecord]) -> None:
        with _open(self._path) as database:
            database.execute("BEGIN IMMEDIATE")
            database.executemany(_INSERT, [tuple(getattr(each, name) for name in _COLUMNS) for each in batch])
            database.execute("DELETE FROM tasks WHERE at < ?", (time.time() - self._policy.days * DAY_SECONDS,))
            last = "number <= (SELECT max(number) FROM tasks) - ?"
            database.execute(f"DELETE FROM tasks WHERE {last}", (self._policy.tasks,))  # noqa: S608 - our own words
            self._thin(database)
            database.execute("COMMIT")

    def _thin(self, database: sqlite3.Connection) -> None:
        """Drop the oldest receipts while the file is larger than it may be; their figures stay."""
        most = self._policy.receipts_mib << 20
        while _used_bytes(database) > most:
            thinned = database.execute(
                "UPDATE tasks SET proof = NULL WHERE number IN (SELECT number FROM tasks WHERE proof IS NOT NULL "
                "ORDER BY number LIMIT ?)",
                (THINNED_AT_ONCE,),
            )
            if not thinned.rowcount:
                return


def _used_bytes(database: sqlite3.Connection) -> int:
    pages, free, size = (
        int(database.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size


@contextmanager
def _open(path: Path | None) -> Iterator[sqlite3.Connection]:
    with open_database(path, _SCHEMA, VERSION, what="this home's records of tasks", remedy=_REMEDY) as database:
        yield database


# --- reading -----------------------------------------------------------------------------------------------------


class Earned(NamedTuple):
    """A sum of tasks.  *amount* is what the ledger has paid, *pending* what it may still pay, at most."""

    day: str
    model: str
    role: Part
    tasks: int
    tokens: int
    amount: int
    fees: int
    pending: int
    unsettled: int


@contextmanager
def open_records(path: Path | None) -> Iterator[Records]:
    """The records at *path*, to read, or empty ones in memory.  Several processes may have the file open.

    Raises `StateMalformed` for a file that holds no records, or those of a newer version.
    """
    with _open(path) as database:
        yield Records(database)


class Records:
    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def recent(self, limit: int, *, state: str | None = None, role: str | None = None) -> list[TaskRecord]:
        """The newest first, without their proofs."""
        return self._read(
            f"SELECT {_WITHOUT_PROOF} FROM tasks WHERE (? IS NULL OR state = ?) AND (? IS NULL OR role = ?) "  # noqa: S608
            "ORDER BY at DESC, number DESC LIMIT ?",
            (state, state, role, role, limit),
        )

    def named(self, beginning: str, limit: int = 8) -> list[TaskRecord]:
        """Those whose task id, in hex, begins so; what one party knows of a task beside what another does."""
        try:
            first, last = (bytes.fromhex(beginning.ljust(2 * ID_BYTES, digit)) for digit in "0f")
        except ValueError:
            return []
        return self._read(
            f"SELECT {_LISTED} FROM tasks WHERE task_id BETWEEN ? AND ? ORDER BY at DESC LIMIT ?",  # noqa: S608
            (first, last, limit),
        )

    def between(self, since: float, until: float, *, role: str | None = None) -> Iterator[TaskRecord]:
        """Those that began then, in Unix seconds, the oldest first; whole, one after another."""
        rows = self._database.execute(
            f"SELECT {_LISTED} FROM tasks WHERE at >= ? AND at < ? AND role = coalesce(?, role) ORDER BY at, number",  # noqa: S608
            (since, until, role),
        )
        return (_record(row) for row in rows)

    def to_look_up(self, chain: str, limit: int) -> list[TaskRecord]:
        """Those of which the ledger has a word to say that is not known here, the newest first."""
        return self._read(
            f"SELECT {_WITHOUT_PROOF} FROM tasks WHERE chain = ? AND {_TO_BE_PAID} ORDER BY at DESC LIMIT ?",  # noqa: S608
            (chain, limit),
        )

    def settle(self, records: Sequence[TaskRecord]) -> None:
        """Keep what the ledger has said of these."""
        with self._database:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany(
                "UPDATE tasks SET paid = ?, to_orchestrator = ?, to_delegate = ?, fee = ? "
                "WHERE task_id = ? AND client = ? AND chain = ?",
                [
                    (each.paid, each.to_orchestrator, each.to_delegate, each.fee, each.task_id, each.client, each.chain)
                    for each in records
                ],
            )

    def earned(self, chain: str, since: float, until: float, *, treasury_bps: int = 0) -> list[Earned]:
        """By day (UTC), model and part.  A client's *amount* is what it spent; of the fee, the treasury has its share
        and the router the rest."""
        rows = self._database.execute(
            f"""SELECT date(at, 'unixepoch') AS day, model, role, count(*), coalesce(sum(tokens), 0),
            coalesce(sum(CASE role WHEN 'client' THEN paid WHEN 'router' THEN fee - fee * ? / 10000
                ELSE CASE WHEN delegate = party THEN to_delegate ELSE to_orchestrator END END), 0),
            coalesce(sum(fee), 0),
            coalesce(sum(CASE WHEN {_TO_BE_PAID} THEN coalesce(price, max_price) END), 0),
            coalesce(sum({_TO_BE_PAID}), 0)
            FROM tasks WHERE chain = ? AND at >= ? AND at < ? GROUP BY day, model, role
            ORDER BY day DESC, role, model""",  # noqa: S608 - our own words
            (treasury_bps, chain, since, until),
        )
        return [Earned(*row) for row in rows]

    def _read(self, query: str, values: Sequence[object]) -> list[TaskRecord]:
        return [_record(row) for row in self._database.execute(query, tuple(values))]


def _record(row: Sequence[object]) -> TaskRecord:
    return TaskRecord(**dict(zip(_COLUMNS, row, strict=True)))  # type: ignore[arg-type]
