"""Deposits, withdrawals, claims, and a balance that explains every locked amount."""

from __future__ import annotations

import pytest

from cactus_mesh.book import open_book
from cactus_mesh.cli.accounts import amount_of, relative, task_id_of
from cactus_mesh.errors import AmountMalformed, TaskIdMalformed
from tests.cli.conftest import COIN, DAY


@pytest.mark.parametrize(
    ("text", "octas"),
    [
        ("1", 1),
        ("150000000", 150_000_000),
        ("12,345 octas", 12_345),
        ("1octa", 1),
        ("1.5apt", 150_000_000),
        ("1.5 APT", 150_000_000),
        ("0.00000001apt", 1),
        ("1,000 apt", 1_000 * COIN),
        ("0.1apt", 10_000_000),
        ("184467440737.09551615apt", 2**64 - 1),
    ],
)
def test_an_amount_is_read_to_the_octa(text, octas):
    assert amount_of(text) == octas


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "0apt",
        "-1",
        "1.5",
        "1.5 octas",
        "1.000000001apt",
        "1,5",
        "1e9",
        "apt",
        "1 btc",
        "\u0661",
        "1_000",
        "184467440737.09551616apt",
    ],
)
def test_what_is_no_amount_is_refused(text):
    with pytest.raises(AmountMalformed):
        amount_of(text)


@pytest.mark.parametrize("text", ["", "00", "zz" * 16, "00" * 17, "0x"])
def test_what_is_no_task_id_is_refused(text):
    with pytest.raises(TaskIdMalformed):
        task_id_of(text)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "now"),
        (45, "in 45 seconds"),
        (-120, "2 minutes ago"),
        (3_599, "in 1 hour"),
        (5_400, "in 1 hour 30 minutes"),
        (7 * DAY - 70, "in 7 days"),
        (-DAY * 1.5, "1 day 12 hours ago"),
    ],
)
def test_a_distance_in_time_in_words(seconds, words):
    assert relative(seconds) == words


def test_a_deposit_says_what_is_held_and_otherwise_what_is_missing(person):
    client = person("client")
    line = client.fails("ledger.no_funds", "deposit", "3apt")
    assert "300,000,000 octas (3 APT) are missing" in line
    assert f"cactus-mesh fund 302000000 --to {client.identity.address}" in line
    client.rich(3)
    assert "too little for the transaction's fee" in client.fails("ledger.no_funds", "deposit", "3apt")
    assert client.json("deposit", "1.00000001apt")["deposit"] == 100_000_001
    assert "150,000,001 octas" in client.says("deposit", "50,000,000 octas")
    client.fails("amount.malformed", "deposit", "1.5")


def test_a_withdrawal_leaves_after_its_wait_and_is_claimed_once(person, later):
    client = person("client").rich(10)
    client.says("deposit", "5apt")
    assert "only 500,000,000 octas" in client.fails("ledger.no_funds", "withdraw", "6apt")
    client.fails("usage", "withdraw")
    client.fails("usage", "withdraw", "1apt", "--all")
    asked = client.json("withdraw", "2apt")
    assert (asked["withdrawing"], asked["deposit"]) == (2 * COIN, 3 * COIN)
    assert "200,000,000 octas (2 APT) are in escrow or on their way out" in client.fails(
        "ledger.no_funds", "withdraw", "4apt"
    )
    assert client.json("claim")["claims"] == []
    assert "the next date is" in client.run("claim").stderr

    later(3_601)
    assert client.json("balance")["claimable"] == 2 * COIN
    assert "200,000,000 octas (2 APT) withdrawn from the deposit" in client.says("claim")
    assert client.json("balance")["withdrawing"] == 0
    assert "nothing can be claimed" in client.says("claim")
    client.says("withdraw", "--all")
    client.fails("ledger.no_funds", "withdraw", "--all")


def test_a_balance_explains_a_clients_money_within_80_columns(person, escrow, later):
    task = escrow()
    client = task.client
    client.says("withdraw", "2apt")
    with open_book(client.home / "book.sqlite") as book:
        book.asked(client.identity.address, task.settlement.consent.task_id, task.done_by + 1_000)
    text = client.says("balance")
    assert all(len(line) <= 80 for line in text.splitlines())
    assert f"task {task.task[:12]}" in text
    assert [line.split()[-1] for line in text.splitlines() if line.startswith("deposit")]
    found = client.json("balance")
    assert (found["deposit"], found["escrowed"], found["withdrawing"]) == (775_000_000, 25_000_000, 2 * COIN)
    assert sum(each["octas"] for each in found["holdings"] if each["own"]) == sum(
        found[name] for name in ("coins", "deposit", "escrowed", "withdrawing")
    )
    (held,) = [each for each in found["holdings"] if each["kind"] == "escrow"]
    assert held["until"] == task.done_by

    later(3_700)
    found = client.json("balance")
    assert found["claimable"] == 2 * COIN + 25_000_000
    assert {each["do"] for each in found["holdings"] if each["due"]} == {"cactus-mesh claim"}
    assert client.json("claim")["claimed"] == found["claimable"]
    after = client.json("balance")
    assert (after["escrowed"], after["deposit"], after["claimable"]) == (0, 8 * COIN, 0)


def test_a_dead_task_that_this_home_forgot_is_ended_by_its_id(person, escrow, later):
    task = escrow()
    client, stranger = task.client, person("stranger").rich(1)
    assert client.json("balance")["escrowed"] == 25_000_000
    assert "cactus-mesh claim --task TASK_ID" in client.says("balance")
    assert "can be ended after" in client.fails("ledger.aborted", "claim", "--task", task.task)
    assert "--client" in stranger.fails("ledger.aborted", "claim", "--task", task.task)
    later(61)
    found = stranger.json("claim", "--task", task.task, "--client", client.peer)
    assert (found["claimed"], found["claims"][0]["kind"]) == (25_000_000, "escrow")
    assert client.json("balance")["deposit"] == 10 * COIN
    assert "closed already (timed_out)" in client.fails("ledger.aborted", "claim", "--task", task.task)


def test_an_account_that_the_ledger_never_saw_is_said_to_be_unknown(person):
    nobody = person("nobody")
    assert nobody.json("balance")["known"] is False
    assert "never seen this account" in nobody.says("balance")
    assert "never seen" in nobody.says("balance", "0x5")
    nobody.fails("address.malformed", "balance", "0xzz")


@pytest.mark.parametrize("arguments", [("balance",), ("claim",), ("stake", "1apt")])
def test_a_ledger_that_is_down_is_named(person, arguments):
    line = person("client").fails("ledger.down", *arguments, "--ledger", "http://127.0.0.1:9")
    assert "cactus-mesh devnet" in line
