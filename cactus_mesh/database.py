"""A home's small SQLite databases: private files, each with a version, which several processes may have open."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from cactus_mesh.errors import StateMalformed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BUSY_SECONDS: Final = 5.0
"""How long one process of a home waits for another's write, which takes microseconds."""


@contextmanager
def open_database(
    path: Path | None, schema: str, version: int, *, what: str, remedy: str
) -> Iterator[sqlite3.Connection]:
    """The database at *path*, mode 0600, or one in memory; its tables are made where there are none.

    Raises `StateMalformed` for a file that is no database, or one of a newer *version*: it "cannot be read as *what*;
    move it away and *remedy*".
    """
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
    with contextlib.closing(
        sqlite3.connect(path or ":memory:", isolation_level=None, timeout=BUSY_SECONDS)
    ) as database:
        try:
            _prepare(database, schema, version)
        except sqlite3.DatabaseError as error:
            raise StateMalformed(f"{path} cannot be read as {what} ({error}); move it away and {remedy}") from None
        yield database


def _prepare(database: sqlite3.Connection, schema: str, version: int) -> None:
    _refuse_newer(database, version)  # before anything is changed
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=NORMAL")
    database.execute("BEGIN IMMEDIATE")  # another process may be making the same tables
    if _refuse_newer(database, version) == 0:
        for statement in schema.split(";"):
            database.execute(statement)
        database.execute(f"PRAGMA user_version={version}")
    database.execute("COMMIT")


def _refuse_newer(database: sqlite3.Connection, version: int) -> int:
    (found,) = database.execute("PRAGMA user_version").fetchone()
    if found > version:
        raise sqlite3.DatabaseError(f"it was written by a newer version, {found} after {version}; update cactus-mesh")
    return int(found)
