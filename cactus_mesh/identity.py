"""One Ed25519 seed is everything a party is: libp2p peer id, message signing key and ledger account.

This module derives names and keeps the key file; it knows nothing of messages, networks or ledgers.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
import tempfile
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NewType

import base58
from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair
from nacl.exceptions import CryptoError

from cactus_mesh.errors import KeyFileExists, KeyFileExposed, KeyFileMalformed, KeyFileMissing, KeyFileUnwritable

PublicKey = NewType("PublicKey", bytes)
"""32 bytes, Ed25519."""
PeerId = NewType("PeerId", str)
"""libp2p peer id in base58 (``12D3KooW…``): the identity multihash of the protobuf-framed public key."""
Address = NewType("Address", str)
"""Aptos account address: ``0x`` and 64 lower-case hex digits."""

NAMES_REMEMBERED = 65_536
"""Keys whose names are kept: base58 alone costs a third of a signature check, and every task names its peers often."""
SEED_BYTES = 32
SIGNATURE_BYTES = 64
PUBLIC_KEY_BYTES = 32

# libp2p peer-ids specification: multihash(identity, 36 bytes) of PublicKey{Type: Ed25519, Data: 32 bytes}
_PEER_ID_PREFIX = bytes.fromhex("002408011220")
# AIP-80, the text form of Aptos private keys
_KEY_PREFIX = "ed25519-priv-0x"


@dataclass(frozen=True, slots=True)
class Identity:
    """A seed and what follows from it.  Two identities are equal when their public keys are."""

    seed: bytes = field(repr=False, compare=False)
    public_key: PublicKey

    @classmethod
    def from_seed(cls, seed: bytes) -> Identity:
        if len(seed) != SEED_BYTES:
            raise KeyFileMalformed(f"a seed has {SEED_BYTES} bytes, this one has {len(seed)}")
        public, _ = crypto_sign_seed_keypair(seed)
        return cls(seed, PublicKey(public))

    @classmethod
    def generate(cls) -> Identity:
        return cls.from_seed(secrets.token_bytes(SEED_BYTES))

    @property
    def peer_id(self) -> PeerId:
        return peer_id(self.public_key)

    @property
    def address(self) -> Address:
        return address(self.public_key)

    def sign(self, data: bytes) -> bytes:
        """64-byte Ed25519 signature (RFC 8032) over *data*."""
        return crypto_sign(data, self.seed + self.public_key)[:SIGNATURE_BYTES]


def verify(public_key: PublicKey, data: bytes, signature: bytes) -> bool:
    """Whether *signature* is *public_key*'s over *data*; any malformed input is simply False."""
    if len(signature) != SIGNATURE_BYTES or len(public_key) != PUBLIC_KEY_BYTES:
        return False
    try:
        crypto_sign_open(signature + data, public_key)
    except (CryptoError, ValueError):
        return False
    return True


@lru_cache(NAMES_REMEMBERED)
def peer_id(public_key: PublicKey) -> PeerId:
    return PeerId(base58.b58encode(_PEER_ID_PREFIX + public_key).decode())


@lru_cache(NAMES_REMEMBERED)
def address(public_key: PublicKey) -> Address:
    """The single-signer Aptos address: sha3-256(public key ‖ scheme byte 0)."""
    return Address("0x" + hashlib.sha3_256(public_key + b"\x00").hexdigest())


def public_key_of(peer: str) -> PublicKey:
    """The key inside an Ed25519 peer id.  Raises ValueError for anything else."""
    if len(peer) > 128:
        raise ValueError("not an Ed25519 peer id: too long")
    try:
        raw = base58.b58decode(peer)
    except ValueError as error:
        raise ValueError(f"{peer!r} is not a peer id: {error}") from None
    if len(raw) != len(_PEER_ID_PREFIX) + PUBLIC_KEY_BYTES or not raw.startswith(_PEER_ID_PREFIX):
        raise ValueError(f"{peer!r} is not an Ed25519 peer id (these begin with 12D3KooW)")
    key = PublicKey(raw[len(_PEER_ID_PREFIX) :])
    if peer_id(key) != peer:  # base58 overlooks space at the end
        raise ValueError(f"{peer!r} is not a peer id in its one spelling")
    return key


def create_key_file(path: Path, identity: Identity) -> None:
    """Write *identity* to *path*, mode 0600, all at once or not at all.  An existing file is never replaced.

    Raises `KeyFileExists`, or `KeyFileUnwritable` when the folder or disk does not take it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _create(path, f"{_KEY_PREFIX}{identity.seed.hex()}\n")
    except OSError as error:
        raise KeyFileUnwritable(
            f"cannot write a key to {path} ({error.strerror}); choose another folder with --home"
        ) from None


def _create(path: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".key-")  # mkstemp creates with 0600
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        _publish(temporary, path)
    except FileExistsError:
        raise KeyFileExists(f"{path} exists and a key is never overwritten; move it away first") from None
    finally:
        temporary.unlink(missing_ok=True)


def _publish(temporary: Path, path: Path) -> None:
    """Give *temporary* its final name, failing when that is taken."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links (FAT, some network shares)
        if path.exists():
            raise FileExistsError(path) from None
        temporary.replace(path)


def load_key_file(path: Path) -> Identity:
    """Read a key file.  Refuses one that others can read, saying how to fix it; never logs its content."""
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="ascii")
    except FileNotFoundError:
        raise KeyFileMissing(f"no key at {path}; create one with: cactus-mesh keygen") from None
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise KeyFileMalformed(f"cannot read the key at {path} ({why}); check who owns it and what it is") from None
    if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise KeyFileExposed(
            f"{path} can be read by other users (mode {stat.S_IMODE(mode):04o}); fix it with: chmod 600 {path}"
        )
    digits = text.strip().removeprefix(_KEY_PREFIX)
    try:
        seed = bytes.fromhex(digits)
    except ValueError:
        seed = b""
    if len(digits) != 2 * SEED_BYTES or len(seed) != SEED_BYTES:
        raise KeyFileMalformed(
            f"{path} is not a key file: it must hold {_KEY_PREFIX} followed by {2 * SEED_BYTES} hex digits; "
            "restore it from your backup, or move it away and run: cactus-mesh keygen"
        )
    return Identity.from_seed(seed)
