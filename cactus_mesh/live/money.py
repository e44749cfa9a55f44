"""What an account has, and every amount that is locked with its reason, as JSON; decided by `core.holdings`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from cactus_mesh.core.holdings import holdings

if TYPE_CHECKING:
    from cactus_mesh.core.holdings import Standing

_LINES: Final = 64
"""Told of at most; an account with more has a command for that."""
_OF: Final = {"coins": "coins_octas", "deposit": "deposit_octas", "stake": "stake_octas"}


def money_told(standing: Standing | None, now: float) -> dict[str, Any]:
    """Amounts are None while the ledger has not told anything."""
    if standing is None:
        return {**dict.fromkeys((*_OF.values(), "locked_octas", "min_stake_octas")), "holdings": []}
    lines = holdings(standing, now)
    sums = {name: sum(line.amount for line in lines if line.own and line.kind == kind) for kind, name in _OF.items()}
    locked = sum(line.amount for line in lines if line.own and line.kind not in ("coins", "deposit"))
    return {
        **sums,
        "locked_octas": locked,
        "min_stake_octas": standing.min_stake,
        "holdings": [asdict(line) for line in lines[:_LINES]],
    }
