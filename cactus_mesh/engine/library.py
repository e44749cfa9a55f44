"""The operator's list of models: where each is, and of which files it consisted when it was added.  A JSON file.

What is on the list is served only while its files are still those; a model of the hub is fetched when it is added.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from cactus_mesh.engine import hub
from cactus_mesh.engine.models import (
    SELFTEST_WORDS,
    check_folder,
    hub_id,
    listing,
    listing_digest,
    local_folder,
)
from cactus_mesh.errors import ConfigMalformed, ModelMissing, ModelRefused
from cactus_mesh.files import write_private

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from cactus_mesh.engine.hub import Tell
    from cactus_mesh.engine.models import Listed, ModelFolder

_MAX_FILE_BYTES: Final = 16 << 20
"""Thousands of models with dozens of files each."""


class Entry(msgspec.Struct, frozen=True):
    """*source* is a folder or a hub id."""

    name: str
    source: str
    files: list[tuple[str, int, str]]

    def digest(self, dtype: str) -> bytes:
        return listing_digest(dtype, self.files)

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(size for _, size, _ in self.files)


class Library:
    """Raises `ConfigMalformed` when its file is damaged."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.entries: dict[str, Entry] = {}
        """By name."""
        if path.exists():
            data = path.read_bytes()[:_MAX_FILE_BYTES]
            if data.lstrip().startswith(b"{"):
                raise ConfigMalformed(f"{path} was written by a newer version; update cactus-mesh")
            try:
                self.entries = {entry.name: entry for entry in msgspec.json.decode(data, type=list[Entry])}
            except msgspec.DecodeError as error:
                raise ConfigMalformed(
                    f"the list of models, {path}, is damaged ({error}); delete it and add them again"
                ) from None

    def get(self, name: str) -> Entry:
        """Raises `ModelMissing`."""
        if name not in self.entries:
            known = ", ".join(self.entries) or "none"
            raise ModelMissing(f"there is no model {name!r} on the list, which has: {known}")
        return self.entries[name]

    def put(self, entry: Entry) -> None:
        """Add it, or note its files anew.  Raises `ConfigMalformed` when another model has its name."""
        known = self.entries.get(entry.name, entry)
        if known.source != entry.source:
            raise ConfigMalformed(
                f"the list has a model {entry.name!r} already, from {known.source}; rename a folder, or first: "
                f"cactus-mesh models remove {entry.name}"
            )
        self.entries[entry.name] = entry
        self._write()

    def remove(self, name: str) -> None:
        del self.entries[name]
        self._write()

    def words(self, models: Sequence[str], dtype: str) -> tuple[list[str], dict[str, str]]:
        """What the engine is told for the models of these names or words, and the digests that it must find."""
        sources = [self.entries[each].source if each in self.entries else each for each in models]
        listed = {entry.source: entry.digest(dtype).hex() for entry in self.entries.values()}
        return sources, {source: listed[source] for source in sources if source in listed}

    def _write(self) -> None:
        write_private(self._path, msgspec.json.format(msgspec.json.encode(list(self.entries.values()))))


def find(source: str, *, fetch: Tell | None = None) -> ModelFolder:
    """The checked folder of a model; with *fetch*, which hears of its coming, the newest one of the hub.

    Raises what `check_folder` and `hub.fetch` do.
    """
    known = hub_id(source)
    name, path = (known, _of_the_hub(known, fetch)) if known else local_folder(source)
    return check_folder(name, path.resolve())


def entry_of(source: str, folder: ModelFolder, read: Callable[[int], object]) -> Entry:
    """Reads all files; *read* hears of every block."""
    portable = source in SELFTEST_WORDS or hub_id(source)
    return Entry(folder.name, source if portable else str(folder.path), listing(folder, read))


def differences(entry: Entry, now: Sequence[Listed]) -> list[str]:
    """In words, which files are not as they were."""
    before = {name: rest for name, *rest in entry.files}
    after = {name: rest for name, *rest in now}
    found = [f"{name} is gone" for name in before if name not in after]
    found += [f"{name} is new" for name in after if name not in before]
    return found + [f"{name} has changed" for name in before if name in after and before[name] != after[name]]


def _of_the_hub(name: str, fetch: Tell | None) -> Path:
    if fetch is not None:
        return hub.fetch(name, fetch)
    path = hub.cached(name)
    if path is None:
        raise ModelMissing(f"{name} is not on this machine; add it: cactus-mesh models add {name}")
    return path


def require(digest: str | None, entry: Entry, dtype: str) -> None:
    """Raises `ModelRefused` when the operator wanted another model."""
    found = entry.digest(dtype).hex()
    if digest is not None and not found.startswith(digest.lower()):
        raise ModelRefused(f"{entry.name} in {dtype} has the digest {found}, not {digest}; it is not added")
