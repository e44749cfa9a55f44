"""Reads BCS strictly: each value has one encoding, everything else is refused, so that no transaction has two hashes.

Knows the shapes that transactions are made of, nothing of what they mean.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, TypeVar

from cactus_mesh.identity import Address
from cactus_mesh.ledger.values import BadValue, address_bytes, read_length, short_address, take, uleb128, utf8

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

MAX_TYPE_DEPTH: Final = 8
"""Aptos's limit for nested type arguments."""
_IDENTIFIER: Final = re.compile(r"[a-zA-Z][a-zA-Z0-9_]*|_[a-zA-Z0-9_]+")
_PRIMITIVES: Final = {
    0: "bool", 1: "u8", 2: "u64", 3: "u128", 4: "address", 5: "signer", 8: "u16", 9: "u32", 10: "u256",
}  # fmt: skip
_NUMBERS: Final = {name: number for number, name in _PRIMITIVES.items()}
_VECTOR: Final = 6
_STRUCT: Final = 7


class Reader:
    """Takes values from the front of *data*.  Everything raises `BadValue` where the bytes are not such a value."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        piece, self.at = take(self.data, self.at, count)
        return piece

    def u8(self) -> int:
        return self.take(1)[0]

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def length(self) -> int:
        """A ULEB128 number in its shortest form: the length of a vector, or the number of an enum's variant."""
        number, self.at = read_length(self.data, self.at)
        return number

    def blob(self, size: int | None = None) -> bytes:
        """A vector<u8>, of *size* bytes if that is given."""
        length = self.length()
        if size is not None and length != size:
            raise BadValue(f"{length} bytes where there must be {size}")
        return self.take(length)

    def address(self) -> Address:
        return Address("0x" + self.take(32).hex())

    def identifier(self) -> str:
        name = utf8(self.blob())
        if not _IDENTIFIER.fullmatch(name):
            raise BadValue("not an identifier")
        return name

    def vector(self, read: Callable[[], T]) -> list[T]:
        return [read() for _ in range(self.length())]

    def type_tag(self, depth: int = 1) -> str:
        """A type as a full node writes it, with short addresses."""
        if depth > MAX_TYPE_DEPTH:
            raise BadValue("types nest too deeply")
        variant = self.length()
        if variant in _PRIMITIVES:
            return _PRIMITIVES[variant]
        if variant == _VECTOR:
            return f"vector<{self.type_tag(depth + 1)}>"
        if variant == _STRUCT:
            name = f"{short_address(self.address())}::{self.identifier()}::{self.identifier()}"
            inner = self.vector(lambda: self.type_tag(depth + 1))
            return f"{name}<{', '.join(inner)}>" if inner else name
        raise BadValue(f"no type has the number {variant}")

    def end(self) -> None:
        if self.at != len(self.data):
            raise BadValue(f"{len(self.data) - self.at} remaining bytes")


def encode_type(text: str, depth: int = 1) -> bytes:
    """The BCS of a type as people and full nodes write it.  Raises `BadValue`."""
    head, _, inner = text.strip().partition("<")
    if depth > MAX_TYPE_DEPTH or bool(inner) != text.strip().endswith(">"):
        raise BadValue(f"{text!r:.80} is not a type")
    arguments = [encode_type(each, depth + 1) for each in _split(inner[:-1])]
    if head == "vector" and len(arguments) == 1:
        return bytes([_VECTOR]) + arguments[0]
    if head in _NUMBERS and not arguments:
        return bytes([_NUMBERS[head]])
    address, module, name = _names(head)
    strings = b"".join(uleb128(len(each)) + each.encode() for each in (module, name))
    return bytes([_STRUCT]) + address_bytes(address) + strings + uleb128(len(arguments)) + b"".join(arguments)


def encode_function(module: str, function: str, type_arguments: list[str], arguments: list[bytes]) -> bytes:
    """The BCS of an entry function and its encoded *arguments*.  Raises `BadValue`."""
    address, home, name = _names(f"{module}::{function}")
    strings = b"".join(uleb128(len(each)) + each.encode() for each in (home, name))
    types = uleb128(len(type_arguments)) + b"".join(map(encode_type, type_arguments))
    return address_bytes(address) + strings + types + encode_blobs(arguments)


def encode_blobs(blobs: list[bytes]) -> bytes:
    return uleb128(len(blobs)) + b"".join(uleb128(len(each)) + each for each in blobs)


def _names(text: str) -> tuple[str, str, str]:
    parts = text.split("::")
    if len(parts) != 3 or not all(map(_IDENTIFIER.fullmatch, parts[1:])):
        raise BadValue(f"{text!r:.80} is not address::module::name")
    return parts[0], parts[1], parts[2]


def _split(text: str) -> list[str]:
    """The parts between commas outside of brackets."""
    parts, depth, start = [], 0, 0
    for at, char in enumerate(text):
        depth += (char == "<") - (char == ">")
        if char == "," and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    return [*parts, text[start:]] if text.strip() else []
