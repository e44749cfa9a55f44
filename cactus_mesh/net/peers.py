"""The address book: where peers were said to be, which of them were of use, and the file that outlives a restart.

It decides what is kept; it dials nobody.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta

from cactus_mesh.errors import StateMalformed
from cactus_mesh.identity import PeerId
from cactus_mesh.net.addresses import parse_address, usable
from cactus_mesh.net.frames import MAX_ADDRESSES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cactus_mesh.net.addresses import Scope

MAX_PEERS: Final = 4_096
"""In memory: the adverts that a router ranks, and some."""
MAX_FILE_BYTES: Final = 4 << 20
_VERSION: Final = 1


@dataclass(slots=True)
class _Entry:
    addresses: list[str] = field(default_factory=list)
    told: frozenset[str] = frozenset()
    """Those that it named itself, when it spoke last."""
    useful_at: float = 0.0
    """When a connection to it last worked, in Unix seconds; 0 for never."""


class _Remembered(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    peer: Annotated[str, Meta(max_length=128)]
    addresses: Annotated[list[Annotated[str, Meta(max_length=400)]], Meta(max_length=MAX_ADDRESSES)]
    useful_at: float


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: int
    network: str
    peers: list[_Remembered]


_decode = msgspec.json.Decoder(_File).decode


class AddressBook:
    """Addresses by peer, whose id they do not repeat, the newest first.

    At its bound, the peer heard of longest ago and never of use is dropped.
    """

    def __init__(self, *, remember: int) -> None:
        self._entries: OrderedDict[PeerId, _Entry] = OrderedDict()
        self._remember = remember

    def learn(self, peer: PeerId, addresses: Iterable[str], *, hearsay: bool = False) -> None:
        """Put *addresses* before those known already, or after them when somebody else said so.

        Unusable ones are left out.
        """
        found = [str(address) for text in addresses if (address := usable(text, peer)) is not None]
        if not found or (hearsay and peer not in self._entries and len(self._entries) >= MAX_PEERS):
            return
        entry = self._entries.setdefault(peer, _Entry())
        both = [*entry.addresses, *found] if hearsay else [*found, *entry.addresses]
        entry.addresses = list(dict.fromkeys(both))[:MAX_ADDRESSES]
        self._entries.move_to_end(peer)
        if len(self._entries) > MAX_PEERS:
            never_useful = (known for known, other in self._entries.items() if not other.useful_at)
            del self._entries[next(never_useful, next(iter(self._entries)))]

    def told(self, peer: PeerId, addresses: Sequence[str], scope: Scope) -> None:
        """*peer* names its *addresses* over a connection of this *scope*: those that it named before, and does not name
        any more, are forgotten."""
        entry = self._entries.get(peer)
        if entry is not None:
            over = {text for text in entry.told if parse_address(text).scope >= scope} - set(addresses)
            entry.addresses = [text for text in entry.addresses if text not in over]
            entry.told = (entry.told - over) | frozenset(addresses)
        self.learn(peer, addresses)
        if entry is None and peer in self._entries:
            self._entries[peer].told = frozenset(addresses)

    def useful(self, peer: PeerId, now: float) -> None:
        """A connection to *peer* works now."""
        if peer in self._entries:
            self._entries[peer].useful_at = now

    def addresses(self, peer: PeerId) -> list[str]:
        entry = self._entries.get(peer)
        return list(entry.addresses) if entry else []

    def remembered(self) -> list[PeerId]:
        """Peers that were of use, the most recent first; as many as are worth keeping."""
        useful = [(entry.useful_at, peer) for peer, entry in self._entries.items() if entry.useful_at]
        return [peer for _, peer in sorted(useful, reverse=True)[: self._remember]]

    def __len__(self) -> int:
        return len(self._entries)

    def dump(self, network: str) -> bytes:
        """What `load` reads."""
        peers = [
            _Remembered(peer, self._entries[peer].addresses, self._entries[peer].useful_at)
            for peer in self.remembered()
        ]
        return msgspec.json.format(msgspec.json.encode(_File(_VERSION, network, peers)), indent=1)

    def load(self, path: Path, network: str) -> None:
        """Read what `dump` gave; a missing file is an empty one, another network's peers are of no use.

        Raises `StateMalformed`, saying what to do.
        """
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise StateMalformed(f"{path} has more than {MAX_FILE_BYTES} bytes; {_REMEDY}")
            file = _decode(path.read_bytes())
        except FileNotFoundError:
            return
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise StateMalformed(f"cannot read the known peers in {path}: {error}; {_REMEDY}") from None
        if file.version != _VERSION:
            raise StateMalformed(f"{path} is of version {file.version}, this program reads {_VERSION}; {_REMEDY}")
        for known in reversed(file.peers if file.network == network else []):
            peer = PeerId(known.peer)
            self.learn(peer, known.addresses)
            self.useful(peer, known.useful_at)


_REMEDY: Final = "delete it, it is written anew as peers are met"


def write_file(path: Path, data: bytes) -> None:
    """Write *path*, mode 0600, all at once or not at all.  Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".peers-")  # mkstemp creates with 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
