"""Integers from work to money: a task's complexity, what an orchestrator asks, and what the contract pays.

Money is in octas (10⁻⁸ APT), complexity in MFLOP.  The contract computes `reward` in the same integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cactus_mesh.messages import ModelShape, PriceTerms

PPM: Final = 1_000_000
BPS: Final = 10_000


@dataclass(frozen=True, slots=True)
class RewardParams:
    """The contract's bounded parameters that make a reward.

    *unit_price* is octas per TFLOP (so 10⁻⁶ octas per MFLOP); *ms_price* is octas per counted millisecond.  Compute
    time counts up to ``allowed_base_ms + complexity * allowed_us_per_mflop / 1000``, which anybody can recompute.
    """

    base: int = 200
    unit_price: int = 150
    ms_price: int = 1
    allowed_base_ms: int = 2_000
    allowed_us_per_mflop: int = 100
    fee_bps: int = 500


@dataclass(frozen=True, slots=True)
class Split:
    """Where a task's money goes; the four parts always sum to the maximum price."""

    orchestrator: int
    delegate: int
    fee: int
    refund: int

    @property
    def paid(self) -> int:
        """What the client paid."""
        return self.orchestrator + self.delegate + self.fee


def complexity(shape: ModelShape, prompt_tokens: int, output_tokens: int) -> int:
    """MFLOP of one task, rounded up: 2·P·n + 4·layers·heads·head_dim·n² over n positions, causal.

    Matches torch's FlopCounterMode for a dense decoder; computed from config and verified counts, never reported.
    """
    positions = prompt_tokens + output_tokens
    flops = 2 * shape.matmul_parameters * positions
    flops += 4 * shape.layers * shape.heads * shape.head_dim * positions * positions
    return -(-flops // 1_000_000)


def asked_price(terms: PriceTerms, prompt_tokens: int, output_tokens: int) -> int:
    """What an orchestrator asks for a task of these counts, in octas, rounded up."""
    tokens = terms.input_per_1k * prompt_tokens + terms.output_per_1k * output_tokens
    return terms.base - (-tokens // 1_000)


def success_ppm(completed: int, failed: int) -> int:
    """Success rate with a prior of nine successes in ten, so that a newcomer starts at 0.9."""
    return (completed + 9) * PPM // (completed + failed + 10)


def reward(params: RewardParams, *, max_price: int, complexity: int, compute_ms: int, success_ppm: int) -> int:
    """The contract's formula, in octas, rounded down; see docs/contract.md for a worked example."""
    allowed_ms = params.allowed_base_ms + complexity * params.allowed_us_per_mflop // 1_000
    work = params.base + complexity * params.unit_price // PPM + min(compute_ms, allowed_ms) * params.ms_price
    return min(max_price, work * (500_000 + success_ppm // 2) // PPM)


def split(gross: int, *, max_price: int, fee_bps: int, delegate_bps: int) -> Split:
    """Divide *gross* (at most *max_price*): the fee first, then the delegate's share of the rest, all rounded down."""
    fee = gross * fee_bps // BPS
    payout = gross - fee
    delegate = payout * delegate_bps // BPS
    return Split(payout - delegate, delegate, fee, max_price - gross)
