"""A finished task in doubt, from the command line of everybody concerned."""

from __future__ import annotations

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
