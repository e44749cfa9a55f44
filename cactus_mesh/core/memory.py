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

    def full(self, now_ms: int) -> bool:
        """Whether the next `add` would make it forget something that has not expired."""
        self._drop_expired(now_ms)
        return len(self._until) >= self._limit

    def add(self, key: K, until_ms: int, now_ms: int) -> None:
        """Remember *key* until *until_ms*."""
        self._until[key] = until_ms
        self._until.move_to_end(key)
        self._drop_expired(now_ms)
        if len(self._until) > self._limit:
            self._until.popitem(last=False)

    def _drop_expired(self, now_ms: int) -> None:
        """From the oldest on, as far as they have expired."""
        while self._until:
            oldest = next(iter(self._until))
            if self._until[oldest] > now_ms:
                return
            del self._until[oldest]
