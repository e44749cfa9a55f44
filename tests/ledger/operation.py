"""One call of the contract as plain data, so that a sequence of them can be run again without some of its members."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from cactus_mesh.identity import Address
    from cactus_mesh.ledger.rules.state import TaskKey

START: Final = 1_800_000_000
"""When each sequence begins."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of an entry or a view, or a gift of the faucet ("mint")."""

    sender: Address
    now: int
    entry: str
    arguments: tuple[Any, ...]
    tasks: tuple[TaskKey, ...] = ()

    def __str__(self) -> str:
        shown = ", ".join(_short(each) for each in self.arguments)
        return f"at {self.now - START:+} {self.sender[:8]} {self.entry}({shown})"


def _short(value: Any) -> str:
    if isinstance(value, bytes):
        return f"{value.hex()[:8]}({len(value)})"
    if isinstance(value, str):
        return value[:8]
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_short(each) for each in value) + "]"
    return str(value)
