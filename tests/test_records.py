"""A home's history of tasks on disk: private, bounded, shared, and never in the way of the work."""

from __future__ import annotations

import sqlite3
import stat
import time

import pytest

from cactus_mesh.core.keeping import RecordPolicy
from cactus_mesh.core.pricing import Split
from cactus_mesh.errors import StateMalformed
from cactus_mesh.records import MAX_WAITING, TaskRecord, open_recorder, open_records

NOW = time.time()
CHAIN = "202:0xcac7"
DAY = 86_400


def record(number: int = 1, **changes) -> TaskRecord:
    given = {
        "task_id": number.to_bytes(16, "big"),
        "role": "client",
        "party": "me",
        "chain": CHAIN,
        "at": NOW - 100 + number,
        "state": "done",
        "model": "fake",
        "kind": "chat",
        "client": "0xc",
        "orchestrator": "them",
        "tokens": 10,
        "max_price": 1_000,
        "price": 300,
        "until": int(NOW) + 60,
    }
    return TaskRecord(**given | changes)


async def keep(path, *records, **policy):
    async with open_recorder(path, RecordPolicy(**policy)) as recorder:
        for each in records:
            recorder.note(each)
    return recorder


@pytest.fixture
def path(tmp_path):
    return tmp_path / "records.sqlite"


async def test_what_was_noted_is_read_back_whole_from_a_private_file(path):
    await keep(path, record(1, proof=b"signed", first_token_ms=5))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with open_records(path) as records:
        assert records.named("00" * 15 + "01") == [record(1, proof=b"signed", first_token_ms=5)]


async def test_a_task_is_found_by_the_beginning_of_its_id_and_a_wrong_one_is_not(path):
    await keep(path, record(1), record(0xAB << 120))
    with open_records(path) as records:
        assert [each.task_id[0] for each in records.named("ab")] == [0xAB]
        assert records.named("a") == records.named("ab")
        assert records.named("no hex") == records.named("ac") == []


async def test_the_newest_come_first_and_can_be_chosen(path):
    await keep(path, record(1), record(2, state="failed"), record(3, role="router"))
    with open_records(path) as records:
        assert [each.task_id[-1] for each in records.recent(2)] == [3, 2]
        assert [each.task_id[-1] for each in records.recent(9, state="failed")] == [2]
        assert [each.task_id[-1] for each in records.recent(9, role="router")] == [3]


async def test_more_tasks_than_wanted_and_older_ones_are_forgotten(path):
    await keep(path, *(record(number) for number in range(1, 6)), tasks=3)
    with open_records(path) as records:
        assert [each.task_id[-1] for each in records.recent(9)] == [5, 4, 3]
    await keep(path, record(9, at=NOW - 3 * DAY), days=2)
    with open_records(path) as records:
        assert 9 not in [each.task_id[-1] for each in records.recent(9)]


async def test_the_oldest_receipts_make_room_and_their_figures_stay(path):
    large = bytes(8_192)
    await keep(path, *(record(number, proof=large) for number in range(1, 1_001)), receipts_mib=5)
    with open_records(path) as records:
        kept = [each.proof for each in records.between(0, NOW + 9_999)]
    assert len(kept) == 1_000
    assert kept[0] is None
    assert kept[-1] == large


async def test_nothing_is_kept_where_the_user_wants_nothing(path):
    await keep(path, record(), keep=False)
    assert not path.exists()


async def test_what_comes_faster_than_it_can_be_written_is_counted_and_dropped(path):
    recorder = await keep(path, *(record(number) for number in range(MAX_WAITING + 7)))
    assert recorder.lost == 7


async def test_a_disk_that_takes_nothing_stops_no_work(path, caplog):
    async with open_recorder(path, RecordPolicy()) as recorder:
        path.unlink()
        path.write_bytes(b"no database, for many a byte" * 99)
        recorder.note(record())
    assert recorder.lost == 1
    assert "records of tasks were lost" in caplog.text


async def test_a_file_of_a_newer_version_is_refused_before_any_work(path):
    await keep(path, record())
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version=99")
    database.close()
    with pytest.raises(StateMalformed, match="newer version"):
        await keep(path, record())


async def test_what_the_ledger_paid_counts_and_what_it_may_pay_is_pending(path):
    mine, theirs = {"role": "orchestrator", "party": "me"}, Split(200, 40, 10, 750)
    await keep(
        path,
        record(1).settled(theirs),
        record(2),
        record(3, state="failed", orchestrator=None, price=None),
        record(4, **mine, delegate="other").settled(theirs),
        record(5, **mine, delegate="me").settled(theirs),
        record(6, role="router").settled(theirs),
        record(7, chain="another ledger"),
    )
    with open_records(path) as records:
        sums = {each.role: each for each in records.earned(CHAIN, 0, NOW + 9_999)}
        assert [each.task_id[-1] for each in records.to_look_up(CHAIN, 9)] == [2]
        assert (sums["client"].tasks, sums["client"].amount, sums["client"].pending) == (3, 250, 300)
        assert sums["orchestrator"].amount == 200 + 40
        assert sums["router"].amount == 10
        records.settle([record(2).settled(None)])
        assert records.to_look_up(CHAIN, 9) == []
