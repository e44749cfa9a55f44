"""How often something may happen: a rate on average and a burst.  Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class TokenBucket:
    """Allows *per_second* on average and a burst of *size*."""

    per_second: float
    size: float
    tokens: float
    filled_at: float

    @classmethod
    def full(cls, per_second: float, size: float, now: float) -> TokenBucket:
        return cls(per_second, size, size, now)

    def take(self, now: float) -> bool:
        self.tokens = min(self.size, self.tokens + (now - self.filled_at) * self.per_second)
        self.filled_at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True
