"""``tasks``, ``receipts`` and ``earnings``: what a home remembers, against what a real embedded ledger says."""

from __future__ import annotations

import csv
import io
import json
import stat
import time
from dataclasses import replace

import pytest
import trio

from cactus_mesh.cli.recorded import COLUMNS
from cactus_mesh.control import open_control
from cactus_mesh.core.keeping import RecordPolicy
from cactus_mesh.core.proofs import examine, pack
from cactus_mesh.records import Recorder
from tests.core.test_proofs import proof_of
from tests.test_records import keep, record

ID = bytes(range(16))


def remember(person, *records):
    """As tasks of this person's account, on the ledger that the commands ask, by the clock that they share."""
    chain = f"{person.chain.devnet.chain_id}:{person.chain.devnet.contract}"
    moved = int(person.chain.clock.offset)
    there = [
        replace(each, chain=chain, at=each.at + moved, until=max(each.until, record().until + moved))
        for each in records
    ]
    trio.run(lambda: keep(person.home / "records.sqlite", *there))


@pytest.fixture
def me(person):
    return person("me")


def proven(**changes):
    """A task with documents that hold."""
    proof = proof_of()
    claim = examine(proof).claim
    signed = {"task_id": ID, "proof": pack(proof), "tokens": 3, "price": claim.price, "client": claim.client}
    return record(1, **signed | changes)


# --- tasks -------------------------------------------------------------------------------------------------------


def test_a_home_without_tasks_says_how_to_make_one(me):
    assert "cactus-mesh ask" in me.says("tasks")
    assert me.json("tasks") == {"running": [], "tasks": []}
    assert not (me.home / "records.sqlite").exists()


def test_tasks_are_listed_chosen_and_counted(me):
    remember(me, record(1), record(2, state="failed", code="task.busy"), record(3, role="router"))
    assert [each["task_id"][-2:] for each in me.json("tasks", "--limit", "2")["tasks"]] == ["03", "02"]
    assert [each["code"] for each in me.json("tasks", "--state", "failed")["tasks"]] == ["task.busy"]
    assert "task.busy" in me.says("tasks")
    (one,) = me.json("tasks", "--role", "router")["tasks"]
    assert tuple(one) == COLUMNS


async def test_a_running_node_tells_what_it_has_under_way(person):
    me = person("me")
    task = {"id": "ab" * 16, "role": "router", "state": "streaming", "model": "\x1b[2Jm", "tokens": 7, "seconds": 1.0}
    async with open_control(me.home / "control.json", {"live": lambda _: {"running": [task]}}):
        shown = await trio.to_thread.run_sync(me.says, "tasks")
        only_clients = await trio.to_thread.run_sync(me.json, "tasks", "--role", "client")
    assert "running" in shown
    assert "\x1b[2J" not in shown
    assert only_clients["running"] == []


def test_one_task_explains_itself(me):
    remember(me, proven(until=int(time.time()) + 600))
    shown = me.says("tasks", ID.hex()[:6], "--offline")
    assert "it holds" in shown
    assert "not settled yet" in shown
    found = me.json("tasks", ID.hex(), "--offline")["parts"][0]
    assert found["receipt"]["holds"]
    assert {check["holds"] for check in found["receipt"]["checks"]} == {True}


def test_an_id_that_is_none_or_of_none_or_of_several_is_refused(me):
    remember(me, record(1), record(2))
    me.fails("task_id.malformed", "tasks", "zz", "--offline")
    me.fails("task.not_kept", "tasks", "ff", "--offline")
    assert "give more" in me.fails("task_id.malformed", "tasks", "00", "--offline")


def test_what_the_ledger_paid_for_a_task_is_asked_once_and_kept(escrow):
    done = escrow().complete()
    consent, client = done.settlement.consent, done.client
    remember(client, record(1, task_id=consent.task_id, client=consent.client, price=10**9, until=consent.expires_at))
    (part,) = client.json("tasks", done.task)["parts"]
    assert part["paid_octas"] == part["to_orchestrator_octas"] + part["to_delegate_octas"] + part["fee_octas"] > 0
    (kept,) = client.json("tasks", done.task, "--offline")["parts"]
    assert kept["paid_octas"] == part["paid_octas"]


# --- earnings ----------------------------------------------------------------------------------------------------


def test_earnings_are_those_that_the_accounts_hold(escrow):
    people = escrow()
    before = {name: getattr(people, name).json("balance") for name in ("client", "router", "operator")}
    people.complete()
    consent = people.settlement.consent
    for name, role in (("client", "client"), ("router", "router"), ("operator", "orchestrator")):
        someone = getattr(people, name)
        remember(
            someone, record(1, task_id=consent.task_id, client=consent.client, role=role, until=consent.expires_at)
        )
    after = {name: getattr(people, name).json("balance") for name in before}
    spent = people.client.json("earnings")
    held = before["client"]["deposit"] + before["client"]["escrowed"] - after["client"]["deposit"]
    assert spent["spent_octas"] == held > 0
    assert spent["ledger"]["deposit_octas"] == after["client"]["deposit"]
    assert spent["pending_spent_octas"] == 0
    earned = people.operator.json("earnings")["earned_octas"]
    assert earned == after["operator"]["coins"] - before["operator"]["coins"]
    fees = people.router.json("earnings")
    assert 0 < fees["earned_octas"] < fees["rows"][0]["fees_octas"] == spent["fees_octas"]


def test_what_is_not_settled_is_pending_and_nothing_after_its_time(me, later):
    remember(me, record(1, price=300, until=int(time.time()) + 60))
    assert me.json("earnings")["pending_spent_octas"] == 300
    later(120)
    found = me.json("earnings")
    assert (found["pending_spent_octas"], found["spent_octas"]) == (0, 0)


def test_without_a_ledger_earnings_say_what_is_known(me, monkeypatch):
    remember(me, record(1, price=300))
    monkeypatch.setenv("CACTUS_MESH_LEDGER", "http://127.0.0.1:9")
    found = me.json("earnings")
    assert (found["pending_spent_octas"], found["ledger"]) == (300, None)
    assert "has not told" in me.run("earnings").stderr


@pytest.mark.parametrize("by", ["day", "model", "role"])
def test_earnings_are_grouped_as_asked(me, by):
    remember(me, record(1), record(2, role="router", model="=2+2"))
    shown = me.says("earnings", "--by", by, "--offline")
    assert shown.splitlines()[0].split() == [by, "earned", "spent", "pending", "tasks", "tokens"]
    me.fails("usage", "earnings", "--since", "tomorrow", "--offline")


# --- receipts ----------------------------------------------------------------------------------------------------


def test_the_table_has_the_documented_columns_and_runs_nothing_in_a_spreadsheet(me):
    names = ["=HYPERLINK(1)", "+1", "-1", "@SUM(1)", "\tx", "plain, with comma"]
    remember(me, *(record(number, model=name) for number, name in enumerate(names, start=1)))
    rows = list(csv.DictReader(io.StringIO(me.says("receipts", "export"))))
    assert tuple(rows[0]) == COLUMNS
    assert [row["model"] for row in rows] == [*(f"'{name}" for name in names[:-1]), names[-1]]


def test_a_file_is_private_whole_and_never_replaced_unasked(me):
    remember(me, proven())
    out = me.home / "out.json"
    me.says("receipts", "export", "--json", "--out", str(out))
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    me.fails("output.exists", "receipts", "export", "--out", str(out))
    me.says("receipts", "export", "--out", str(out), "--force")
    assert out.read_text().startswith("task_id,")
    assert [path.name for path in me.home.iterdir() if path.name.startswith(".out")] == []


def test_only_the_tasks_of_the_time_are_exported(me):
    days = [time.mktime((2026, 1, day, 12, 0, 0, 0, 0, 0)) for day in (1, 2, 3)]
    recorder = Recorder(me.home / "records.sqlite", RecordPolicy(days=3_650))
    me.home.mkdir()
    recorder._write([record(number, at=day) for number, day in enumerate(days)])
    chosen = ("receipts", "export", "--since", "2026-01-02", "--until", "2026-01-02")
    assert [row["task_id"][-2:] for row in csv.DictReader(io.StringIO(me.says(*chosen)))] == ["01"]


def test_an_export_is_verified_by_anybody_and_a_change_is_found(me, person):
    remember(me, proven())
    out = me.home / "out.json"
    me.says("receipts", "export", "--json", "--out", str(out))
    stranger = person("stranger")
    assert "1 of 1 receipts hold" in stranger.says("receipts", "verify", str(out))
    assert me.json("receipts", "verify", ID.hex())["broken"] == 0

    content = json.loads(out.read_text())
    content["receipts"][0]["price_octas"] += 1
    out.write_text(json.dumps(content))
    shown = stranger.run("receipts", "verify", str(out))
    assert shown.exit_code == 7
    assert "price_octas" in shown.stdout

    content["receipts"][0]["price_octas"] -= 1
    document = bytearray(content["receipts"][0]["documents"]["verdict"], "ascii")
    document[40] ^= 1
    content["receipts"][0]["documents"]["verdict"] = document.decode("latin-1")
    out.write_text(json.dumps(content))
    assert stranger.run("receipts", "verify", str(out)).exit_code in (3, 7)


@pytest.mark.parametrize(
    "content", ["", "[]", '{"receipts": 7}', '{"receipts": [{"documents": {"x": 1}}]}', "task_id,role"]
)
def test_what_is_no_export_is_refused_in_one_line(me, content):
    me.home.mkdir()
    file = me.home / "file.json"
    file.write_text(content)
    shown = me.run("receipts", "verify", str(file))
    assert shown.exit_code in (2, 3)
    assert len(shown.stderr.splitlines()) == 1
