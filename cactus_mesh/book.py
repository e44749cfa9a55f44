"""What this home remembers because no view of the contract lists it: tasks, disputes, and stakes of its keys.

Only where to look is kept; what is true is always asked of the ledger.  Losing the file loses no money: everything in
it can be named to the command line again.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

from cactus_mesh.core.holdings import TaskName
from cactus_mesh.database import open_database

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from cactus_mesh.identity import Address

VERSION: Final = 1
MAX_SERVED: Final = 50_000
"""Tasks that an orchestrator may still be asked about: half a day at one a second, about 10 MB."""
TRIM_EVERY: Final = 1_000
_SCHEMA: Final = """
CREATE TABLE asked (
    client TEXT NOT NULL, task_id BLOB NOT NULL, expires_at INTEGER NOT NULL, PRIMARY KEY (client, task_id)
) WITHOUT ROWID;
CREATE INDEX asked_expiry ON asked (client, expires_at);
CREATE TABLE served (
    number INTEGER PRIMARY KEY, operator TEXT NOT NULL, client TEXT NOT NULL, task_id BLOB NOT NULL,
    until INTEGER NOT NULL
);
CREATE TABLE disputes (
    party TEXT NOT NULL, client TEXT NOT NULL, task_id BLOB NOT NULL, PRIMARY KEY (party, client, task_id)
) WITHOUT ROWID;
CREATE TABLE stakes (owner TEXT NOT NULL, operator TEXT NOT NULL, PRIMARY KEY (owner, operator)) WITHOUT ROWID;
"""


class Asked(NamedTuple):
    """A task and when the consent to pay for it ends, in Unix seconds."""

    name: TaskName
    expires_at: int


@contextmanager
def open_book(path: Path | None) -> Iterator[Book]:
    """The book at *path*, or one in memory.  Several processes may have it open.

    Raises `StateMalformed` for a file that is no book, or one of a newer version.
    """
    what = "this home's book of tasks and stakes"
    with open_database(path, _SCHEMA, VERSION, what=what, remedy="try again") as database:
        yield Book(database)


class Book:
    """Each method is one commit, of some tens of microseconds."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._until_trim = 0

    # tasks that a key of this home pays for

    def asked(self, client: Address, task_id: bytes, expires_at: int) -> None:
        """Until *expires_at* (Unix seconds) a router may put the price of this task into escrow."""
        self._database.execute(
            "INSERT INTO asked VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET expires_at = max(expires_at, ?)",
            (client, task_id, expires_at, expires_at),
        )

    def tasks(self, client: Address, *, limit: int) -> list[Asked]:
        """The oldest first."""
        rows = self._database.execute(
            "SELECT client, task_id, expires_at FROM asked WHERE client = ? ORDER BY expires_at LIMIT ?",
            (client, limit),
        )
        return [Asked(TaskName(name, task_id), until) for name, task_id, until in rows]

    def forget_tasks(self, tasks: Sequence[TaskName]) -> None:
        with self._database:
            self._database.execute("BEGIN")
            self._database.executemany("DELETE FROM asked WHERE client = ? AND task_id = ?", tasks)

    def forget_expired_tasks(self, client: Address, *, expired_at: int) -> None:
        self._database.execute("DELETE FROM asked WHERE client = ? AND expires_at < ?", (client, expired_at))

    # tasks that an orchestrator of this home answers for

    def served(self, operator: Address, task: TaskName, until: int) -> None:
        """Until *until* (Unix seconds) the task may come into doubt."""
        self._database.execute(
            "INSERT INTO served (operator, client, task_id, until) VALUES (?, ?, ?, ?)", (operator, *task, until)
        )
        self._until_trim -= 1
        if self._until_trim <= 0:
            self._until_trim = TRIM_EVERY
            self._database.execute(
                "DELETE FROM served WHERE number <= (SELECT max(number) FROM served) - ?", (MAX_SERVED,)
            )

    def disputable(self, operator: Address, now: int) -> list[TaskName]:
        """The newest first."""
        rows = self._database.execute(
            "SELECT client, task_id FROM served WHERE operator = ? AND until >= ? ORDER BY number DESC", (operator, now)
        )
        return [TaskName(*row) for row in rows]

    # disputes that a key of this home has a part in

    def disputed(self, party: Address, task: TaskName) -> None:
        self._database.execute("INSERT OR IGNORE INTO disputes VALUES (?, ?, ?)", (party, *task))

    def disputes(self, party: Address) -> list[TaskName]:
        rows = self._database.execute("SELECT client, task_id FROM disputes WHERE party = ?", (party,))
        return [TaskName(*row) for row in rows]

    def forget_dispute(self, party: Address, task: TaskName) -> None:
        self._database.execute("DELETE FROM disputes WHERE party = ? AND client = ? AND task_id = ?", (party, *task))

    # stakes that a key of this home owns

    def staked(self, owner: Address, operator: Address) -> None:
        self._database.execute("INSERT OR IGNORE INTO stakes VALUES (?, ?)", (owner, operator))

    def operators(self, owner: Address) -> list[Address]:
        return [row[0] for row in self._database.execute("SELECT operator FROM stakes WHERE owner = ?", (owner,))]

    def forget_stake(self, owner: Address, operator: Address) -> None:
        self._database.execute("DELETE FROM stakes WHERE owner = ? AND operator = ?", (owner, operator))
