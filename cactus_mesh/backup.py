"""A home's key and state in one file, and back: consistent while a node runs, all or nothing on the way back.

The file is a line that names it, a line of JSON on how to open it, the SHA-256 of what follows, and that: the manifest
with every file, in msgpack, in a secretbox when there is a passphrase.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import time
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta
from nacl import pwhash
from nacl.exceptions import CryptoError
from nacl.secret import SecretBox
from nacl.utils import random

from cactus_mesh import __version__
from cactus_mesh.control import WHO, ask_home
from cactus_mesh.errors import (
    BackupLocked,
    BackupMalformed,
    HomeNotEmpty,
    KeyFileMissing,
    NodeNotRunning,
    NodeRunning,
    StateMalformed,
)
from cactus_mesh.files import write_private
from cactus_mesh.identity import load_key_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from cactus_mesh.config import Home

MAGIC: Final = b"cactus-mesh backup\n"
FORMAT: Final = 1
MAX_BYTES: Final = 1 << 30
"""It is made in memory; a router's journal of a million tasks is a fifth of that."""
KEY: Final = "state/key"
STATE: Final = ("key", "*.json", "*.sqlite", "devnet/*.key")
CONFIG: Final = ("config.toml", "thresholds.json", "service.env", "networks/*.toml", "networks/*.json")
NOT_KEPT: Final = frozenset({"control.json", "gateway-control.json"})
"""How to reach a process that will be gone."""
UNFINISHED: Final = "restore.unfinished"
"""Lies in a home between a restore's first change and its last."""
MAX_KDF_BYTES: Final = 1 << 30
MAX_KDF_PASSES: Final = 16
_SQLITE: Final = b"SQLite format 3\0"
BUSY_SECONDS: Final = 30.0


class Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file.  *name* begins with ``state/`` or ``config/``."""

    name: str
    sha256: str
    data: bytes


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    program: str
    made_at: int
    peer_id: str
    files: list[Kept]


class _Lock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the key is made of the passphrase: Argon2id with this salt, in so many passes over so much memory."""

    salt: Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
    passes: Annotated[int, Meta(ge=1, le=MAX_KDF_PASSES)]
    memory_bytes: Annotated[int, Meta(ge=8_192, le=MAX_KDF_BYTES)]


class _Head(msgspec.Struct, frozen=True):
    format: int
    locked: _Lock | None = None


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(Manifest).decode


# --- making one ----------------------------------------------------------------------------------------------------


def back_up(home: Home, target: Path, passphrase: str | None = None) -> Manifest:
    """Write *target*, mode 0600, all at once.  A node may be running.  Raises `KeyFileMissing` or `StateMalformed`."""
    if not home.key_file.exists():
        raise KeyFileMissing(f"there is no key at {home.key_file}, so nothing worth keeping; name the right --home")
    refuse_unfinished(home)
    peer = load_key_file(home.key_file).peer_id
    files = [_kept(name, path) for name, path in _found(home)]
    manifest = Manifest(__version__, int(time.time()), peer, files)
    body = _pack(manifest)
    lock = None
    if passphrase is not None:
        lock = _Lock(random(16).hex(), pwhash.argon2id.OPSLIMIT_MODERATE, pwhash.argon2id.MEMLIMIT_MODERATE)
        body = bytes(SecretBox(_key_of(passphrase, lock)).encrypt(body))
    head = msgspec.json.encode(_Head(FORMAT, lock)) + b"\n"
    write_private(target, MAGIC + head + _digest(head, body) + body)
    return manifest


def _found(home: Home) -> Iterator[tuple[str, Path]]:
    seen: set[Path] = set()
    for root, folder, patterns in (("state", home.state, STATE), ("config", home.config, CONFIG)):
        for pattern in patterns:
            for path in sorted(folder.glob(pattern)):
                if path.is_file() and path.name not in NOT_KEPT and path not in seen:
                    seen.add(path)
                    yield f"{root}/{path.relative_to(folder).as_posix()}", path


def _kept(name: str, path: Path) -> Kept:
    if path.stat().st_size > MAX_BYTES:
        raise StateMalformed(f"{path} has more than {MAX_BYTES} bytes, which no backup takes; copy it by hand")
    data = _database(path) if path.suffix == ".sqlite" else path.read_bytes()
    return Kept(name, hashlib.sha256(data).hexdigest(), data)


def _database(path: Path) -> bytes:
    """As of one moment, with what is still in its write-ahead log."""
    try:
        with (
            contextlib.closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as source,
            contextlib.closing(sqlite3.connect(":memory:")) as copy,
        ):
            source.backup(copy)
            return bytes(copy.serialize())
    except sqlite3.DatabaseError as error:
        raise StateMalformed(f"{path} cannot be read ({error}); move it away, and keep what remains by hand") from None


# --- opening one ---------------------------------------------------------------------------------------------------


def is_locked(source: Path) -> bool:
    """Raises `BackupMalformed`."""
    return _read(source)[0].locked is not None


def open_backup(source: Path, passphrase: str | None = None) -> Manifest:
    """Everything that *source* holds, checked.  Raises `BackupMalformed` or `BackupLocked`."""
    head, body = _read(source)
    if head.locked is not None:
        if passphrase is None:
            raise BackupLocked(f"{source} is encrypted; give its passphrase with --passphrase-file FILE")
        try:
            body = SecretBox(_key_of(passphrase, head.locked)).decrypt(body)
        except (CryptoError, ValueError):
            raise BackupLocked(f"this passphrase does not open {source}") from None
    try:
        manifest = _unpack(body)
    except msgspec.DecodeError as error:
        raise _malformed(source, str(error)) from None
    for each in manifest.files:
        if hashlib.sha256(each.data).hexdigest() != each.sha256:
            raise _malformed(source, f"{each.name!r} in it is not what it was")
        if not _is_ours(each.name):
            raise _malformed(source, f"{each.name!r} is no file of a home")
    if KEY not in {each.name for each in manifest.files}:
        raise _malformed(source, "there is no key in it")
    return manifest


def _read(source: Path) -> tuple[_Head, bytes]:
    try:
        if source.stat().st_size > 2 * MAX_BYTES:
            raise _malformed(source, "it is too large")
        data = source.read_bytes()
    except OSError as error:
        raise BackupMalformed(f"cannot read {source}: {error.strerror}") from None
    if not data.startswith(MAGIC):
        raise _malformed(source, "it does not begin like one")
    head, _, rest = data[len(MAGIC) :].partition(b"\n")
    digest, body = rest[:32], rest[32:]
    if _digest(head + b"\n", body) != digest:
        raise _malformed(source, "it was cut off or changed")
    try:
        found = msgspec.json.decode(head, type=_Head)
    except msgspec.DecodeError as error:
        raise _malformed(source, str(error)) from None
    if found.format > FORMAT:
        raise BackupMalformed(f"{source} was made by a newer version of cactus-mesh; update this one")
    return found, body


def _malformed(source: Path, why: str) -> BackupMalformed:
    return BackupMalformed(f"{source} is no whole backup: {why}; nothing was restored")


def _digest(head: bytes, body: bytes) -> bytes:
    return hashlib.sha256(MAGIC + head + body).digest()


def _key_of(passphrase: str, lock: _Lock) -> bytes:
    made: bytes = pwhash.argon2id.kdf(
        SecretBox.KEY_SIZE, passphrase.encode(), bytes.fromhex(lock.salt), lock.passes, lock.memory_bytes
    )
    return made


def _is_ours(name: str) -> bool:
    """So that no file lands where a home has none: a backup is read, not believed."""
    root, _, rest = name.partition("/")
    parts = rest.split("/")
    patterns = [pattern.split("/") for pattern in {"state": STATE, "config": CONFIG}.get(root, ())]
    return rest not in NOT_KEPT and any(
        len(parts) == len(pattern) and all(map(_matches, parts, pattern)) for pattern in patterns
    )


def _matches(part: str, pattern: str) -> bool:
    if "*" not in pattern:
        return part == pattern
    plain = part.replace("-", "").replace("_", "").replace(".", "")
    return part.endswith(pattern[1:]) and plain.isalnum() and not part.startswith(".")


# --- putting one back ----------------------------------------------------------------------------------------------


async def refuse_running(home: Home) -> None:
    """Raises `NodeRunning`."""
    with contextlib.suppress(NodeNotRunning):
        running = await ask_home(home, WHO)
        raise NodeRunning(f"a node or gateway with this home is running (process {running['pid']}); stop it first")


def restore(home: Home, manifest: Manifest, *, force: bool = False) -> Path | None:
    """Put everything back; where the files that were there have gone, or None when there were none.

    Raises `HomeNotEmpty` unless *force*.  Ended in the middle it leaves a home that nothing runs in, until a restore is
    run to its end.
    """
    there = [path for _, path in _found(home)]
    unfinished = home.state / UNFINISHED
    if there and not force:
        raise HomeNotEmpty(
            f"{home.state} holds {'a half-finished restore' if unfinished.exists() else 'a key or state'} already; "
            "name an empty --home, or add --force: what is there is then moved aside"
        )
    write_private(unfinished, manifest.peer_id.encode())
    aside = _move_aside(home, there) if there else None
    for each in sorted(manifest.files, key=lambda each: each.name == KEY):  # who has a key has all the rest
        root, _, rest = each.name.partition("/")
        write_private((home.state if root == "state" else home.config) / rest, each.data)
    unfinished.unlink()
    return aside


def _move_aside(home: Home, paths: list[Path]) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    aside = next(
        folder for number in range(1_000) if not (folder := home.state / f"before-restore-{stamp}-{number}").exists()
    )
    aside.mkdir(mode=0o700)
    for path in paths:
        for each in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
            if each.exists():
                root = home.state if each.is_relative_to(home.state) else home.config
                place = aside / each.relative_to(root)
                place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                os.replace(each, place)  # noqa: PTH105 - also across a crash, and over nothing
    return aside


def refuse_unfinished(home: Home) -> None:
    """Raises `StateMalformed` in a home that a restore has left half done."""
    if (home.state / UNFINISHED).exists():
        raise StateMalformed(
            f"a restore into {home.state} was interrupted; run it again: cactus-mesh restore FILE --force"
        )
