"""Who should serve a task: a pure ranking by stake, success rate, compute-time history, latency, load and price.

Decides the order and, when nobody is left, says why.  The weights are documented in docs/operating/router.md and can
be changed in the configuration.  `Index` gives the same order as `rank` without looking at everybody.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

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
    from collections.abc import Iterable, Iterator
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
        if min(*shares, self.spread, self.stake_cover) < 0 or not sum(shares) > 0:
            raise UsageError("matching weights must not be negative, and at least one must be positive")


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


def obstacle(candidate: Candidate, need: Need, now_ms: int) -> MeshError | None:
    """Why *candidate* cannot serve *need*, the most basic reason first; None when it can."""
    offer = candidate.offer
    if candidate.lease_ends_ms <= now_ms or candidate.orchestrator in need.without:
        return NoOrchestrator("no other orchestrator that serves this model is left; try again in a minute")
    if need.kind not in offer.kinds:
        return UnknownModel(f"{offer.name} does not do {need.kind!r}; it does {', '.join(offer.kinds)}")
    if need.prompt_tokens + need.max_tokens > offer.context_tokens:
        return PromptTooLong(
            f"{offer.name} has room for {offer.context_tokens} tokens, this task wants at least "
            f"{need.prompt_tokens + need.max_tokens}; shorten the prompt or ask for fewer tokens"
        )
    least = asked_price(offer.price, need.prompt_tokens, need.max_tokens)
    if least > need.max_price:
        return PriceTooLow(
            f"this task may cost {least} octas and its maximum price is {need.max_price}; "
            "raise the maximum price or ask for fewer tokens"
        )
    if candidate.stake < need.least_stake:
        affordable = need.max_price * candidate.stake // need.least_stake
        return NotStaked(
            f"for a maximum price of {need.max_price} octas an orchestrator must stake {need.least_stake}, and the "
            f"largest stake here is {candidate.stake}; lower the maximum price to {affordable}"
        )
    if candidate.busy >= candidate.slots:
        return Busy("every orchestrator that serves this model is full; try again in a few seconds")
    return None


# From "nobody is there" to "nearly served": the last obstacle that anybody met is the most useful thing to tell.
_PROGRESS: Final[tuple[type[MeshError], ...]] = (
    NoOrchestrator,
    UnknownModel,
    PromptTooLong,
    PriceTooLow,
    NotStaked,
    Busy,
)


def rank(
    candidates: Iterable[Candidate], need: Need, weights: Weights, *, now_ms: int, rng: Random, limit: int
) -> list[Candidate]:
    """The best *limit* of *candidates* that can serve *need*, best first.

    Raises the error that tells the client most about why nobody can.
    """
    everybody = list(candidates)
    digest = need.model_digest or resolve(everybody, need.model)
    offered = [candidate for candidate in everybody if candidate.offer.digest == digest]
    ordered = sorted(offered, key=lambda candidate: _sort_key(candidate, weights))
    return _take(iter(ordered), need, weights, now_ms, rng, limit)


def resolve(candidates: Iterable[Candidate], model: str) -> bytes | None:
    """Which digest a model's name means: the one that most stake stands behind, so that a name cannot be squatted."""
    behind: dict[bytes, int] = {}
    for candidate in candidates:
        if candidate.offer.name == model:
            behind[candidate.offer.digest] = behind.get(candidate.offer.digest, 0) + candidate.stake
    return _most_backed(behind)


def _most_backed(behind: dict[bytes, int]) -> bytes | None:
    return max(behind, key=lambda digest: (behind[digest], digest), default=None)


def _sort_key(candidate: Candidate, weights: Weights) -> tuple[float, bytes]:
    return -score(candidate, weights), candidate.orchestrator


def _take(
    ordered: Iterator[Candidate], need: Need, weights: Weights, now_ms: int, rng: Random, limit: int
) -> list[Candidate]:
    """Walk down the order until *limit* are found; the near-equals at its top come in random order."""
    found: list[Candidate] = []
    nearest: MeshError | None = None
    for candidate in ordered:
        if any(candidate.orchestrator == earlier.orchestrator for earlier in found):
            continue
        problem = obstacle(candidate, need, now_ms)
        if problem is None:
            found.append(candidate)
            if len(found) == limit:
                break
        elif nearest is None or _PROGRESS.index(type(problem)) > _PROGRESS.index(type(nearest)):
            nearest = problem
    if not found:
        raise nearest or UnknownModel(f"no orchestrator offers {need.model!r}")
    near = [c for c in found if score(found[0], weights) - score(c, weights) <= weights.spread]
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
        self._by_digest: dict[bytes, SortedKeyList[Candidate, tuple[float, bytes]]] = {}
        self._backing: dict[str, dict[bytes, _Backing]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._of_peer.values()))

    def models(self) -> list[str]:
        return sorted(self._backing)

    def of_peer(self, orchestrator: PublicKey) -> tuple[Candidate, ...]:
        return self._of_peer.get(orchestrator, ())

    def put(self, orchestrator: PublicKey, candidates: Iterable[Candidate]) -> None:
        """Replace everything known of *orchestrator*; nothing to put forgets it."""
        for old in self._of_peer.pop(orchestrator, ()):
            self._remove(old)
        new = tuple(candidates)
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
        if not self._of_peer:
            raise NoOrchestrator("this router knows of no orchestrator yet; try again in a few seconds")
        digest = need.model_digest or self.resolve(need.model)
        order = self._by_digest.get(digest) if digest else None
        if order is None:
            known = ", ".join(self.models()[:10])
            raise UnknownModel(f"no orchestrator offers {need.model!r}; offered here: {known}")
        return _take(iter(order), need, self._weights, now_ms, rng, limit)
