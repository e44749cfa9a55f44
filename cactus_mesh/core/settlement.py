"""What the ledger is shown: the client's consent to pay and the orchestrator's claim, as BCS bytes and signatures.

The layouts are fixed (BCS, little-endian) because the contract rebuilds these bytes to check the signatures.
This module knows no ledger client; `aptos_sdk` decodes the same bytes in the tests.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from cactus_mesh.identity import Address

CONSENT_DOMAIN: Final = b"cactus_payment::consent::v1"
CLAIM_DOMAIN: Final = b"cactus_payment::claim::v1"
OPERATOR_DOMAIN: Final = b"cactus_payment::operator::v1"
NOBODY: Final = Address("0x" + "0" * 64)
U64_MAX: Final = 2**64 - 1


@dataclass(frozen=True, slots=True)
class TaskConsent:
    """The client lets *router* spend at most *max_price* octas on one task, until *expires_at* (Unix seconds)."""

    chain_id: int
    contract: Address
    client: Address
    router: Address
    task_id: bytes
    nonce: int
    max_price: int
    expires_at: int

    def to_bcs(self) -> bytes:
        return (
            _vector(CONSENT_DOMAIN)
            + struct.pack("<B", self.chain_id)
            + _raw(self.contract)
            + _raw(self.client)
            + _raw(self.router)
            + _vector(self.task_id)
            + struct.pack("<QQQ", self.nonce, self.max_price, self.expires_at)
        )

    @classmethod
    def from_bcs(cls, data: bytes) -> TaskConsent:
        """Raises ValueError unless *data* is exactly one consent in its one encoding."""
        reader = _Reader(data)
        reader.domain(CONSENT_DOMAIN)
        consent = cls(
            chain_id=reader.u8(),
            contract=reader.address(),
            client=reader.address(),
            router=reader.address(),
            task_id=reader.vector(16),
            nonce=reader.u64(),
            max_price=reader.u64(),
            expires_at=reader.u64(),
        )
        reader.end()
        return consent


@dataclass(frozen=True, slots=True)
class SettlementClaim:
    """What an orchestrator claims for one task.

    *price* is what it asks, in octas; the ledger pays at most that, at most its own formula and at most the consent.
    *complexity* is in MFLOP, *delegate* is `NOBODY` when it did the work itself, *result_hash* commits to the tokens.
    """

    chain_id: int
    contract: Address
    client: Address
    router: Address
    orchestrator: Address
    delegate: Address
    delegate_bps: int
    task_id: bytes
    model_digest: bytes
    complexity: int
    compute_ms: int
    price: int
    result_hash: bytes

    def to_bcs(self) -> bytes:
        return (
            _vector(CLAIM_DOMAIN)
            + struct.pack("<B", self.chain_id)
            + b"".join(map(_raw, (self.contract, self.client, self.router, self.orchestrator, self.delegate)))
            + struct.pack("<Q", self.delegate_bps)
            + _vector(self.task_id)
            + _vector(self.model_digest)
            + struct.pack("<QQQ", self.complexity, self.compute_ms, self.price)
            + _vector(self.result_hash)
        )

    @classmethod
    def from_bcs(cls, data: bytes) -> SettlementClaim:
        """Raises ValueError unless *data* is exactly one claim in its one encoding."""
        reader = _Reader(data)
        reader.domain(CLAIM_DOMAIN)
        claim = cls(
            chain_id=reader.u8(),
            contract=reader.address(),
            client=reader.address(),
            router=reader.address(),
            orchestrator=reader.address(),
            delegate=reader.address(),
            delegate_bps=reader.u64(),
            task_id=reader.vector(16),
            model_digest=reader.vector(32),
            complexity=reader.u64(),
            compute_ms=reader.u64(),
            price=reader.u64(),
            result_hash=reader.vector(32),
        )
        reader.end()
        return claim


@dataclass(frozen=True, slots=True)
class OperatorConsent:
    """An operator's key agrees to work for *owner*'s stake; without it anybody could register somebody else's key."""

    chain_id: int
    contract: Address
    owner: Address
    operator: Address

    def to_bcs(self) -> bytes:
        return (
            _vector(OPERATOR_DOMAIN)
            + struct.pack("<B", self.chain_id)
            + b"".join(map(_raw, (self.contract, self.owner, self.operator)))
        )


@dataclass(frozen=True, slots=True)
class Settlement:
    """One finished task as a router hands it to the ledger: both signed parts and the router's quality (ppm)."""

    consent: TaskConsent
    consent_signature: bytes
    claim: SettlementClaim
    claim_signature: bytes
    quality_ppm: int


def _raw(address: Address) -> bytes:
    return bytes.fromhex(address[2:])


def _vector(data: bytes) -> bytes:
    assert len(data) < 128, "every vector here is short, so its ULEB128 length is one byte"
    return bytes([len(data)]) + data


class _Reader:
    """Reads the fixed layouts above; anything else is a ValueError."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        piece = self._data[self._at : self._at + count]
        if len(piece) != count:
            raise ValueError("too short")
        self._at += count
        return piece

    def u8(self) -> int:
        return self.take(1)[0]

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def address(self) -> Address:
        return Address("0x" + self.take(32).hex())

    def vector(self, length: int) -> bytes:
        if self.u8() != length:
            raise ValueError("a field has the wrong length")
        return self.take(length)

    def domain(self, expected: bytes) -> None:
        if self.vector(len(expected)) != expected:
            raise ValueError("not made for this purpose")

    def end(self) -> None:
        if self._at != len(self._data):
            raise ValueError("too long")
