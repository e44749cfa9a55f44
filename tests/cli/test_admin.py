"""Routers and the contract's offices."""

from __future__ import annotations

import json

import pytest

from tests.cli.conftest import COIN, DAY


def test_a_router_registers_is_authorised_and_revoked(person, admin, later):
    router = person("router")
    router.fails("ledger.no_funds", "register")
    assert "cactus-mesh register" in admin.fails("router.not_authorised", "authorize", router.peer)
    router.rich(1)
    assert f"cactus-mesh authorize {router.peer}" in router.says("register")
    assert "not authorised now" in router.says("register")
    assert "waits for its authorisation" in " ".join(router.says("balance").split())
    assert admin.json("authorize", router.peer, "--days", "30", "--budget", "50apt")["max_budget"] == 50 * COIN
    assert "authorised until" in router.says("register")
    later(31 * DAY)
    assert "whose authorisation has ended" in " ".join(router.says("balance").split())
    assert admin.json("revoke", router.peer)["status"] == "revoked"
    admin.fails("router.not_authorised", "revoke", "0x77")
    admin.fails("amount.malformed", "authorize", router.peer, "--budget", "lots")


def test_an_office_needs_its_key(person):
    stranger = person("stranger").rich(1)
    assert "--admin-key" in stranger.fails("key.missing", "revoke", stranger.peer)
    assert "--arbiter-key" in stranger.fails("key.missing", "dispute", "resolve", "00" * 16, "--upheld")
    own = ("--admin-key", str(stranger.home / "key"))
    assert "E_NOT_ADMIN" in stranger.fails("ledger.aborted", "admin", "pause", *own)
    assert "E_NOT_PENDING_ADMIN" in stranger.fails("ledger.aborted", "admin", "accept")


def test_parameters_change_one_by_one_within_their_bounds(admin):
    before = admin.json("admin", "show")["params"]
    after = admin.json("admin", "set-params", "fee_bps=300", "base=7")["params"]
    assert after == before | {"fee_bps": 300, "base": 7}
    assert "fee_bps" in admin.says("admin", "show")
    assert "E_PARAM_OUT_OF_BOUNDS" in admin.fails("ledger.aborted", "admin", "set-params", "fee_bps=9999")
    assert "choose from: base" in admin.fails("usage", "admin", "set-params", "fee=3")
    admin.fails("usage", "admin", "set-params", "fee_bps=0.5")
    admin.says("admin", "set-params", f"fee_bps={before['fee_bps']}", f"base={before['base']}")
    assert admin.json("admin", "show")["params"] == before


def test_a_pause_stops_deposits_until_it_ends(admin, person):
    client = person("client").rich(5)
    client.says("deposit", "1apt")
    admin.says("admin", "pause")
    try:
        assert "E_PAUSED" in client.fails("ledger.aborted", "deposit", "1apt")
        client.says("withdraw", "1apt")
    finally:
        assert admin.json("admin", "resume") == {"paused": False}
    client.says("deposit", "1apt")


def test_the_administrators_office_changes_hands_in_two_steps(admin, person):
    heir = person("heir").rich(1)
    admin.says("admin", "propose", heir.peer)
    assert admin.json("admin", "show")["pending_admin"] == heir.identity.address
    heir.says("admin", "accept")
    admin.fails("ledger.aborted", "admin", "set-arbiter", heir.peer)
    mine = ("--admin-key", str(heir.home / "key"))
    heir.says("admin", "set-arbiter", heir.peer, *mine)
    heir.says("admin", "set-treasury", heir.peer, *mine)
    offices = admin.json("admin", "show")
    assert {offices[name] for name in ("admin", "arbiter", "treasury")} == {heir.identity.address}
    first = admin.chain.devnet.admin.address
    for office in ("set-arbiter", "set-treasury", "propose"):
        heir.says("admin", office, first, *mine)
    admin.says("admin", "accept", "--admin-key", str(admin.home / "devnet" / "admin.key"))


@pytest.mark.parametrize(
    "command",
    [
        "balance", "deposit", "withdraw", "claim", "stake", "unstake", "operator-consent", "set-operator", "register",
        "authorize", "revoke", "deploy", "fund", "dispute open", "dispute contest", "dispute resolve",
        "dispute finalize", "dispute show", "admin show", "admin propose", "admin accept", "admin set-params",
        "admin pause", "admin resume", "admin set-arbiter", "admin set-treasury",
    ],
)  # fmt: skip
def test_every_money_command_has_an_example_and_json(person, command):
    text = person("anybody").says(*command.split(), "--help")
    assert f"Example: cactus-mesh {command}" in text
    assert "--json" in text


def test_a_mistake_under_json_is_json(person):
    found = json.loads(person("anybody").run("balance", "me", "--json").stdout)
    assert found["error"]["code"] == "address.malformed"
