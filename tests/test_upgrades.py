"""State files of every version so far open; one of a newer version is refused with the reason, and stays as it is."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from pathlib import Path

import pytest

from cactus_mesh.book import open_book
from cactus_mesh.config import Home
from cactus_mesh.core.thresholds import read_table
from cactus_mesh.dossier import open_dossier
from cactus_mesh.engine.library import Library
from cactus_mesh.errors import MeshError
from cactus_mesh.gateway.keys import Keyring, read_keys
from cactus_mesh.identity import Identity, load_key_file
from cactus_mesh.journal import open_journal
from cactus_mesh.net.peers import AddressBook
from cactus_mesh.purse import open_purse
from cactus_mesh.records import open_records
from tests import make_state as made
from tests.samples import CLIENT, OFFER, ORCHESTRATOR, ROUTER

VERSIONS = sorted(path for path in made.FOLDER.iterdir() if path.is_dir())


@pytest.fixture(params=VERSIONS, ids=lambda path: path.name)
def state(request, tmp_path):
    """A home of that version, to be written to."""
    folder = tmp_path / "home"
    shutil.copytree(request.param, folder)
    for path in folder.iterdir():
        path.chmod(0o600)
    return folder


def test_there_is_one_of_this_versions_kind():
    assert "0.1.0" in [path.name for path in VERSIONS]


def test_the_key_of_an_earlier_version_is_the_same_peer(state):
    assert load_key_file(state / "key") == Identity.from_seed(made.SEED)


def test_what_a_router_owed_before_it_still_owes(state):
    with open_journal(state / "journal.sqlite", now=0) as journal:
        (task,) = journal.open_tasks()
        assert task.owed == made.owed()
    with open_dossier(state / "audits.sqlite") as dossier:
        assert dossier.record(ORCHESTRATOR.public_key, OFFER.digest) == made.RECORD
        assert dossier.wanted() == [made.CASE]


def test_what_was_noted_and_spent_before_is_known(state):
    with open_book(state / "book.sqlite") as book:
        assert [each.name for each in book.tasks(CLIENT.address, limit=9)] == [made.NAME]
        assert book.disputes(ROUTER.address) == [made.NAME]
        assert book.operators(CLIENT.address) == [ORCHESTRATOR.address]
    with open_purse(state / "purse.sqlite", CLIENT.address) as purse:
        assert purse.spent(made.FAR) == 100
    with open_records(state / "records.sqlite") as records:
        assert records.named("00") == [made.DONE]


def test_keys_peers_models_and_thresholds_are_read(state):
    assert Keyring(state / "gateway-keys.json").holder(made.KEY).name == "laptop"
    peers = AddressBook(remember=10)
    peers.load(state / "peers.json", "local")
    assert peers.addresses(made.PEER) == [made.ADDRESS]
    assert Library(state / "models.json").get("tiny").size == 2
    read_table((state / "thresholds.json").read_bytes(), "thresholds.json")


OPEN = {
    "journal.sqlite": lambda path: open_journal(path, now=0),
    "audits.sqlite": open_dossier,
    "book.sqlite": open_book,
    "purse.sqlite": lambda path: open_purse(path, CLIENT.address),
    "records.sqlite": open_records,
}


@pytest.mark.parametrize("name", OPEN)
@pytest.mark.parametrize("mode", ["WAL", "DELETE"])
def test_a_database_of_a_newer_version_is_refused_and_unchanged(state, name, mode):
    path = state / name
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version=99")
        database.execute(f"PRAGMA journal_mode={mode}")
    before = path.read_bytes()
    with pytest.raises(MeshError, match="newer version, 99 after"), OPEN[name](path):
        pass
    assert path.read_bytes() == before


READ = {
    "gateway-keys.json": read_keys,
    "peers.json": lambda path: AddressBook(remember=1).load(path, "local"),
    "thresholds.json": lambda path: read_table(path.read_bytes(), str(path)),
    "models.json": Library,
}


@pytest.mark.parametrize("name", READ)
def test_a_file_of_a_newer_version_is_refused_with_the_reason_and_unchanged(state, name):
    path = state / name
    old = json.loads(path.read_bytes())
    newer = {"models": old, "version": 99} if isinstance(old, list) else {**old, "version": 99, "more": 1}
    if name in ("peers.json", "thresholds.json"):
        del newer["more"]
    path.write_text(json.dumps(newer))
    before = path.read_bytes()
    with pytest.raises(MeshError, match=r"99|newer version"):
        READ[name](path)
    assert path.read_bytes() == before


def test_every_kind_of_state_file_has_an_example():
    assert {path.name for path in VERSIONS[-1].iterdir()} == {"key", *OPEN, *READ}
    home = Home(Path("config"), Path("state"))
    kept = {getattr(home, name).name for name, kind in vars(Home).items() if isinstance(kind, property)}
    apart = {"config.toml", "control.json", "gateway-control.json", "chat-history", "devnet"}
    assert kept - apart == {"key", *OPEN, *READ}
