"""A home's key and state in one file and back: whole or not at all, and only for who may."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import stat
import sys

import pytest
from click.testing import CliRunner

from cactus_mesh import backup as backups
from cactus_mesh.adapters import identity_at
from cactus_mesh.backup import back_up, open_backup, restore
from cactus_mesh.cli import main
from cactus_mesh.config import Home
from cactus_mesh.control import open_control
from cactus_mesh.core.settlement import TaskConsent
from cactus_mesh.errors import (
    BackupLocked,
    BackupMalformed,
    HomeNotEmpty,
    KeyFileMissing,
    NodeRunning,
    StateMalformed,
)
from cactus_mesh.gateway.keys import add_key, read_keys
from cactus_mesh.journal import open_journal
from tests.samples import CHAIN_ID, CLIENT, CONTRACT, ROUTER

NOW = 1_800_000_000
CONSENT = TaskConsent(CHAIN_ID, CONTRACT, CLIENT.address, ROUTER.address, bytes(16), 7, 1_000, NOW + 60)


@pytest.fixture
def home(tmp_path):
    """One with a key, a journal with an escrow, an API key and settings."""
    place = Home(tmp_path / "config", tmp_path / "state")
    identity_at(place)
    place.config.mkdir()
    place.config_file.write_text('region = "eu"\n')
    add_key(place.gateway_keys_file, "laptop")
    with open_journal(place.journal_file, now=NOW) as journal:
        journal.escrow(CONSENT)
    return place


@pytest.fixture
def elsewhere(tmp_path):
    return Home(tmp_path / "new" / "config", tmp_path / "new" / "state")


def contents(home):
    return {
        str(path.relative_to(root)): path.read_bytes()
        for root in (home.state, home.config)
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_what_comes_back_is_what_was_there(home, elsewhere, tmp_path):
    made = back_up(home, tmp_path / "b")
    assert {each.name for each in made.files} == {
        "state/key", "state/gateway-keys.json", "state/journal.sqlite", "config/config.toml",
    }  # fmt: skip
    assert restore(elsewhere, open_backup(tmp_path / "b")) is None
    assert identity_at(elsewhere) == identity_at(home)
    assert elsewhere.config_file.read_text() == 'region = "eu"\n'
    assert [key.name for key in read_keys(elsewhere.gateway_keys_file)] == ["laptop"]
    with open_journal(elsewhere.journal_file, now=NOW) as journal:
        assert [each.task_id for each in journal.open_tasks()] == [CONSENT.task_id]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
def test_file_and_state_are_this_users_alone(home, elsewhere, tmp_path):
    back_up(home, tmp_path / "b")
    restore(elsewhere, open_backup(tmp_path / "b"))
    for path in (tmp_path / "b", elsewhere.key_file, elsewhere.journal_file):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_a_running_router_writes_meanwhile_is_in_it_or_not_but_never_half(home, elsewhere, tmp_path):
    with (
        open_journal(home.journal_file, now=NOW) as journal,
        contextlib.closing(sqlite3.connect(home.journal_file, isolation_level=None)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        other.execute("DELETE FROM tasks")
        back_up(home, tmp_path / "b")
        other.execute("ROLLBACK")
        assert len(journal.open_tasks()) == 1
    restore(elsewhere, open_backup(tmp_path / "b"))
    with open_journal(elsewhere.journal_file, now=NOW) as journal:
        assert len(journal.open_tasks()) == 1


def test_with_a_passphrase_nothing_of_it_can_be_read_without(home, tmp_path):
    file = tmp_path / "b"
    back_up(home, file, "correct horse")
    seed = home.key_file.read_bytes()
    assert seed not in file.read_bytes()
    assert identity_at(home).peer_id.encode() not in file.read_bytes()
    assert open_backup(file, "correct horse").peer_id == identity_at(home).peer_id
    for wrong in (None, "", "correct  horse"):
        with pytest.raises(BackupLocked):
            open_backup(file, wrong)


@pytest.mark.parametrize("locked", [None, "x"])
def test_a_file_that_was_cut_off_or_changed_is_refused_by_name(home, elsewhere, tmp_path, locked):
    file = tmp_path / "b"
    back_up(home, file, locked)
    whole = file.read_bytes()
    places = [0, 5, 19, 30, len(whole) // 2, len(whole) - 1]
    spoilt = [whole[:cut] for cut in places] + [whole + b"x", b""]
    spoilt += [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in places]
    for data in spoilt:
        file.write_bytes(data)
        with pytest.raises(BackupMalformed, match=str(file)):
            open_backup(file, locked)
    assert not elsewhere.state.exists()


def rewritten(file, **changes):
    """*file* with another manifest, and every digest right."""
    head, body = backups._read(file)
    manifest = backups._unpack(body)
    import msgspec

    body = backups._pack(msgspec.structs.replace(manifest, **changes))
    line = msgspec.json.encode(head) + b"\n"
    file.write_bytes(backups.MAGIC + line + backups._digest(line, body) + body)


@pytest.mark.parametrize(
    "name",
    ["state/../key", "/etc/passwd", "state/control.json", "config/key", "state/.x.json", "state/a/b.json", "key"],
)
def test_a_backup_cannot_put_a_file_where_a_home_has_none(home, tmp_path, name):
    file = tmp_path / "b"
    made = back_up(home, file)
    import hashlib

    evil = backups.Kept(name, hashlib.sha256(b"x").hexdigest(), b"x")
    rewritten(file, files=[*made.files, evil])
    with pytest.raises(BackupMalformed, match="is no file of a home"):
        open_backup(file)


def test_one_of_a_newer_version_is_refused_with_the_reason(home, tmp_path):
    file = tmp_path / "b"
    back_up(home, file)
    head, body = backups._read(file)
    line = json.dumps({"format": head.format + 1, "something": "new"}).encode() + b"\n"
    file.write_bytes(backups.MAGIC + line + backups._digest(line, body) + body)
    with pytest.raises(BackupMalformed, match="newer version"):
        open_backup(file)


def test_a_home_that_has_something_is_left_alone_unless_forced_and_then_moved_aside(home, elsewhere, tmp_path):
    back_up(home, tmp_path / "b")
    manifest = open_backup(tmp_path / "b")
    old = identity_at(elsewhere)
    before = contents(elsewhere)
    with pytest.raises(HomeNotEmpty, match="--force"):
        restore(elsewhere, manifest)
    assert contents(elsewhere) == before
    aside = restore(elsewhere, manifest, force=True)
    assert identity_at(elsewhere) == identity_at(home)
    assert identity_at(Home(aside, aside)) == old


@pytest.mark.parametrize("writes", range(1, 6))
def test_ended_in_the_middle_it_leaves_no_home_in_which_anything_runs(home, elsewhere, tmp_path, monkeypatch, writes):
    back_up(home, tmp_path / "b")
    manifest = open_backup(tmp_path / "b")
    left = [writes]

    def dies(path, data):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        backups_write(path, data)

    backups_write = backups.write_private
    monkeypatch.setattr(backups, "write_private", dies)
    with pytest.raises(KeyboardInterrupt):
        restore(elsewhere, manifest)
    monkeypatch.undo()
    assert not elsewhere.key_file.exists()
    if writes > 1:
        with pytest.raises(StateMalformed, match="interrupted"):
            identity_at(elsewhere)
        assert not elsewhere.key_file.exists()
    restore(elsewhere, manifest, force=True)
    assert identity_at(elsewhere) == identity_at(home)


def test_a_home_without_a_key_has_nothing_to_keep(tmp_path):
    with pytest.raises(KeyFileMissing):
        back_up(Home(tmp_path, tmp_path), tmp_path / "b")


async def test_nothing_is_restored_under_a_running_node(home):
    async with open_control(home.control_file, {}):
        with pytest.raises(NodeRunning):
            await backups.refuse_running(home)
    await backups.refuse_running(home)


@pytest.mark.parametrize("locked", [False, True])
def test_from_the_command_line(tmp_path, monkeypatch, locked):
    for name in [name for name in os.environ if name.startswith("CACTUS_MESH_")]:
        monkeypatch.delenv(name)
    (tmp_path / "pass").write_text("secret\n")
    phrase = ["--passphrase-file", str(tmp_path / "pass")] if locked else []
    file = str(tmp_path / "b")

    def run(home, *arguments):
        return CliRunner().invoke(main, ["--home", str(tmp_path / home), *arguments])

    run("one", "keygen")
    told = json.loads(run("one", "backup", file, *phrase, "--json").stdout)
    assert told["encrypted"] is locked
    assert run("two", "restore", file, *phrase).exit_code == 0
    two, one = (json.loads(run(home, "id", "--json").stdout) for home in ("two", "one"))
    assert two["peer_id"] == one["peer_id"] == told["peer_id"]
    refused = run("two", "restore", file, *phrase, "--json")
    assert (refused.exit_code, json.loads(refused.stdout)["error"]["code"]) == (2, "home.not_empty")
    if locked:
        assert json.loads(run("three", "restore", file, "--json").stdout)["error"]["code"] == "backup.locked"
