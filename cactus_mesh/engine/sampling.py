"""Chooses a token from logits so that anybody who has the model, the seed and the position chooses the same one.

The rule is in docs/protocol.md under "Choosing tokens", in IEEE double precision throughout; vectors are in
tests/vectors/sampling.json.  A logit may be minus infinity (never chosen while another is left); NaN or plus infinity
is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from cactus_mesh.errors import EngineFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cactus_mesh.messages import Sampling

    Logits = NDArray[np.float64]

_DROPPED_BITS: Final = 12
"""Leaves 52 bits, so that adding one half is still exact and u is never 0 or 1."""


@dataclass(frozen=True, slots=True)
class Before:
    """The tokens before the one that is chosen; the position is their number."""

    prompt: Sequence[int]
    output: Sequence[int]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.output)


def choose(
    logits: Logits, sampling: Sampling, seed: bytes, before: Before, allowed: NDArray[np.bool_] | None = None
) -> tuple[int, float]:
    """The token id that follows *before* and its log-probability.  *logits* has one number per id.

    *allowed* is what the constraint leaves, at least one id.  Raises `EngineFailed` when the numbers are not usable.
    """
    highest = float(logits.max())
    if not np.isfinite(highest):
        raise EngineFailed("the model's output is not a number; its weights or its dtype are unusable")
    usable = logits if allowed is None else np.where(allowed, logits, -np.inf)
    usable = penalised(usable, sampling, before)
    if sampling.temperature_milli == 0:
        chosen = int(usable.argmax())
    else:
        kept = candidates(usable, sampling)
        noise = gumbel_noise(seed, len(before), len(usable))[kept]
        scores = usable[kept] / (sampling.temperature_milli / 1000) + noise
        chosen = int(kept[scores.argmax()])
    return chosen, float(logits[chosen]) - highest - float(np.log(np.exp(logits - highest).sum()))


def likeliest(logits: Logits, count: int) -> list[int]:
    """At most *count* ids, by logit from high to low, equal ones by id from low to high; none that is impossible."""
    count = min(count, len(logits))
    if count == 0:
        return []
    least = np.partition(logits, len(logits) - count)[len(logits) - count]
    at_least = np.flatnonzero((logits >= least) & np.isfinite(logits))
    return [int(id_) for id_ in at_least[np.argsort(-logits[at_least], kind="stable")][:count]]


def penalised(logits: Logits, sampling: Sampling, before: Before) -> Logits:
    """The logits after the penalties; the very same when there are none."""
    repetition = sampling.repetition_milli / 1000
    frequency, presence = sampling.frequency_milli / 1000, sampling.presence_milli / 1000
    if repetition == 1 and frequency == 0 and presence == 0:
        return logits
    logits = logits.copy()
    if repetition != 1:
        ids = np.unique(np.array([*before.prompt, *before.output], dtype=np.intp))
        logits[ids] = np.where(logits[ids] > 0, logits[ids] / repetition, logits[ids] * repetition)
    ids, counts = np.unique(np.array(before.output, dtype=np.intp), return_counts=True)
    logits[ids] -= frequency * counts + presence
    return logits


def candidates(logits: Logits, sampling: Sampling) -> NDArray[np.intp]:
    """The ids that top-k, top-p and min-p keep, from low to high."""
    every = len(logits)
    k = min(sampling.top_k or every, every)
    if k == every and sampling.top_p_milli == 1000 and sampling.min_p_milli == 0:
        return np.arange(every)
    ranked = np.argsort(-logits, kind="stable")[:k]
    weights = np.exp((logits[ranked] - logits[ranked[0]]) / (sampling.temperature_milli / 1000))
    stays = weights >= sampling.min_p_milli / 1000
    if sampling.top_p_milli < 1000:
        sums = np.cumsum(weights)
        stays &= np.concatenate(([0.0], sums[:-1])) < sampling.top_p_milli / 1000 * sums[-1]
    return np.sort(ranked[stays])


def gumbel_noise(seed: bytes, position: int, count: int) -> NDArray[np.float64]:
    """The noise of the ids ``0 .. count`` at absolute *position*.  *seed* has 32 bytes."""
    words = np.frombuffer(seed, dtype="<u8")
    counter = np.array([0, position, words[2], words[3]], dtype=np.uint64)  # numpy adds one before each block
    raw = np.random.Philox(counter=counter, key=words[:2]).random_raw(count)
    uniform = ((raw >> np.uint64(_DROPPED_BITS)).astype(np.float64) + 0.5) * 2.0**-52
    noise: NDArray[np.float64] = -np.log(-np.log(uniform))
    return noise
