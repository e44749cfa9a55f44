"""A network's list of known peers: who signed it, for which network, until when.

Decides whether a list may be used; where lists are kept, and what to do without one, is for others to decide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta

from cactus_mesh.errors import PeerListExpired, PeerListRejected
from cactus_mesh.identity import SIGNATURE_BYTES, PeerId, public_key_of, verify

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cactus_mesh.identity import Identity

MAX_LIST_BYTES: Final = 65_536
"""Of the file: more than `MAX_ADDRESSES` of the longest addresses that there are."""
MAX_ADDRESSES: Final = 128
MAX_VALID_SECONDS: Final = 400 * 86_400
"""A publisher who is gone must not be believed for ever; a year and a month, so that renewing it can be yearly."""
MAX_SKEW_SECONDS: Final = 86_400
"""How far in the future a list may be issued: clocks of machines that were just unpacked are wrong by hours."""

_DOMAIN: Final = b"cactus-mesh/peer-list/1\x00"


class PeerList(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is signed.  *issued_at* and *expires_at* are Unix seconds, *addresses* multiaddrs with ``/p2p/``."""

    network: Annotated[str, Meta(min_length=1, max_length=64)]
    issued_at: Annotated[int, Meta(ge=0, le=2**53)]
    expires_at: Annotated[int, Meta(ge=0, le=2**53)]
    addresses: Annotated[list[Annotated[str, Meta(max_length=400)]], Meta(min_length=1, max_length=MAX_ADDRESSES)]


class _Signed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    list: PeerList
    publisher: str
    signature: str


def _signing_bytes(peers: PeerList) -> bytes:
    """The fields in their order, as JSON without spaces: the layout of the file does not matter."""
    return _DOMAIN + msgspec.json.encode(peers)


def sign_list(publisher: Identity, network: str, addresses: Sequence[str], *, issued_at: int, expires_at: int) -> bytes:
    """The file.  Raises `PeerListRejected` for what no reader would take."""
    try:
        peers = msgspec.convert(
            {"network": network, "issued_at": issued_at, "expires_at": expires_at, "addresses": list(addresses)},
            PeerList,
        )
    except msgspec.ValidationError as error:
        raise PeerListRejected(f"such a list cannot be signed: {error}") from None
    if not 0 < expires_at - issued_at <= MAX_VALID_SECONDS:
        raise PeerListRejected(f"a list is valid for 1 second to {MAX_VALID_SECONDS // 86_400} days")
    signed = _Signed(peers, publisher.peer_id, publisher.sign(_signing_bytes(peers)).hex())
    return msgspec.json.format(msgspec.json.encode(signed), indent=2) + b"\n"


def open_list(data: bytes, *, network: str, publisher: PeerId, now: float) -> PeerList:
    """The list in the file *data*, which *publisher* must have signed for *network*.

    Raises `PeerListRejected` or `PeerListExpired`; the caller adds which file it was.
    """
    if len(data) > MAX_LIST_BYTES:
        raise PeerListRejected(f"it has {len(data)} bytes; a list has at most {MAX_LIST_BYTES}")
    try:
        signed = msgspec.json.decode(data, type=_Signed)
        signature = bytes.fromhex(signed.signature)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise PeerListRejected(f"it is not a signed list of peers ({error})") from None
    peers = signed.list
    if signed.publisher != publisher:
        raise PeerListRejected(f"it is signed by {signed.publisher[:64]}, but the network's publisher is {publisher}")
    if len(signature) != SIGNATURE_BYTES or not verify(public_key_of(publisher), _signing_bytes(peers), signature):
        raise PeerListRejected("its signature does not hold: it was changed after it was signed")
    if peers.network != network:
        raise PeerListRejected(f"it is for network {peers.network!r}, not {network!r}")
    _check_times(peers, now)
    return peers


def _check_times(peers: PeerList, now: float) -> None:
    if not 0 < peers.expires_at - peers.issued_at <= MAX_VALID_SECONDS:
        raise PeerListRejected(f"it claims to be valid for longer than {MAX_VALID_SECONDS // 86_400} days")
    if peers.issued_at > now + MAX_SKEW_SECONDS:
        days = (peers.issued_at - now) / 86_400
        raise PeerListRejected(f"it is issued {days:.0f} days from now by this machine's clock; set the clock")
    if peers.expires_at <= now:
        days = (now - peers.expires_at) / 86_400
        raise PeerListExpired(f"it expired {days:.1f} days ago by this machine's clock")
