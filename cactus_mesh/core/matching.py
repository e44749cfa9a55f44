"""Who should serve a task: a pure ranking by stake, success rate, compute-time history, latency, load and price.

Decides the order and, when nobody is left, says why.  The weights are documented in docs/operating.md and can
be changed in the configuration.  `Index` gives the same order as `rank` without looking at everybody.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from heapq import nsmallest
from itertools import islice
from typing import TYPE_CHECKING, Final, assert_never

from sortedcontainers import SortedKeyList

from cactus_mesh.core.pricing import asked_price
from cactus_mesh.errors import (
    Busy,
    MeshError,
    NoOrchestrator,
    NotStaked,
    PriceTooLow,
    PromptTooLong,
    UnknownModel,
    UsageError,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from random import Random

    from cactus_mesh.identity import PublicKey
    from cactus_mesh.messages import ModelOffer, WorkKind

# Where a quantity is worth half of what it could be worth at best.
_STAKE_HALF_OCTAS: Final = 10 * 100_000_000
_COMPUTE_HALF_MS_PER_GFLOP: Final = 200.0
_LATENCY_HALF_MS: Final = 100.0
_PRICE_HALF_OCTAS_PER_1K: Final = 20_000
# A peer that nobody has measured yet is taken to be middling, so that it is tried but not preferred.
_UNMEASURED: Final = 0.5
MAX_LOOKED_AT: Final = 10_000
"""Candidates per task, a few milliseconds: a task that nobody can serve must not hold up those that somebody can."""
NAMES_TOLD: Final = 10
"""Models named to a client that asked for one that is not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """How much each quality counts, relative to the others; at least one must be positive."""

    stake: float = 0.20
    success: float = 0.30
    compute: float = 0.15
    latency: float = 0.15
    load: float = 0.10
    price: float = 0.10
    spread: float = 0.02
    """Candidates whose scores lie this close to the best are shuffled, so that routers do not all pick one."""
    stake_cover: float = 20.0
    """Stake must be at least this many times a task's maximum price, or cheating now and then would pay."""

    def __post_init__(self) -> None:
        shares = (self.stake, self.success, self.compute, self.latency, self.load, self.price)
        values = (*shares, self.spread, self.stake_cover)
        if not all(map(math.isfinite, values)) or min(values) < 0 or not 0 < sum(shares) < math.inf:
            raise UsageError("matching weights must be finite and not negative, and at least one must be positive")


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One orchestrator's offer of one model, with what is known of the orchestrator.  Money in octas."""

    orchestrator: PublicKey
    offer: ModelOffer
    slots: int
    busy: int
    stake: int
    success: float
    ms_per_gflop: float | None
    rtt_ms: float | None
    lease_ends_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a task demands.  *prompt_tokens* is a lower bound: only the orchestrator counts exactly."""

    model: str
    model_digest: bytes | None
    kind: WorkKind
    prompt_tokens: int
    max_tokens: int
    max_price: int
    least_stake: int = 0
    without: frozenset[PublicKey] = frozenset()


def score(candidate: Candidate, weights: Weights) -> float:
    """How well a candidate is expected to serve, from 0 to 1; independent of the task."""
    speed, rtt = candidate.ms_per_gflop, candidate.rtt_ms
    asked = candidate.offer.price.input_per_1k + candidate.offer.price.output_per_1k + candidate.offer.price.base
    total = (
        weights.stake * (1 - _halving(candidate.stake, _STAKE_HALF_OCTAS))
        + weights.success * candidate.success
        + weights.compute * (_UNMEASURED if speed is None else _halving(speed, _COMPUTE_HALF_MS_PER_GFLOP))
        + weights.latency * (_UNMEASURED if rtt is None else _halving(rtt, _LATENCY_HALF_MS))
        + weights.load * max(0, candidate.slots - candidate.busy) / max(1, candidate.slots)
        + weights.price * _halving(asked, _PRICE_HALF_OCTAS_PER_1K)
    )
    return total / (weights.stake + weights.success + weights.compute + weights.latency + weights.load + weights.price)


def _halving(value: float, half: float) -> float:
    """1 at zero, 0.5 at *half*, towards 0 beyond."""
    return half / (half + value)


class _Obstacle(IntEnum):
    """What stands in a candidate's way, from "nobody is there" to "nearly served"."""

    GONE = 0
    KIND = 1
    LENGTH = 2
    PRICE = 3
    STAKE = 4
    FULL = 5


def obstacle(candidate: Candidate, need: Need, now_ms: int) -> MeshError | None:
    """Why *candidate* cannot serve *need*, the most basic reason first; None when it can."""
    missed = _missed(candidate, need, now_ms)
    return None if missed is None else _explain(missed[0], candidate, need)


def _missed(candidate: Candidate, need: Need, now_ms: int) -> tuple[_Obstacle, int] | None:
    """The obstacle and, where there are degrees, how near *candidate* comes to passing it (more is nearer)."""
    offer = candidate.offer
    if candidate.lease_ends_ms <= now_ms or candidate.orchestrator in need.without:
        return _Obstacle.GONE, 0
    if need.kind not in offer.kinds:
        return _Obstacle.KIND, 0
    room = offer.context_tokens - need.prompt_tokens - need.max_tokens
    if room < 0:
        return _Obstacle.LENGTH, room
    spare = need.max_price - asked_price(offer.price, need.prompt_tokens, need.max_tokens)
    if spare < 0:
        return _Obstacle.PRICE, spare
    if candidate.stake < need.least_stake:
        return _Obstacle.STAKE, candidate.stake
    if candidate.busy >= candidate.slots:
        return _Obstacle.FULL, 0
    return None


def _explain(which: _Obstacle, candidate: Candidate, need: Need) -> MeshError:
    offer = candidate.offer
    match which:
        case _Obstacle.GONE:
            return NoOrchestrator("no other orchestrator that serves this model is left; try again in a minute")
        case _Obstacle.KIND:
            return UnknownModel(f"{offer.name} does not do {need.kind!r}; it does {', '.join(offer.kinds)}")
        case _Obstacle.LENGTH:
            return PromptTooLong(
                f"{offer.name} has room for {offer.context_tokens} tokens, this task wants at least "
                f"{need.prompt_tokens + need.max_tokens}; shorten the prompt or ask for fewer tokens"
            )
        case _Obstacle.PRICE:
            least = asked_price(offer.price, need.prompt_tokens, need.max_tokens)
            return PriceTooLow(
                f"this task may cost {least} octas and its maximum price is {need.max_price}; "
                "raise the maximum price or ask for fewer tokens"
            )
        case _Obstacle.STAKE:
            affordable = need.max_price * candidate.stake // need.least_stake
            return NotStaked(
                f"for a maximum price of {need.max_price} octas an orchestrator must stake {need.least_stake}, and "
                f"the largest stake here is {candidate.stake}; lower the maximum price to {affordable}"
            )
        case _Obstacle.FULL:
            return Busy("every orchestrator that serves this model is full; try again in a few seconds")
        case _:
            assert_never(which)


def rank(
    candidates: Iterable[Candidate], need: Need, weights: Weights, *, now_ms: int, rng: Random, limit: int
) -> list[Candidate]:
    """The best *limit* of *candidates* that can serve *need*, best first.

    Looks at no more than the best `MAX_LOOKED_AT`.  Raises the error that tells the client most about why nobody can:
    of the obstacles met the one nearest to success, of the candidates that met it the one that came nearest.
    """
    everybody = list(candidates)
    digest = need.model_digest or resolve(everybody, need.model)
    offered = _distinct(candidate for candidate in everybody if candidate.offer.digest == digest)
    if not offered:
        raise _nobody_offers(need, {candidate.offer.name for candidate in everybody})
    ordered = sorted(offered, key=lambda candidate: _sort_key(candidate, weights))
    return _take(iter(ordered), need, weights, now_ms, rng, limit)


def _distinct(candidates: Iterable[Candidate]) -> list[Candidate]:
    """One offer of a digest by a name per orchestrator, the last: its stake must not count twice behind a name."""
    return list({(c.orchestrator, c.offer.name, c.offer.digest): c for c in candidates}.values())


def _nobody_offers(need: Need, names: Collection[str]) -> MeshError:
    if not names:
        return NoOrchestrator("this router knows of no orchestrator yet; try again in a few seconds")
    which = " with that digest" if need.model_digest else ""
    told = ", ".join(nsmallest(NAMES_TOLD, names))
    return UnknownModel(f"no orchestrator offers {need.model!r}{which}; offered here: {told}")


def resolve(candidates: Iterable[Candidate], model: str) -> bytes | None:
    """Which digest a model's name means: the one that most stake stands behind, so that a name cannot be squatted."""
    behind: dict[bytes, int] = {}
    for candidate in _distinct(candidate for candidate in candidates if candidate.offer.name == model):
        behind[candidate.offer.digest] = behind.get(candidate.offer.digest, 0) + candidate.stake
    return _most_backed(behind)


def _most_backed(behind: dict[bytes, int]) -> bytes | None:
    return max(behind, key=lambda digest: (behind[digest], digest), default=None)


def _sort_key(candidate: Candidate, weights: Weights) -> tuple[bool, float, bytes]:
    """The full ones last, since they are only looked at to say that everybody is full."""
    return candidate.busy >= candidate.slots, -score(candidate, weights), candidate.orchestrator


def _take(
    ordered: Iterator[Candidate], need: Need, weights: Weights, now_ms: int, rng: Random, limit: int
) -> list[Candidate]:
    """Walk down the order until *limit* are found; the near-equals at its top come in random order."""
    found: dict[PublicKey, Candidate] = {}
    nearest: tuple[tuple[_Obstacle, int], Candidate] | None = None
    for candidate in islice(ordered, MAX_LOOKED_AT):
        if candidate.orchestrator in found:
            continue
        missed = _missed(candidate, need, now_ms)
        if missed is None:
            found[candidate.orchestrator] = candidate
            if len(found) == limit:
                break
        elif nearest is None or missed > nearest[0]:
            nearest = missed, candidate
    if not found:
        assert nearest is not None, "somebody offers it, so somebody was looked at"
        raise _explain(nearest[0][0], nearest[1], need)
    return _shuffle_near_equals(list(found.values()), weights, rng)


def _shuffle_near_equals(found: list[Candidate], weights: Weights, rng: Random) -> list[Candidate]:
    best = score(found[0], weights)
    near = [candidate for candidate in found if best - score(candidate, weights) <= weights.spread]
    rng.shuffle(near)
    return near + found[len(near) :]


@dataclass(slots=True)
class _Backing:
    """What stands behind one digest of a name."""

    stake: int = 0
    offers: int = 0


class Index:
    """Candidates kept in order by offer, so that ranking a task costs the few that it looks at.

    An update costs O(log n).  Equal to `rank` over all candidates (a property test says so).
    """

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._of_peer: dict[PublicKey, tuple[Candidate, ...]] = {}
        self._by_digest: dict[bytes, SortedKeyList[Candidate, tuple[bool, float, bytes]]] = {}
        self._backing: dict[str, dict[bytes, _Backing]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._of_peer.values()))

    def models(self) -> list[str]:
        return sorted(self._backing)

    def offers(self, model: str, *, limit: int) -> list[ModelOffer]:
        """What *model* means now: the offers of its most backed digest, the best first."""
        digest = self.resolve(model)
        if digest is None:
            return []
        return [each.offer for each in islice(self._by_digest[digest], limit) if each.offer.name == model]

    def of_peer(self, orchestrator: PublicKey) -> tuple[Candidate, ...]:
        return self._of_peer.get(orchestrator, ())

    def put(self, orchestrator: PublicKey, candidates: Iterable[Candidate]) -> None:
        """Replace everything known of *orchestrator*; nothing to put forgets it."""
        for old in self._of_peer.pop(orchestrator, ()):
            self._remove(old)
        new = tuple(_distinct(candidates))
        if new:
            self._of_peer[orchestrator] = new
        for candidate in new:
            self._add(candidate)

    def _add(self, candidate: Candidate) -> None:
        offer = candidate.offer
        if offer.digest not in self._by_digest:
            self._by_digest[offer.digest] = SortedKeyList(key=lambda c: _sort_key(c, self._weights))
        self._by_digest[offer.digest].add(candidate)
        backing = self._backing.setdefault(offer.name, {}).setdefault(offer.digest, _Backing())
        backing.stake += candidate.stake
        backing.offers += 1

    def _remove(self, candidate: Candidate) -> None:
        offer = candidate.offer
        self._by_digest[offer.digest].remove(candidate)
        if not self._by_digest[offer.digest]:
            del self._by_digest[offer.digest]
        digests = self._backing[offer.name]
        digests[offer.digest].stake -= candidate.stake
        digests[offer.digest].offers -= 1
        if not digests[offer.digest].offers:
            del digests[offer.digest]
        if not digests:
            del self._backing[offer.name]

    def resolve(self, model: str) -> bytes | None:
        """As the function `resolve`."""
        return _most_backed({digest: backing.stake for digest, backing in self._backing.get(model, {}).items()})

    def rank(self, need: Need, *, now_ms: int, rng: Random, limit: int) -> list[Candidate]:
        """As the function `rank`."""
        digest = need.model_digest or self.resolve(need.model)
        order = self._by_digest.get(digest) if digest else None
        if order is None:
            raise _nobody_offers(need, self._backing.keys())
        return _take(iter(order), need, self._weights, now_ms, rng, limit)
