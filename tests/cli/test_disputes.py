"""A finished task in doubt, from the command line of everybody concerned."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest

from cactus_mesh.book import open_book
from cactus_mesh.core.holdings import TaskName
from tests.cli.conftest import COIN, DAY

BOND = 10_000_000


@pytest.fixture
def doubted(escrow):
    """A completed task that its client has disputed, and that the operator's node remembers having done."""
    task = escrow().complete()
    client, operator = task.client, task.operator
    with open_book(operator.home / "book.sqlite") as book:
        name = TaskName(client.identity.address, task.settlement.consent.task_id)
        book.served(operator.identity.address, name, task.done_by + 2 * DAY)
    evidence = client.home / "evidence.txt"
    evidence.write_text("it said that two and two is five")
    opened = client.json("dispute", "open", task.task, "--evidence", str(evidence))
    assert (opened["status"], opened["bond"]) == ("open", BOND)
    return task


def line_of(person, kind):
    (line,) = [each for each in person.json("balance")["holdings"] if each["kind"] == kind]
    return line


def test_a_task_is_disputed_once_by_its_parties_with_evidence_that_is_there(escrow, person):
    task = escrow()
    there = str(task.client.home / "key")
    assert "E_NOT_DISPUTABLE" in task.client.fails("ledger.aborted", "dispute", "open", task.task, "--evidence", there)
    task.client.fails("usage", "dispute", "open", task.task, "--evidence", "nowhere.txt")
    task.client.fails("task_id.malformed", "dispute", "open", "xyz", "--evidence", there)
    task.client.fails("ledger.aborted", "dispute", "show", task.task)
    task.complete()
    stranger = person("stranger").rich(1)
    assert "E_NOT_TASK_PARTY" in stranger.fails(
        "ledger.aborted", "dispute", "open", task.task, "--client", task.client.peer, "--evidence", there
    )


def test_an_owner_finds_the_dispute_that_freezes_its_stake_and_how_to_contest_it(doubted, admin):
    client, operator = doubted.client, doubted.operator
    line = line_of(operator, "dispute")
    assert line["do"] == f"cactus-mesh dispute contest {doubted.task} --client {client.identity.address} --answer FILE"
    assert "frozen by 1 open dispute" in line_of(operator, "stake")["why"]
    assert line_of(client, "bond")["octas"] == BOND
    assert not line_of(client, "bond")["due"]

    answer = str(operator.home / "key")
    contest = ("dispute", "contest", doubted.task, "--client", client.peer, "--answer", answer)
    client.fails("ledger.aborted", *contest)
    assert operator.json(*contest)["status"] == "contested"
    resolve = ("dispute", "resolve", doubted.task, "--client", client.peer, "--dismissed")
    before = operator.json("balance")["coins"]
    assert admin.json(*resolve)["status"] == "dismissed"
    admin.fails("ledger.aborted", *resolve)
    assert operator.json("balance")["coins"] == before + BOND
    assert "dispute" not in {each["kind"] for each in operator.json("balance")["holdings"]}
    assert client.json("balance")["bonds"] == 0


def test_an_uncontested_dispute_is_won_by_a_claim(doubted, later):
    client = doubted.client
    early = client.fails("ledger.aborted", "dispute", "finalize", doubted.task)
    assert "its owner may contest it until" in early
    later(DAY + 1)
    assert line_of(client, "bond")["do"] == "cactus-mesh claim"
    assert "not contested in time" in line_of(doubted.operator, "dispute")["why"]
    assert doubted.operator.json("claim")["claims"] == []
    (claimed,) = client.json("claim")["claims"]
    assert (claimed["kind"], claimed["octas"]) == ("dispute", BOND)
    assert client.json("dispute", "show", doubted.task)["status"] == "upheld"
    assert doubted.operator.json("balance")["stake"] < 5 * COIN


def test_what_the_arbiter_leaves_undecided_anybody_closes(doubted, later, person):
    client, operator, stranger = doubted.client, doubted.operator, person("stranger").rich(1)
    operator.says("dispute", "contest", doubted.task, "--client", client.peer, "--answer", str(operator.home / "key"))
    finalize = ("dispute", "finalize", doubted.task, "--client", client.peer)
    assert "the arbiter may decide it until" in stranger.fails("ledger.aborted", *finalize)
    later(7 * DAY + 1)
    assert "dispute finalize" in line_of(operator, "dispute")["do"]
    assert operator.json("claim")["claims"][0]["kind"] == "dispute"
    assert client.json("dispute", "show", doubted.task)["status"] == "lapsed"
    assert operator.json("balance")["stake"] == 5 * COIN


def test_whoever_looks_sees_to_what_both_sides_have_committed(doubted, person):
    show = ("dispute", "show", doubted.task, "--client", doubted.client.peer)
    evidence = hashlib.sha256((doubted.client.home / "evidence.txt").read_bytes()).hexdigest()
    found = person("stranger").json(*show)
    assert (found["evidence_hash"], found["answer_hash"]) == (evidence, None)
    answer = doubted.operator.home / "key"
    doubted.operator.says("dispute", "contest", doubted.task, "--client", doubted.client.peer, "--answer", str(answer))
    assert person("stranger").json(*show)["answer_hash"] == hashlib.sha256(answer.read_bytes()).hexdigest()
    assert evidence in person("stranger").says(*show)


# --- two results for one task -------------------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path):
    """A claim and its signature, in a file."""

    def write(claim, signer):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.json"
        data = claim.to_bcs()
        path.write_text(json.dumps({"claim": f"0x{data.hex()}", "signature": f"0x{signer.sign(data).hex()}"}))
        return str(path)

    return write


def test_anybody_proves_an_equivocation_once_and_the_client_is_paid_back(escrow, person, written):
    task = escrow().complete()
    claim, key = task.settlement.claim, task.operator.identity
    proof = written(claim, key), written(replace(claim, result_hash=b"2" * 32), key)
    prove = ("dispute", "equivocation", task.operator.peer, *proof)
    stranger = person("stranger").rich(1)
    stake, deposit = task.operator.json("balance")["stake"], task.client.json("balance")["deposit"]
    slashed = stranger.json(*prove)["slashed"]
    assert 0 < slashed == stake - task.operator.json("balance")["stake"]
    assert task.client.json("balance")["deposit"] == 10 * COIN > deposit
    assert "E_ALREADY_SLASHED" in stranger.fails("ledger.aborted", *prove)


def test_what_proves_nothing_is_refused_before_it_costs_a_fee(escrow, person, written, tmp_path):
    task = escrow().complete()
    claim, key = task.settlement.claim, task.operator.identity
    stranger, first = person("stranger").rich(1), written(claim, key)
    broken = tmp_path / "broken.json"
    broken.write_text('{"claim": 5}')
    for other, why in (
        (first, "same result"),
        (written(replace(claim, task_id=b"t" * 16, result_hash=b"2" * 32), key), "different tasks"),
        (written(replace(claim, chain_id=1, result_hash=b"2" * 32), key), "not for this ledger"),
        (written(replace(claim, result_hash=b"2" * 32), stranger.identity), "not signed by that peer"),
        (str(broken), "holds no signed claim"),
        (str(tmp_path / "nowhere"), "cannot read"),
    ):
        assert why in stranger.fails("usage", "dispute", "equivocation", task.operator.peer, first, other)
    assert stranger.json("balance")["coins"] == COIN
