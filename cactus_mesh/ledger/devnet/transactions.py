"""From bytes to an authentic transaction: decoded, canonical, and signed by the keys of its accounts.

Whether it may run now (chain, sequence number, expiry, fee) is the chain's question.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cactus_mesh.ledger.devnet.authenticators import Authenticator, read_authenticator
from cactus_mesh.ledger.devnet.bcs import Reader
from cactus_mesh.ledger.devnet.refusals import VmCode, bad_input, invalid
from cactus_mesh.ledger.values import BadValue, uleb128

if TYPE_CHECKING:
    from cactus_mesh.identity import Address

MAX_TRANSACTION_BYTES: Final = 64 * 1024
"""Aptos's limit for an ordinary transaction."""
_HASH_PREFIX: Final = hashlib.sha3_256(b"APTOS::Transaction").digest()
_SCRIPT, _ENTRY_FUNCTION, _OTHERS = 0, 2, frozenset({1, 3, 4, 5})
"""Variants of TransactionPayload; the others are module bundles, multisig, orderless and encrypted ones."""


@dataclass(frozen=True, slots=True)
class Call:
    """An entry function and its BCS arguments."""

    module: str
    function: str
    type_arguments: tuple[str, ...]
    arguments: list[bytes]


@dataclass(frozen=True, slots=True)
class Raw:
    """A transaction before anybody signed it.  Amounts of gas in units, *gas_price* in octas."""

    encoded: bytes
    sender: Address
    sequence: int
    call: Call
    max_gas: int
    gas_price: int
    expires_at: int
    chain_id: int


@dataclass(frozen=True, slots=True)
class Submission:
    """A signed transaction.  *gas_price* and *max_gas* are the raw ones, unless a simulation asked for others."""

    hash: str
    signed: bytes
    raw: Raw
    authenticator: Authenticator
    max_gas: int
    gas_price: int

    @property
    def sender(self) -> Address:
        return self.raw.sender

    @property
    def payer(self) -> Address:
        payer = self.authenticator.payer
        return self.raw.sender if payer is None else payer[0]

    @property
    def sequence(self) -> int:
        return self.raw.sequence

    @property
    def call(self) -> Call:
        return self.raw.call


def transaction_hash(signed: bytes) -> str:
    """The variant byte 0 says "user transaction"."""
    return "0x" + hashlib.sha3_256(_HASH_PREFIX + b"\x00" + signed).hexdigest()


def read_submission(data: bytes) -> Submission:
    """Decode and authenticate one BCS signed transaction.  Raises `Refused` for anything else."""
    submission = _read_whole(data)
    if not submission.authenticator.signed(submission.raw.encoded):
        raise invalid(VmCode.INVALID_SIGNATURE)
    accounts = [account for account, _ in submission.authenticator.proofs(submission.sender)]
    if submission.authenticator.agents and len(set(accounts)) != len(accounts):
        raise invalid(VmCode.SIGNERS_CONTAIN_DUPLICATES)
    if not submission.authenticator.controls(submission.sender):
        raise invalid(VmCode.INVALID_AUTH_KEY)
    return submission


def read_simulation(data: bytes) -> Submission:
    """Decode what is to be simulated, and demand that it could not be executed.  Raises `Refused`."""
    submission = _read_whole(data)
    if submission.authenticator.signed(submission.raw.encoded):
        raise bad_input("Simulated transactions must not have a valid signature")
    return submission


def read_batch(data: bytes) -> list[bytes]:
    """The signed transactions of a BCS vector, each to be read on its own.  Raises `Refused`."""
    try:
        reader = Reader(data)
        pieces = reader.vector(lambda: _read_signed(reader)[0])
        reader.end()
    except BadValue as error:
        raise bad_input(f"Failed to deserialize input into Vec<SignedTransaction>: {error}") from None
    return pieces


def _read_whole(data: bytes) -> Submission:
    if len(data) > MAX_TRANSACTION_BYTES:
        raise invalid(VmCode.EXCEEDED_MAX_TRANSACTION_SIZE)
    try:
        reader = Reader(data)
        _, raw, authenticator = _read_signed(reader)
        reader.end()
    except BadValue as error:
        raise bad_input(f"Failed to deserialize input into SignedTransaction: {error}") from None
    return Submission(transaction_hash(data), data, raw, authenticator, raw.max_gas, raw.gas_price)


def _read_signed(reader: Reader) -> tuple[bytes, Raw, Authenticator]:
    start = reader.at
    raw = read_raw(reader)
    authenticator = read_authenticator(reader)
    return reader.data[start : reader.at], raw, authenticator


def read_raw(reader: Reader) -> Raw:
    """A RawTransaction that calls an entry function.  Raises `BadValue` or `Refused`."""
    start = reader.at
    sender, sequence, payload = reader.address(), reader.u64(), reader.length()
    if payload == _SCRIPT:
        raise invalid(VmCode.UNKNOWN_SCRIPT)
    if payload in _OTHERS:
        raise invalid(VmCode.FEATURE_UNDER_GATING)
    if payload != _ENTRY_FUNCTION:
        raise BadValue(f"no payload has the number {payload}")
    call = _read_call(reader)
    gas, price, expires_at, chain_id = reader.u64(), reader.u64(), reader.u64(), reader.u8()
    return Raw(reader.data[start : reader.at], sender, sequence, call, gas, price, expires_at, chain_id)


def read_call(data: bytes) -> Call:
    """A view function and its arguments.  Raises `Refused`."""
    try:
        reader = Reader(data)
        call = _read_call(reader)
        reader.end()
    except BadValue as error:
        raise bad_input(f"Failed to deserialize input into ViewFunction: {error}") from None
    return call


def _read_call(reader: Reader) -> Call:
    module = f"{reader.address()}::{reader.identifier()}"
    function = reader.identifier()
    return Call(module, function, tuple(reader.vector(reader.type_tag)), reader.vector(reader.blob))


def encode_raw(
    sender: bytes, sequence: int, call: bytes, max_gas: int, gas_price: int, expires_at: int, chain_id: int
) -> bytes:
    """The bytes of a RawTransaction around the encoded entry function *call*."""
    numbers = (max_gas.to_bytes(8, "little"), gas_price.to_bytes(8, "little"), expires_at.to_bytes(8, "little"))
    head = sender + sequence.to_bytes(8, "little") + uleb128(_ENTRY_FUNCTION)
    return head + call + b"".join(numbers) + bytes([chain_id])
