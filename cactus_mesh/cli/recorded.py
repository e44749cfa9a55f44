"""How records of tasks look outside: their JSON, whose keys stay as they are, and asking the ledger what it paid."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any, Final

from cactus_mesh.errors import LedgerError, TaskIdMalformed, TaskNotKept, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from cactus_mesh.config import Config
    from cactus_mesh.ports import Ledger
    from cactus_mesh.records import Records, TaskRecord

LOOKED_UP_AT_ONCE: Final = 8
MOST_LOOKED_UP: Final = 1_000
"""In one command; a public ledger answers some tens a second, and the next command goes on with the rest."""
_AGO: Final = re.compile(r"(\d{1,6})\s*([hdw])")
_HOURS: Final = {"h": 1, "d": 24, "w": 168}
COLUMNS: Final = (
    *("task_id", "role", "state", "code", "at", "model", "kind", "client", "router", "orchestrator", "delegate"),
    *("prompt_tokens", "tokens", "first_token_ms", "latency_ms", "compute_ms", "max_price_octas", "price_octas"),
    *("paid_octas", "to_orchestrator_octas", "to_delegate_octas", "fee_octas", "until", "chain", "party"),
)
"""Of every export, in this order; later versions add to the end."""


def as_json(record: TaskRecord) -> dict[str, Any]:
    """Without its documents."""
    found = {
        name: getattr(record, name.removesuffix("_octas"))
        for name in COLUMNS
        if name not in ("task_id", "to_orchestrator_octas", "to_delegate_octas", "fee_octas")
    }
    found |= {
        "task_id": record.task_id.hex(),
        "at": round(record.at, 3),
        "to_orchestrator_octas": record.to_orchestrator,
        "to_delegate_octas": record.to_delegate,
        "fee_octas": record.fee,
    }
    return {name: found[name] for name in COLUMNS}


def chain_of(config: Config) -> str:
    return f"{config.chain_id}:{config.contract}"


def existing(path: Path) -> Path | None:
    """To open the records without making a file where there is none."""
    return path if path.exists() else None


def one_task(records: Records, text: str) -> list[TaskRecord]:
    """What is known of the task whose id begins so, of each part in it.  Raises `TaskNotKept` or `TaskIdMalformed`."""
    beginning = text.strip().lower().removeprefix("0x").rstrip("…")
    if not re.fullmatch("[0-9a-f]{1,32}", beginning):
        raise TaskIdMalformed(f"{text!r} is no task id: give its 32 hex digits, or how they begin")
    found = records.named(beginning)
    if not found:
        raise TaskNotKept(f"no task of this home begins with {beginning}; see which there are: cactus-mesh tasks")
    if len({each.task_id for each in found}) > 1:
        some = ", ".join(dict.fromkeys(each.task_id.hex()[: len(beginning) + 4] for each in found))
        raise TaskIdMalformed(f"several tasks begin with {beginning}: {some}; give more of it")
    return found


def moment(text: str | None, *, end: bool = False) -> float | None:
    """Unix seconds: ``2026-11-23``, ``2026-11-23T08:00``, ``36h``, ``7d``, ``2w``; a day as an *end* is whole."""
    if text is None:
        return None
    ago = _AGO.fullmatch(text.strip())
    if ago is not None:
        return time.time() - 3_600 * int(ago[1]) * _HOURS[ago[2]]
    from datetime import UTC, datetime, timedelta

    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        raise UsageError(
            f"{text!r} is no time; write a day like 2026-11-23, a time like 2026-11-23T08:00 (UTC), or 36h, 7d, 2w ago"
        ) from None
    if end and len(text.strip()) == len("2026-11-23"):
        found += timedelta(days=1)
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


async def look_up(records: Records, ledger: Ledger, wanted: list[TaskRecord]) -> list[TaskRecord]:
    """Ask the ledger what it paid for these, and keep it; those that it may still pay are left out.

    Raises `LedgerError` after keeping what was found by then.
    """
    import trio

    from cactus_mesh.identity import Address

    found: list[TaskRecord] = []
    waiting = list(wanted)

    async def ask() -> None:
        while waiting:
            record = waiting.pop()
            view = await ledger.task(Address(record.client), record.task_id)
            if view is not None and view.split is not None:
                found.append(record.settled(view.split))
            elif time.time() > record.until:
                found.append(record.settled(None))

    try:
        async with trio.open_nursery() as nursery:
            for _ in range(LOOKED_UP_AT_ONCE):
                nursery.start_soon(ask)
    except* LedgerError as group:
        from cactus_mesh.concurrency import first_of

        raise first_of(group) from None
    finally:
        records.settle(found)
    return found
