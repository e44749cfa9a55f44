"""The frames of ``/cactus/rpc/1``: bytes to frames and back, bounded, without I/O and without meaning.

A frame is a 4-byte big-endian length of what follows, one byte of kind, a 4-byte call id (0 where there is none) and
a body.  What the kinds mean is decided in `calls`.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta

from cactus_mesh.errors import PeerFailed, ProtocolViolation, UsageError, from_wire
from cactus_mesh.messages import MAX_MESSAGE_BYTES

if TYPE_CHECKING:
    from cactus_mesh.errors import MeshError

Frame = tuple[int, int, bytes]
"""Kind, call id, body."""

HELLO: Final = 1
"""The sealed `messages.Hello`; the first frame in each direction."""
REFUSE: Final = 2
"""Instead of a HELLO, or later: why this connection ends (an error)."""
ABOUT: Final = 3
"""Where else the sender can be reached, and what it serves; may be sent again when that changes."""
PING: Final = 4
PONG: Final = 5
"""The ping's 8 bytes back."""
OPEN: Final = 16
"""From the caller: one byte of length, the method's name, the payload."""
CANCEL: Final = 17
"""From the caller: it no longer listens.  There is no answer."""
CREDIT: Final = 18
"""From the caller: 4 bytes, how much more of the reply it can hold."""
ITEM: Final = 32
"""To the caller: one item of the reply."""
ITEMS: Final = 33
"""To the caller: several items, a msgpack array of byte strings."""
LAST: Final = 34
"""To the caller: one item, and the reply ends."""
END: Final = 35
"""To the caller: the reply ends."""
FAIL: Final = 36
"""To the caller: the reply ends with an error."""

MAX_METHOD_BYTES: Final = 200
MAX_BODY_BYTES: Final = MAX_MESSAGE_BYTES + 1024
"""One message and a method's name; everything longer is several frames or an error."""
MAX_ITEMS: Final = 8_192
"""In one ITEMS frame; as many empty ones as a call's first credit lets through."""
MAX_ADDRESSES: Final = 16

_HEADER: Final = Struct(">IBI")
_LENGTH_BYTES: Final = 4
_FIXED_BYTES: Final = _HEADER.size - _LENGTH_BYTES
_MAX_FRAME_BYTES: Final = MAX_BODY_BYTES + _FIXED_BYTES


def encode_frame(kind: int, call: int, body: bytes) -> bytes:
    return _HEADER.pack(_FIXED_BYTES + len(body), kind, call) + body


class FrameDecoder:
    """Cuts a byte stream into frames.  Holds at most one unfinished frame."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._needed = _LENGTH_BYTES

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that *data* completes.  Raises `ProtocolViolation`; nothing may be fed after that."""
        if self._rest:
            self._rest += data
            if len(self._rest) < self._needed:
                return []
            data = bytes(self._rest)
            self._rest.clear()
        frames: list[Frame] = []
        at, end, needed = 0, len(data), _LENGTH_BYTES
        unpack = _HEADER.unpack_from
        while end - at >= _HEADER.size:
            length, kind, call = unpack(data, at)
            if not _FIXED_BYTES <= length <= _MAX_FRAME_BYTES:
                raise ProtocolViolation(f"a frame of {length} bytes; allowed are {_FIXED_BYTES} to {_MAX_FRAME_BYTES}")
            needed = _LENGTH_BYTES + length
            if end - at < needed:
                break
            frames.append((kind, call, data[at + _HEADER.size : at + needed]))
            at += needed
            needed = _LENGTH_BYTES
        if at < end:
            self._rest += data[at:] if at else data
        self._needed = max(needed, _HEADER.size)
        return frames


class _WireError(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    code: Annotated[str, Meta(max_length=64)]
    message: Annotated[str, Meta(max_length=2_000)]
    retry: bool


class About(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a peer says beside its hello: where it can be reached, and at which endpoint (``/ip4/…/tcp/…``) it sees the
    hearer, empty through a relay.  *dht*: it answers DHT queries; *relay*: it carries circuits."""

    addresses: Annotated[list[Annotated[str, Meta(max_length=400)]], Meta(max_length=MAX_ADDRESSES)]
    dht: bool
    relay: bool
    observed: Annotated[str, Meta(max_length=80)]


_encode = msgspec.msgpack.Encoder().encode
_errors = msgspec.msgpack.Decoder(_WireError)
_items: msgspec.msgpack.Decoder[list[bytes]] = msgspec.msgpack.Decoder(
    Annotated[list[bytes], Meta(max_length=MAX_ITEMS)]
)
_about = msgspec.msgpack.Decoder(About)


def encode_error(error: MeshError) -> bytes:
    return _encode(_WireError(error.code[:64], error.message[:2_000], error.retry))


def decode_error(body: bytes) -> MeshError:
    """The error as its class.  Its text is for terminals and logs, so control characters do not come through."""
    try:
        wire = _errors.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolViolation(f"a malformed error: {error}") from None
    text = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in wire.message)
    told = from_wire(wire.code, text, wire.retry)
    if isinstance(told, UsageError):  # what is wrong with our own files and options, no peer can tell us
        return PeerFailed(f"the peer blames this one's own set-up ({wire.code}), which it cannot know")
    return told


def encode_items(items: list[bytes]) -> bytes:
    return _encode(items)


def decode_items(body: bytes) -> list[bytes]:
    try:
        return _items.decode(body)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ProtocolViolation(f"a malformed list of items: {error}") from None


def encode_about(about: About) -> bytes:
    return _encode(about)


def decode_about(body: bytes) -> About:
    try:
        return _about.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolViolation(f"malformed words about a peer: {error}") from None


def encode_open(method: str, payload: bytes) -> bytes:
    name = method.encode()
    assert len(name) <= MAX_METHOD_BYTES, "a method's name is at most 200 bytes"
    return bytes((len(name),)) + name + payload


def decode_open(body: bytes) -> tuple[str, bytes]:
    length = body[0] if body else 0
    if not 0 < length <= MAX_METHOD_BYTES or len(body) <= length:
        raise ProtocolViolation("a call without a method's name")
    try:
        method = body[1 : 1 + length].decode()
    except UnicodeDecodeError:
        raise ProtocolViolation("a method's name that is not UTF-8") from None
    return method, body[1 + length :]
