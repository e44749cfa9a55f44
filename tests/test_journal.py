"""What is owed is kept until it is settled, what is spent until it expires; over restarts, in one file."""

from __future__ import annotations

import dataclasses
import sqlite3
import stat
import sys

import pytest

from cactus_mesh.core.settlement import NOBODY, Settlement, SettlementClaim
from cactus_mesh.errors import StateMalformed
from cactus_mesh.journal import Open, Used, open_journal
from tests.samples import CHAIN_ID, CLIENT, CONTRACT, OFFER, ORCHESTRATOR, ROUTER, consent

NOW = 1_800_000_000
AGREED = consent()


def settlement(number: int = 0) -> Settlement:
    agreed = dataclasses.replace(AGREED, task_id=number.to_bytes(16, "big"), nonce=number)
    claim = SettlementClaim(
        CHAIN_ID,
        CONTRACT,
        CLIENT.address,
        ROUTER.address,
        ORCHESTRATOR.address,
        NOBODY,
        0,
        agreed.task_id,
        OFFER.digest,
        1,
        2,
        3,
        bytes(32),
    )
    return Settlement(agreed, CLIENT.sign(b"x"), claim, ORCHESTRATOR.sign(b"y"), 1_000_000)


def key(done: Settlement):
    return done.consent.client, done.consent.task_id


def test_a_finished_task_is_open_until_it_is_closed_also_over_a_restart(tmp_path):
    path, done = tmp_path / "journal", settlement()
    with open_journal(path, now=NOW) as journal:
        journal.finish(done, escrowed=False)
    with open_journal(path, now=NOW) as journal:
        assert journal.open_tasks() == [Open(*key(done), done.consent.expires_at, escrowed=False, owed=done)]
        journal.close([key(done)])
    with open_journal(path, now=NOW) as journal:
        assert journal.open_tasks() == []


def test_an_escrow_is_owed_back_until_its_task_is_finished(tmp_path):
    done = settlement()
    with open_journal(tmp_path / "journal", now=NOW) as journal:
        journal.escrow(done.consent)
        assert journal.open_tasks() == [Open(*key(done), done.consent.expires_at, escrowed=True, owed=None)]
        journal.finish(done, escrowed=True)
        assert journal.open_tasks() == [Open(*key(done), done.consent.expires_at, escrowed=True, owed=done)]


def test_what_is_spent_stays_spent_until_the_consent_expires(tmp_path):
    nonce = 2**64 - 1  # more than SQLite's integers hold
    done = settlement(nonce)
    expires_at = done.consent.expires_at
    with open_journal(tmp_path / "journal", now=NOW) as journal:
        journal.finish(done, escrowed=False)
        journal.close([key(done)])
        assert journal.used() == [Used(*key(done), nonce, expires_at)]
    with open_journal(tmp_path / "journal", now=expires_at + 1) as journal:
        assert journal.used() == []


def test_what_is_still_owed_is_kept_after_its_expiry_too(tmp_path):
    done = settlement()
    with open_journal(tmp_path / "journal", now=NOW) as journal:
        journal.finish(done, escrowed=False)
    with open_journal(tmp_path / "journal", now=done.consent.expires_at + 1) as journal:
        assert len(journal.open_tasks()) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps no such modes")
def test_only_its_owner_reads_it(tmp_path):
    with open_journal(tmp_path / "state" / "journal", now=NOW):
        pass
    assert stat.S_IMODE((tmp_path / "state" / "journal").stat().st_mode) == 0o600


def test_a_file_that_is_no_journal_is_refused_with_what_to_do(tmp_path):
    path = tmp_path / "journal"
    path.write_bytes(b"not a database at all, and longer than a header" * 100)
    with pytest.raises(StateMalformed, match="move it away"), open_journal(path, now=NOW):
        pass


def test_a_journal_of_a_newer_version_is_refused_with_the_reason(tmp_path):
    path = tmp_path / "journal"
    with open_journal(path, now=NOW):
        pass
    newer = sqlite3.connect(path)
    newer.execute("PRAGMA user_version=99")
    newer.close()
    with pytest.raises(StateMalformed, match="newer version, 99"), open_journal(path, now=NOW):
        pass
