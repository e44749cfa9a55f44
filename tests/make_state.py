"""``python -m tests.make_state``: the state files of this version, for the versions after it to open.

Run it once before a release that changes any of them, and commit the folder; never change what is there.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from pathlib import Path

import msgspec

from cactus_mesh import __version__
from cactus_mesh.book import open_book
from cactus_mesh.core.holdings import TaskName
from cactus_mesh.core.keeping import RecordPolicy
from cactus_mesh.core.settlement import NOBODY, Settlement, SettlementClaim
from cactus_mesh.core.suspicion import Suspicion
from cactus_mesh.core.thresholds import Table, write_table
from cactus_mesh.dossier import Case, Record, open_dossier
from cactus_mesh.engine.library import Entry
from cactus_mesh.gateway.keys import ApiKey, _File, _hash
from cactus_mesh.identity import Identity, create_key_file
from cactus_mesh.journal import open_journal
from cactus_mesh.net.peers import AddressBook
from cactus_mesh.purse import open_purse
from cactus_mesh.records import Recorder, TaskRecord
from tests.samples import CHAIN_ID, CLIENT, CONTRACT, OFFER, ORCHESTRATOR, ROUTER, consent

FOLDER = Path(__file__).parent / "state"
FAR = 4_000_000_000
"""A time that the tests will not see, in Unix seconds."""
AGREED = consent()
NAME = TaskName(CLIENT.address, AGREED.task_id)
KEY = "cm_0011aabb_secret"
CASE = Case(CLIENT.address, bytes(16), ORCHESTRATOR.public_key, "fail", ("a",), b"evidence", "wanted", 10, FAR)
RECORD = Record(7, Suspicion().after(64, 1, 1e-5))
PEER = ORCHESTRATOR.peer_id
DONE = TaskRecord(
    task_id=bytes(16), role="client", party=CLIENT.peer_id, chain=f"{CHAIN_ID}:{CONTRACT}", at=float(FAR), state="done",
    model="fake", kind="chat", client=CLIENT.address, orchestrator=PEER, tokens=3, max_price=9, price=7, until=FAR,
    proof=b"signed",
)  # fmt: skip
ADDRESS = "/ip4/203.0.113.5/tcp/4101"
SEED = hashlib.sha256(b"an example of a key file").digest()


def owed() -> Settlement:
    claim = SettlementClaim(
        CHAIN_ID, CONTRACT, CLIENT.address, ROUTER.address, ORCHESTRATOR.address, NOBODY, 0, AGREED.task_id,
        OFFER.digest, 1, 2, 3, bytes(32),
    )  # fmt: skip
    return Settlement(AGREED, CLIENT.sign(b"x"), claim, ORCHESTRATOR.sign(b"y"), 1_000_000)


def make(folder: Path) -> None:
    folder.mkdir(parents=True)
    create_key_file(folder / "key", Identity.from_seed(SEED))
    with open_journal(folder / "journal.sqlite", now=0) as journal:
        journal.finish(owed(), escrowed=True)
    with open_dossier(folder / "audits.sqlite") as dossier:
        dossier.note(ORCHESTRATOR.public_key, OFFER.digest, RECORD, now=1)
        dossier.file(CASE)
    with open_book(folder / "book.sqlite") as book:
        book.asked(*NAME, FAR)
        book.disputed(ROUTER.address, NAME)
        book.staked(CLIENT.address, ORCHESTRATOR.address)
    with open_purse(folder / "purse.sqlite", CLIENT.address) as purse:
        purse.reserve(b"task", 100, now=FAR, known_by=FAR + 100)
    Recorder(folder / "records.sqlite", RecordPolicy())._write([DONE])
    kept = ApiKey("0011aabb", "laptop", "00" * 16, _hash("secret", bytes(16)), 1)
    (folder / "gateway-keys.json").write_bytes(msgspec.json.encode(_File([kept])))
    peers = AddressBook(remember=10)
    peers.learn(PEER, [ADDRESS])
    peers.useful(PEER, 10.0)
    (folder / "peers.json").write_bytes(peers.dump("local"))
    models = [Entry("tiny", "./tiny", [("config.json", 2, "ab")])]
    (folder / "models.json").write_bytes(msgspec.json.encode(models))
    (folder / "thresholds.json").write_bytes(write_table(Table()))
    for path in folder.glob("*.sqlite"):
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


if __name__ == "__main__":
    make(FOLDER / __version__)
