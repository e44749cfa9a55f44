"""From bytes to an authentic transaction: decoded, canonical, and signed by the key of its sender.

Whether it may run now (chain, sequence number, expiry, fee) is the chain's question.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aptos_sdk.authenticator import (
    AccountAuthenticator,
    Ed25519Authenticator,
    FeePayerAuthenticator,
    SingleSenderAuthenticator,
)
from aptos_sdk.bcs import Deserializer, Serializer
from aptos_sdk.transactions import EntryFunction, FeePayerRawTransaction, RawTransaction, SignedTransaction

from cactus_mesh.identity import SIGNATURE_BYTES, Address, PublicKey, address, verify
from cactus_mesh.ledger.devnet.refusals import VmCode, bad_input, invalid

if TYPE_CHECKING:
    from aptos_sdk.account_address import AccountAddress

MAX_TRANSACTION_BYTES: Final = 64 * 1024
"""Aptos's limit for an ordinary transaction."""
_HASH_PREFIX: Final = hashlib.sha3_256(b"APTOS::Transaction").digest()


@dataclass(frozen=True, slots=True)
class Call:
    """An entry function and its BCS arguments."""

    module: str
    function: str
    type_arguments: tuple[str, ...]
    arguments: list[bytes]


@dataclass(frozen=True, slots=True)
class Submission:
    """An authentic transaction.  *payer* pays the fee; amounts of gas in units, *gas_price* in octas."""

    hash: str
    signed: bytes
    sender: Address
    payer: Address
    sequence: int
    call: Call
    max_gas: int
    gas_price: int
    expires_at: int
    chain_id: int


def transaction_hash(signed: bytes) -> str:
    """The variant byte 0 says "user transaction"."""
    return "0x" + hashlib.sha3_256(_HASH_PREFIX + b"\x00" + signed).hexdigest()


def read_submission(data: bytes) -> Submission:
    """Decode and authenticate one BCS signed transaction.  Raises `Refused` for anything else."""
    if len(data) > MAX_TRANSACTION_BYTES:
        raise invalid(VmCode.EXCEEDED_MAX_TRANSACTION_SIZE)
    signed = _decode(data)
    raw = signed.transaction
    entry = raw.payload.value
    if not isinstance(entry, EntryFunction):
        raise invalid(VmCode.UNKNOWN_SCRIPT)
    payer = _authenticate(raw, signed.authenticator.authenticator)
    return Submission(
        hash=transaction_hash(data),
        signed=data,
        sender=_long(raw.sender),
        payer=_long(payer),
        sequence=raw.sequence_number,
        call=read_call(entry),
        max_gas=raw.max_gas_amount,
        gas_price=raw.gas_unit_price,
        expires_at=raw.expiration_timestamps_secs,
        chain_id=raw.chain_id,
    )


def read_call(entry: EntryFunction) -> Call:
    types = tuple(str(tag) for tag in entry.ty_args)
    return Call(f"{_long(entry.module.address)}::{entry.module.name}", entry.function, types, entry.args)


def decode_canonical(kind: Any, data: bytes, what: str) -> Any:
    """One value of an aptos_sdk type, whose only encoding *data* must be.  Raises `Refused`.

    The sdk's decoder takes lengths in more than one form and stops before trailing bytes; both would let one
    transaction have several hashes, so that the decoded value is encoded again and compared.
    """
    try:
        value = kind.deserialize(Deserializer(data))
        again = Serializer()  # type: ignore[no-untyped-call]
        again.struct(value)
    except Exception as error:  # the sdk raises bare Exception, and whatever Python raises on hostile bytes
        raise bad_input(f"Failed to deserialize input into {what}: {str(error)[:200]}") from None
    if again.output() != data:
        raise bad_input(f"Failed to deserialize input into {what}: not in canonical BCS, or bytes are left over")
    return value


def _decode(data: bytes) -> SignedTransaction:
    signed: SignedTransaction = decode_canonical(SignedTransaction, data, "SignedTransaction")
    return signed


def _authenticate(raw: RawTransaction, authenticator: object) -> AccountAddress:
    """Check every signature; returns who pays.  Raises `Refused`."""
    if isinstance(authenticator, FeePayerAuthenticator):
        return _authenticate_sponsored(raw, authenticator)
    if isinstance(authenticator, SingleSenderAuthenticator):
        authenticator = authenticator.sender
    _check(authenticator, raw.sender, [raw.keyed()])
    return raw.sender


def _authenticate_sponsored(raw: RawTransaction, authenticator: FeePayerAuthenticator) -> AccountAddress:
    if authenticator.secondary_signers:
        raise bad_input("this development ledger takes transactions with one sender and at most a fee payer")
    payer = authenticator.fee_payer_address()
    message = FeePayerRawTransaction(raw, [], payer).keyed()
    open_message = FeePayerRawTransaction(raw, [], None).keyed()  # signed before the payer was known
    _check(authenticator.sender, raw.sender, [message, open_message])
    _check(authenticator.fee_payer[1], payer, [message])
    return payer


def _check(authenticator: object, account: AccountAddress, messages: list[bytes]) -> None:
    """A valid signature is not enough: the key must be the account's own."""
    inner = authenticator.authenticator if isinstance(authenticator, AccountAuthenticator) else authenticator
    if not isinstance(inner, Ed25519Authenticator):
        raise bad_input("this development ledger takes Ed25519 signatures only")
    key, signature = PublicKey(inner.public_key.key.encode()), inner.signature.data()
    if signature == bytes(SIGNATURE_BYTES) or not any(verify(key, message, signature) for message in messages):
        raise invalid(VmCode.INVALID_SIGNATURE)
    if address(key) != _long(account):
        raise invalid(VmCode.INVALID_AUTH_KEY)


def _long(account: AccountAddress) -> Address:
    return Address("0x" + account.address.hex())
