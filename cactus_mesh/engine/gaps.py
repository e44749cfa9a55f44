"""How far a claimed token is from being chosen: the other side of `engine.sampling`, for replays.

The gap is in logits: 0 where the rules choose the very token, about twice the difference between two machines' logits
where both were honest and chose differently, and more where somebody was not.  Specified in docs/protocol.md.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from cactus_mesh.engine.sampling import candidates, choose, gumbel_noise, penalised

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cactus_mesh.engine.sampling import Before, Logits
    from cactus_mesh.messages import Sampling


def judge(
    logits: Logits,
    claimed: int,
    sampling: Sampling,
    seed: bytes,
    before: Before,
    allowed: NDArray[np.bool_] | None = None,
) -> tuple[float, float]:
    """The log-probability of *claimed* after *before*, and its gap.  Raises `EngineFailed` as `choose` does."""
    if not 0 <= claimed < len(logits):
        return -math.inf, math.inf
    chosen, logprob = choose(logits, sampling, seed, before, allowed)
    if chosen == claimed:
        return logprob, 0.0
    highest = float(logits.max())
    logprob = float(logits[claimed]) - highest - float(np.log(np.exp(logits - highest).sum()))
    if allowed is not None and not allowed[claimed]:
        return logprob, math.inf
    usable = logits if allowed is None else np.where(allowed, logits, -np.inf)
    return logprob, _gap(penalised(usable, sampling, before), claimed, sampling, seed, len(before))


def _gap(logits: Logits, claimed: int, sampling: Sampling, seed: bytes, position: int) -> float:
    if not np.isfinite(logits[claimed]):
        return math.inf
    if sampling.temperature_milli == 0:
        return float(logits.max() - logits[claimed])
    temperature = sampling.temperature_milli / 1000
    kept = candidates(logits, sampling)
    scores = logits / temperature + gumbel_noise(seed, position, len(logits))
    order = _Order(logits, sampling, len(kept))
    rivals = kept[scores[kept] > scores[claimed]]
    gap = max(0.0, order.outside(claimed))
    if len(rivals):
        beaten = temperature * (scores[rivals] - scores[claimed])
        gap = max(gap, float(np.minimum(beaten, order.inside(rivals)).max()))
    return gap


class _Order:
    """The ids by logit, of which the first *stay* stay: how near each is to the border, in logits."""

    def __init__(self, logits: Logits, sampling: Sampling, stay: int) -> None:
        self._logits = logits
        self._sampling = sampling
        self._temperature = sampling.temperature_milli / 1000
        self._stay = stay
        self._ranked = np.argsort(-logits, kind="stable")
        self._rank = np.empty(len(logits), dtype=np.intp)
        self._rank[self._ranked] = np.arange(len(logits))
        self._top_k = min(sampling.top_k or len(logits), len(logits))
        weights = np.exp((logits[self._ranked[: self._top_k]] - logits[self._ranked[0]]) / self._temperature)
        sums = np.cumsum(weights)
        self._share_before = np.concatenate(([0.0], sums[:-1])) / sums[-1]

    def outside(self, token: int) -> float:
        """By how much *token* fails to stay; below zero when it stays."""
        rank, value = int(self._rank[token]), float(self._logits[token])
        if rank < self._stay:
            return -math.inf
        found = [self._below_min_p(value)]
        if rank >= self._top_k:
            found.append(float(self._logits[self._ranked[self._top_k - 1]]) - value)
        elif self._sampling.top_p_milli < 1000:
            top_p = self._sampling.top_p_milli / 1000
            last = int(np.count_nonzero(self._share_before < top_p)) - 1
            swap = float(self._logits[self._ranked[last]]) - value
            if rank > last:
                found.append(min(swap, self._temperature * math.log(self._share_before[rank] / top_p)))
        return max(found)

    def _below_min_p(self, value: float) -> float:
        if self._sampling.min_p_milli == 0:
            return -math.inf
        border = float(self._logits[self._ranked[0]]) + self._temperature * math.log(self._sampling.min_p_milli / 1000)
        return border - value

    def inside(self, tokens: NDArray[np.intp]) -> Logits:
        """By how much each of *tokens*, which stay, might be outside."""
        values = self._logits[tokens]
        found = np.full(len(tokens), np.inf)
        if self._stay < len(self._logits):
            found = values - self._logits[self._ranked[self._stay]]
        if self._sampling.top_p_milli < 1000:
            with np.errstate(divide="ignore"):
                share = self._share_before[self._rank[tokens]] / (self._sampling.top_p_milli / 1000)
                found = np.minimum(found, -self._temperature * np.log(share))
        if self._sampling.min_p_milli:
            border = self._logits[self._ranked[0]] + self._temperature * math.log(self._sampling.min_p_milli / 1000)
            found = np.minimum(found, values - border)
        return found
