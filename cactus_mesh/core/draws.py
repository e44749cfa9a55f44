"""Which answers are audited: how often, and how nobody can know which, nor afterwards say that it was another.

The router's nonce in the assignment commits it to a secret; receipt and secret together decide the draw.  So it is
fixed once the receipt is signed, and known to nobody who could still change the receipt.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Annotated, Final

from msgspec import Meta

from cactus_mesh.core.pricing import PPM
from cactus_mesh.errors import ConfigMalformed, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SECRET_BYTES: Final = 32
LEAST_PPM: Final = 1_000
"""The rate is never below one in a thousand, whatever is configured."""


def nonce_of(secret: bytes) -> bytes:
    """The router's nonce of a task: it binds the router to *secret* and tells nobody what it is."""
    return hashlib.sha256(b"cactus-mesh/nonce/1\x00" + secret).digest()[:16]


def draw(secret: bytes, receipt_hash: bytes) -> int:
    """A number below a million, as likely one as another; below the rate in ppm the answer is audited."""
    drawn = hashlib.sha256(b"cactus-mesh/draw/1\x00" + secret + receipt_hash).digest()
    return int.from_bytes(drawn[:8], "big") * PPM >> 64


def drawn_places(secret: bytes, receipt_hash: bytes, efforts: Sequence[int], most: int) -> list[int]:
    """Which of several texts are read again: all of a few, else those that *most* lots fall on, by their *efforts*.

    So who does not do a share of the work is found with at least that chance, however it is spread over the texts.
    """
    if len(efforts) <= most:
        return list(range(len(efforts)))
    ends = list(accumulate(efforts))
    lots = (_lot(secret + receipt_hash + number.to_bytes(4, "big"), ends[-1]) for number in range(most))
    return sorted({bisect_right(ends, lot) for lot in lots})


def _lot(data: bytes, below: int) -> int:
    return int.from_bytes(hashlib.sha256(b"cactus-mesh/places/1\x00" + data).digest()[:8], "big") * below >> 64


def is_fair(secret: bytes, nonce: bytes, rate_ppm: int) -> bool:
    """Whether a router that reveals *secret* was bound to it by *nonce*, and audits at all."""
    return nonce_of(secret) == nonce and rate_ppm >= LEAST_PPM


def is_drawn(secret: bytes, receipt_hash: bytes, rate_ppm: int) -> bool:
    return draw(secret, receipt_hash) < rate_ppm


def by_lot(weights: Sequence[int], random: Callable[[], float]) -> list[int]:
    """The indices of *weights* in an order by lot: each comes next with chance its weight of what is left.

    *random* gives numbers from 0 to below 1.  After Efraimidis and Spirakis (2006), whose largest u^(1/w) is found by
    its logarithm: of weights as large as stakes in octas the root itself rounds to 1.
    """
    keys = [-math.log1p(-random()) / weight for weight in weights]
    return sorted(range(len(keys)), key=keys.__getitem__)


_Share = Annotated[float, Meta(gt=0, le=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditPolicy:
    """How a router audits.  *floor* is the least share of a trusted node's answers that is audited.

    A node is audited every time until it has passed *newcomer_audits* times; each further pass lowers the rate.
    *detection* and *false_alarms* are shares of audited cheats and audited honest answers that fail; *saving* is what a
    cheat can save at most, as a share of a task's price.
    """

    floor: _Share = 0.05
    newcomer_audits: Annotated[int, Meta(ge=1, le=100_000)] = 20
    detection: _Share = 0.95
    false_alarms: Annotated[float, Meta(ge=0, lt=1)] = 0.001
    saving: _Share = 0.9
    pay_within_seconds: Annotated[float, Meta(ge=0, le=300)] = 30.0
    """The longest that the payment of a drawn task waits for its audit."""
    at_once: Annotated[int, Meta(ge=1, le=64)] = 2
    engine: bool = False
    """Load the configured models to audit with, on a router that is no orchestrator."""

    def __post_init__(self) -> None:
        if not LEAST_PPM / PPM <= self.floor <= 1:
            raise UsageError(f"audit.floor must be {LEAST_PPM / PPM:g} to 1, not {self.floor:g}")
        if self.detection <= self.false_alarms:
            raise UsageError("audit.detection must be above audit.false_alarms, or auditing would show nothing")

    @property
    def edge(self) -> float:
        """How much likelier a cheat fails an audit than an honest answer."""
        return self.detection - self.false_alarms


def deterring_rate(policy: AuditPolicy, price: int, slash: int) -> float:
    """The least p with p (d - f) (R + S) ≥ C - c for a task of *price* octas, when *slash* is lost by a cheat."""
    return min(1.0, policy.saving * price / (policy.edge * (price + slash))) if price else 0.0


def rate_ppm(policy: AuditPolicy, *, passed: int, price: int, slash: int) -> int:
    """How often this task's orchestrator is audited, in ppm.  *passed* audits in a row, *slash* octas at risk."""
    trust = policy.newcomer_audits / max(passed, policy.newcomer_audits)
    rate = max(policy.floor, trust, deterring_rate(policy, price, slash))
    return min(PPM, max(LEAST_PPM, math.ceil(rate * PPM)))


def refuse_unprofitable(policy: AuditPolicy, stake_cover: float) -> None:
    """Raise `ConfigMalformed`, with the figures, when cheating would pay at the configured floor and stakes."""
    gain, loss = policy.saving, policy.floor * policy.edge * (1 + stake_cover)
    if loss >= gain:
        return
    enough = gain / (policy.edge * (1 + stake_cover))
    advice = f"audit.floor to {enough:.4g}" if enough <= 1 else "audit.detection"
    raise ConfigMalformed(
        f"with these settings cheating pays: it saves up to {gain:g} of a task's price (audit.saving), and costs on "
        f"average floor {policy.floor:g} x (detection {policy.detection:g} - false alarms {policy.false_alarms:g}) x "
        f"(1 + stake_cover {stake_cover:g}) = {loss:.4g} of it; raise {advice}, or "
        f"matching.stake_cover to {gain / (policy.floor * policy.edge) - 1:.4g}"
    )
