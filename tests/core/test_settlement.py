"""The bytes that the ledger is shown, against the ledger's own library and the published vectors."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from aptos_sdk.account_address import AccountAddress
from aptos_sdk.bcs import Serializer
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import VerifyKey

from cactus_mesh.core.settlement import (
    CLAIM_DOMAIN,
    CONSENT_DOMAIN,
    NOBODY,
    OPERATOR_DOMAIN,
    U64_MAX,
    OperatorConsent,
    SettlementClaim,
    TaskConsent,
)
from cactus_mesh.identity import Address
from tests.samples import consent

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "settlement.json").read_text(encoding="utf-8"))

addresses = st.binary(min_size=32, max_size=32).map(lambda raw: Address("0x" + raw.hex()))
u8, u64 = st.integers(0, 255), st.integers(0, U64_MAX)
task_ids, hashes = st.binary(min_size=16, max_size=16), st.binary(min_size=32, max_size=32)
consents = st.builds(
    TaskConsent,
    chain_id=u8,
    contract=addresses,
    client=addresses,
    router=addresses,
    task_id=task_ids,
    nonce=u64,
    max_price=u64,
    expires_at=u64,
)
claims = st.builds(
    SettlementClaim,
    chain_id=u8,
    contract=addresses,
    client=addresses,
    router=addresses,
    orchestrator=addresses,
    delegate=addresses,
    delegate_bps=u64,
    task_id=task_ids,
    model_digest=hashes,
    complexity=u64,
    compute_ms=u64,
    price=u64,
    result_hash=hashes,
)


def by_the_sdk(domain, value):
    """The struct as aptos_sdk writes it: fields in their order, by their type."""
    out = Serializer()
    out.to_bytes(domain)
    for name, field in dataclasses.asdict(value).items():
        if name == "chain_id":
            out.u8(field)
        elif isinstance(field, int):
            out.u64(field)
        elif isinstance(field, str):
            out.struct(AccountAddress.from_str(field))
        else:
            out.to_bytes(field)
    return out.output()


@given(consents)
def test_a_consent_is_what_the_ledgers_own_library_writes(value):
    assert value.to_bcs() == by_the_sdk(CONSENT_DOMAIN, value)
    assert TaskConsent.from_bcs(value.to_bcs()) == value


@given(claims)
def test_a_claim_is_what_the_ledgers_own_library_writes(value):
    assert value.to_bcs() == by_the_sdk(CLAIM_DOMAIN, value)
    assert SettlementClaim.from_bcs(value.to_bcs()) == value


@given(u8, addresses, addresses, addresses)
def test_an_operators_consent_is_what_the_ledgers_own_library_writes(chain_id, contract, owner, operator):
    value = OperatorConsent(chain_id, contract, owner, operator)
    assert value.to_bcs() == by_the_sdk(OPERATOR_DOMAIN, value)


@pytest.mark.parametrize("kind", [TaskConsent, SettlementClaim])
@given(data=st.data())
def test_only_whole_bytes_of_its_own_kind_are_read(kind, data):
    good = data.draw(consents if kind is TaskConsent else claims).to_bcs()
    cut = data.draw(st.integers(0, len(good) - 1))
    for bad in (good[:cut], good + b"\x00", good + good, b"\x00" + good):
        with pytest.raises(ValueError):
            kind.from_bcs(bad)


@pytest.mark.parametrize("kind", [TaskConsent, SettlementClaim])
@given(junk=st.binary(max_size=400))
def test_junk_is_refused_and_never_crashes(kind, junk):
    with pytest.raises(ValueError):
        kind.from_bcs(junk)


def test_one_kind_is_never_taken_for_another():
    claim = VECTORS["claims"][0]
    with pytest.raises(ValueError):
        TaskConsent.from_bcs(bytes.fromhex(claim["bcs"]))
    with pytest.raises(ValueError):
        SettlementClaim.from_bcs(consent().to_bcs())


def test_a_padded_length_is_not_a_second_encoding():
    good = consent().to_bcs()
    assert good[0] == len(CONSENT_DOMAIN)
    padded = bytes([good[0] | 0x80, 0]) + good[1:]
    with pytest.raises(ValueError):
        TaskConsent.from_bcs(padded)


@pytest.mark.parametrize(
    ("kind", "vector"),
    [(TaskConsent, VECTORS["consent"]), *((SettlementClaim, vector) for vector in VECTORS["claims"])],
)
def test_the_vectors_hold(kind, vector):
    data = bytes.fromhex(vector["bcs"])
    value = kind.from_bcs(data)
    assert value.to_bcs() == data
    written = {k: v.hex() if isinstance(v, bytes) else v for k, v in dataclasses.asdict(value).items()}
    assert written == vector["fields"]
    VerifyKey(bytes.fromhex(vector["public_key"])).verify(data, bytes.fromhex(vector["signature"]))


def test_the_vectors_cover_work_done_alone_and_delegated():
    delegates = [vector["fields"]["delegate"] for vector in VECTORS["claims"]]
    assert NOBODY in delegates
    assert len(set(delegates)) == 2
