"""What requests say in their paths and queries."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from cactus_mesh.ledger.devnet.refusals import Refused, bad_input, misread, not_found
from cactus_mesh.ledger.values import BadValue, long_address, short_address

if TYPE_CHECKING:
    from cactus_mesh.identity import Address
    from cactus_mesh.ledger.devnet.http import Request

T = TypeVar("T")

DEFAULT_PAGE: Final = 25
MAX_PAGE: Final = 100
"""Both are a full node's for transactions."""
_HASH: Final = re.compile(r"[0-9a-fA-F]{64}")
_ADDRESS: Final = re.compile(r"(?<![\w:])0x[0-9a-fA-F]{1,64}(?=::)")


def decoded(body: bytes, kind: type[T], *, strict: bool = True) -> T:
    """A body in JSON.  Raises `Refused`."""
    try:
        return msgspec.json.decode(body, type=kind, strict=strict)
    except (msgspec.DecodeError, RecursionError) as error:
        raise bad_input(f"parse request payload error: {str(error)[:200]}") from None


def required(request: Request, name: str) -> str:
    if name not in request.query:
        raise misread(f"the query lacks {name}")
    return request.query[name]


def number(text: str) -> int:
    """A number that fits a signed 64-bit column."""
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise misread(f"{text[:40]!r} is not a number")
    return int(text)


def account_in(path: str) -> Address:
    try:
        return long_address(path)
    except BadValue as error:
        raise misread(f"failed to parse path `address`: {str(error)[:200]}") from None


def hash_in(path: str) -> str:
    """A transaction's hash as the ledger writes it."""
    digits = path.removeprefix("0x")
    if not _HASH.fullmatch(digits):
        raise misread(f"failed to parse path `txn_hash`: {path[:70]!r} is not a hash of 64 hex digits")
    return f"0x{digits.lower()}"


def switched(request: Request, name: str) -> bool:
    return request.query.get(name, "false").lower() == "true"


def page(request: Request) -> tuple[int | None, int]:
    """From where, and how many at most.  An empty value, as the Python SDK sends it, is none."""
    start, limit = request.query.get("start"), request.query.get("limit")
    count = number(limit) if limit else DEFAULT_PAGE
    if count == 0:
        raise bad_input("Given limit value (0) must not be zero")
    return number(start) if start else None, min(count, MAX_PAGE)


def refuse_history(request: Request, latest: int) -> None:
    """Only the present state is kept; an answer about another version would be a wrong one."""
    asked = request.query.get("ledger_version")
    if not asked:
        return
    if number(asked) < latest:
        raise Refused(410, "version_pruned", f"Ledger version({asked}) has been pruned")
    if number(asked) > latest:
        raise not_found("version_not_found", f"Ledger version({asked}) not found")


def function_name(text: str) -> tuple[str, str]:
    parts = text.split("::")
    if len(parts) != 3:
        raise bad_input(f"{text[:200]!r} is not a function: address::module::name")
    return f"{long_address(parts[0])}::{parts[1]}", parts[2]


def short_type(text: str) -> str:
    """A type's name with its addresses in AIP-40 form; text that is no type names nothing and stays as it is."""
    spaced = ", ".join(part.strip() for part in text.split(","))
    return _ADDRESS.sub(lambda found: short_address(long_address(found[0])), spaced)
