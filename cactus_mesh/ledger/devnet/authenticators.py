"""Who signed a transaction, and whether the signatures hold: Aptos's authenticators, read strictly.

Ed25519 accounts, single-key accounts (Ed25519, secp256k1), several agents, and a fee payer.  What else Aptos knows
(multi key, keyless, abstracted accounts) is refused as by a chain on which that feature is off.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from aptos_sdk import secp256k1_ecdsa

from cactus_mesh.identity import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, Address, PublicKey, verify
from cactus_mesh.ledger.devnet.refusals import VmCode, invalid
from cactus_mesh.ledger.values import BadValue, Json, address_bytes, to_json, uleb128

if TYPE_CHECKING:
    from cactus_mesh.ledger.devnet.bcs import Reader

Scheme = Literal["ed25519", "none", "single_ed25519", "single_secp256k1"]

_RAW: Final = hashlib.sha3_256(b"APTOS::RawTransaction").digest()
_RAW_WITH_DATA: Final = hashlib.sha3_256(b"APTOS::RawTransactionWithData").digest()
_MULTI_AGENT, _FEE_PAYER = b"\x00", b"\x01"
"""Variants of RawTransactionWithData."""
NOBODY: Final = Address("0x" + "0" * 64)
"""Stands for a fee payer whom the sender does not know yet."""
_SECP256K1_KEY_BYTES: Final = 65
_SECP256K1_HALF_ORDER: Final = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0
"""A signature with a larger s has a twin; Aptos takes the smaller one alone."""


@dataclass(frozen=True, slots=True)
class Proof:
    """One account's key and signature.  Scheme ``none`` is for simulations by whoever does not know the key."""

    scheme: Scheme
    public_key: bytes = b""
    signature: bytes = b""
    matching: bool = True
    """Whether key and signature are of one kind; simulations put zeros of Ed25519 beside any key."""

    @property
    def authentication_key(self) -> Address | None:
        """What an account that this key controls is called, as long as its key was never rotated."""
        match self.scheme:
            case "ed25519":
                hashed = self.public_key + b"\x00"
            case "single_ed25519":
                hashed = b"\x00" + uleb128(len(self.public_key)) + self.public_key + b"\x02"
            case "single_secp256k1":
                hashed = b"\x01" + uleb128(len(self.public_key)) + self.public_key + b"\x02"
            case "none":
                return None
        return Address("0x" + hashlib.sha3_256(hashed).hexdigest())

    def holds_for(self, messages: tuple[bytes, ...]) -> bool:
        """Whether this is the key's signature over one of *messages*."""
        if self.scheme == "none" or not self.matching or self.signature == bytes(SIGNATURE_BYTES):
            return False
        return any(self._verifies(message) for message in messages)

    def _verifies(self, message: bytes) -> bool:
        if self.scheme != "single_secp256k1":
            return verify(PublicKey(self.public_key), message, self.signature)
        if int.from_bytes(self.signature[32:], "big") > _SECP256K1_HALF_ORDER:
            return False
        try:
            key = secp256k1_ecdsa.PublicKey.from_str(self.public_key.hex())
        except Exception:  # the sdk raises bare Exception, the library beneath its own, for what is no point
            return False
        return key.verify(message, secp256k1_ecdsa.Signature(self.signature))

    def to_json(self) -> Json:
        key, signature = to_json(self.public_key), to_json(self.signature)
        if self.scheme == "none":
            return {"type": "no_account_signature"}
        if self.scheme == "ed25519":
            return {"type": "ed25519_signature", "public_key": key, "signature": signature}
        kind = "ed25519" if self.scheme == "single_ed25519" else "secp256k1_ecdsa"
        return {
            "type": "single_key_signature",
            "public_key": {"type": kind, "value": key},
            "signature": {"type": kind, "value": signature},
        }


@dataclass(frozen=True, slots=True)
class Authenticator:
    """All who signed: the sender, further agents, and a fee payer if the sender doesn't pay itself."""

    sender: Proof
    agents: tuple[tuple[Address, Proof], ...] = ()
    payer: tuple[Address, Proof] | None = None
    many: bool = False
    """The multi-agent form, even with no agents: it is signed in another way."""

    def proofs(self, sender: Address) -> list[tuple[Address, Proof]]:
        return [(sender, self.sender), *self.agents, *([self.payer] if self.payer is not None else [])]

    def signed(self, raw: bytes) -> bool:
        """Whether every signature holds for the raw transaction *raw*."""
        if self.payer is None:
            messages = (signing_message(raw, [address for address, _ in self.agents] if self.many else None),)
            return all(proof.holds_for(messages) for proof in (self.sender, *(proof for _, proof in self.agents)))
        others = [address for address, _ in self.agents]
        known = signing_message(raw, others, self.payer[0])
        either = (known, signing_message(raw, others, NOBODY))  # signed before the payer was known
        agreed = all(proof.holds_for(either) for proof in (self.sender, *(proof for _, proof in self.agents)))
        return agreed and self.payer[1].holds_for((known,))

    def controls(self, sender: Address) -> bool:
        """A valid signature is not enough: each key must be its account's own.  Unknown keys pass, to be simulated."""
        return all(proof.authentication_key in (None, account) for account, proof in self.proofs(sender))

    def to_json(self) -> Json:
        if self.payer is None and not self.many:
            return self.sender.to_json()
        shown = {
            "type": "multi_agent_signature" if self.payer is None else "fee_payer_signature",
            "sender": self.sender.to_json(),
            "secondary_signer_addresses": [to_json(account) for account, _ in self.agents],
            "secondary_signers": [proof.to_json() for _, proof in self.agents],
        }
        if self.payer is None:
            return shown
        return shown | {"fee_payer_address": to_json(self.payer[0]), "fee_payer_signer": self.payer[1].to_json()}


def signing_message(raw: bytes, agents: list[Address] | None = None, payer: Address | None = None) -> bytes:
    """What accounts sign: the raw transaction alone, or with the *agents* and the *payer*."""
    if agents is None:
        return _RAW + raw
    packed = uleb128(len(agents)) + b"".join(map(address_bytes, agents))
    if payer is None:
        return _RAW_WITH_DATA + _MULTI_AGENT + raw + packed
    return _RAW_WITH_DATA + _FEE_PAYER + raw + packed + address_bytes(payer)


# --- reading -----------------------------------------------------------------------------------------------------


def read_authenticator(reader: Reader) -> Authenticator:
    """A TransactionAuthenticator.  Raises `BadValue`, or `Refused` for a scheme that is not taken here."""
    match reader.length():
        case 0:
            return Authenticator(_ed25519(reader))
        case 2:
            sender = read_proof(reader)
            return Authenticator(sender, _agents(reader), many=True)
        case 3:
            sender, agents = read_proof(reader), _agents(reader)
            return Authenticator(sender, agents, (reader.address(), read_proof(reader)), many=True)
        case 4:
            return Authenticator(read_proof(reader))
        case 1:
            raise invalid(VmCode.FEATURE_UNDER_GATING)
        case unknown:
            raise BadValue(f"no authenticator has the number {unknown}")


def _agents(reader: Reader) -> tuple[tuple[Address, Proof], ...]:
    addresses = reader.vector(reader.address)
    proofs = reader.vector(lambda: read_proof(reader))
    if len(addresses) != len(proofs):
        raise invalid(VmCode.SECONDARY_KEYS_ADDRESSES_COUNT_MISMATCH)
    return tuple(zip(addresses, proofs, strict=True))


def read_proof(reader: Reader) -> Proof:
    """An AccountAuthenticator.  Raises as `read_authenticator`."""
    match reader.length():
        case 0:
            return _ed25519(reader)
        case 2:
            return _single_key(reader)
        case 4:
            return Proof("none")
        case 1 | 3 | 5:
            raise invalid(VmCode.FEATURE_UNDER_GATING)
        case unknown:
            raise BadValue(f"no account authenticator has the number {unknown}")


def _ed25519(reader: Reader) -> Proof:
    return Proof("ed25519", reader.blob(PUBLIC_KEY_BYTES), reader.blob(SIGNATURE_BYTES))


def _single_key(reader: Reader) -> Proof:
    scheme: Scheme
    match key_kind := reader.length():
        case 0:
            scheme, key = "single_ed25519", reader.blob(PUBLIC_KEY_BYTES)
        case 1:
            scheme, key = "single_secp256k1", reader.blob(_SECP256K1_KEY_BYTES)
        case 2 | 3 | 4:
            raise invalid(VmCode.FEATURE_UNDER_GATING)
        case _:
            raise BadValue(f"no public key has the number {key_kind}")
    signature_kind = reader.length()
    if signature_kind > 1:
        raise invalid(VmCode.FEATURE_UNDER_GATING)
    return Proof(scheme, key, reader.blob(SIGNATURE_BYTES), signature_kind == key_kind)
