"""What a router owes to the ledger, on disk: finished tasks until they are settled, escrows until they are closed.

Also every task id and nonce that was spent here, until the ledger itself would refuse it.

Written before a task's last message leaves, so that a killed router pays for what it delivered, once.  A commit
survives the end of the process; that of the operating system may lose the last moments (WAL, synchronous=NORMAL).
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from cactus_mesh.core.settlement import Settlement, SettlementClaim, TaskConsent
from cactus_mesh.database import open_database
from cactus_mesh.errors import StateMalformed

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from pathlib import Path

    from cactus_mesh.identity import Address

VERSION: Final = 1
MAX_REMEMBERED_TASKS: Final = 200_000
"""The newest are read back at a start; a hundred bytes each."""
_SCHEMA: Final = """
CREATE TABLE tasks (
    client TEXT NOT NULL,
    task_id BLOB NOT NULL,
    nonce BLOB NOT NULL,
    expires_at INTEGER NOT NULL,
    escrowed INTEGER NOT NULL,
    owed BLOB,
    open INTEGER NOT NULL,
    PRIMARY KEY (client, task_id)
) WITHOUT ROWID;
CREATE INDEX tasks_open ON tasks (open) WHERE open;
CREATE INDEX tasks_expiry ON tasks (expires_at);
"""


class _Owed(msgspec.Struct, frozen=True):
    """A settlement as the file keeps it: the very bytes that were signed."""

    consent: bytes
    consent_signature: bytes
    claim: bytes
    claim_signature: bytes
    quality_ppm: int


_decode = msgspec.msgpack.Decoder(_Owed).decode


@dataclass(frozen=True, slots=True)
class Open:
    """A task that the ledger has not closed: to settle, or to refund where nothing is owed for it."""

    client: Address
    task_id: bytes
    expires_at: int
    escrowed: bool
    owed: Settlement | None


@dataclass(frozen=True, slots=True)
class Used:
    """A task id and a nonce that a client has spent here, until *expires_at* (Unix seconds)."""

    client: Address
    task_id: bytes
    nonce: int
    expires_at: int


@contextmanager
def open_journal(path: Path | None, *, now: int) -> Iterator[Journal]:
    """The journal at *path*, or one in memory; what expired before *now* (Unix seconds) and is closed is dropped.

    Raises `StateMalformed` for a file that is no journal, or one of a newer version.
    """
    with open_database(
        path,
        _SCHEMA,
        VERSION,
        what="this router's journal",
        remedy="restart: finished tasks in it that were not settled yet are lost with it",
    ) as database:
        journal = Journal(database)
        journal.forget(now)
        yield journal


class Journal:
    """Each method is one commit, of some tens of microseconds."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def escrow(self, consent: TaskConsent) -> None:
        """A price is about to be put into escrow: until `close`, it must come back or be paid."""
        self._write(consent, escrowed=True, owed=None)

    def finish(self, settlement: Settlement, *, escrowed: bool) -> None:
        """A task is done and owed for, until `close`."""
        owed = _Owed(
            settlement.consent.to_bcs(),
            settlement.consent_signature,
            settlement.claim.to_bcs(),
            settlement.claim_signature,
            settlement.quality_ppm,
        )
        self._write(settlement.consent, escrowed=escrowed, owed=msgspec.msgpack.encode(owed))

    def _write(self, consent: TaskConsent, *, escrowed: bool, owed: bytes | None) -> None:
        self._database.execute(
            "INSERT OR REPLACE INTO tasks VALUES (?, ?, ?, ?, ?, ?, 1)",
            (consent.client, consent.task_id, consent.nonce.to_bytes(8, "big"), consent.expires_at, escrowed, owed),
        )

    def close(self, tasks: list[tuple[Address, bytes]]) -> None:
        """The ledger has decided these; their ids and nonces stay used."""
        with self._database:
            self._database.execute("BEGIN")
            self._database.executemany("UPDATE tasks SET open = 0, owed = NULL WHERE client = ? AND task_id = ?", tasks)

    def open_tasks(self) -> list[Open]:
        """What is still to be settled or refunded, the oldest expiry first."""
        rows = self._database.execute(
            "SELECT client, task_id, expires_at, escrowed, owed FROM tasks WHERE open ORDER BY expires_at"
        ).fetchall()
        return [
            Open(client, task, until, bool(escrowed), _settlement(owed)) for client, task, until, escrowed, owed in rows
        ]

    def used(self) -> list[Used]:
        rows = self._database.execute(
            "SELECT client, task_id, nonce, expires_at FROM tasks ORDER BY expires_at DESC LIMIT ?",
            (MAX_REMEMBERED_TASKS,),
        ).fetchall()
        return [Used(client, task, int.from_bytes(nonce, "big"), until) for client, task, nonce, until in rows]

    def forget(self, now: int) -> None:
        """Drop closed tasks whose consent has expired: the ledger itself refuses them."""
        self._database.execute("DELETE FROM tasks WHERE NOT open AND expires_at < ?", (now,))


def _settlement(data: bytes | None) -> Settlement | None:
    if data is None:
        return None
    try:
        owed = _decode(data)
        consent, claim = TaskConsent.from_bcs(owed.consent), SettlementClaim.from_bcs(owed.claim)
    except ValueError as error:  # msgspec's errors are ValueErrors too
        raise StateMalformed(f"the journal holds a settlement that cannot be read ({error}); move it away") from None
    return Settlement(consent, owed.consent_signature, claim, owed.claim_signature, owed.quality_ppm)
