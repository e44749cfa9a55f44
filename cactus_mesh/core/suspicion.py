"""What adds up over many audited answers: cheats that are too subtle to be sure of in any one of them.

A Shiryaev-Roberts detector over the count of mismatched tokens, mixed over several rates that a cheat may have.  While
an honest node mismatches at most the honest rate, whatever it is asked, it takes on average at least `PATIENCE` audited
answers until it is suspected once (Shin, Ramdas, Rinaldo: E-detectors, 2023); a second verifier is asked even then.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

PATIENCE: Final = 1_000_000
RATES: Final = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
"""Of mismatched tokens: from weights rounded to eight bits to another model."""
MOST: Final = 700.0
"""Of a logarithm, so that exp() of it is still a number; suspicion is certain long before."""


@dataclass(frozen=True, slots=True)
class Suspicion:
    """One node's record for one model.  *levels* are logarithms, one for each of `RATES`."""

    levels: tuple[float, ...] = (-math.inf,) * len(RATES)
    answers: int = 0
    tokens: int = 0
    mismatches: int = 0

    def after(self, tokens: int, mismatches: int, honest_rate: float) -> Suspicion:
        """With another audited answer."""
        assert 0 <= mismatches <= tokens
        levels = tuple(
            min(MOST, _one_more(level) + likelihood(tokens, mismatches, rate, honest_rate))
            for level, rate in zip(self.levels, RATES, strict=True)
        )
        return Suspicion(levels, self.answers + 1, self.tokens + tokens, self.mismatches + mismatches)

    @property
    def evidence(self) -> float:
        """Against honesty; its expectation for an honest node is at most the number of answers."""
        return math.fsum(map(math.exp, self.levels)) / len(self.levels)

    @property
    def raised(self) -> bool:
        return self.evidence >= PATIENCE


def _one_more(level: float) -> float:
    """log(exp(level) + 1): a cheat may begin with this very answer."""
    return max(level, 0.0) + math.log1p(math.exp(-abs(level)))


def likelihood(tokens: int, mismatches: int, rate: float, honest_rate: float) -> float:
    """The logarithm of how much likelier *mismatches* are at *rate* than at *honest_rate*."""
    return mismatches * math.log(rate / honest_rate) + (tokens - mismatches) * math.log((1 - rate) / (1 - honest_rate))
