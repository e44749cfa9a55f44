"""aptos-sdk, unmodified: its RestClient accepts the embedded ledger, and its serializer agrees with our bytes."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from aptos_sdk.account import Account
from aptos_sdk.account_address import AccountAddress
from aptos_sdk.async_client import FaucetClient, ResourceNotFound, RestClient
from aptos_sdk.bcs import Serializer
from aptos_sdk.transactions import EntryFunction, TransactionArgument, TransactionPayload
from hypothesis import given
from hypothesis import strategies as st

from cactus_mesh.core.settlement import CLAIM_DOMAIN, CONSENT_DOMAIN, OPERATOR_DOMAIN, OperatorConsent
from cactus_mesh.ledger.devnet import open_devnet
from cactus_mesh.ledger.rules.state import named_object
from cactus_mesh.ledger.values import (
    BadValue,
    address_bytes,
    decode,
    encode,
    encode_json,
    from_json,
    short_address,
    to_json,
)
from tests.ledger.world import CHAIN_ID, CLIENT, CONTRACT, ROUTER, claim_for, consent_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from cactus_mesh.ledger.devnet import Devnet

COINS = 10**9


# --- the REST client ---------------------------------------------------------------------------------------------


@pytest.fixture
async def devnet(tmp_path: Path) -> AsyncIterator[Devnet]:
    async with open_devnet(tmp_path) as devnet:
        yield devnet


@pytest.fixture
async def client(devnet: Devnet) -> AsyncIterator[RestClient]:
    client = RestClient(f"{devnet.url}/v1")
    yield client
    await client.close()


def _entry(devnet: Devnet, name: str, *arguments: TransactionArgument) -> TransactionPayload:
    return TransactionPayload(EntryFunction.natural(f"{devnet.contract}::cactus_payment", name, [], list(arguments)))


async def test_the_sdk_funds_transfers_and_reads(devnet: Devnet, client: RestClient) -> None:
    alice, bob = Account.generate(), Account.generate()
    await FaucetClient(devnet.url, client).fund_account(alice.address(), COINS)
    assert await client.account_balance(alice.address()) == COINS
    hash_ = await client.bcs_transfer(alice, bob.address(), 1_000)
    await client.wait_for_transaction(hash_)
    assert await client.account_balance(bob.address()) == 1_000
    assert await client.account_sequence_number(alice.address()) == 1
    assert (await client.transaction_by_hash(hash_))["success"] is True
    assert len(await client.transactions_by_account(alice.address())) == 1
    assert await client.chain_id() == devnet.chain_id


async def test_the_sdk_calls_the_contract_and_views_it(devnet: Devnet, client: RestClient) -> None:
    alice = Account.generate()
    await FaucetClient(devnet.url, client).fund_account(alice.address(), COINS)
    key = TransactionArgument(alice.public_key().to_crypto_bytes(), Serializer.to_bytes)
    payload = _entry(devnet, "deposit", key, TransactionArgument(500, Serializer.u64))
    signed = await client.create_bcs_signed_transaction(alice, payload)
    executed = await client.submit_and_wait_for_bcs_transaction(signed)
    assert [event["type"].split("::")[-1] for event in executed["events"]] == ["ClientRegistered", "Deposited"]
    module = f"{devnet.contract}::cactus_payment"
    (found,) = await client.view_bcs_payload(
        module, "client", [], [TransactionArgument(alice.address(), Serializer.struct)]
    )
    assert found["vec"][0]["deposit"] == "500"
    in_json = await client.view(f"{module}::client", [], [str(alice.address())])
    assert b'"deposit":"500"' in in_json


async def test_the_sdk_sees_an_abort_with_module_and_code(devnet: Devnet, client: RestClient) -> None:
    alice = Account.generate()
    await FaucetClient(devnet.url, client).fund_account(alice.address(), COINS)
    signed = await client.create_bcs_signed_transaction(alice, _entry(devnet, "withdraw"))
    hash_ = await client.submit_bcs_transaction(signed)
    with pytest.raises(AssertionError, match=r"cactus_payment: E_NO_CLIENT\(0x60028\)"):
        await client.wait_for_transaction(hash_)


async def test_the_sdk_reads_resources(devnet: Devnet, client: RestClient) -> None:
    contract = AccountAddress.from_str(devnet.contract)
    config = await client.account_resource(contract, f"{devnet.contract}::cactus_payment::Config")
    assert config["data"]["admin"] == devnet.admin.address
    assert config["data"]["paused"] is False
    with pytest.raises(ResourceNotFound):
        await client.account_resource(contract, "0x1::a::B")


# --- bytes -------------------------------------------------------------------------------------------------------


def _raw(serializer: Serializer, *addresses: str) -> None:
    for each in addresses:
        serializer.struct(AccountAddress(address_bytes(each)))


def test_a_consent_has_the_bytes_that_the_sdk_writes() -> None:
    consent, serializer = consent_for(), Serializer()
    serializer.to_bytes(CONSENT_DOMAIN)
    serializer.u8(consent.chain_id)
    _raw(serializer, consent.contract, consent.client, consent.router)
    serializer.to_bytes(consent.task_id)
    for number in (consent.nonce, consent.max_price, consent.expires_at):
        serializer.u64(number)
    assert consent.to_bcs() == serializer.output()


def test_a_claim_has_the_bytes_that_the_sdk_writes() -> None:
    claim, serializer = claim_for(), Serializer()
    serializer.to_bytes(CLAIM_DOMAIN)
    serializer.u8(claim.chain_id)
    _raw(serializer, claim.contract, claim.client, claim.router, claim.orchestrator, claim.delegate)
    serializer.u64(claim.delegate_bps)
    serializer.to_bytes(claim.task_id)
    serializer.to_bytes(claim.model_digest)
    for number in (claim.complexity, claim.compute_ms, claim.price):
        serializer.u64(number)
    serializer.to_bytes(claim.result_hash)
    assert claim.to_bcs() == serializer.output()


def test_an_operators_consent_has_the_bytes_that_the_sdk_writes() -> None:
    serializer = Serializer()
    serializer.to_bytes(OPERATOR_DOMAIN)
    serializer.u8(CHAIN_ID)
    _raw(serializer, CONTRACT, CLIENT.address, ROUTER.address)
    assert OperatorConsent(CHAIN_ID, CONTRACT, CLIENT.address, ROUTER.address).to_bcs() == serializer.output()


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=64))
def test_named_objects_lie_where_the_sdk_finds_them(creator: bytes, seed: bytes) -> None:
    expected = AccountAddress.for_named_object(AccountAddress(creator), seed).address.hex()
    assert named_object(f"0x{creator.hex()}", seed) == f"0x{expected}"


@given(st.lists(st.integers(0, 2**64 - 1), max_size=300), st.lists(st.binary(max_size=200), max_size=20), st.booleans())
def test_our_values_have_the_bytes_that_the_sdk_writes(numbers: list[int], blobs: list[bytes], flag: bool) -> None:
    for kind, value, write in (
        ("vector<u64>", numbers, Serializer.sequence_serializer(Serializer.u64)),
        ("vector<vector<u8>>", blobs, Serializer.sequence_serializer(Serializer.to_bytes)),
        ("bool", flag, Serializer.bool),
        ("0x1::string::String", "héy", Serializer.str),
    ):
        assert encode(kind, value) == TransactionArgument(value, write).encode()
        assert decode(kind, encode(kind, value)) == value


OBJECT = "0x1::object::Object<0x1::fungible_asset::Metadata>"
KINDS = (
    "bool", "u8", "u16", "u32", "u64", "u128", "u256", "address", OBJECT, "vector<u8>", "0x1::string::String",
    "vector<u64>", "vector<u256>", "vector<vector<u8>>", "vector<bool>",
)  # fmt: skip


@given(st.sampled_from(KINDS), st.binary(max_size=80))
def test_a_value_has_one_encoding_and_anything_else_is_refused(kind: str, data: bytes) -> None:
    try:
        value = decode(kind, data)
    except BadValue:
        return
    assert encode(kind, value) == data


@given(
    st.sampled_from(KINDS), st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists)
)
def test_no_json_argument_brings_a_view_down(kind: str, data: object) -> None:
    try:
        value = from_json(kind, data)
    except BadValue:
        return
    assert decode(kind, encode(kind, value)) == value


@given(st.sampled_from(KINDS), st.binary(max_size=80))
def test_what_json_shows_of_a_value_says_all_of_it(kind: str, data: bytes) -> None:
    try:
        value = decode(kind, data)
    except BadValue:
        return
    shown = value if kind in ("u8", "u16", "u32") else to_json(value)
    assert encode_json(kind, shown, {}) == data


def test_structs_and_options_are_encoded_by_the_types_of_their_fields() -> None:
    structs = {"0x1::a::B": {"some": "0x1::option::Option<u64>", "many": "vector<0x1::a::C>"}, "0x1::a::C": {"c": "u8"}}
    shown = {"many": [{"c": 7}, {"c": 8}], "some": {"vec": ["1"]}}
    assert encode_json("0x1::a::B", shown, structs) == b"\x01" + (1).to_bytes(8, "little") + b"\x02\x07\x08"
    assert encode_json("0x1::option::Option<0x1::a::C>", {"vec": []}, structs) == b"\x00"


@given(st.binary(min_size=32, max_size=32))
def test_addresses_have_the_sdks_text_form(data: bytes) -> None:
    assert short_address(f"0x{data.hex()}") == str(AccountAddress(data))


def test_json_has_a_full_nodes_shapes() -> None:
    assert to_json([True, 2**64 - 1, b"\x01", "text", f"0x{'0' * 63}1"]) == [
        True,
        str(2**64 - 1),
        "0x01",
        "text",
        "0x1",
    ]
    with pytest.raises(BadValue):
        to_json(1.5)


# --- without assertions ------------------------------------------------------------------------------------------

_SCRIPT = """
import pathlib, sys, trio
from cactus_mesh.errors import LedgerAborted
from cactus_mesh.ledger.client import open_ledger
from cactus_mesh.ledger.dev import fund
from cactus_mesh.ledger.devnet import open_devnet
from cactus_mesh.identity import Identity

async def main():
    async with open_devnet(pathlib.Path(sys.argv[1])) as devnet:
        async with open_ledger(devnet.url, devnet.contract, devnet.chain_id) as ledger:
            router = Identity.generate()
            await fund(devnet.url, router.address, 10**9)
            await ledger.register_server(router)
            try:
                await ledger.register_server(router)
            except LedgerAborted as error:
                print(hex(error.abort_code), __debug__)

trio.run(main)
"""


def test_a_failed_transaction_is_noticed_without_assertions_too(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-O", "-c", _SCRIPT, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True
    )
    assert ran.stdout.split() == ["0x8000a", "False"]


def test_the_ledger_package_is_imported_without_the_sdk() -> None:
    imports = "import sys, cactus_mesh.ledger.client, cactus_mesh.ledger.dev"
    program = f"{imports}; print({{'aptos_sdk', 'httpx'}} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.strip() == "set()"
