"""Wall-clock time as an argument.  Deadlines and expiries are compared between machines, so they are Unix times."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], int]
"""Unix time in milliseconds."""


def wall_clock() -> int:
    return time.time_ns() // 1_000_000
