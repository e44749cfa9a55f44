"""What a router knows from its audits, on disk: each orchestrator's record, and the evidence of what failed.

Evidence is written before a dispute is opened with its hash, so that an arbiter who asks for it gets it.
"""

from __future__ import annotations

import struct
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from cactus_mesh.core.exhibits import MAX_EXHIBITS
from cactus_mesh.core.suspicion import RATES, Suspicion
from cactus_mesh.database import open_database
from cactus_mesh.identity import PublicKey

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator
    from pathlib import Path

    from cactus_mesh.identity import Address

VERSION: Final = 1
MAX_RECORDS: Final = 100_000
"""Of orchestrators and models, some 150 bytes each; who was audited longest ago begins anew."""
MAX_CASES: Final = 10_000
"""The oldest that wait for nothing make room; a case is some kilobytes, at most a few megabytes."""
MAX_DOUBTS_BYTES: Final = 64 << 20
"""Of one orchestrator and model: where texts were read whole, an exhibit holds the answer, of up to 16 MB."""
_SCHEMA: Final = """
CREATE TABLE records (
    orchestrator BLOB NOT NULL, model BLOB NOT NULL, passed INTEGER NOT NULL, levels BLOB NOT NULL,
    answers INTEGER NOT NULL, tokens INTEGER NOT NULL, mismatches INTEGER NOT NULL, at INTEGER NOT NULL,
    PRIMARY KEY (orchestrator, model)
) WITHOUT ROWID;
CREATE INDEX records_age ON records (at);
CREATE TABLE doubts (
    number INTEGER PRIMARY KEY, orchestrator BLOB NOT NULL, model BLOB NOT NULL, exhibit BLOB NOT NULL
);
CREATE INDEX doubts_of ON doubts (orchestrator, model);
CREATE TABLE cases (
    number INTEGER PRIMARY KEY, client TEXT NOT NULL, task_id BLOB NOT NULL, orchestrator BLOB NOT NULL,
    result TEXT NOT NULL, failed TEXT NOT NULL, evidence BLOB NOT NULL, dispute TEXT NOT NULL, at INTEGER NOT NULL,
    until INTEGER NOT NULL, UNIQUE (client, task_id)
);
CREATE INDEX cases_wanted ON cases (dispute) WHERE dispute = 'wanted';
"""
_CASE: Final = "client, task_id, orchestrator, result, failed, evidence, dispute, at, until"
_LEVELS: Final = struct.Struct(f"<{len(RATES)}d")

Dispute = Literal["none", "wanted", "opened", "refused"]


@dataclass(frozen=True, slots=True)
class Record:
    """*passed* audits in a row, and what has added up."""

    passed: int = 0
    suspicion: Suspicion = field(default_factory=Suspicion)


@dataclass(frozen=True, slots=True)
class Case:
    """An audit that failed, was confirmed or not.  Times in Unix seconds; a dispute can be opened *until* then."""

    client: Address
    task_id: bytes
    orchestrator: PublicKey
    result: Literal["fail", "inconclusive"]
    failed: tuple[str, ...]
    evidence: bytes
    dispute: Dispute
    at: int
    until: int


@contextmanager
def open_dossier(path: Path | None) -> Iterator[Dossier]:
    """The dossier at *path*, or one in memory.  Raises `StateMalformed` for a file that is none or is newer."""
    remedy = "restart: the evidence of open disputes in it is lost with it"
    with open_database(path, _SCHEMA, VERSION, what="this router's audits", remedy=remedy) as database:
        yield Dossier(database)


class Dossier:
    """Each method is one commit, of some tens of microseconds."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    # --- records -------------------------------------------------------------------------------------------------

    def record(self, orchestrator: PublicKey, model: bytes) -> Record:
        row = self._database.execute(
            "SELECT passed, levels, answers, tokens, mismatches FROM records WHERE orchestrator = ? AND model = ?",
            (orchestrator, model),
        ).fetchone()
        if row is None or len(row[1]) != _LEVELS.size:
            return Record()
        return Record(row[0], Suspicion(_LEVELS.unpack(row[1]), *row[2:]))

    def note(self, orchestrator: PublicKey, model: bytes, record: Record, now: int) -> None:
        seen = record.suspicion
        self._database.execute(
            "INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(orchestrator, model, record.passed, _LEVELS.pack(*seen.levels)),
                *(seen.answers, seen.tokens, seen.mismatches, now),
            ),
        )
        (count,) = self._database.execute("SELECT count(*) FROM records").fetchone()
        if count > MAX_RECORDS:
            self._database.execute(
                "DELETE FROM records WHERE (orchestrator, model) IN "
                "(SELECT orchestrator, model FROM records ORDER BY at LIMIT ?)",
                (count - MAX_RECORDS,),
            )

    # --- answers with mismatches, from which a suspicion may come ------------------------------------------------

    def doubt(self, orchestrator: PublicKey, model: bytes, exhibit: bytes) -> None:
        """Keep an answer that had mismatches; the newest `MAX_EXHIBITS` of an orchestrator stay, if there is room."""
        self._database.execute(
            "INSERT INTO doubts (orchestrator, model, exhibit) VALUES (?, ?, ?)", (orchestrator, model, exhibit)
        )
        self._database.execute(
            "DELETE FROM doubts WHERE orchestrator = ? AND model = ? AND number NOT IN (SELECT number FROM "
            "(SELECT number, sum(length(exhibit)) OVER (ORDER BY number DESC) AS bytes FROM doubts "
            "WHERE orchestrator = ? AND model = ? ORDER BY number DESC LIMIT ?) WHERE bytes <= ?)",
            (orchestrator, model, orchestrator, model, MAX_EXHIBITS, MAX_DOUBTS_BYTES),
        )

    def doubts(self, orchestrator: PublicKey, model: bytes) -> list[bytes]:
        """The newest first."""
        rows = self._database.execute(
            "SELECT exhibit FROM doubts WHERE orchestrator = ? AND model = ? ORDER BY number DESC",
            (orchestrator, model),
        )
        return [row[0] for row in rows]

    def forget_doubts(self, orchestrator: PublicKey, model: bytes) -> None:
        self._database.execute("DELETE FROM doubts WHERE orchestrator = ? AND model = ?", (orchestrator, model))

    # --- cases ---------------------------------------------------------------------------------------------------

    def file(self, case: Case) -> None:
        self._database.execute(
            f"INSERT OR REPLACE INTO cases ({_CASE}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - our own names
            (
                *(case.client, case.task_id, case.orchestrator, case.result, " ".join(case.failed), case.evidence),
                *(case.dispute, case.at, case.until),
            ),
        )
        self._database.execute(
            "DELETE FROM cases WHERE dispute != 'wanted' AND number <= (SELECT max(number) FROM cases) - ?",
            (MAX_CASES,),
        )

    def set_dispute(self, case: Case, dispute: Dispute) -> None:
        self._database.execute(
            "UPDATE cases SET dispute = ? WHERE client = ? AND task_id = ?", (dispute, case.client, case.task_id)
        )

    def wanted(self) -> list[Case]:
        """Those whose dispute is still to be opened, the oldest first."""
        return self._cases("WHERE dispute = 'wanted' ORDER BY number")

    def cases(self, limit: int) -> list[Case]:
        """The newest first."""
        return self._cases("ORDER BY number DESC LIMIT ?", limit)

    def of_task(self, task_id: bytes) -> list[Case]:
        return self._cases("WHERE task_id = ? ORDER BY number DESC", task_id)

    def _cases(self, which: str, *values: object) -> list[Case]:
        rows = self._database.execute(f"SELECT {_CASE} FROM cases {which}", values)  # noqa: S608 - our own words
        return [
            Case(client, task, PublicKey(worker), result, tuple(failed.split()), evidence, dispute, at, until)
            for client, task, worker, result, failed, evidence, dispute, at, until in rows
        ]
