"""What this home's client may spend: a cap for each task and one for each day (UTC), kept over restarts and processes.

Decides before anything is sent.  A task counts with its maximum price until its price is known; one that failed after
somebody had begun to work counts in full until the ledger can take its consent no more, and then with what was paid.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from cactus_mesh.database import open_database
from cactus_mesh.errors import DuplicateTask, PriceOverBudget

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from pathlib import Path

VERSION: Final = 1
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
    with open_database(path, _SCHEMA, VERSION, what="this home's purse", remedy="try again") as database:
        yield Purse(database, client, per_task, per_day)


class Purse:
    """Amounts in octas, times in Unix seconds.  Each method is one commit, of some tens of microseconds."""

    def __init__(self, database: sqlite3.Connection, client: str, per_task: int, per_day: int) -> None:
        self._database = database
        self._client = client
        self._trimmed_on = 0
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
            self._trim(day)
            made = self._database.execute(
                "INSERT INTO spent VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET day = excluded.day, "
                "octas = excluded.octas, known_by = excluded.known_by WHERE octas = 0 AND known_by IS NULL",
                (task_id, self._client, day, max_price, int(known_by)),
            )
            if not made.rowcount:
                raise DuplicateTask("this task id was used before; make a new one for each task")

    def _trim(self, day: int) -> None:
        """Once a day: it looks at every row."""
        if day != self._trimmed_on:
            self._database.execute("DELETE FROM spent WHERE day < ?", (day - KEPT_DAYS,))
            self._trimmed_on = day

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
