"""Which tasks have been here before, until they could not come again anyway."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

K = TypeVar("K")


class Seen(Generic[K]):
    """A bounded set whose entries expire.  Full, it forgets what it has known longest."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._until: OrderedDict[K, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._until)

    def has(self, key: K, now_ms: int) -> bool:
        return self._until.get(key, now_ms) > now_ms

    def add(self, key: K, until_ms: int, now_ms: int) -> None:
        """Remember *key* until *until_ms*, and forget the oldest entries that have expired."""
        self._until[key] = until_ms
        self._until.move_to_end(key)
        while self._until:
            oldest = next(iter(self._until))
            if self._until[oldest] > now_ms and len(self._until) <= self._limit:
                return
            del self._until[oldest]
