"""What the embedded ledger shows: resources, views and events in JSON and BCS, transactions, blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from aptos_sdk.bcs import Deserializer

from cactus_mesh.ledger.dev import DEVNET_CONTRACT
from cactus_mesh.ledger.values import decode, short_address
from tests.ledger import wire
from tests.ledger.node import ALICE, BOB, PAY_BOB, Node, assert_refused
from tests.ledger.world import COIN

if TYPE_CHECKING:
    import httpx

BCS = {"accept": "application/x-bcs"}
COINS = "0x1::aptos_coin::AptosCoin"
STORE = f"0x1::coin::CoinStore<{COINS}>"
PAYMENT = f"{DEVNET_CONTRACT}::cactus_payment"


async def _view(
    node: Node, function: str, *arguments: Any, types: tuple[str, ...] = (), **headers: str
) -> httpx.Response:
    asked = {"function": function, "type_arguments": list(types), "arguments": list(arguments)}
    return await node.http.post("/v1/view", json=asked, headers=headers)


async def _resource(node: Node, account: str, kind: str) -> tuple[Any, bytes]:
    """In both forms."""
    path = f"/v1/accounts/{account}/resource/{kind}"
    in_json, in_bcs = (await node.http.get(path)).json(), await node.http.get(path, headers=BCS)
    assert in_bcs.headers["content-type"] == "application/x-bcs"
    return in_json["data"], in_bcs.content


# --- resources ---------------------------------------------------------------------------------------------------


async def test_an_account_has_a_full_nodes_resources(node: Node) -> None:
    data, encoded = await _resource(node, ALICE.address, "0x1::account::Account")
    assert data["signer_capability_offer"] == {"for": {"vec": []}}
    reader = Deserializer(encoded)
    assert (reader.to_bytes().hex(), reader.u64(), reader.u64()) == (ALICE.address[2:], 0, 4)
    data, encoded = await _resource(node, ALICE.address, STORE)
    reader = Deserializer(encoded)
    assert (reader.u64(), reader.bool()) == (int(data["coin"]["value"]), False) == (10 * COIN, False)


async def test_an_unknown_account_has_none(node: Node) -> None:
    assert (await node.http.get(f"/v1/accounts/{BOB.address}/resources")).json() == []
    reply = await node.http.get(f"/v1/accounts/{BOB.address}/resource/{STORE}")
    assert_refused(reply, 404, "resource_not_found", None)


async def test_all_resources_are_one_map_in_bcs(node: Node) -> None:
    reply = await node.http.get(f"/v1/accounts/{ALICE.address}/resources", headers=BCS)
    reader = Deserializer(reply.content)
    assert reader.uleb128() == 2
    assert (reader.fixed_bytes(32)[-1], reader.str(), reader.str()) == (1, "coin", "CoinStore"), (
        "in order of their bytes"
    )


async def test_the_contract_keeps_its_records_where_move_keeps_them(node: Node) -> None:
    await node.run(wire.signed(ALICE, 0, wire.entry("register_server")))
    await node.run(wire.signed(ALICE, 1, wire.entry("deposit", ALICE.public_key, COIN)))
    await node.run(wire.signed(ALICE, 2, wire.entry("register_orchestrator", ALICE.public_key, b"", COIN)))
    server, encoded = await _resource(node, ALICE.address, f"{PAYMENT}::Server")
    assert (server["status"], encoded[0]) == (0, 0)
    for view, name, field in (("client", "Client", "deposit"), ("orchestrator", "Orchestrator", "stake")):
        (shown,) = (await _view(node, f"{PAYMENT}::{view}", ALICE.address)).json()[0]["vec"]
        kept, encoded = await _resource(node, shown["vault"], f"{PAYMENT}::{name}")
        assert kept == shown
        assert int(kept[field]).to_bytes(8, "little") in encoded
    config, _ = await _resource(node, DEVNET_CONTRACT, f"{PAYMENT}::Config")
    assert config["pending_admin"] == {"vec": []}


async def test_plain_answers_come_in_bcs_too(node: Node) -> None:
    balance = await node.http.get(f"/v1/accounts/{ALICE.address}/balance/0xa", headers=BCS)
    assert decode("u64", balance.content) == 10 * COIN
    account = await node.http.get(f"/v1/accounts/{ALICE.address}", headers=BCS)
    assert Deserializer(account.content).to_bytes().hex() == ALICE.address[2:]
    assert_refused(await node.http.get("/v1", headers=BCS), 400, "bcs_not_supported", None)


async def test_a_coin_that_is_not_here_has_no_balance(node: Node) -> None:
    assert (await node.http.get(f"/v1/accounts/{ALICE.address}/balance/0x7::moon::Coin")).json() == 0


# --- views -------------------------------------------------------------------------------------------------------


async def test_a_view_answers_bcs_to_who_accepts_it(node: Node) -> None:
    await node.run(wire.signed(ALICE, 0, wire.entry("deposit", ALICE.public_key, 500)))
    reply = await _view(node, f"{PAYMENT}::client", ALICE.address, **BCS)
    assert reply.headers["content-type"] == "application/x-bcs"
    reader = Deserializer(reply.content)
    assert (reader.uleb128(), reader.uleb128()) == (1, 1), "one value, and an Option is a vector of one"
    assert reader.to_bytes() == ALICE.public_key
    reader.fixed_bytes(32)
    assert [reader.u64(), reader.u64(), reader.uleb128()] == [500, 0, 0]
    assert reader.remaining() == 0


@pytest.mark.parametrize(
    ("function", "types", "arguments", "answer"),
    [
        ("0x1::coin::balance", (COINS,), (ALICE.address,), str(10 * COIN)),
        ("0x1::coin::decimals", (COINS,), (), 8),
        ("0x1::coin::symbol", (COINS,), (), "APT"),
        ("0x1::coin::name", (COINS,), (), "Aptos Coin"),
        ("0x1::primary_fungible_store::balance", ("0x1::fungible_asset::Metadata",), (ALICE.address, {"inner": "0xa"}),
         str(10 * COIN)),
        ("0x1::primary_fungible_store::balance", ("0x1::fungible_asset::Metadata",), (ALICE.address, "0xa"),
         str(10 * COIN)),
        (f"{PAYMENT}::nonce_used", (), (ALICE.address, "1"), False),
        (f"{PAYMENT}::task", (), (ALICE.address, "0x" + "00" * 16), {"vec": []}),
    ],
)  # fmt: skip
async def test_views_answer_in_both_forms(
    node: Node, function: str, types: tuple[str, ...], arguments: tuple[Any, ...], answer: Any
) -> None:
    assert (await _view(node, function, *arguments, types=types)).json() == [answer]
    encoded = (await _view(node, function, *arguments, types=types, **BCS)).content
    assert encoded[:1] == b"\x01"
    assert len(encoded) > 1


async def test_the_supply_is_what_was_minted(node: Node) -> None:
    (supply,) = (await _view(node, "0x1::coin::supply", types=(COINS,))).json()
    assert int(supply["vec"][0]) >= 10 * COIN


async def test_a_view_of_an_asset_that_is_not_here_fails_as_a_view(node: Node) -> None:
    metadata = ("0x1::fungible_asset::Metadata",)
    reply = await _view(node, "0x1::primary_fungible_store::balance", ALICE.address, "0xb", types=metadata)
    assert_refused(reply, 400, "invalid_input", None)
    assert "EOBJECT_DOES_NOT_EXIST" in reply.json()["message"]


# --- events, transactions, blocks --------------------------------------------------------------------------------


async def test_moved_coins_are_in_their_accounts_streams(node: Node) -> None:
    executed = [await node.run(wire.signed(ALICE, number, PAY_BOB)) for number in range(3)]
    path = f"/v1/accounts/{ALICE.address}/events"
    (given,) = (await node.http.get(f"{path}/{STORE}/deposit_events")).json()
    assert (given["type"], given["data"]["amount"]) == ("0x1::coin::DepositEvent", str(10 * COIN))
    taken = (await node.http.get(f"{path}/{STORE}/withdraw_events")).json()
    assert [each["version"] for each in taken] == [each["version"] for each in executed]
    assert taken == (await node.http.get(f"{path}/3")).json()
    assert taken[0]["guid"] == {"creation_number": "3", "account_address": short_address(ALICE.address)}
    assert (await node.http.get(f"{path}/3?limit=1")).json() == taken[2:]
    assert (await node.http.get(f"{path}/3?start=1&limit=1")).json() == taken[1:2]
    held, _ = await _resource(node, ALICE.address, STORE)
    assert (held["deposit_events"]["counter"], held["withdraw_events"]["counter"]) == ("1", "3")


async def test_a_failed_transfer_is_in_no_stream(node: Node) -> None:
    await node.run(wire.signed(ALICE, 0, wire.transfer(BOB.address, 10 * COIN)))
    assert (await node.http.get(f"/v1/accounts/{BOB.address}/events/2")).json() == []


async def test_what_is_no_stream_is_named_so(node: Node) -> None:
    path = f"/v1/accounts/{ALICE.address}/events"
    assert (await node.http.get(f"{path}/77")).json() == []
    assert_refused(await node.http.get(f"{path}/{STORE}/nothing"), 404, "struct_field_not_found", None)
    assert_refused(await node.http.get(f"{path}/{STORE}/frozen"), 400, "invalid_input", None)
    assert_refused(await node.http.get(f"{path}/0x1::a::B/field"), 404, "resource_not_found", None)
    assert_refused(await node.http.get(f"{path}/x"), 400, "web_framework_error", None)


async def test_all_transactions_are_listed_from_the_genesis_on(node: Node) -> None:
    executed = await node.run(wire.signed(ALICE, 0, PAY_BOB))
    everything = (await node.http.get("/v1/transactions?start=0")).json()
    assert [each["version"] for each in everything] == ["0", "1", "2"]
    assert everything[0] == (await node.http.get("/v1/transactions/by_version/0")).json()
    assert everything[0]["type"] == "genesis_transaction"
    assert (await node.http.get("/v1/transactions?limit=1")).json() == [executed]
    assert_refused(await node.http.get("/v1/transactions?start=9"), 404, "transaction_not_found", None)
    assert_refused(await node.http.get("/v1/transactions?limit=0"), 400, "invalid_input", None)


async def test_each_version_is_a_block(node: Node) -> None:
    executed = await node.run(wire.signed(ALICE, 0, PAY_BOB))
    block = (await node.http.get("/v1/blocks/by_height/2?with_transactions=true")).json()
    assert block["transactions"] == [executed]
    assert (block["first_version"], block["block_timestamp"]) == ("2", executed["timestamp"])
    assert (await node.http.get("/v1/blocks/by_version/2")).json() == block | {"transactions": None}
    assert (await node.http.get("/v1/blocks/by_height/0?with_transactions=true")).json()["block_height"] == "0"
    assert_refused(await node.http.get("/v1/blocks/by_height/9"), 404, "block_not_found", None)


async def test_a_table_has_no_items_to_show(node: Node) -> None:
    item = {"key_type": "u64", "value_type": "u64", "key": "1"}
    assert_refused(await node.http.post("/v1/tables/0x1/item", json=item), 404, "table_item_not_found", None)


async def test_the_node_is_healthy(node: Node) -> None:
    assert (await node.http.get("/v1/-/healthy")).json() == {"message": "aptos-node:ok"}


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"function":"0x1::coin::balance","type_arguments":[],"arguments":' + b"[" * 100_000,
        b'{"function":"0x1::coin::balance","type_arguments":["' + b"a<" * 30_000 + b'"],"arguments":[]}',
        b'{"function":"' + b"::" * 9 + b'","type_arguments":[],"arguments":[]}',
        b'{"function":"0x1::coin::balance","type_arguments":[],"arguments":[1e999]}',
        b'"\\ud800"',
        b"\xff",
    ],
)
async def test_hostile_json_is_bad_input(node: Node, body: bytes) -> None:
    for path in ("/v1/view", "/v1/transactions/encode_submission", "/v1/transactions", "/fund"):
        reply = await node.http.post(path, content=body, headers={"content-type": "application/json"})
        assert_refused(reply, 400, "invalid_input", None)


async def test_a_type_of_many_parts_names_nothing(node: Node) -> None:
    reply = await node.http.get(f"/v1/accounts/{ALICE.address}/resource/{'a,' * 5_000}")
    assert_refused(reply, 404, "resource_not_found", None)
    reply = await node.http.get(
        f"/v1/accounts/{ALICE.address}/resource/0x01::coin::CoinStore<0x001::aptos_coin::AptosCoin>"
    )
    assert reply.json()["type"] == STORE
