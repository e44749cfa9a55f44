"""Transactions made by hand, so that each part can be wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aptos_sdk.account_address import AccountAddress
from aptos_sdk.authenticator import Authenticator, Ed25519Authenticator
from aptos_sdk.ed25519 import PublicKey, Signature
from aptos_sdk.transactions import EntryFunction, ModuleId, RawTransaction, SignedTransaction, TransactionPayload
from nacl.signing import VerifyKey

from cactus_mesh.ledger.contract import ENTRY_TYPES, MODULE, encode_arguments
from cactus_mesh.ledger.dev import DEVNET_CHAIN_ID, DEVNET_CONTRACT
from cactus_mesh.ledger.values import address_bytes
from tests.ledger.world import NOW

if TYPE_CHECKING:
    from cactus_mesh.identity import Identity

BCS = {"content-type": "application/x.aptos.signed_transaction+bcs"}


def sdk_address(text: str) -> AccountAddress:
    return AccountAddress(address_bytes(text))


def entry(name: str, *arguments: Any) -> EntryFunction:
    module = ModuleId(sdk_address(DEVNET_CONTRACT), MODULE)
    return EntryFunction(module, name, [], encode_arguments(ENTRY_TYPES[name], arguments))


def transfer(payee: str, amount: int) -> EntryFunction:
    module = ModuleId(sdk_address("0x1"), "aptos_account")
    return EntryFunction(module, "transfer", [], encode_arguments(("address", "u64"), (payee, amount)))


def raw(sender: str, sequence: int, function: EntryFunction, **changes: int) -> RawTransaction:
    fields = {"max_gas": 2_000, "gas_price": 100, "expires_at": NOW + 600, "chain_id": DEVNET_CHAIN_ID} | changes
    return RawTransaction(
        sdk_address(sender), sequence, TransactionPayload(function),
        fields["max_gas"], fields["gas_price"], fields["expires_at"], fields["chain_id"],
    )  # fmt: skip


def sign(transaction: RawTransaction, key: Identity, signature: bytes | None = None) -> bytes:
    made = key.sign(transaction.keyed()) if signature is None else signature
    authenticator = Ed25519Authenticator(PublicKey(VerifyKey(key.public_key)), Signature(made))
    return SignedTransaction(transaction, Authenticator(authenticator)).bytes()


def signed(key: Identity, sequence: int, function: EntryFunction, **changes: int) -> bytes:
    return sign(raw(key.address, sequence, function, **changes), key)
