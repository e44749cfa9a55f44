"""Consents, claims, named addresses and rewards are the same in Python and in Move."""

from __future__ import annotations

import json
import random
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import pytest

from cactus_mesh.core.pricing import split
from cactus_mesh.core.settlement import OperatorConsent, SettlementClaim, TaskConsent
from cactus_mesh.identity import address
from cactus_mesh.ledger.rules.state import vault
from tests.contracts.vm import CONTRACT, MoveVm
from tests.ledger.differential import vm_json
from tests.ledger.operations import ACCOUNTS, CHAIN_ID
from tests.ledger.world import CLIENT, ORCHESTRATOR, ROUTER

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "settlement.json").read_text(encoding="utf-8"))
BYTES, NUMBER, ADDRESS = "vector<u8>", "u64", "address"
CONSENT_TYPES = (ADDRESS, ADDRESS, BYTES, NUMBER, NUMBER, NUMBER)
CLAIM_TYPES = (ADDRESS, ADDRESS, ADDRESS, ADDRESS, NUMBER, BYTES, BYTES, NUMBER, NUMBER, NUMBER, BYTES)


def fields(kind: type, vector: dict[str, Any]) -> Any:
    """The message of a vector, for the contract and the chain of the VM."""
    message = kind.from_bcs(bytes.fromhex(vector["bcs"]))  # type: ignore[attr-defined]
    return replace(message, contract=CONTRACT, chain_id=CHAIN_ID)


def test_a_consent_has_the_same_bytes(vm: MoveVm) -> None:
    consent = fields(TaskConsent, VECTORS["consent"])
    assert vm.view("hooks", "consent_bytes", CONSENT_TYPES, astuple(consent)[2:]) == consent.to_bcs().hex()


@pytest.mark.parametrize("number", range(len(VECTORS["claims"])))
def test_a_claim_has_the_same_bytes(vm: MoveVm, number: int) -> None:
    claim = fields(SettlementClaim, VECTORS["claims"][number])
    assert vm.view("hooks", "claim_bytes", CLAIM_TYPES, astuple(claim)[2:]) == claim.to_bcs().hex()


def test_an_operators_consent_has_the_same_bytes(vm: MoveVm) -> None:
    consent = OperatorConsent(CHAIN_ID, CONTRACT, CLIENT.address, ORCHESTRATOR.address)
    said = vm.view("hooks", "operator_bytes", (ADDRESS, ADDRESS), (CLIENT.address, ORCHESTRATOR.address))
    assert said == consent.to_bcs().hex()


def test_the_signatures_of_the_vectors_verify_and_changed_ones_do_not(vm: MoveVm) -> None:
    for vector in (VECTORS["consent"], *VECTORS["claims"]):
        key, message, signature = (bytes.fromhex(vector[name]) for name in ("public_key", "bcs", "signature"))
        kinds = (BYTES, BYTES, BYTES)
        assert vm.view("hooks", "verifies", kinds, (key, message, signature)) is True
        assert vm.view("hooks", "verifies", kinds, (key, message + b"x", signature)) is False
        assert vm.view("hooks", "verifies", kinds, (key, message, bytes(64))) is False
        assert vm.view("hooks", "verifies", kinds, (bytes(32), message, signature)) is False


def test_accounts_and_vaults_have_the_same_addresses(vm: MoveVm) -> None:
    for each in (CLIENT, ORCHESTRATOR, ROUTER):
        assert vm.view("hooks", "account_of", (BYTES,), (each.public_key,)) == vm_json(address(each.public_key))
    for account in ACCOUNTS:
        for kind in ("client", "stake"):
            theirs = vm.view("hooks", f"{kind}_vault", (ADDRESS,), (account,))
            assert theirs == vm_json(vault(CONTRACT, kind, account))


def test_a_thousand_splits_are_the_same(vm: MoveVm) -> None:
    rng = random.Random(7)
    for _ in range(1_000):
        most = rng.choice((10, 10**6, 2**64 - 1))
        gross = rng.randint(0, most)
        terms = {"max_price": most, "fee_bps": rng.randint(0, 2_000), "delegate_bps": rng.randint(0, 10_000)}
        theirs = vm.view("hooks", "reward_parts", (NUMBER,) * 4, (gross, *terms.values()))
        assert theirs == vm_json(split(gross, **terms))
