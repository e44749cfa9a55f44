"""Ranking 100,000 adverts for a task: the index against sorting the same model's candidates anew.

50 models, the popular ones offered most; every sixth peer full, every hundredth lease expired, prices around what
tasks pay so that some are too dear.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from functools import partial
from itertools import accumulate
from random import Random
from typing import TYPE_CHECKING, Final

from benchmarks.report import Measurement, Target, median, percentile
from cactus_mesh.core.matching import Candidate, Index, Need, Weights, rank
from cactus_mesh.identity import PublicKey
from cactus_mesh.messages import ModelOffer, ModelShape, PriceTerms

if TYPE_CHECKING:
    from collections.abc import Callable

ADVERTS: Final = 100_000
MODELS: Final = 50
RUNS: Final = 7
TASKS: Final = 400
PLAIN_TASKS: Final = 3
"""Per run; sorting the candidates of a popular model takes tens of milliseconds."""
UPDATES: Final = 2_000
INELIGIBLE: Final = 5_000
LIMIT: Final = 5
"""As many as a router asks."""
NOW_MS: Final = 1_800_000_000_000
DEAR, CHEAP = PriceTerms(1_000, 2_000, 20_000), PriceTerms(1_000, 2_000, 5_000)
_ZIPF: Final = list(accumulate(1 / place for place in range(1, MODELS + 1)))

TARGETS: Final = (
    Target("p50_ms", "ranking for one task, median", "<=", 1.0),
    Target("p99_ms", "ranking for one task, 99th percentile"),
    Target("update_us", "taking in one changed advert"),
    Target("speedup", "times quicker than sorting the same model's candidates"),
    Target("worst_ms", f"the best {INELIGIBLE:,} cannot serve the task, the next can"),
)


def measure() -> Measurement:
    rng = Random(1)
    everybody = [_candidate(number, rng) for number in range(ADVERTS)]
    index = Index(Weights())
    for candidate in everybody:
        index.put(candidate.orchestrator, [candidate])
    of_model: dict[str, list[Candidate]] = {}
    for candidate in everybody:
        of_model.setdefault(candidate.offer.name, []).append(candidate)
    hard_index, hard_need = _hard_case(rng)

    p50s, p99s, updates, speedups, worsts = [], [], [], [], []
    for _ in range(RUNS):
        tasks = [_need(rng) for _ in range(TASKS)]
        indexed = [_ms(partial(_by_index, index, need, rng)) for need in tasks]
        plain = [_ms(partial(_by_sorting, of_model, need, rng)) for need in tasks[:PLAIN_TASKS]]
        p50s.append(median(indexed))
        p99s.append(percentile(indexed, 0.99))
        speedups.append(sum(plain) / sum(indexed[:PLAIN_TASKS]))
        updates.append(_update_us(index, everybody, rng))
        worsts.append(_ms(partial(_by_index, hard_index, hard_need, rng)))
    figures = {
        "p50_ms": median(p50s),
        "p99_ms": median(p99s),
        "update_us": median(updates),
        "speedup": median(speedups),
        "worst_ms": median(worsts),
    }
    return Measurement(figures, RUNS)


def _by_index(index: Index, need: Need, rng: Random) -> list[Candidate]:
    return index.rank(need, now_ms=NOW_MS, rng=rng, limit=LIMIT)


def _by_sorting(of_model: dict[str, list[Candidate]], need: Need, rng: Random) -> list[Candidate]:
    return rank(of_model[need.model], need, Weights(), now_ms=NOW_MS, rng=rng, limit=LIMIT)


def _update_us(index: Index, everybody: list[Candidate], rng: Random) -> float:
    """One peer's load and reputation have changed."""
    places = [rng.randrange(ADVERTS) for _ in range(UPDATES)]
    changed = [replace(everybody[place], busy=rng.randrange(5), success=rng.uniform(0.5, 1)) for place in places]
    began = time.perf_counter()
    for candidate in changed:
        index.put(candidate.orchestrator, [candidate])
    spent = time.perf_counter() - began
    for place, candidate in zip(places, changed, strict=True):
        everybody[place] = candidate
    return spent / UPDATES * 1e6


def _hard_case(rng: Random) -> tuple[Index, Need]:
    """Those with the largest stakes all ask more than the task pays."""
    index = Index(Weights())
    for number in range(2 * INELIGIBLE):
        candidate = replace(_candidate(number, rng, model=0), busy=0, lease_ends_ms=NOW_MS + 10_000)
        best = number < INELIGIBLE
        offer = _offer(0, DEAR if best else CHEAP)
        index.put(candidate.orchestrator, [replace(candidate, offer=offer, stake=10**13 if best else 10**9)])
    return index, replace(_need(rng, model=0), max_tokens=256, max_price=4_000, least_stake=0)


def _candidate(number: int, rng: Random, model: int | None = None) -> Candidate:
    price = PriceTerms(rng.randrange(500, 3_000), rng.randrange(500, 5_000), rng.randrange(2_000, 40_000))
    return Candidate(
        orchestrator=PublicKey(hashlib.sha256(number.to_bytes(4, "big")).digest()),
        offer=_offer(_some_model(rng) if model is None else model, price),
        slots=4,
        busy=4 if number % 6 == 0 else rng.randrange(4),
        stake=int(10 ** rng.uniform(8, 11)),
        success=rng.betavariate(9, 1),
        ms_per_gflop=None if number % 3 == 0 else rng.lognormvariate(5, 1),
        rtt_ms=None if number % 2 else rng.lognormvariate(4, 0.7),
        lease_ends_ms=NOW_MS - 1 if number % 100 == 0 else NOW_MS + rng.randrange(1_000, 100_000),
    )


def _some_model(rng: Random) -> int:
    """The n-th is offered and asked for one n-th as often as the first, which has more than a fifth of everything."""
    return rng.choices(range(MODELS), cum_weights=_ZIPF)[0]


def _offer(model: int, price: PriceTerms) -> ModelOffer:
    name = f"model-{model}"
    return ModelOffer(
        name=name,
        digest=hashlib.sha256(name.encode()).digest(),
        dtype="float32",
        context_tokens=4_096,
        kinds=["chat", "generate"],
        shape=ModelShape(matmul_parameters=10**9, layers=16, heads=32, head_dim=64),
        price=price,
    )


def _need(rng: Random, model: int | None = None) -> Need:
    return Need(
        model=f"model-{_some_model(rng) if model is None else model}",
        model_digest=None,
        kind="chat",
        prompt_tokens=1,
        max_tokens=rng.choice((16, 64, 256, 1_024)),
        max_price=(price := rng.randrange(5_000, 30_000)),
        least_stake=20 * price,
    )


def _ms(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return (time.perf_counter() - began) * 1_000
