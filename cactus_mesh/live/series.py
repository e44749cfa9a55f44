"""Numbers over time in rings of fixed size: a second apart for five minutes, a minute apart for six hours."""

from __future__ import annotations

from collections import deque
from typing import Any, Final

FINE_SECONDS: Final = 1
FINE_POINTS: Final = 300
COARSE_SECONDS: Final = 60
COARSE_POINTS: Final = 360
_DIGITS: Final = 2

Sample = dict[str, float | None]


class Series:
    """One sample of every *name* a second.  None stands for "nothing was there to be measured", not for zero."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names
        self._fine: deque[tuple[float, Sample]] = deque(maxlen=FINE_POINTS)
        self._coarse: deque[tuple[float, Sample]] = deque(maxlen=COARSE_POINTS)
        self._minute: list[Sample] = []

    def add(self, now: float, sample: Sample) -> None:
        self._fine.append((now, sample))
        self._minute.append(sample)
        if len(self._minute) * FINE_SECONDS >= COARSE_SECONDS:
            self._coarse.append((now, {name: self._mean(name) for name in self._names}))
            self._minute.clear()

    def _mean(self, name: str) -> float | None:
        known = [value for each in self._minute if (value := each[name]) is not None]
        return sum(known) / len(known) if known else None

    def told(self) -> dict[str, Any]:
        return {
            "fine": self._ring(self._fine, FINE_SECONDS, FINE_POINTS),
            "coarse": self._ring(self._coarse, COARSE_SECONDS, COARSE_POINTS),
        }

    def _ring(self, ring: deque[tuple[float, Sample]], every: int, most: int) -> dict[str, Any]:
        return {
            "every_seconds": every,
            "points": most,
            "ends_at": round(ring[-1][0], 1) if ring else None,
            "values": {name: [_short(sample[name]) for _, sample in ring] for name in self._names},
        }


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, _DIGITS)
