"""API keys: who may use the gateway.  Only salted hashes are kept, in a file that is this user's alone.

A key is ``cm_<id>_<secret>``.  Its secret has 256 random bits, so that a quick hash is as good as a slow one.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import stat
import sys
import time
from typing import TYPE_CHECKING, Final

import msgspec

from cactus_mesh.errors import GatewayKeyUnknown, KeyFileExposed, StateMalformed
from cactus_mesh.files import write_private

if TYPE_CHECKING:
    from pathlib import Path

PREFIX: Final = "cm"
VERSION: Final = 1
MAX_KEYS: Final = 1_000
MAX_NAME_CHARACTERS: Final = 64
LOOK_AGAIN_SECONDS: Final = 1.0
"""A key that was removed works for this long at most."""


class ApiKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is kept of a key.  *hash* is BLAKE2b of the secret, keyed with *salt*; both in hexadecimal."""

    id: str
    name: str
    salt: str
    hash: str
    created_at: int
    """In Unix seconds."""

    def is_of(self, secret: str) -> bool:
        return hmac.compare_digest(_hash(secret, bytes.fromhex(self.salt)), self.hash)


class _Versioned(msgspec.Struct, frozen=True):
    version: int = 1


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keys: list[ApiKey]
    version: int = VERSION


def read_keys(path: Path) -> list[ApiKey]:
    """None when there is no file.  Raises `StateMalformed`, or `KeyFileExposed` when others may read the file."""
    try:
        raw = path.read_bytes()
        mode = path.stat().st_mode
    except FileNotFoundError:
        return []
    if sys.platform != "win32" and stat.S_IMODE(mode) & 0o077:
        raise KeyFileExposed(f"other users can read {path}; run: chmod 600 {path}")
    try:
        version = msgspec.json.decode(raw, type=_Versioned).version
        if version > VERSION:
            newer = f"{version} after {VERSION}"
            raise StateMalformed(f"{path} was written by a newer version, {newer}; update cactus-mesh")
        return msgspec.json.decode(raw, type=_File).keys
    except msgspec.DecodeError as error:
        raise StateMalformed(f"{path} is no file of API keys ({error}); move it away and add the keys again") from None


def add_key(path: Path, name: str) -> str:
    """The new key, which nobody can find out again.  Raises `GatewayKeyUnknown` for a name that is taken or none."""
    keys = read_keys(path)
    if not name or len(name) > MAX_NAME_CHARACTERS or not name.isprintable():
        raise GatewayKeyUnknown(f"a key's name has 1 to {MAX_NAME_CHARACTERS} printable characters")
    if any(key.name == name for key in keys):
        raise GatewayKeyUnknown(f"there is a key named {name!r} already; remove it first, or choose another name")
    if len(keys) >= MAX_KEYS:
        raise GatewayKeyUnknown(f"there are {MAX_KEYS} keys already; remove some")
    made, secret, salt = secrets.token_hex(4), secrets.token_urlsafe(32), secrets.token_bytes(16)
    kept = ApiKey(made, name, salt.hex(), _hash(secret, salt), int(time.time()))
    write_private(path, msgspec.json.encode(_File([*keys, kept])))
    return f"{PREFIX}_{made}_{secret}"


def remove_key(path: Path, name: str) -> None:
    """Raises `GatewayKeyUnknown`."""
    keys = read_keys(path)
    left = [key for key in keys if name not in (key.name, key.id)]
    if len(left) == len(keys):
        raise GatewayKeyUnknown(f"there is no key {name!r}; see: cactus-mesh gateway keys list")
    write_private(path, msgspec.json.encode(_File(left)))


def _hash(secret: str, salt: bytes) -> str:
    return hashlib.blake2b(secret.encode(), key=salt, digest_size=32).hexdigest()


class Keyring:
    """The keys of a file, read again when it has changed."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._keys: dict[str, ApiKey] = {}
        self._seen: tuple[int, int] | None = None
        self._looked = -LOOK_AGAIN_SECONDS
        self.refresh(0.0)

    def __bool__(self) -> bool:
        return bool(self._keys)

    def refresh(self, now: float) -> None:
        """Raises as `read_keys`."""
        if self._path is None or now - self._looked < LOOK_AGAIN_SECONDS:
            return
        self._looked = now
        try:
            found = self._path.stat()
        except FileNotFoundError:
            self._keys, self._seen = {}, None
            return
        seen = (found.st_mtime_ns, found.st_ino)
        if seen != self._seen:
            self._keys = {key.id: key for key in read_keys(self._path)}
            self._seen = seen

    def holder(self, key: str) -> ApiKey | None:
        """Whose key this is."""
        prefix, _, rest = key.partition("_")
        name, _, secret = rest.partition("_")
        kept = self._keys.get(name)
        return kept if prefix == PREFIX and kept is not None and kept.is_of(secret) else None
