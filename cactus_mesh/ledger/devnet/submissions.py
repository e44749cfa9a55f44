"""Transactions that arrive as JSON: turned into the bytes that are signed, from there on like any other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from cactus_mesh.identity import PUBLIC_KEY_BYTES, SIGNATURE_BYTES
from cactus_mesh.ledger.contract import encode_arguments
from cactus_mesh.ledger.devnet.authenticators import signing_message
from cactus_mesh.ledger.devnet.bcs import encode_function
from cactus_mesh.ledger.devnet.execution import entry_types
from cactus_mesh.ledger.devnet.framework import Failed
from cactus_mesh.ledger.devnet.queries import decoded
from cactus_mesh.ledger.devnet.refusals import bad_input
from cactus_mesh.ledger.devnet.transactions import encode_raw, read_call
from cactus_mesh.ledger.values import BadValue, address_bytes, from_json, long_address, uleb128

if TYPE_CHECKING:
    from cactus_mesh.identity import Address
    from cactus_mesh.ledger.rules import State


class _Payload(msgspec.Struct):
    type: str
    function: str
    type_arguments: list[str]
    arguments: list[Any]


class _Signature(msgspec.Struct):
    type: str
    public_key: str
    signature: str


class _Encodable(msgspec.Struct):
    sender: str
    sequence_number: str
    max_gas_amount: str
    gas_unit_price: str
    expiration_timestamp_secs: str
    payload: _Payload
    secondary_signers: list[str] | None = None


class _Signed(_Encodable, kw_only=True):
    signature: _Signature


def signed_bytes(state: State, body: bytes) -> bytes:
    """The BCS of a JSON transaction with one Ed25519 signature.  Raises `Refused` or what its caller refuses."""
    asked = decoded(body, _Signed)
    if asked.signature.type != "ed25519_signature":
        raise bad_input(
            f"JSON transactions are taken with an ed25519_signature; send {asked.signature.type!r:.40} in BCS"
        )
    key: bytes = from_json("vector<u8>", asked.signature.public_key)
    signature: bytes = from_json("vector<u8>", asked.signature.signature)
    if (len(key), len(signature)) != (PUBLIC_KEY_BYTES, SIGNATURE_BYTES):
        raise bad_input("an Ed25519 public key has 32 bytes, a signature 64")
    return _raw(state, asked) + b"\x00" + uleb128(len(key)) + key + uleb128(len(signature)) + signature


def message_to_sign(state: State, body: bytes) -> str:
    """What accounts sign for a JSON transaction, as hex.  Raises as `signed_bytes`."""
    asked = decoded(body, _Encodable)
    others = asked.secondary_signers
    return "0x" + signing_message(_raw(state, asked), None if others is None else _accounts(others)).hex()


def _accounts(texts: list[str]) -> list[Address]:
    return [long_address(each) for each in texts]


def _raw(state: State, asked: _Encodable) -> bytes:
    numbers = (asked.sequence_number, asked.max_gas_amount, asked.gas_unit_price, asked.expiration_timestamp_secs)
    sequence, max_gas, gas_price, expires_at = (from_json("u64", each) for each in numbers)
    call = _call(state, asked.payload)
    return encode_raw(address_bytes(asked.sender), sequence, call, max_gas, gas_price, expires_at, state.chain_id)


def _call(state: State, payload: _Payload) -> bytes:
    if payload.type != "entry_function_payload":
        raise bad_input(f"Failed to parse payload: {payload.type!r:.40} is not entry_function_payload")
    module, _, function = payload.function.rpartition("::")
    try:
        types = entry_types(state, read_call(encode_function(module, function, payload.type_arguments, [])))
    except Failed as failed:
        raise bad_input(f"Failed to parse payload: {failed}") from None
    if len(types) != len(payload.arguments):
        raise bad_input(f"Failed to parse payload: {payload.function!r:.200} takes {len(types)} arguments")
    try:
        values = tuple(from_json(kind, each) for kind, each in zip(types, payload.arguments, strict=True))
    except BadValue as error:
        raise bad_input(f"Failed to parse payload: {error}") from None
    return encode_function(module, function, payload.type_arguments, encode_arguments(types, values))
