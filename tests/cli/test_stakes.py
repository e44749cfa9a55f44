"""Stakes: of a node's own key, and of a cold owner whose key the serving machine never sees."""

from __future__ import annotations

from cactus_mesh.identity import Identity, create_key_file
from tests.cli.conftest import COIN, DAY


def test_a_first_stake_registers_and_a_second_one_adds(person):
    node = person("node")
    assert "99,999,999 octas" in node.fails("ledger.not_staked", "stake", "1")
    assert "are missing" in node.fails("ledger.no_funds", "stake", "2apt")
    node.rich(10)
    first = node.json("stake", "2apt")
    assert (first["stake"], first["new"], first["owner"]) == (2 * COIN, True, node.identity.address)
    second = node.json("stake", "1.5apt")
    assert (second["stake"], second["new"]) == (350_000_000, False)


def test_unbonding_can_be_cancelled_and_is_paid_when_its_wait_is_over(person, later):
    node = person("node").rich(10)
    node.fails("ledger.not_staked", "unstake", "1apt")
    node.says("stake", "5apt")
    assert "the active stake is 500,000,000" in node.fails("ledger.not_staked", "unstake", "6apt")
    node.fails("usage", "unstake", "1apt", "--all")
    node.fails("ledger.not_staked", "unstake", "--cancel")
    assert "below the minimum" in node.says("unstake", "4.5apt")
    assert "cactus-mesh stake 50000000" in node.says("balance")
    assert node.json("unstake", "--cancel")["stake"] == 5 * COIN

    asked = node.json("unstake", "--all")
    (unbonding,) = [each for each in node.json("balance")["holdings"] if each["kind"] == "unbonding"]
    assert (unbonding["octas"], unbonding["until"], unbonding["due"]) == (5 * COIN, asked["release_at"], False)
    later(7 * DAY + 1)
    before = node.json("balance")
    assert before["claimable"] == 5 * COIN
    assert node.json("claim")["claims"][0]["kind"] == "unbonding"
    assert node.json("balance")["coins"] > before["coins"] + 4.9 * COIN


def test_a_cold_owner_stakes_for_a_hot_operator_and_moves_the_stake_alone(person, later, tmp_path):
    """The operator's machine has the operator's key only, the owner's machine the owner's only."""
    operator, machine = person("operator"), person("owner's machine")
    cold = Identity.generate()
    create_key_file(tmp_path / "cold.key", cold)
    key = ("--owner-key", str(tmp_path / "cold.key"), "--operator", operator.peer)
    machine.chain.fund(cold.address, 30 * COIN)

    assert f"cactus-mesh operator-consent {cold.address}" in machine.fails("stake.no_consent", "stake", "20apt", *key)
    consent = operator.json("operator-consent", cold.address)
    assert consent["operator_signature"] in operator.says("operator-consent", cold.address)
    signed = ("--operator-signature", consent["operator_signature"])
    machine.fails("stake.no_consent", "stake", "20apt", *key, "--operator-signature", "0x" + "ab" * 64)
    staked = machine.json("stake", "20apt", *key, *signed)
    assert (staked["owner"], staked["operator"]) == (cold.address, operator.peer)
    assert not (machine.home / "key").exists()

    assert cold.address in operator.fails("stake.not_owner", "unstake", "1apt")
    operator.fails("stake.not_owner", "stake", "1apt")
    shown = operator.json("balance")
    assert (shown["stake"], [each["own"] for each in shown["holdings"]]) == (0, [True, False])
    assert machine.json("balance", cold.address)["stake"] == 20 * COIN

    machine.says("unstake", "3apt", *key)
    later(7 * DAY + 1)
    assert operator.json("claim")["claims"] == []
    assert f"> cactus-mesh claim --operator {operator.peer} --owner-key FILE" in operator.says("balance")
    assert machine.json("claim", "--owner-key", str(tmp_path / "cold.key"))["claimed"] == 3 * COIN


def test_an_operator_key_is_replaced_for_good(person, tmp_path):
    old, new, machine = person("old"), person("new"), person("owner's machine").rich(30)
    signature = old.json("operator-consent", machine.peer)["operator_signature"]
    machine.says("stake", "20apt", "--operator", old.peer, "--operator-signature", signature)
    machine.fails(
        "stake.no_consent", "set-operator", new.peer, "--operator", old.peer, "--operator-signature", signature
    )
    again = new.json("operator-consent", machine.peer)["operator_signature"]
    rotate = ("set-operator", new.peer, "--operator", old.peer, "--operator-signature", again)
    new.fails("stake.not_owner", *rotate)
    assert machine.json(*rotate)["stake"] == 20 * COIN
    machine.fails("ledger.not_staked", *rotate)
    machine.fails("usage", "set-operator", new.peer, "--operator", new.peer)
    assert [each["octas"] for each in machine.json("balance")["holdings"] if each["kind"] == "stake"] == [20 * COIN]
    machine.fails("ledger.aborted", "stake", "2apt", "--operator", old.peer, "--operator-signature", signature)


def test_on_one_machine_the_operators_consent_needs_no_second_step(person, tmp_path):
    node = person("node")
    cold = Identity.generate()
    create_key_file(tmp_path / "cold.key", cold)
    node.chain.fund(cold.address, 5 * COIN)
    assert "--operator" in node.fails("usage", "stake", "2apt", "--owner-key", str(tmp_path / "cold.key"))
    assert node.identity
    made = node.json("stake", "2apt", "--owner-key", str(tmp_path / "cold.key"))
    assert (made["operator"], made["owner"]) == (node.peer, cold.address)


def test_a_stake_is_claimed_by_its_owner_only(person, tmp_path):
    node, other = person("node").rich(5), person("other").rich(1)
    node.says("stake", "2apt")
    assert node.identity.address in other.fails("stake.not_owner", "claim", "--operator", node.peer)
    other.fails("ledger.not_staked", "claim", "--operator", other.peer)
    other.fails("address.malformed", "stake", "1apt", "--operator", node.identity.address)
