"""The numbers that an administrator may change, and the bounds beyond which nobody can."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Final, NamedTuple

from cactus_mesh.core.pricing import BPS, RewardParams

DAY_SECONDS: Final = 86_400
MAX_COMPLEXITY_MFLOP: Final = 10**15
"""10²¹ FLOP: more than any single task; keeps the reward's intermediate values below 2¹²⁸."""


@dataclass(frozen=True, slots=True)
class Params:
    """*treasury_bps* is the treasury's share of the fee; the rest of the fee is the server's."""

    reward: RewardParams = field(default_factory=RewardParams)
    treasury_bps: int = 2_000
    max_delegate_bps: int = 9_500
    min_stake: int = 100_000_000
    longest_task_seconds: int = 3_600
    dispute_window_seconds: int = DAY_SECONDS
    unbonding_seconds: int = 7 * DAY_SECONDS
    withdrawal_seconds: int = 3_600
    dispute_bond: int = 10_000_000
    contest_seconds: int = DAY_SECONDS
    arbitration_seconds: int = 7 * DAY_SECONDS
    max_slash: int = 20_000_000


class Bound(NamedTuple):
    """Inclusive limits of one parameter."""

    low: int
    high: int
    unit: str
    meaning: str


BOUNDS: Final[dict[str, Bound]] = {
    "base": Bound(0, 10**9, "octas", "paid for any completed task, before the success factor"),
    "unit_price": Bound(0, 10**9, "octas per TFLOP", "price of computation"),
    "ms_price": Bound(0, 10**6, "octas per ms", "price of counted compute time"),
    "allowed_base_ms": Bound(0, 600_000, "ms", "compute time that counts for any task"),
    "allowed_us_per_mflop": Bound(0, 10**6, "µs per MFLOP", "further compute time that counts, by complexity"),
    "fee_bps": Bound(0, 2_000, "1/10000", "fee on the gross reward"),
    "treasury_bps": Bound(0, BPS, "1/10000", "the treasury's share of the fee; the rest is the server's"),
    "max_delegate_bps": Bound(0, BPS, "1/10000", "the largest share that an orchestrator may promise its delegate"),
    "min_stake": Bound(1, 10**14, "octas", "active stake from which an orchestrator may take tasks"),
    "longest_task_seconds": Bound(60, 7 * DAY_SECONDS, "s", "the furthest deadline of a task"),
    "dispute_window_seconds": Bound(60, 30 * DAY_SECONDS, "s", "how long after its end a task may be disputed"),
    "unbonding_seconds": Bound(120, 60 * DAY_SECONDS, "s", "at least longest task + dispute window"),
    "withdrawal_seconds": Bound(60, 30 * DAY_SECONDS, "s", "a client's wait; at least the longest task"),
    "dispute_bond": Bound(1, 10**14, "octas", "what opening a dispute costs whoever is wrong about it"),
    "contest_seconds": Bound(60, 30 * DAY_SECONDS, "s", "an owner's time to contest; an uncontested dispute is upheld"),
    "arbitration_seconds": Bound(60, 30 * DAY_SECONDS, "s", "the arbiter's time; an undecided dispute lapses"),
    "max_slash": Bound(0, 10**14, "octas", "the most that one incident costs a stake"),
}
"""In the order in which `set_params` takes them."""

_REWARD_NAMES: Final = tuple(entry.name for entry in fields(RewardParams))


def values_of(params: Params) -> dict[str, int]:
    """The parameters by name, in the order of `BOUNDS`."""
    return {name: getattr(params.reward if name in _REWARD_NAMES else params, name) for name in BOUNDS}


def params_of(values: dict[str, int]) -> Params:
    reward = RewardParams(**{name: values[name] for name in _REWARD_NAMES})
    return Params(reward, **{name: values[name] for name in BOUNDS if name not in _REWARD_NAMES})


def within_bounds(params: Params) -> bool:
    """Each parameter within its bounds, and exits slower than the work that they could escape from."""
    return (
        all(BOUNDS[name].low <= value <= BOUNDS[name].high for name, value in values_of(params).items())
        and params.unbonding_seconds >= params.longest_task_seconds + params.dispute_window_seconds
        and params.withdrawal_seconds >= params.longest_task_seconds
    )
