"""Who may sign: every kind of authenticator that is taken, and how the others are refused."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest
from aptos_sdk import secp256k1_ecdsa
from aptos_sdk.authenticator import (
    AccountAuthenticator,
    Authenticator,
    Ed25519Authenticator,
    FeePayerAuthenticator,
    SingleSenderAuthenticator,
)
from aptos_sdk.bcs import Serializer
from aptos_sdk.ed25519 import PublicKey, Signature
from aptos_sdk.transactions import (
    EntryFunction,
    FeePayerRawTransaction,
    MultiAgentRawTransaction,
    RawTransaction,
    SignedTransaction,
)
from nacl.signing import VerifyKey

from cactus_mesh.ledger import dev
from cactus_mesh.ledger.values import uleb128
from tests.ledger import wire
from tests.ledger.node import ALICE, BOB, PAY_BOB, Node, assert_refused
from tests.ledger.world import COIN

if TYPE_CHECKING:
    from collections.abc import Callable

    from cactus_mesh.identity import Identity

    Single = tuple[int, bytes, Callable[[bytes], bytes], RawTransaction]

CURVE_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
SECP256K1 = secp256k1_ecdsa.PrivateKey.from_str("0x" + "11" * 32, False)


def _account(key: Identity, message: bytes) -> AccountAuthenticator:
    public = PublicKey(VerifyKey(key.public_key))
    return AccountAuthenticator(Ed25519Authenticator(public, Signature(key.sign(message))))


@pytest.mark.parametrize("payer_known", [True, False])
async def test_a_sponsor_pays_the_fee_of_a_sender_without_coins(node: Node, payer_known: bool) -> None:
    transaction = wire.raw(BOB.address, 0, wire.entry("register_server"))
    payer = wire.sdk_address(ALICE.address)
    full = FeePayerRawTransaction(transaction, [], payer).keyed()
    for_sender = full if payer_known else FeePayerRawTransaction(transaction, [], None).keyed()
    authenticator = FeePayerAuthenticator(_account(BOB, for_sender), [], (payer, _account(ALICE, full)))
    executed = await node.run(SignedTransaction(transaction, Authenticator(authenticator)).bytes())
    assert executed["success"] is True
    assert await node.balance(ALICE) == 10 * COIN - int(executed["gas_used"]) * 100
    assert (await node.sequence(BOB), await node.sequence(ALICE)) == (1, 0)


async def test_nobody_pays_without_having_signed(node: Node) -> None:
    transaction = wire.raw(BOB.address, 0, wire.entry("register_server"))
    payer = wire.sdk_address(ALICE.address)
    full = FeePayerRawTransaction(transaction, [], payer).keyed()
    forged = FeePayerAuthenticator(_account(BOB, full), [], (payer, _account(BOB, full)))
    reply = await node.submit(SignedTransaction(transaction, Authenticator(forged)).bytes())
    assert_refused(reply, 400, "vm_error", 2)


async def test_a_single_sender_may_use_the_newer_envelope(node: Node) -> None:
    transaction = wire.raw(ALICE.address, 0, PAY_BOB)
    envelope = SingleSenderAuthenticator(_account(ALICE, transaction.keyed()))
    executed = await node.run(SignedTransaction(transaction, Authenticator(envelope)).bytes())
    assert executed["success"] is True


# --- single keys, by hand ----------------------------------------------------------------------------------------


def _blob(data: bytes) -> bytes:
    return uleb128(len(data)) + data


def _bytes(transaction: RawTransaction) -> bytes:
    serializer = Serializer()
    serializer.struct(transaction)
    return serializer.output()


def _single(kind: int, key: bytes, signature: bytes, signature_kind: int | None = None) -> bytes:
    """A SingleSender with a SingleKey."""
    signed = uleb128(kind if signature_kind is None else signature_kind) + _blob(signature)
    return b"\x04\x02" + uleb128(kind) + _blob(key) + signed


def _name(kind: int, key: bytes) -> str:
    return "0x" + hashlib.sha3_256(bytes([kind]) + _blob(key) + b"\x02").hexdigest()


def _secp256k1(message: bytes) -> bytes:
    return SECP256K1.sign(message).data()


KEYS: dict[str, tuple[int, bytes, Callable[[bytes], bytes]]] = {
    "Ed25519": (0, ALICE.public_key, ALICE.sign),
    "secp256k1": (1, SECP256K1.public_key().to_crypto_bytes(), _secp256k1),
}


@pytest.fixture(params=list(KEYS))
async def single(request: pytest.FixtureRequest, node: Node) -> Single:
    """A key, what it signs with, and a transaction of its funded single-key account."""
    kind, key, sign = KEYS[request.param]
    await dev.fund(node.url, _name(kind, key), COIN)
    return kind, key, sign, wire.raw(_name(kind, key), 0, PAY_BOB)


async def test_a_single_key_signs_for_its_account(node: Node, single: Single) -> None:
    kind, key, sign, transaction = single
    executed = await node.run(_bytes(transaction) + _single(kind, key, sign(transaction.keyed())))
    assert executed["success"] is True
    assert executed["signature"]["type"] == "single_key_signature"
    assert await node.balance(BOB) == 7


async def test_a_single_key_has_no_other_signature(node: Node, single: Single) -> None:
    kind, key, sign, transaction = single
    good = sign(transaction.keyed())
    for forged in (bytes(64), sign(b"something else"), good[:32] + bytes(32), b"\xff" * 64):
        assert_refused(await node.submit(_bytes(transaction) + _single(kind, key, forged)), 400, "vm_error", 1)
    assert_refused(await node.submit(_bytes(transaction) + _single(kind, key, good, 1 - kind)), 400, "vm_error", 1)
    assert await node.balance(BOB) == 0


async def test_a_key_opens_its_own_kind_of_account_only(node: Node) -> None:
    """One Ed25519 key has two accounts, that of the older scheme and that of a single key."""
    transaction = wire.raw(ALICE.address, 0, PAY_BOB)
    data = _bytes(transaction) + _single(0, ALICE.public_key, ALICE.sign(transaction.keyed()))
    assert_refused(await node.submit(data), 400, "vm_error", 2)


async def test_the_twin_of_a_secp256k1_signature_is_refused(node: Node) -> None:
    kind, key, sign = KEYS["secp256k1"]
    await dev.fund(node.url, _name(kind, key), COIN)
    transaction = wire.raw(_name(kind, key), 0, PAY_BOB)
    good = sign(transaction.keyed())
    twin = good[:32] + (CURVE_ORDER - int.from_bytes(good[32:], "big")).to_bytes(32, "big")
    assert_refused(await node.submit(_bytes(transaction) + _single(kind, key, twin)), 400, "vm_error", 1)


async def test_a_key_that_is_no_point_of_its_curve_is_refused(node: Node) -> None:
    transaction = wire.raw(_name(1, b"\x04" + b"\x05" * 64), 0, PAY_BOB)
    data = _bytes(transaction) + _single(1, b"\x04" + b"\x05" * 64, b"\x01" * 64)
    assert_refused(await node.submit(data), 400, "vm_error", 1)


@pytest.mark.parametrize(
    "authenticator",
    [b"\x01" + b"\x00" * 80, b"\x04\x01" + b"\x00" * 80, b"\x04\x03" + b"\x00" * 80, b"\x04\x05" + b"\x00" * 80,
     b"\x04\x02\x03" + b"\x00" * 80],
    ids=["multi Ed25519", "multi Ed25519 as sender", "multi key", "abstracted account", "keyless"],
)  # fmt: skip
async def test_a_scheme_that_is_not_here_is_refused_as_a_feature_that_is_off(node: Node, authenticator: bytes) -> None:
    data = _bytes(wire.raw(ALICE.address, 0, PAY_BOB)) + authenticator
    assert_refused(await node.submit(data), 400, "vm_error", 26)


@pytest.mark.parametrize("authenticator", [b"\x07", b"\x04\x09", b"\x04\x02\x09", b"\x04\x02\x00\x1f" + b"\x00" * 99])
async def test_an_authenticator_that_there_is_not_is_no_transaction(node: Node, authenticator: bytes) -> None:
    data = _bytes(wire.raw(ALICE.address, 0, PAY_BOB)) + authenticator
    assert_refused(await node.submit(data), 400, "invalid_input", None)


async def test_nobody_signs_by_not_being_there(node: Node) -> None:
    """The authenticator without a key is for simulations."""
    assert_refused(await node.submit(_bytes(wire.raw(ALICE.address, 0, PAY_BOB)) + b"\x04\x04"), 400, "vm_error", 1)


# --- several agents ----------------------------------------------------------------------------------------------


def _agents(function: EntryFunction, *agents: Identity, signers: tuple[Identity, ...] | None = None) -> bytes:
    """A transaction of ALICE with *agents*, signed by *signers* in their places."""
    transaction = wire.raw(ALICE.address, 0, function)
    addresses = [wire.sdk_address(each.address) for each in agents]
    message = MultiAgentRawTransaction(transaction, addresses).keyed()
    proofs = [b"\x00" + _blob(each.public_key) + _blob(each.sign(message)) for each in (signers or agents)]
    mine = b"\x00" + _blob(ALICE.public_key) + _blob(ALICE.sign(message))
    listed = uleb128(len(addresses)) + b"".join(each.address for each in addresses)
    return _bytes(transaction) + b"\x02" + mine + listed + uleb128(len(proofs)) + b"".join(proofs)


async def test_one_agent_too_many_fails_on_the_ledger(node: Node) -> None:
    executed = await node.run(_agents(PAY_BOB, BOB))
    assert (executed["success"], executed["vm_status"]) == (False, "NUMBER_OF_SIGNER_ARGUMENTS_MISMATCH")
    assert executed["signature"]["type"] == "multi_agent_signature"
    assert await node.sequence(ALICE) == 1


async def test_the_multi_agent_form_with_nobody_else_is_fine(node: Node) -> None:
    assert (await node.run(_agents(PAY_BOB)))["success"] is True


@pytest.mark.parametrize(
    ("agents", "signers", "code"),
    [((BOB,), (ALICE,), 2), ((BOB,), (BOB, BOB), 27), ((BOB, BOB), None, 28), ((ALICE,), None, 28)],
    ids=["another's key", "a signature too many", "the same agent twice", "the sender as its own agent"],
)
async def test_agents_that_do_not_fit_are_refused(
    node: Node, agents: tuple[Identity, ...], signers: tuple[Identity, ...] | None, code: int
) -> None:
    assert_refused(await node.submit(_agents(PAY_BOB, *agents, signers=signers)), 400, "vm_error", code)


async def test_an_agent_that_signed_something_else_is_noticed(node: Node) -> None:
    data = bytearray(_agents(PAY_BOB, BOB))
    data[-1] ^= 1
    assert_refused(await node.submit(bytes(data)), 400, "vm_error", 1)
