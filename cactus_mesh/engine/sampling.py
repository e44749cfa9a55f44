"""Chooses a token from logits so that anybody who has the model, the seed and the position chooses the same one.

The rule, in IEEE double precision throughout (vectors: tests/vectors/sampling.json):

1. *Position* p is the number of tokens before the one that is chosen: prompt and output so far.
2. *Order*: token ids by logit from high to low; equal logits by id from low to high.
3. *Temperature* 0 takes the first in that order.  Nothing below applies.
4. *Top-k*: k = 0 keeps all ids, else the first k in that order stay.
5. *Top-p* below 1000: with T = temperature_milli / 1000 and z the highest logit, an id weighs exp((logit - z) / T).
   Weights are added up one after another in that order; an id stays when the sum of those before it is less than
   top_p_milli / 1000 times the sum of all that top-k kept.  The first always stays.
6. *Noise* of id v: g = -ln(-ln(u)), u = (⌊x / 2¹²⌋ + ½) / 2⁵², where x is word v mod 4 of the Philox4x64-10 block
   (Salmon et al., SC'11) of the counter (⌊v / 4⌋ + 1, p, s₂, s₃) under the key (s₀, s₁).  s₀ … s₃ are the 32-byte
   seed as four little-endian 64-bit words.  Noise depends on nothing else: not on the other ids, nor on the past.
7. The id that stays and has the highest logit / T + g is chosen; of equal ones the lowest (Gumbel-max: this is a draw
   from the softmax of what stays).

The log-probability of the chosen id is the model's own: logit - z - ln Σ exp(logit - z) over all ids, temperature 1.
A logit may be minus infinity (never chosen while another is left); NaN or plus infinity is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from cactus_mesh.errors import EngineFailed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cactus_mesh.messages import Sampling

_DROPPED_BITS: Final = 12
"""Leaves 52 bits, so that adding one half is still exact and u is never 0 or 1."""


def choose(logits: NDArray[np.float64], sampling: Sampling, seed: bytes, position: int) -> tuple[int, float]:
    """The token id for absolute *position* and its log-probability.  *logits* has one number per id.

    Raises `EngineFailed` when the model's numbers are not usable.
    """
    highest = float(logits.max())
    if not np.isfinite(highest):
        raise EngineFailed("the model's output is not a number; its weights or its dtype are unusable")
    if sampling.temperature_milli == 0:
        chosen = int(logits.argmax())
    else:
        kept = candidates(logits, sampling)
        scores = logits[kept] / (sampling.temperature_milli / 1000) + gumbel_noise(seed, position, len(logits))[kept]
        chosen = int(kept[scores.argmax()])
    return chosen, float(logits[chosen]) - highest - float(np.log(np.exp(logits - highest).sum()))


def candidates(logits: NDArray[np.float64], sampling: Sampling) -> NDArray[np.intp]:
    """The ids that top-k and top-p keep, from low to high."""
    every = len(logits)
    k = min(sampling.top_k or every, every)
    if k == every and sampling.top_p_milli == 1000:
        return np.arange(every)
    ranked = np.argsort(-logits, kind="stable")[:k]
    if sampling.top_p_milli < 1000:
        weights = np.exp((logits[ranked] - logits[ranked[0]]) / (sampling.temperature_milli / 1000))
        sums = np.cumsum(weights)
        before = np.concatenate(([0.0], sums[:-1]))
        ranked = ranked[before < sampling.top_p_milli / 1000 * sums[-1]]
    return np.sort(ranked)


def gumbel_noise(seed: bytes, position: int, count: int) -> NDArray[np.float64]:
    """The noise of the ids ``0 .. count`` at absolute *position*.  *seed* has 32 bytes."""
    words = np.frombuffer(seed, dtype="<u8")
    counter = np.array([0, position, words[2], words[3]], dtype=np.uint64)  # numpy adds one before each block
    raw = np.random.Philox(counter=counter, key=words[:2]).random_raw(count)
    uniform = ((raw >> np.uint64(_DROPPED_BITS)).astype(np.float64) + 0.5) * 2.0**-52
    noise: NDArray[np.float64] = -np.log(-np.log(uniform))
    return noise
