"""Move values as BCS and as a full node's JSON.

Python values are of the types that functions take: bool, integers, address, String, Object and vectors of these.  A
``vector<u8>`` is bytes, any other vector a list, an address or Object its long text form.  Each has one encoding.
Structs and Options exist as JSON only, and as BCS made from that.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from typing import TYPE_CHECKING, Any, Final

from cactus_mesh.identity import Address

if TYPE_CHECKING:
    from collections.abc import Mapping

Value = Any
"""A Move value in Python: int, bool, str, bytes, or a list of these."""
Json = Any

_INTEGER_BYTES: Final = {"u8": 1, "u16": 2, "u32": 4, "u64": 8, "u128": 16, "u256": 32}
_JSON_NUMBERS: Final = frozenset({"u8", "u16", "u32"})
"""Shown as numbers; longer ones as strings, since not every JSON reader keeps more than 53 bits."""
_OBJECT: Final = "0x1::object::Object<"
_OPTION: Final = "0x1::option::Option<"
MAX_VECTOR: Final = 65_536
"""Longer than any vector in a transaction, which has at most 64 KiB."""


class BadValue(ValueError):
    """Not a value of the type that the function declares."""


# --- BCS ---------------------------------------------------------------------------------------------------------


def encode(kind: str, value: Value) -> bytes:
    """The BCS bytes of *value* as Move type *kind*.  Raises `BadValue`."""
    try:
        return _encode(kind, value)
    except (OverflowError, TypeError, AttributeError, ValueError) as error:
        raise BadValue(f"{value!r:.80} is not a {kind}") from error


def _encode(kind: str, value: Value) -> bytes:
    match kind:
        case "bool":
            return b"\x01" if value else b"\x00"
        case "u64":
            return int.to_bytes(value, 8, "little")
        case "address":
            return address_bytes(value)
        case "vector<u8>":
            return uleb128(len(value)) + bytes(value)
        case "0x1::string::String":
            return _encode("vector<u8>", value.encode())
        case _ if kind in _INTEGER_BYTES:
            return int.to_bytes(value, _INTEGER_BYTES[kind], "little")
        case _ if kind.startswith(_OBJECT):
            return address_bytes(value)
        case _:
            inner = _element(kind)
            return uleb128(len(value)) + b"".join(_encode(inner, item) for item in value)


def decode(kind: str, data: bytes) -> Value:
    """The value whose only BCS encoding as *kind* is *data*.  Raises `BadValue`."""
    value, end = _decode(kind, data, 0)
    if end != len(data):
        raise BadValue(f"{len(data) - end} bytes too many for a {kind}")
    return value


def _decode(kind: str, data: bytes, at: int) -> tuple[Value, int]:
    match kind:
        case "bool":
            if data[at : at + 1] not in (b"\x00", b"\x01"):
                raise BadValue("not a bool")
            return data[at] == 1, at + 1
        case "u64":
            piece, at = take(data, at, 8)
            return int.from_bytes(piece, "little"), at
        case "address":
            piece, at = take(data, at, 32)
            return Address("0x" + piece.hex()), at
        case "vector<u8>":
            length, at = read_length(data, at)
            return take(data, at, length)
        case "0x1::string::String":
            piece, at = _decode("vector<u8>", data, at)
            return utf8(piece), at
        case _ if kind in _INTEGER_BYTES:
            piece, at = take(data, at, _INTEGER_BYTES[kind])
            return int.from_bytes(piece, "little"), at
        case _ if kind.startswith(_OBJECT):
            return _decode("address", data, at)
        case _:
            return _decode_vector(_element(kind), data, at)


def _decode_vector(inner: str, data: bytes, at: int) -> tuple[list[Value], int]:
    length, at = read_length(data, at)
    items = []
    for _ in range(length):
        item, at = _decode(inner, data, at)
        items.append(item)
    return items, at


def utf8(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise BadValue("not UTF-8") from None


def take(data: bytes, at: int, count: int) -> tuple[bytes, int]:
    """*count* bytes from *at*, and where they end.  Raises `BadValue`."""
    piece = data[at : at + count]
    if len(piece) != count:
        raise BadValue("too short")
    return piece, at + count


def uleb128(number: int) -> bytes:
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def read_length(data: bytes, at: int) -> tuple[int, int]:
    """A ULEB128 number up to `MAX_VECTOR` in its shortest form.  Raises `BadValue`."""
    number = shift = 0
    while True:
        (byte,), at = take(data, at, 1)
        number |= (byte & 0x7F) << shift
        shift += 7
        if number > MAX_VECTOR or shift > 28:
            raise BadValue("a vector is too long")
        if byte < 0x80:
            break
    if shift > 7 and byte == 0:
        raise BadValue("a length is not in its shortest form")
    return number, at


def _element(kind: str) -> str:
    if not (kind.startswith("vector<") and kind.endswith(">")):
        raise BadValue(f"unknown type {kind}")
    return kind[len("vector<") : -1]


def address_bytes(text: str) -> bytes:
    """32 bytes of any AIP-40 form of an address."""
    digits = text.removeprefix("0x")
    if not 1 <= len(digits) <= 64 or not digits.isascii() or not digits.isalnum():
        raise BadValue(f"{text!r:.80} is not an address: 0x and up to 64 hex digits")
    try:
        return bytes.fromhex(digits.zfill(64))
    except ValueError:
        raise BadValue(f"{text!r:.80} is not an address: 0x and up to 64 hex digits") from None


def long_address(text: str) -> Address:
    return Address("0x" + address_bytes(text).hex())


def short_address(text: str) -> str:
    """AIP-40's text form: short for 0x0 to 0xf, else all 64 digits."""
    head, last = text[2:-1], text[-1]
    return f"0x{last}" if not head.strip("0") else text


# --- JSON --------------------------------------------------------------------------------------------------------


def from_json(kind: str, data: Json) -> Value:
    """A view's argument: numbers up to 32 bits as numbers, longer ones as strings, bytes as hex.  Raises `BadValue`."""
    if kind.startswith(_OBJECT):
        data = data.get("inner") if isinstance(data, dict) else data
        kind = "address"
    match kind:
        case "bool" if isinstance(data, bool):
            return data
        case _ if kind in _JSON_NUMBERS and isinstance(data, int) and not isinstance(data, bool):
            return _integer(kind, str(data))
        case _ if kind in _INTEGER_BYTES and kind not in _JSON_NUMBERS and isinstance(data, str):
            return _integer(kind, data)
        case "address" if isinstance(data, str):
            return long_address(data)
        case "0x1::string::String" if isinstance(data, str):
            return data
        case "vector<u8>" if isinstance(data, str):
            return _hex(data)
        case _ if kind.startswith("vector<") and kind != "vector<u8>" and isinstance(data, list):
            return [from_json(_element(kind), item) for item in data]
    raise BadValue(f"{data!r:.80} is not a {kind}")


def _integer(kind: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 78) or int(text) >= 1 << 8 * _INTEGER_BYTES[kind]:
        raise BadValue(f"{text!r:.80} is not a {kind}")
    return int(text)


def encode_json(kind: str, data: Json, structs: Mapping[str, Mapping[str, str]]) -> bytes:
    """The BCS bytes of a value that JSON shows; *structs*: the types of each struct's fields.  Raises `BadValue`."""
    if kind in structs:
        return b"".join(encode_json(inner, data[name], structs) for name, inner in structs[kind].items())
    if kind.startswith(_OPTION):
        kind, data = f"vector<{kind[len(_OPTION) : -1]}>", data["vec"]
    if kind.startswith("vector<") and isinstance(data, list):
        return uleb128(len(data)) + b"".join(encode_json(_element(kind), item, structs) for item in data)
    return encode(kind, from_json(kind, data))


def _hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        raise BadValue(f"{text!r:.80} is not hex") from None


def to_json(value: Any) -> Json:
    """A record, event or plain value as a full node shows it: integers as strings, bytes as hex, Option as a vec."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return str(value)
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, str):
        return short_address(value) if value.startswith("0x") and len(value) == 66 else value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: _field(getattr(value, name), optional) for name, optional in _fields(type(value))}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return {name: to_json(item) for name, item in zip(value._fields, value, strict=True)}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    raise BadValue(f"no JSON for a {type(value).__name__}")


def option(value: Any) -> Json:
    return {"vec": [] if value is None else [to_json(value)]}


def _field(value: Any, optional: bool) -> Json:
    return option(value) if optional else to_json(value)


@functools.cache
def _fields(record: type) -> tuple[tuple[str, bool], ...]:
    """Each field's name, and whether it is an Option in Move."""
    hints = typing.get_type_hints(record)
    return tuple(
        (entry.name, types.NoneType in typing.get_args(hints[entry.name])) for entry in dataclasses.fields(record)
    )
