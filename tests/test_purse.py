"""What a home's client may spend, over restarts and processes."""

from __future__ import annotations

import sqlite3
import stat
from contextlib import closing

import pytest

from cactus_mesh.errors import PriceOverBudget, StateMalformed
from cactus_mesh.purse import DAY_SECONDS, KEPT_DAYS, open_purse

NOON = 20_000 * DAY_SECONDS + DAY_SECONDS // 2


def reserve(purse, task, octas, now=NOON):
    purse.reserve(task, octas, now=now, known_by=now + 100)


def test_a_task_above_its_cap_is_refused_and_leaves_no_trace():
    with open_purse(None, "0x1", per_task=100) as purse:
        reserve(purse, b"a", 100)
        with pytest.raises(PriceOverBudget, match="cap_per_task"):
            reserve(purse, b"b", 101)
        assert purse.spent(NOON) == 100


def test_a_day_counts_the_maximum_until_the_price_is_known():
    with open_purse(None, "0x1", per_day=150) as purse:
        reserve(purse, b"a", 100)
        with pytest.raises(PriceOverBudget, match="100 of today's 150"):
            reserve(purse, b"b", 100)
        purse.known(b"a", 20)
        reserve(purse, b"b", 100)
        assert purse.spent(NOON) == 120


def test_the_next_day_begins_with_nothing_spent():
    with open_purse(None, "0x1", per_day=100) as purse:
        reserve(purse, b"a", 100)
        reserve(purse, b"b", 100, NOON + DAY_SECONDS)


def test_a_restart_and_a_second_process_count_what_is_spent(tmp_path):
    path = tmp_path / "purse.sqlite"
    with open_purse(path, "0x1", per_day=100) as first, open_purse(path, "0x1", per_day=100) as second:
        reserve(first, b"a", 60)
        with pytest.raises(PriceOverBudget):
            reserve(second, b"b", 60)
    with open_purse(path, "0x1", per_day=100) as later, pytest.raises(PriceOverBudget):
        reserve(later, b"b", 60)
    assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


def test_another_account_of_the_home_has_a_day_of_its_own(tmp_path):
    path = tmp_path / "purse.sqlite"
    with open_purse(path, "0x1", per_day=100) as mine, open_purse(path, "0x2", per_day=100) as other:
        reserve(mine, b"a", 100)
        reserve(other, b"b", 100)


def test_a_task_without_a_known_price_is_to_be_looked_up_once_its_consent_has_ended():
    with open_purse(None, "0x1") as purse:
        reserve(purse, b"a", 100)
        reserve(purse, b"b", 100)
        purse.known(b"b", 5)
        assert purse.to_look_up(NOON + 99) == []
        assert purse.to_look_up(NOON + 100) == [b"a"]
        purse.known(b"a", 0)
        assert purse.to_look_up(NOON + 100) == []


def test_a_file_of_a_newer_version_is_refused_with_the_reason(tmp_path):
    path = tmp_path / "purse.sqlite"
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version=9")
    with pytest.raises(StateMalformed, match="newer version, 9"), open_purse(path, "0x1"):
        pass


def test_a_damaged_file_is_refused_by_name(tmp_path):
    path = tmp_path / "purse.sqlite"
    path.write_bytes(b"no database" * 200)
    with pytest.raises(StateMalformed, match=r"purse\.sqlite"), open_purse(path, "0x1"):
        pass


def test_a_month_later_a_day_is_forgotten_while_the_purse_stays_open():
    later = NOON + (KEPT_DAYS + 1) * DAY_SECONDS
    with open_purse(None, "0x1") as purse:
        reserve(purse, b"a", 100)
        reserve(purse, b"b", 100, later - DAY_SECONDS)
        assert purse.spent(NOON) == 100
        reserve(purse, b"c", 100, later)
        assert (purse.spent(NOON), purse.spent(later)) == (0, 100)
