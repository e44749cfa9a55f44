"""The embedded ledger's REST API under honest and hostile requests: each answer is a full node's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from cactus_mesh.errors import AddressMalformed, PortInUse, StateInUse, StateMalformed, UsageError
from cactus_mesh.ledger import dev
from cactus_mesh.ledger.dev import DEVNET_CONTRACT
from cactus_mesh.ledger.devnet import DevnetSettings, open_devnet
from cactus_mesh.ledger.devnet.chain import MAX_PARKED_PER_ACCOUNT, PARKED_SECONDS
from cactus_mesh.ledger.devnet.execution import FEES
from cactus_mesh.ledger.rest import transaction_hash
from cactus_mesh.ledger.values import short_address
from tests.ledger import wire
from tests.ledger.node import ALICE, BOB, PAY_BOB, Node, assert_refused
from tests.ledger.world import CLIENT, COIN, NOW, STRANGER

if TYPE_CHECKING:
    from pathlib import Path


CONTRACT_MODULE = wire.entry("withdraw").module
REWARD = f"{DEVNET_CONTRACT}::cactus_payment::reward"
COIN_MODULE = wire.ModuleId(wire.sdk_address("0x1"), "coin")


# --- transactions ------------------------------------------------------------------------------------------------


async def test_a_transfer_moves_coins_and_charges_a_fee(node: Node) -> None:
    executed = await node.run(wire.signed(ALICE, 0, PAY_BOB))
    fee = int(executed["gas_used"]) * 100
    assert executed["success"] is True
    assert await node.balance(BOB) == 7
    assert await node.balance(ALICE) == 10 * COIN - 7 - fee
    assert await node.balance(FEES) == fee
    assert await node.sequence(ALICE) == 1


async def test_an_abort_costs_a_number_and_a_fee_and_leaves_nothing_else(node: Node) -> None:
    executed = await node.run(wire.signed(ALICE, 0, wire.entry("add_stake", ALICE.address, 5)))
    assert (executed["success"], executed["events"]) == (False, [])
    assert executed["vm_status"].startswith(
        f"Move abort in {DEVNET_CONTRACT}::cactus_payment: E_NO_ORCHESTRATOR(0x60015)"
    )
    assert await node.sequence(ALICE) == 1
    assert await node.balance(ALICE) == 10 * COIN - int(executed["gas_used"]) * 100


async def test_a_transfer_that_leaves_nothing_for_the_fee_fails_whole(node: Node) -> None:
    executed = await node.run(wire.signed(ALICE, 0, wire.transfer(BOB.address, 10 * COIN)))
    assert executed["success"] is False
    assert await node.balance(BOB) == 0
    assert await node.balance(ALICE) > 9 * COIN


async def test_coins_sent_to_a_vaults_address_are_not_in_the_vault(node: Node) -> None:
    await node.run(wire.signed(ALICE, 0, wire.entry("deposit", ALICE.public_key, COIN)))
    view = {
        "function": f"{DEVNET_CONTRACT}::cactus_payment::client",
        "type_arguments": [],
        "arguments": [ALICE.address],
    }
    vault = (await node.http.post("/v1/view", json=view)).json()[0]["vec"][0]["vault"]
    await node.run(wire.signed(ALICE, 1, wire.transfer(vault, 5)))
    assert (await dev.audit(node.url)).conserved
    assert await node.balance(vault) == 5


@pytest.mark.parametrize(
    ("function", "status"),
    [
        (wire.entry("withdraw"), "Move abort"),
        (wire.EntryFunction(COIN_MODULE, "burn", [], []), "FUNCTION_RESOLUTION_FAILURE"),
        (wire.EntryFunction(COIN_MODULE, "balance", [], []), "EXECUTE_ENTRY_FUNCTION_CALLED_ON_NON_ENTRY_FUNCTION"),
        (wire.EntryFunction(CONTRACT_MODULE, "client", [], []), "EXECUTE_ENTRY_FUNCTION_CALLED_ON_NON_ENTRY_FUNCTION"),
        (wire.EntryFunction(COIN_MODULE, "transfer", [], []), "NUMBER_OF_TYPE_ARGUMENTS_MISMATCH"),
        (wire.EntryFunction(wire.ModuleId(wire.sdk_address("0x1"), "moon"), "shine", [], []), "LINKER_ERROR"),
        (wire.EntryFunction(CONTRACT_MODULE, "init", [], []), "FUNCTION_RESOLUTION_FAILURE"),
        (wire.EntryFunction(CONTRACT_MODULE, "withdraw", [], [b"\x01"]), "NUMBER_OF_ARGUMENTS_MISMATCH"),
        (wire.EntryFunction(CONTRACT_MODULE, "set_paused", [], [b"\x02"]), "FAILED_TO_DESERIALIZE_ARGUMENT"),
    ],
)  # fmt: skip
async def test_a_call_that_cannot_run_fails_on_the_ledger(node: Node, function: Any, status: str) -> None:
    executed = await node.run(wire.signed(ALICE, 0, function))
    assert executed["success"] is False
    assert status in executed["vm_status"]


def _mutations() -> dict[str, tuple[bytes, int | None]]:
    good = wire.signed(ALICE, 0, PAY_BOB)
    transaction = wire.raw(ALICE.address, 0, PAY_BOB)
    flipped = bytearray(ALICE.sign(transaction.keyed()))
    flipped[0] ^= 1
    return {
        "a wrong signature": (wire.sign(transaction, ALICE, bytes(flipped)), 1),
        "a zero signature": (wire.sign(transaction, ALICE, bytes(64)), 1),
        "somebody else's key": (wire.sign(transaction, BOB), 2),
        "another chain": (wire.signed(ALICE, 0, PAY_BOB, chain_id=1), 23),
        "an expired transaction": (wire.signed(ALICE, 0, PAY_BOB, expires_at=NOW), 6),
        "more gas than allowed": (wire.signed(ALICE, 0, PAY_BOB, max_gas=2_000_001), 13),
        "less gas than needed": (wire.signed(ALICE, 0, PAY_BOB, max_gas=9), 14),
        "a price below the minimum": (wire.signed(ALICE, 0, PAY_BOB, gas_price=99), 15),
        "a price above the maximum": (wire.signed(ALICE, 0, PAY_BOB, gas_price=10**10 + 1), 16),
        "a fee beyond the balance": (wire.signed(ALICE, 0, PAY_BOB, gas_price=10**6), 5),
        "an unfunded sender": (wire.signed(BOB, 0, PAY_BOB), 5),
        "a huge transaction": (wire.signed(ALICE, 0, wire.entry("register_client", bytes(70_000))), 10),
        "trailing bytes": (good + b"\x00", None),
        "a missing byte": (good[:-1], None),
        "nothing": (b"", None),
        "noise": (bytes(range(256)) * 3, None),
        "a length in a longer form": (_longer_length(good), None),
        "deep type arguments": (_deep(), None),
    }  # fmt: skip


def _longer_length(good: bytes) -> bytes:
    """The function's name has 8 bytes; 88 00 says the same as 08."""
    at = good.index(b"\x08transfer")
    return good[:at] + b"\x88\x00" + good[at + 1 :]


def _deep() -> bytes:
    """Sender, sequence number and an entry function whose type argument nests 1,500 levels."""
    start = bytes(32) + bytes(8) + b"\x02" + bytes(31) + b"\x01\x01a\x01b\x01"
    return start + (b"\x07" + bytes(31) + b"\x01\x01a\x01b\x01") * 1_500


@pytest.mark.parametrize("mutation", list(_mutations()))
async def test_a_hostile_transaction_is_refused_as_a_full_node_refuses_it(node: Node, mutation: str) -> None:
    data, vm_error_code = _mutations()[mutation]
    error_code = "invalid_input" if vm_error_code is None else "vm_error"
    assert_refused(await node.submit(data), 400, error_code, vm_error_code)
    assert await node.balance(ALICE) == 10 * COIN
    assert await node.sequence(ALICE) == 0


async def test_a_used_sequence_number_is_too_old_even_for_the_same_transaction(node: Node) -> None:
    first = wire.signed(ALICE, 0, PAY_BOB)
    await node.run(first)
    assert_refused(await node.submit(first), 400, "vm_error", 3)
    assert await node.balance(BOB) == 7


async def test_a_transaction_ahead_of_its_turn_waits_for_it(node: Node) -> None:
    third, second, first = (wire.signed(ALICE, number, PAY_BOB) for number in (2, 1, 0))
    for early in (third, second):
        assert (await node.submit(early)).status_code == 202
    waiting = (await node.http.get(f"/v1/transactions/by_hash/{transaction_hash(third)}")).json()
    assert waiting["type"] == "pending_transaction"
    await node.run(first)
    assert await node.sequence(ALICE) == 3
    assert await node.balance(BOB) == 21


async def test_what_waits_is_bounded_replaced_by_nothing_and_forgotten_when_expired(node: Node) -> None:
    for number in range(1, MAX_PARKED_PER_ACCOUNT + 1):
        await node.submit(wire.signed(ALICE, number, PAY_BOB))
    assert_refused(await node.submit(wire.signed(ALICE, 200, PAY_BOB)), 507, "mempool_is_full", None)
    other = wire.signed(ALICE, 5, wire.transfer(BOB.address, 8))
    assert_refused(await node.submit(other), 400, "invalid_transaction_update", None)
    node.clock.seconds += 601
    assert (await node.submit(wire.signed(ALICE, 200, PAY_BOB, expires_at=NOW + 900))).status_code == 202


async def test_what_waits_makes_room_for_others_in_the_end(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cactus_mesh.ledger.devnet.chain.MAX_PARKED", 3)
    await dev.fund(node.url, BOB.address, COIN)
    far = {"expires_at": 2**64 - 1}
    for number in range(1, 4):
        assert (await node.submit(wire.signed(ALICE, number, PAY_BOB, **far))).status_code == 202
    assert_refused(await node.submit(wire.signed(BOB, 1, PAY_BOB, **far)), 507, "mempool_is_full", None)
    node.clock.seconds += PARKED_SECONDS
    assert (await node.submit(wire.signed(BOB, 1, PAY_BOB, **far))).status_code == 202


async def test_the_last_word_on_time_is_never_earlier_than_the_one_before(node: Node) -> None:
    first = await node.run(wire.signed(ALICE, 0, PAY_BOB))
    node.clock.seconds -= 500
    second = await node.run(wire.signed(ALICE, 1, PAY_BOB))
    assert int(second["timestamp"]) > int(first["timestamp"])


# --- the rest of the API -----------------------------------------------------------------------------------------


async def test_every_answer_carries_the_state_of_the_ledger(node: Node) -> None:
    info = await node.http.get("/v1")
    assert info.json()["chain_id"] == 202
    assert info.json()["ledger_version"] == info.headers["x-aptos-ledger-version"] == "1"
    assert int(info.json()["ledger_timestamp"]) == NOW * 1_000_000


async def test_views_answer_json_and_refuse_nonsense(node: Node) -> None:
    view = {
        "function": "0x1::coin::balance",
        "type_arguments": ["0x1::aptos_coin::AptosCoin"],
        "arguments": [ALICE.address],
    }
    assert (await node.http.post("/v1/view", json=view)).json() == [str(10 * COIN)]
    for wrong in (
        view | {"arguments": []}, view | {"arguments": ["0xz"]}, view | {"arguments": [7]}, view | {"function": "coin"},
        view | {"function": "0x1::coin::supply"}, view | {"type_arguments": []}, {"function": 3},
        view | {"function": REWARD, "type_arguments": [], "arguments": ["-1", 0, 0, 0]},
    ):  # fmt: skip
        assert_refused(await node.http.post("/v1/view", json=wrong), 400, "invalid_input", None)
    assert_refused(await node.http.post("/v1/view", content=b"{"), 400, "invalid_input", None)


@pytest.mark.parametrize(
    ("path", "status", "error_code"),
    [
        ("/v1/nothing", 404, "web_framework_error"),
        (f"/v1/transactions/by_hash/0x{'0' * 64}", 404, "transaction_not_found"),
        ("/v1/transactions/by_hash/0x00", 400, "web_framework_error"),
        (f"/v1/transactions/wait_by_hash/{'z' * 64}", 400, "web_framework_error"),
        ("/v1/transactions/by_version/99", 404, "transaction_not_found"),
        ("/v1/transactions/by_version/x", 400, "web_framework_error"),
        ("/v1/accounts/0xzz", 400, "web_framework_error"),
        (f"/v1/accounts/0x{'0' * 65}", 400, "web_framework_error"),
        ("/v1/accounts/0x1/resource/0x1::a::B", 404, "resource_not_found"),
        ("/v1/accounts/0x1/module/vector", 404, "module_not_found"),
        ("/v1/accounts/0x1?ledger_version=0", 410, "version_pruned"),
        ("/v1/accounts/0x1?ledger_version=99", 404, "version_not_found"),
        ("/v1/accounts/0x1/transactions?start=99999999999999999999", 400, "web_framework_error"),
    ],
)
async def test_what_is_not_there_is_named_so(node: Node, path: str, status: int, error_code: str) -> None:
    assert_refused(await node.http.get(path), status, error_code, None)


async def test_transactions_can_be_found_by_version_and_account(node: Node) -> None:
    executed = await node.run(wire.signed(ALICE, 0, PAY_BOB))
    by_version = (await node.http.get(f"/v1/transactions/by_version/{executed['version']}")).json()
    of_alice = (await node.http.get(f"/v1/accounts/{ALICE.address}/transactions?start=0&limit=5")).json()
    assert by_version == executed
    assert of_alice == [executed]
    assert executed["payload"]["function"] == "0x1::aptos_account::transfer"
    assert executed["payload"]["arguments"] == [BOB.address, "7"]


async def test_waiting_for_a_transaction_that_never_comes_ends(node: Node) -> None:
    reply = await node.http.get(f"/v1/transactions/wait_by_hash/0x{'0' * 64}")
    assert_refused(reply, 404, "transaction_not_found", None)


async def test_resources_show_what_an_account_holds(node: Node) -> None:
    address = short_address(ALICE.address)
    kinds = [each["type"] for each in (await node.http.get(f"/v1/accounts/{address}/resources")).json()]
    assert kinds == ["0x1::account::Account", "0x1::coin::CoinStore<0x1::aptos_coin::AptosCoin>"]
    long_form = f"0x{'0' * 63}1::coin::CoinStore<0x{'0' * 63}1::aptos_coin::AptosCoin>"
    coins = (await node.http.get(f"/v1/accounts/{address}/resource/{long_form}")).json()
    assert coins["data"]["coin"]["value"] == str(10 * COIN)
    kind = f"{DEVNET_CONTRACT}::cactus_payment::Config"
    config = (await node.http.get(f"/v1/accounts/{DEVNET_CONTRACT}/resource/{kind}")).json()
    assert config["data"]["pending_admin"] == {"vec": []}


@pytest.mark.parametrize(
    ("amount", "error_code"),
    [("0", "invalid_input"), (str(10**15 + 1), "invalid_input"), ("-1", "web_framework_error")],
)
async def test_the_faucet_has_bounds(node: Node, amount: str, error_code: str) -> None:
    reply = await node.http.post(f"/mint?address={BOB.address}&amount={amount}")
    assert_refused(reply, 400, error_code, None)
    assert await node.balance(BOB) == 0


# --- opening it --------------------------------------------------------------------------------------------------


async def test_it_listens_on_loopback_unless_told(node: Node, tmp_path: Path) -> None:
    assert node.url.startswith("http://127.0.0.1:")
    assert DevnetSettings(tmp_path).host == "127.0.0.1"


async def test_a_taken_port_is_named_with_what_to_do(node: Node, tmp_path: Path) -> None:
    with pytest.raises(PortInUse, match="--port"):
        async with open_devnet(tmp_path / "other", port=int(node.url.rsplit(":", 1)[1])):
            pass


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 70_000), ("no.such.host.invalid", 0), ("192.0.2.1", 0)])
async def test_an_address_that_is_not_this_machines_is_named(tmp_path: Path, host: str, port: int) -> None:
    with pytest.raises(AddressMalformed, match=f"{port}|{host}"):
        async with open_devnet(tmp_path, host, port):
            pass


async def test_a_home_that_is_no_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateMalformed, match="--home"):
        async with open_devnet(tmp_path / "file"):
            pass


async def test_one_home_serves_one_ledger_at_a_time(node: Node, tmp_path: Path) -> None:
    with pytest.raises(StateInUse, match="--home"):
        async with open_devnet(tmp_path):
            pass


@pytest.mark.parametrize("chain_id", [0, 1, 2, 4, 256])
async def test_the_chain_ids_of_real_chains_are_refused(tmp_path: Path, chain_id: int) -> None:
    with pytest.raises(UsageError, match="202"):
        async with open_devnet(tmp_path, chain_id=chain_id):
            pass


async def test_only_an_embedded_ledger_gives_coins_away(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cactus_mesh.ledger.devnet.api.Api._headers", lambda _: (("x-aptos-chain-id", "1"),))
    with pytest.raises(UsageError, match="not an embedded"):
        await dev.fund(node.url, CLIENT.address, 1)
    assert await node.balance(STRANGER) == 0
