"""Fetches a model of the hub into the hub's own cache: what broke off goes on where it was, what came is checked.

The hub's library begins a file anew when it was interrupted, and does not compare what it got with the hub's digests.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cactus_mesh.engine.models import check_config, choose_files
from cactus_mesh.errors import MissingExtra, ModelMalformed, ModelMissing, ModelTooLarge

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Tell = Callable[[int, int], object]
    """Hears how many bytes are here, and how many there are."""

logger = logging.getLogger(__name__)

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_DIGEST: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_BROKEN_IN_A_ROW: Final = 5
"""Connections that end without a byte, before it is given up."""
_PAUSE_SECONDS: Final = 1.0
_SILENCE_SECONDS: Final = 30.0
_BLOCK_BYTES: Final = 1 << 20
_SPARE_BYTES: Final = 64 << 20
"""Of a disk, left for others."""


@dataclass(frozen=True, slots=True)
class _File:
    """*digest* is the SHA-256 of large files, and git's own SHA-1 of others: the name of the blob in the cache."""

    name: str
    size: int
    digest: str


class _Unreachable(Exception):
    """What was fetched before may do; the message says what is wrong."""


class _BrokeOff(Exception):
    """The rest may come with the next request."""


def fetch(name: str, tell: Tell = lambda _done, _total: None) -> Path:
    """The folder of the hub's newest *name*, wholly here.  Blocks; what *tell* raises ends it, to go on another time.

    Raises `ModelMissing`, `ModelRefused`, `ModelUnsupported`, `ModelMalformed`, `ModelTooLarge` or `MissingExtra`.
    """
    hub = _library()
    try:
        commit, files = _listing(hub, name)
    except _Unreachable as error:
        path = cached(name)
        if path is None:
            raise ModelMissing(str(error)) from None
        logger.warning("%s; %s is taken as it was fetched before", error, name)
        return path
    return _Download(hub, name, commit, tell).all(files)


def cached(name: str) -> Path | None:
    """The folder of what was fetched before."""
    hub = _library()
    try:
        cache = hub.constants.HF_HUB_CACHE
        found = hub.snapshot_download(name, cache_dir=cache, allow_patterns=["config.json"], local_files_only=True)
        return Path(found)
    except (hub.errors.LocalEntryNotFoundError, hub.errors.HFValidationError):
        return None


def delete(name: str) -> int:
    """The bytes that this frees."""
    hub = _library()
    freed = 0
    try:
        cache = hub.scan_cache_dir(hub.constants.HF_HUB_CACHE)
    except hub.errors.CacheNotFound:
        return 0
    for repository in cache.repos:
        if repository.repo_id == name and repository.repo_type == "model":
            revisions = [revision.commit_hash for revision in repository.revisions]
            strategy = cache.delete_revisions(*revisions)
            freed += strategy.expected_freed_size
            strategy.execute()
    return freed


def _library() -> Any:
    """The module, which the node itself can do without."""
    if importlib.util.find_spec("huggingface_hub") is None:
        raise MissingExtra("models of the hub need huggingface_hub; install: pip install 'cactus-mesh[inference]'")
    import huggingface_hub
    import huggingface_hub.constants
    import huggingface_hub.errors
    import huggingface_hub.utils

    return huggingface_hub


# --- what there is ---------------------------------------------------------------------------------------------------


def _listing(hub: Any, name: str) -> tuple[str, list[_File]]:
    """The commit, and the files that make the model, small ones first."""
    where = hub.constants.ENDPOINT
    try:
        found = hub.HfApi(endpoint=where).model_info(name, files_metadata=True, timeout=_SILENCE_SECONDS)
    except hub.errors.GatedRepoError:
        raise ModelMissing(
            f"{name} is given only to those who accepted its terms: do so at {where}/{name}, and log in with "
            "hf auth login (or set HF_TOKEN)"
        ) from None
    except hub.errors.RepositoryNotFoundError:
        raise ModelMissing(
            f"the hub has no model {name}, or it is private; check its name, or log in with hf auth login "
            "(or set HF_TOKEN)"
        ) from None
    except hub.errors.HfHubHTTPError as error:
        raise _Unreachable(f"{name} cannot be fetched: {_answered(where, error.response.status_code)}") from None
    except (hub.errors.HTTPError, OSError) as error:  # the latter when the library was told to stay offline
        raise _Unreachable(
            f"the hub, {where}, cannot be reached ({_first_line(error)}); check the connection"
        ) from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:  # what was answered is no description
        raise ModelMissing(f"{where} does not answer as a hub does ({_first_line(error)})") from None
    siblings = {each.rfilename: each for each in found.siblings or ()}
    files = [_file(name, siblings[chosen]) for chosen in choose_files(name, siblings)]
    if not isinstance(found.sha, str) or not _COMMIT.fullmatch(found.sha):
        raise ModelMissing(f"{where} does not say which commit of {name} it has")
    return found.sha, sorted(files, key=lambda file: file.size)


def _file(name: str, sibling: Any) -> _File:
    large = sibling.lfs
    size, digest = (large.size, large.sha256) if large is not None else (sibling.size, sibling.blob_id)
    if not isinstance(size, int) or size < 0 or not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise ModelMissing(f"the hub does not say what {sibling.rfilename} of {name} consists of")
    return _File(sibling.rfilename, size, digest)


def _answered(where: str, status: int) -> str:
    return f"{where} answered {status}" + ("; try again later" if status == 429 or status >= 500 else "")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


# --- what comes ------------------------------------------------------------------------------------------------------


class _Download:
    def __init__(self, hub: Any, name: str, commit: str, tell: Tell) -> None:
        self._hub = hub
        self._name = name
        self._commit = commit
        self._tell = tell
        cache = Path(hub.constants.HF_HUB_CACHE).expanduser()
        folder = "--".join(("models", *name.split("/")))
        self._store = cache / folder
        self._locks = cache / ".locks" / folder
        self._snapshot = self._store / "snapshots" / commit
        self._done = self._total = 0

    def all(self, files: Sequence[_File]) -> Path:
        self._total = sum(file.size for file in files)
        try:
            for folder in (self._store / "blobs", self._store / "refs", self._snapshot, self._locks):
                folder.mkdir(parents=True, exist_ok=True)
            self._refuse_too_much(files)
            configurations = [file for file in files if file.name.endswith("config.json")]
            for file in configurations:
                self._one(file)
            check_config(self._name, {file.name: self._place(file) for file in configurations})  # before the rest comes
            for file in files:
                if file not in configurations:
                    self._one(file)
            for file in files:
                self._point(file)
            (self._store / "refs" / "main").write_text(self._commit, encoding="ascii")
        except OSError as error:
            raise ModelMissing(f"{self._name} cannot be written to {self._store}: {error.strerror or error}") from None
        return self._snapshot

    def _refuse_too_much(self, files: Sequence[_File]) -> None:
        missing = sum(file.size - self._here(file) for file in files)
        free = shutil.disk_usage(self._store).free - _SPARE_BYTES
        if missing > free:
            raise ModelTooLarge(
                f"{self._name} takes {missing / 1e9:,.1f} GB more, and {self._store.parent} has room for "
                f"{max(free, 0) / 1e9:,.1f} GB; make room, or set HF_HOME to a larger disk"
            )

    def _blob(self, file: _File) -> Path:
        return self._store / "blobs" / file.digest

    def _part(self, file: _File) -> Path:
        return self._store / "blobs" / f"{file.digest}.part"

    def _place(self, file: _File) -> Path:
        """Where it is, when it is wholly here: where there are no symbolic links, in the snapshot itself."""
        return self._blob(file) if _size(self._blob(file)) == file.size else self._snapshot / file.name

    def _here(self, file: _File) -> int:
        """How many of its bytes."""
        return file.size if _size(self._place(file)) == file.size else min(_size(self._part(file)) or 0, file.size)

    def _one(self, file: _File) -> None:
        lock = self._locks / f"{file.digest}.lock"
        with self._hub.utils.WeakFileLock(lock):
            if not self._is_whole(file):
                self._receive_all(file)
                self._part(file).replace(self._blob(file))
        self._done += file.size
        self._tell(self._done, self._total)

    def _is_whole(self, file: _File) -> bool:
        """Also what is here is read: a disk forgets."""
        place = self._place(file)
        return _size(place) == file.size and _digest(file, place) == file.digest

    def _receive_all(self, file: _File) -> None:
        broken = 0
        while True:
            before = _size(self._part(file)) or 0
            try:
                digest = self._receive(file)
                break
            except (_BrokeOff, self._hub.errors.HTTPError) as error:
                broken = 1 if (_size(self._part(file)) or 0) > before else broken + 1
                if broken == _BROKEN_IN_A_ROW:
                    raise ModelMissing(
                        f"{file.name} of {self._name} did not come to its end ({_first_line(error)}); the same "
                        "command goes on where it was"
                    ) from None
            time.sleep(_PAUSE_SECONDS * (broken - 1))
        if digest != file.digest:
            self._part(file).unlink()
            raise ModelMalformed(
                f"what came as {file.name} of {self._name} is not what the hub lists (its digest is {digest}, not "
                f"{file.digest}); it was deleted, and nothing was added"
            )

    def _receive(self, file: _File) -> str:
        """The digest of what is here when all of it is; raises `_BrokeOff` otherwise."""
        part = self._part(file)
        have = _size(part) or 0
        if have > file.size:
            part.unlink()
            have = 0
        if have == file.size:
            part.touch()
            return _digest(file, part)
        where = self._hub.constants.ENDPOINT
        url = f"{where}/{self._name}/resolve/{self._commit}/{file.name}"
        headers = {**self._hub.utils.build_hf_headers(), "accept-encoding": "identity"}
        headers |= {"range": f"bytes={have}-"} if have else {}
        session = self._hub.utils.get_session()
        with session.stream("GET", url, headers=headers, timeout=_SILENCE_SECONDS, follow_redirects=True) as reply:
            goes_on = reply.status_code == 206 and reply.headers.get("content-range", "").startswith(f"bytes {have}-")
            if reply.status_code == 429 or reply.status_code >= 500:
                raise _BrokeOff(_answered(where, reply.status_code))
            if not goes_on and reply.status_code != 200:
                said = _answered(where, reply.status_code)
                raise ModelMissing(f"{file.name} of {self._name} cannot be fetched: {said}")
            have = have if goes_on else 0
            with part.open("ab" if goes_on else "wb") as into:
                for data in reply.iter_bytes():
                    have += len(data)
                    if have > file.size:
                        break
                    into.write(data)
                    self._tell(self._done + have, self._total)
        if have > file.size:
            part.unlink()
            raise ModelMalformed(
                f"more came as {file.name} of {self._name} than the {file.size} bytes that the hub lists; "
                "it was deleted, and nothing was added"
            )
        if have < file.size:
            raise _BrokeOff(f"{have} of {file.size} bytes came")
        return _digest(file, part)

    def _point(self, file: _File) -> None:
        pointer = self._snapshot / file.name
        if _size(pointer) == file.size and not pointer.is_symlink():
            return
        pointer.parent.mkdir(exist_ok=True)
        pointer.unlink(missing_ok=True)
        for make in (_link, os.link, shutil.copyfile):  # Windows allows links to few users, and some disks have none
            try:
                make(self._blob(file), pointer)
                return
            except (OSError, NotImplementedError) as error:
                why = error
        raise why


def _link(blob: Path, pointer: Path) -> None:
    pointer.symlink_to(os.path.relpath(blob, pointer.parent))


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _digest(file: _File, path: Path) -> str:
    """As the hub computes it."""
    content = hashlib.sha256()
    if len(file.digest) == 40:
        content = hashlib.sha1(b"blob %d\x00" % file.size, usedforsecurity=False)
    with path.open("rb") as data:
        while block := data.read(_BLOCK_BYTES):
            content.update(block)
    return content.hexdigest()
