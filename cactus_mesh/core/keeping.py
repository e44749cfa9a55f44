"""What a home remembers of its tasks, and for how long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta


@dataclass(frozen=True, slots=True)
class RecordPolicy:
    """*keep* figures of so many tasks for so many days; never prompts, never texts.

    *receipts* keeps the signed ones too, in at most *receipts_mib*: they can be audited, and hold the answers' token
    ids.
    """

    keep: bool = True
    receipts: bool = True
    days: Annotated[int, Meta(ge=1, le=3_650)] = 90
    tasks: Annotated[int, Meta(ge=1, le=10_000_000)] = 100_000
    receipts_mib: Annotated[int, Meta(ge=1, le=65_536)] = 256
