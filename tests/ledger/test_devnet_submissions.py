"""Ways to hand in a transaction besides one at a time in BCS: simulated, in batches, as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from cactus_mesh.ledger import dev
from cactus_mesh.ledger.devnet.bcs import MAX_TYPE_DEPTH, Reader, encode_type
from cactus_mesh.ledger.devnet.http import MAX_BODY_BYTES
from cactus_mesh.ledger.devnet.refusals import Refused
from cactus_mesh.ledger.devnet.transactions import read_batch, read_call, read_simulation, read_submission
from cactus_mesh.ledger.values import BadValue, to_json, uleb128
from tests.ledger import wire
from tests.ledger.node import ALICE, BOB, PAY_BOB, Node, assert_refused
from tests.ledger.world import COIN, NOW, person

if TYPE_CHECKING:
    from cactus_mesh.identity import Identity

ZERO = bytes(64)


async def _simulate(node: Node, data: bytes, **query: str) -> Any:
    reply = await node.http.post("/v1/transactions/simulate", content=data, headers=wire.BCS, params=query)
    assert reply.status_code == 200, reply.text
    (simulated,) = reply.json()
    return simulated


def _unsigned(sender: Identity, sequence: int, function: Any = PAY_BOB, **changes: int) -> bytes:
    return wire.sign(wire.raw(sender.address, sequence, function, **changes), sender, ZERO)


# --- simulated ---------------------------------------------------------------------------------------------------


async def test_a_simulation_says_what_would_happen_and_changes_nothing(node: Node) -> None:
    simulated = await _simulate(node, _unsigned(ALICE, 0))
    assert (simulated["success"], simulated["type"]) == (True, "user_transaction")
    assert [event["type"] for event in simulated["events"]] == ["0x1::coin::CoinWithdraw", "0x1::coin::CoinDeposit"]
    assert (await node.balance(ALICE), await node.balance(BOB), await node.sequence(ALICE)) == (10 * COIN, 0, 0)
    executed = await node.run(wire.signed(ALICE, 0, PAY_BOB))
    assert executed["gas_used"] == simulated["gas_used"]


async def test_a_simulated_abort_has_its_code(node: Node) -> None:
    simulated = await _simulate(node, _unsigned(ALICE, 0, wire.entry("withdraw")))
    assert simulated["success"] is False
    assert "E_NO_CLIENT(0x60028)" in simulated["vm_status"]


async def test_what_could_be_executed_is_not_simulated(node: Node) -> None:
    """Whoever is given it to simulate could submit it."""
    data = wire.signed(ALICE, 0, PAY_BOB)
    reply = await node.http.post("/v1/transactions/simulate", content=data, headers=wire.BCS)
    assert_refused(reply, 400, "invalid_input", None)
    assert await node.balance(BOB) == 0


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (_unsigned(ALICE, 1), "SEQUENCE_NUMBER_TOO_NEW"),
        (_unsigned(BOB, 0), "INSUFFICIENT_BALANCE_FOR_TRANSACTION_FEE"),
        (_unsigned(ALICE, 0, chain_id=1), "BAD_CHAIN_ID"),
        (_unsigned(ALICE, 0, expires_at=NOW), "TRANSACTION_EXPIRED"),
        (wire.sign(wire.raw(ALICE.address, 0, PAY_BOB), BOB, ZERO), "INVALID_AUTH_KEY"),
    ],
)
async def test_a_simulation_names_what_a_submission_would_be_refused_for(node: Node, data: bytes, status: str) -> None:
    simulated = await _simulate(node, data)
    assert (simulated["success"], simulated["vm_status"]) == (False, status)


async def test_a_simulation_can_choose_price_and_limit(node: Node) -> None:
    data = _unsigned(ALICE, 0, gas_price=10**6, max_gas=1)
    simulated = await _simulate(node, data, estimate_gas_unit_price="true", estimate_max_gas_amount="true")
    assert (simulated["success"], simulated["gas_unit_price"], simulated["max_gas_amount"]) == (True, "100", "2000000")
    hurried = await _simulate(node, data, estimate_prioritized_gas_unit_price="true", estimate_max_gas_amount="true")
    assert hurried["gas_unit_price"] == "150"


async def test_whoever_accepts_bcs_alone_is_told_that_it_was_accepted(node: Node) -> None:
    data, accepts = wire.signed(ALICE, 0, PAY_BOB), wire.BCS | {"accept": "application/x-bcs"}
    reply = await node.http.post("/v1/transactions", content=data, headers=accepts)
    assert (reply.status_code, reply.content) == (202, b"")
    assert await node.balance(BOB) == 7
    funded = await node.http.post(f"/mint?address={BOB.address}&amount=1", headers=accepts)
    assert (funded.status_code, len(funded.json())) == (200, 1)


# --- batches -----------------------------------------------------------------------------------------------------


async def _batch(node: Node, *pieces: bytes) -> httpx.Response:
    data = uleb128(len(pieces)) + b"".join(pieces)
    return await node.http.post("/v1/transactions/batch", content=data, headers=wire.BCS)


async def test_a_batch_runs_in_its_order(node: Node) -> None:
    reply = await _batch(node, *(wire.signed(ALICE, number, PAY_BOB) for number in range(3)))
    assert (reply.status_code, reply.json()) == (202, {"transaction_failures": []})
    assert await node.balance(BOB) == 21


async def test_a_bad_one_in_a_batch_is_named_and_the_others_run(node: Node) -> None:
    forged = wire.sign(wire.raw(ALICE.address, 1, PAY_BOB), ALICE, ZERO)
    reply = await _batch(node, wire.signed(ALICE, 0, PAY_BOB), forged, wire.signed(ALICE, 1, PAY_BOB))
    assert reply.status_code == 206
    (failure,) = reply.json()["transaction_failures"]
    assert (failure["transaction_index"], failure["error"]["vm_error_code"]) == (1, 1)
    assert await node.balance(BOB) == 14


async def test_a_batch_has_bounds_and_is_wholly_readable(node: Node) -> None:
    good = wire.signed(ALICE, 0, PAY_BOB)
    assert_refused(await _batch(node, *[good] * 11), 400, "invalid_input", None)
    assert_refused(await _batch(node, good, good[:-1]), 400, "invalid_input", None)
    assert await node.sequence(ALICE) == 0


# --- as JSON -----------------------------------------------------------------------------------------------------


def _in_json(sender: Identity, sequence: int, **changes: Any) -> dict[str, Any]:
    payload = {
        "type": "entry_function_payload",
        "function": "0x1::aptos_account::transfer",
        "type_arguments": [],
        "arguments": [BOB.address, "7"],
    }
    return {
        "sender": sender.address, "sequence_number": str(sequence), "max_gas_amount": "2000", "gas_unit_price": "100",
        "expiration_timestamp_secs": str(NOW + 600), "payload": payload | changes,
    }  # fmt: skip


async def _signed(node: Node, sender: Identity, asked: dict[str, Any]) -> dict[str, Any]:
    message = (await node.http.post("/v1/transactions/encode_submission", json=asked)).json()
    signature = sender.sign(bytes.fromhex(message[2:]))
    proof = {"type": "ed25519_signature", "public_key": to_json(sender.public_key), "signature": to_json(signature)}
    return asked | {"signature": proof}


async def test_a_transaction_in_json_is_the_same_transaction(node: Node) -> None:
    asked = await _signed(node, ALICE, _in_json(ALICE, 0))
    pending = (await node.http.post("/v1/transactions", json=asked)).json()
    executed = (await node.http.get(f"/v1/transactions/by_hash/{pending['hash']}")).json()
    assert executed["success"] is True
    assert executed["signature"] == asked["signature"]
    again = await node.submit(wire.signed(ALICE, 0, PAY_BOB))
    assert_refused(again, 400, "vm_error", 3)
    assert await node.balance(BOB) == 7


async def test_types_and_objects_are_understood_in_json(node: Node) -> None:
    changes: dict[str, Any] = {
        "function": "0x1::primary_fungible_store::transfer",
        "type_arguments": ["0x1::fungible_asset::Metadata"],
        "arguments": [{"inner": "0xa"}, BOB.address, "9"],
    }
    asked = await _signed(node, ALICE, _in_json(ALICE, 0, **changes))
    pending = (await node.http.post("/v1/transactions", json=asked)).json()
    assert pending["payload"]["arguments"] == [{"inner": "0xa"}, BOB.address, "9"]
    assert await node.balance(BOB) == 9


async def test_agents_sign_another_message(node: Node) -> None:
    asked = _in_json(ALICE, 0)
    alone, together = [
        (await node.http.post("/v1/transactions/encode_submission", json=each)).json()
        for each in (asked, asked | {"secondary_signers": [BOB.address]})
    ]
    assert alone == "0x" + wire.raw(ALICE.address, 0, PAY_BOB).keyed().hex()
    assert together.endswith(BOB.address[2:])


@pytest.mark.parametrize(
    "changes",
    [
        {"type": "script_payload"}, {"function": "0x1::aptos_account::nothing"}, {"function": "transfer"},
        {"arguments": ["0x1"]}, {"arguments": ["0x1", 7]}, {"arguments": ["0x1", "-7"]}, {"type_arguments": ["u8"]},
        {"type_arguments": ["<"]}, {"type_arguments": [7]}, {"function": "0x1::aptos-account::transfer"},
    ],
)  # fmt: skip
async def test_a_malformed_payload_is_bad_input(node: Node, changes: dict[str, Any]) -> None:
    reply = await node.http.post("/v1/transactions/encode_submission", json=_in_json(ALICE, 0, **changes))
    assert_refused(reply, 400, "invalid_input", None)


@pytest.mark.parametrize(
    "signature",
    [
        {"type": "multi_key_signature", "public_key": "0x", "signature": "0x"},
        {"type": "ed25519_signature", "public_key": "0x", "signature": "0x"},
        {"type": "ed25519_signature"},
        None,
    ],
)
async def test_a_transaction_in_json_needs_one_ed25519_signature(node: Node, signature: Any) -> None:
    reply = await node.http.post("/v1/transactions", json=_in_json(ALICE, 0) | {"signature": signature})
    assert_refused(reply, 400, "invalid_input", None)


async def test_other_media_are_named(node: Node) -> None:
    for path in ("", "/simulate", "/batch"):
        reply = await node.http.post(f"/v1/transactions{path}", content=b"x", headers={"content-type": "text/plain"})
        assert_refused(reply, 415, "web_framework_error", None)


# --- too much, too slow, all at once -----------------------------------------------------------------------------


async def test_a_body_that_is_too_large_is_refused_in_a_full_nodes_shape(node: Node) -> None:
    assert_refused(await node.submit(bytes(MAX_BODY_BYTES + 1)), 413, "web_framework_error", None)


async def test_a_body_that_never_ends_is_refused_in_a_full_nodes_shape(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cactus_mesh.ledger.devnet.http.REQUEST_SECONDS", 0.1)
    host, port = node.url.removeprefix("http://").split(":")
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        await stream.send_all(b"POST /v1/transactions HTTP/1.1\r\nhost: h\r\ncontent-length: 9\r\n\r\nabc")
        with trio.fail_after(5):
            reply = b"".join([piece async for piece in stream])
    assert reply.startswith(b"HTTP/1.1 408")
    assert b'"error_code":"web_framework_error","vm_error_code":null}' in reply


async def test_many_slow_bodies_keep_nobody_else_from_being_served(node: Node) -> None:
    host, port = node.url.removeprefix("http://").split(":")
    head = b"POST /v1/transactions HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{"
    slow = [await trio.open_tcp_stream(host, int(port)) for _ in range(100)]
    for each in slow:
        await each.send_all(head)
    with trio.fail_after(5):
        assert (await node.run(wire.signed(ALICE, 0, PAY_BOB)))["success"] is True
    for each in slow:
        await each.aclose()


async def test_two_hundred_at_once_good_and_bad_are_each_answered_and_nothing_is_lost(node: Node) -> None:
    people = [person(f"submitter {number}") for number in range(200)]
    for each in people:
        await node.http.post(f"/mint?address={each.address}&amount={COIN // 100}")
    answers: dict[int, tuple[int, int | None]] = {}
    limits = httpx.Limits(max_connections=200)
    async with httpx.AsyncClient(base_url=node.url, timeout=30, limits=limits) as http:

        async def submit(number: int) -> None:
            raw = wire.raw(people[number].address, 0, wire.transfer(BOB.address, 1))
            data = wire.sign(raw, people[number], ZERO if number % 2 else None)
            reply = await http.post("/v1/transactions", content=data, headers=wire.BCS)
            answers[number] = (reply.status_code, reply.json().get("vm_error_code"))

        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(submit, number)
    assert answers == {number: (400, 1) if number % 2 else (202, None) for number in range(200)}
    assert await node.balance(BOB) == 100
    received = (await node.http.get(f"/v1/accounts/{BOB.address}/events/2?start=0&limit=100")).json()
    assert [each["sequence_number"] for each in received] == [str(number) for number in range(100)]
    assert (await dev.audit(node.url)).conserved


# --- types as text and as bytes ----------------------------------------------------------------------------------

NAMES = st.sampled_from(["0x1::coin::Coin", "0xa::m::S_1", f"0x{'ab' * 32}::x::Y"])
TYPES = st.recursive(
    st.sampled_from(["bool", "u8", "u16", "u32", "u64", "u128", "u256", "address", "signer"]) | NAMES,
    lambda inner: (
        inner.map(lambda kind: f"vector<{kind}>")
        | st.tuples(NAMES, st.lists(inner, min_size=1, max_size=3)).map(lambda made: f"{made[0]}<{', '.join(made[1])}>")
    ),
    max_leaves=5,
)


@given(TYPES)
def test_a_type_is_read_as_it_was_written(kind: str) -> None:
    if kind.count("<") >= MAX_TYPE_DEPTH:
        return
    reader = Reader(encode_type(kind))
    assert reader.type_tag() == kind
    reader.end()


@given(st.text("u8<>:,0xa_ vector", max_size=40) | st.text(max_size=20))
def test_text_that_is_no_type_is_refused(text: str) -> None:
    try:
        encoded = encode_type(text)
    except BadValue:
        return
    assert encode_type(Reader(encoded).type_tag()) == encoded


@given(st.binary(max_size=60))
def test_bytes_are_a_type_in_one_way_or_none(data: bytes) -> None:
    reader = Reader(data)
    try:
        kind = reader.type_tag()
    except BadValue:
        return
    assert encode_type(kind) == data[: reader.at]


# --- no two forms ------------------------------------------------------------------------------------------------


def test_no_single_bit_of_a_transaction_can_be_changed() -> None:
    """Nor can a byte be left out or added: a transaction has one hash."""
    good = wire.signed(ALICE, 0, PAY_BOB)
    assert read_submission(good).sender == ALICE.address
    for at in range(len(good)):
        flipped = bytearray(good)
        flipped[at] ^= 1 << at % 8
        for bad in (bytes(flipped), good[:at] + good[at + 1 :], good[:at] + b"\x00" + good[at:]):
            with pytest.raises(Refused):
                read_submission(bad)


@given(st.binary(max_size=300), st.integers(0, 300))
def test_no_bytes_are_anything_but_a_transaction_or_refused(data: bytes, keep: int) -> None:
    for candidate in (data, wire.signed(ALICE, 0, PAY_BOB)[:keep] + data):
        for read in (read_submission, read_simulation, read_batch, read_call):
            try:
                read(candidate)
            except Refused:
                continue
