"""Keeps the chain in SQLite: each transaction once, and the rows that it wrote, in the same commit.

Opening restores exactly what was committed, without running anything again.  One process at a time.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from cactus_mesh.errors import StateInUse, StateMalformed
from cactus_mesh.identity import Address
from cactus_mesh.ledger.devnet.chain import Chain
from cactus_mesh.ledger.rules.state import TABLES, State, Table

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FORMAT: Final = 2
"""Raised when the tables or the encoding of rows change."""
_SEQUENCES: Final = "sequences"
_TYPES: Final[dict[str, tuple[Any, Any]]] = {**TABLES, _SEQUENCES: (Address, int)}

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS meta (format INTEGER NOT NULL, chain_id INTEGER NOT NULL, contract TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS rows (
    name TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, PRIMARY KEY (name, key)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS transactions (
    version INTEGER PRIMARY KEY, timestamp_us INTEGER NOT NULL, hash TEXT NOT NULL UNIQUE,
    sender TEXT NOT NULL, sequence INTEGER NOT NULL, signed BLOB, json BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS by_sender ON transactions (sender, sequence);
CREATE TABLE IF NOT EXISTS coin_events (
    account TEXT NOT NULL, stream INTEGER NOT NULL, sequence INTEGER NOT NULL, version INTEGER NOT NULL,
    amount TEXT NOT NULL, PRIMARY KEY (account, stream, sequence)
) WITHOUT ROWID;
"""

_encode = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True, slots=True)
class Record:
    """A transaction as it is kept: *json* is what the API shows of it, *coins* what it adds to streams of events."""

    version: int
    timestamp_us: int
    hash: str
    sender: str
    sequence: int
    signed: bytes | None
    json: bytes
    coins: tuple[tuple[Address, int, str], ...] = ()


class CoinEvent(NamedTuple):
    """The *sequence*th event of one account's stream of deposits or withdrawals."""

    sequence: int
    version: int
    amount: str


class Store:
    """The open database.  Its methods block; writing belongs in a worker thread, one call at a time."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def commit(self, records: list[Record], rows: list[tuple[Table[Any, Any], Any]]) -> None:
        """Make *records* and the present values of *rows* durable, all or none.  Raises `StateMalformed`."""
        try:
            self._write(records, rows)
        except sqlite3.Error as error:
            raise StateMalformed(
                f"the ledger cannot be written ({error}); make room on its disk, or check it, and start again: all "
                "that was answered is safe"
            ) from error

    def _write(self, records: list[Record], rows: list[tuple[Table[Any, Any], Any]]) -> None:
        with self._database:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany(
                "INSERT INTO transactions VALUES (?, ?, ?, ?, ?, ?, ?)",
                [(r.version, r.timestamp_us, r.hash, r.sender, r.sequence, r.signed, r.json) for r in records],
            )
            self._database.executemany(
                "INSERT INTO coin_events SELECT ?, ?, coalesce(max(sequence), -1) + 1, ?, ? FROM coin_events "
                "WHERE account = ? AND stream = ?",
                [
                    (account, stream, r.version, amount, account, stream)
                    for r in records
                    for account, stream, amount in r.coins
                ],
            )
            gone = [(table.name, _encode(key)) for table, key in rows if key not in table]
            kept = [(table.name, _encode(key), _encode(table[key])) for table, key in rows if key in table]
            self._database.executemany("DELETE FROM rows WHERE name = ? AND key = ?", gone)
            self._database.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?, ?)", kept)

    def by_hash(self, wanted: str) -> bytes | None:
        return self._one("SELECT json FROM transactions WHERE hash = ?", wanted)

    def by_version(self, version: int) -> bytes | None:
        return self._one("SELECT json FROM transactions WHERE version = ?", version)

    def page(self, start: int, limit: int) -> list[bytes]:
        query = "SELECT json FROM transactions WHERE version >= ? ORDER BY version LIMIT ?"
        return [bytes(json) for (json,) in self._database.execute(query, (start, limit))]

    def timestamp_us(self, version: int) -> int | None:
        found = self._database.execute("SELECT timestamp_us FROM transactions WHERE version = ?", (version,)).fetchone()
        return None if found is None else int(found[0])

    def coin_events(self, account: Address, stream: int, start: int | None, limit: int) -> list[CoinEvent]:
        """From the *start*th on, or the latest, in order."""
        if start is None:
            start = max(self.coin_event_count(account, stream) - limit, 0)
        query = (
            "SELECT sequence, version, amount FROM coin_events WHERE account = ? AND stream = ? AND sequence >= ? "
            "ORDER BY sequence LIMIT ?"
        )
        return [CoinEvent(*row) for row in self._database.execute(query, (account, stream, start, limit))]

    def coin_event_count(self, account: Address, stream: int) -> int:
        query = "SELECT coalesce(max(sequence), -1) + 1 FROM coin_events WHERE account = ? AND stream = ?"
        return int(self._database.execute(query, (account, stream)).fetchone()[0])

    def of_sender(self, sender: Address, start: int | None, limit: int) -> list[bytes]:
        """The sender's transactions from sequence number *start*, or the latest, in order."""
        if start is not None:
            query = "SELECT json FROM transactions WHERE sender = ? AND sequence >= ? ORDER BY sequence LIMIT ?"
            return [json for (json,) in self._database.execute(query, (sender, start, limit))]
        query = "SELECT json FROM transactions WHERE sender = ? ORDER BY sequence DESC LIMIT ?"
        return [json for (json,) in self._database.execute(query, (sender, limit))][::-1]

    def _one(self, query: str, argument: str | int) -> bytes | None:
        row = self._database.execute(query, (argument,)).fetchone()
        return None if row is None else bytes(row[0])


@contextmanager
def open_store(path: Path, genesis: State) -> Iterator[tuple[Store, Chain]]:
    """Open or create the database; *genesis* is the state of a new one, and names what an old one must be.

    Raises `StateInUse` while another process has it open, `StateMalformed` when it holds something else.
    """
    with closing(_connect(path)) as database:
        yield Store(database), _restore(database, path, genesis)


def _connect(path: Path) -> sqlite3.Connection:
    try:
        database = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0.5)
    except sqlite3.Error as error:
        raise StateMalformed(f"cannot open {path} ({error}); check the folder and its permissions") from None
    try:
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.executescript(_SCHEMA)
    except sqlite3.Error as error:
        database.close()
        if "locked" in str(error):
            raise StateInUse(f"another process uses {path}; stop it, or give this one another --home") from None
        raise StateMalformed(f"{path} is not a ledger of this program ({error}); move it away to begin anew") from None
    return database


def _restore(database: sqlite3.Connection, path: Path, genesis: State) -> Chain:
    meta = database.execute("SELECT format, chain_id, contract FROM meta").fetchone()
    if meta is None:
        return _begin(database, genesis)
    expected = (FORMAT, genesis.chain_id, genesis.contract)
    if meta != expected:
        raise StateMalformed(
            f"{path} holds another ledger (format, chain id, contract: {meta}, not {expected}); "
            "move it away to begin anew"
        )
    state = State(genesis.chain_id, genesis.contract)
    chain = Chain(state, Table(_SEQUENCES, state.journal))
    try:
        _load_rows(database, chain)
    except msgspec.DecodeError as error:
        raise StateMalformed(f"{path} is damaged ({error}); restore it, or move it away to begin anew") from None
    last = database.execute("SELECT version, timestamp_us FROM transactions ORDER BY version DESC LIMIT 1").fetchone()
    if last is not None:
        chain.version, chain.timestamp_us = last
    return chain


def _load_rows(database: sqlite3.Connection, chain: Chain) -> None:
    tables = {name: getattr(chain.state, name) for name in TABLES} | {_SEQUENCES: chain.sequences}
    readers = {name: [msgspec.msgpack.Decoder(kind).decode for kind in kinds] for name, kinds in _TYPES.items()}
    for name, key, value in database.execute("SELECT name, key, value FROM rows"):
        read_key, read_value = readers[name]
        tables[name].restore(read_key(key), read_value(value))


def _begin(database: sqlite3.Connection, genesis: State) -> Chain:
    chain = Chain(genesis, Table(_SEQUENCES, genesis.journal))
    with database:
        database.execute("BEGIN IMMEDIATE")
        database.execute("INSERT INTO meta VALUES (?, ?, ?)", (FORMAT, genesis.chain_id, genesis.contract))
        for table, key in genesis.take_journal():
            database.execute("INSERT INTO rows VALUES (?, ?, ?)", (table.name, _encode(key), _encode(table[key])))
    return chain
