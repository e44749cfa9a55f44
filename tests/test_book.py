"""What a home remembers: bounded, shared between its processes, and worth no money when it is lost."""

from __future__ import annotations

import sqlite3
import stat
import sys

import pytest

from cactus_mesh import book as module
from cactus_mesh.book import open_book
from cactus_mesh.core.holdings import TaskName
from cactus_mesh.errors import StateMalformed
from cactus_mesh.identity import Address

ME, YOU = Address("0x" + "1" * 64), Address("0x" + "2" * 64)
A, B = (bytes([number]) * 16 for number in (1, 2))


def test_tasks_come_back_oldest_first_and_are_forgotten_when_they_are_over(tmp_path):
    with open_book(tmp_path / "book") as book:
        book.asked(ME, B, 200)
        book.asked(ME, A, 100)
        book.asked(YOU, A, 50)
    with open_book(tmp_path / "book") as book:
        assert [task.name.task_id for task in book.tasks(ME, limit=9)] == [A, B]
        assert [task.expires_at for task in book.tasks(ME, limit=1)] == [100]
        book.forget_expired_tasks(ME, expired_at=150)
        assert [task.name.task_id for task in book.tasks(ME, limit=9)] == [B]
        book.forget_tasks([TaskName(ME, B)])
        assert book.tasks(ME, limit=9) == []
        assert len(book.tasks(YOU, limit=9)) == 1


def test_a_task_that_was_asked_of_a_second_router_lasts_as_long_as_the_later_consent():
    with open_book(None) as book:
        for until in (100, 300, 200):
            book.asked(ME, A, until)
        assert [task.expires_at for task in book.tasks(ME, limit=9)] == [300]


def test_two_processes_write_at_once(tmp_path):
    with open_book(tmp_path / "book") as first, open_book(tmp_path / "book") as second:
        first.asked(ME, A, 1)
        second.asked(ME, B, 2)
        assert len(first.tasks(ME, limit=9)) == 2


def test_served_tasks_are_bounded(monkeypatch):
    monkeypatch.setattr(module, "MAX_SERVED", 5)
    monkeypatch.setattr(module, "TRIM_EVERY", 3)
    with open_book(None) as book:
        for number in range(20):
            book.served(ME, TaskName(YOU, number.to_bytes(16, "big")), until=100)
        kept = book.disputable(ME, 50)
        assert 5 <= len(kept) <= 8
        assert kept[0].task_id == (19).to_bytes(16, "big")
        assert book.disputable(ME, 101) == []


def test_stakes_and_disputes_are_noted_once(tmp_path):
    with open_book(tmp_path / "book") as book:
        for _ in range(2):
            book.staked(ME, YOU)
            book.disputed(ME, TaskName(YOU, A))
        assert (book.operators(ME), book.disputes(ME)) == ([YOU], [TaskName(YOU, A)])
        book.forget_stake(ME, YOU)
        book.forget_dispute(ME, TaskName(YOU, A))
        assert (book.operators(ME), book.disputes(ME)) == ([], [])


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no mode bits")
def test_the_book_is_its_owners_alone(tmp_path):
    with open_book(tmp_path / "new" / "book"):
        assert stat.S_IMODE((tmp_path / "new" / "book").stat().st_mode) == 0o600


def test_a_damaged_book_and_a_newer_one_are_named(tmp_path):
    (tmp_path / "garbage").write_bytes(b"no database at all, but long enough" * 100)
    with sqlite3.connect(tmp_path / "newer") as database:
        database.execute("PRAGMA user_version=99")
    database.close()
    for name in ("garbage", "newer"):
        with pytest.raises(StateMalformed, match="move it away"), open_book(tmp_path / name):
            pass
