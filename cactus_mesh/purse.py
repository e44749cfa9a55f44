"""What this home's client may spend: a cap for each task and one for each day (UTC), kept over restarts and processes.

Decides before anything is sent.  A task counts with its maximum price until its price is known; one that failed after
somebody had begun to work counts in full until the ledger can take its consent no more, and then with what was paid.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from cactus_mesh.errors import DuplicateTask, PriceOverBudget, StateMalformed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VERSION: Final = 1
BUSY_SECONDS: Final = 5.0
DAY_SECONDS: Final = 86_400
KEPT_DAYS: Final = 32
"""For whoever wants to know what a month has cost."""
OPEN_AT_A_TIME: Final = 64
_SCHEMA: Final = """
CREATE TABLE spent (
    task_id BLOB PRIMARY KEY, client TEXT NOT NULL, day INTEGER NOT NULL, octas INTEGER NOT NULL,
    known_by INTEGER
) WITHOUT ROWID;
CREATE INDEX spent_day ON spent (client, day)
"""


@contextmanager
def open_purse(path: Path | None, client: str, *, per_task: int = 0, per_day: int = 0) -> Iterator[Purse]:
    """The purse of account *client*; caps in octas, 0 for none.  Several processes may have the file open.

    Raises `StateMalformed` for a file that is no purse, or one of a newer version.
    """
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
    with contextlib.closing(
        sqlite3.connect(path or ":memory:", isolation_level=None, timeout=BUSY_SECONDS)
    ) as database:
        try:
            _prepare(database)
        except sqlite3.DatabaseError as error:
            raise StateMalformed(
                f"{path} cannot be read as this home's purse ({error}); move it away and try again"
            ) from None
        yield Purse(database, client, per_task, per_day)


def _prepare(database: sqlite3.Connection) -> None:
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=NORMAL")
    database.execute("BEGIN IMMEDIATE")  # another process may be making the same table
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version == 0:
        for statement in _SCHEMA.split(";"):
            database.execute(statement)
        database.execute(f"PRAGMA user_version={VERSION}")
    database.execute("COMMIT")
    if version > VERSION:
        raise sqlite3.DatabaseError(f"it was written by a newer version, {version} after {VERSION}; update cactus-mesh")


class Purse:
    """Amounts in octas, times in Unix seconds.  Each method is one commit, of some tens of microseconds."""

    def __init__(self, database: sqlite3.Connection, client: str, per_task: int, per_day: int) -> None:
        self._database = database
        self._client = client
        self.per_task = per_task
        self.per_day = per_day

    def spent(self, now: float) -> int:
        """Today, tasks under way included at their maximum."""
        return self._spent(int(now) // DAY_SECONDS)

    def reserve(self, task_id: bytes, max_price: int, *, now: float, known_by: float) -> None:
        """*known_by* is when the ledger can settle the task no more.

        Raises `PriceOverBudget` when a cap would be passed, and `DuplicateTask` for an id that may cost something
        already; nothing is kept then.
        """
        if self.per_task and max_price > self.per_task:
            raise PriceOverBudget(
                f"this task may cost {max_price} octas and the cap for a task is {self.per_task}; lower its maximum "
                "price, or raise client.cap_per_task"
            )
        day = int(now) // DAY_SECONDS
        with self._database:  # another process of this home may be reserving too
            self._database.execute("BEGIN IMMEDIATE")
            spent = self._spent(day) if self.per_day else 0
            if self.per_day and spent + max_price > self.per_day:
                raise PriceOverBudget(
                    f"{spent} of today's {self.per_day} octas are spent or promised, and this task may cost "
                    f"{max_price}; wait until tomorrow (UTC), lower its maximum price, or raise client.cap_per_day"
                )
            self._database.execute("DELETE FROM spent WHERE day < ?", (day - KEPT_DAYS,))
            made = self._database.execute(
                "INSERT INTO spent VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET day = excluded.day, "
                "octas = excluded.octas, known_by = excluded.known_by WHERE octas = 0 AND known_by IS NULL",
                (task_id, self._client, day, max_price, int(known_by)),
            )
            if not made.rowcount:
                raise DuplicateTask("this task id was used before; make a new one for each task")

    def known(self, task_id: bytes, octas: int) -> None:
        """The task costs *octas*, for good."""
        self._database.execute("UPDATE spent SET octas = ?, known_by = NULL WHERE task_id = ?", (octas, task_id))

    def to_look_up(self, now: float) -> list[bytes]:
        """Tasks whose price is not known and of which the ledger has the last word by now."""
        rows = self._database.execute(
            "SELECT task_id FROM spent WHERE client = ? AND known_by <= ? LIMIT ?",
            (self._client, int(now), OPEN_AT_A_TIME),
        )
        return [task_id for (task_id,) in rows]

    def _spent(self, day: int) -> int:
        (total,) = self._database.execute(
            "SELECT coalesce(sum(octas), 0) FROM spent WHERE client = ? AND day = ?", (self._client, day)
        ).fetchone()
        return int(total)
