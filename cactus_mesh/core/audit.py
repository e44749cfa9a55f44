"""Does a replay bear out what was claimed?  From numbers to a verdict: pass, fail, or inconclusive, which costs nobody.

What is known exactly (counts, text, how the answer ends) fails at the first difference.  What a computer may round
otherwise (the choice of a token, its log-probability) is held against thresholds that were measured on honest replays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from cactus_mesh.core.readings import distance, labels_digest, read
from cactus_mesh.core.receipts import pack_logprobs, unpack_logprobs
from cactus_mesh.errors import MessageMalformed
from cactus_mesh.messages import Audit, Finding, seed_of, text_digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cactus_mesh.core.delegation import Chain
    from cactus_mesh.core.readings import Reads
    from cactus_mesh.core.thresholds import Thresholds
    from cactus_mesh.messages import Receipt
    from cactus_mesh.ports import Replay, Rereading

Result = Literal["fail", "inconclusive", "pass"]
LEAST_MISMATCHES: Final = 2
"""So many before their share of an answer counts: one of ten tokens is no share."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a replay found of an answer of *tokens* tokens.

    *mismatches* are tokens that the model would not have chosen, by more than rounding explains; *largest_gap* is by
    how much, in logits; *logprob_error* the root of the mean square of how far log-probabilities are off.  *broken*
    names what is not as it was claimed.

    Where *texts* were read again it counts those in place of tokens, and a gap is a `readings.distance`.
    """

    tokens: int
    mismatches: int
    largest_gap: float
    logprob_error: float
    broken: tuple[str, ...] = ()
    texts: bool = False


@dataclass(frozen=True, slots=True)
class Judgement:
    """*failed* names the checks that failed; those that only raise a doubt stand behind an inconclusive one."""

    result: Result
    failed: tuple[str, ...] = ()


def audit_of(chain: Chain, claimed: Receipt, places: Sequence[int] = ()) -> Audit:
    """What a verifier is asked about the answer that *claimed* is the receipt of."""
    request, assignment = chain.request.sealed.body, chain.assignment.body
    return Audit(
        model_digest=assignment.offer.digest,
        dtype=assignment.offer.dtype,
        work=request.work,
        sampling=request.sampling,
        seed=seed_of(request.nonce, assignment.router_nonce, request.task_id),
        token_ids=claimed.token_ids,
        places=list(places),
    )


def finding_of(audit_hash: bytes, replay: Replay, engine: str) -> Finding:
    """What a verifier signs."""
    return Finding(
        audit_hash=audit_hash,
        logprobs=pack_logprobs(replay.logprobs),
        gaps=pack_logprobs(replay.gaps),
        text_hash=text_digest(replay.text),
        finish=replay.finish,
        prompt_tokens=replay.prompt_tokens,
        engine=engine,
        numbers=b"",
    )


def finding_of_texts(audit_hash: bytes, found: Rereading, engine: str) -> Finding:
    """What a verifier signs that has read texts again."""
    return Finding(
        audit_hash=audit_hash,
        logprobs=b"",
        gaps=b"",
        text_hash=labels_digest(found.labels),
        finish="stop",
        prompt_tokens=found.prompt_tokens,
        engine=engine,
        numbers=b"".join(map(pack_logprobs, found.rows)),
    )


def compare(claimed: Receipt, finding: Finding, thresholds: Thresholds) -> Comparison:
    """Hold a receipt's claims against a replay of its tokens.  Raises `MessageMalformed` for a finding that is none."""
    gaps, logprobs = _numbers(finding.gaps, claimed), _numbers(finding.logprobs, claimed)
    if any(gap < 0 for gap in gaps):
        raise MessageMalformed("a finding has a gap below zero")
    exact = (
        ("replay_prompt_tokens", claimed.prompt_tokens == finding.prompt_tokens),
        ("replay_finish", claimed.finish in (finding.finish, "cancelled")),
        ("replay_text", claimed.text_hash == finding.text_hash),
    )
    return Comparison(
        tokens=len(gaps),
        mismatches=sum(gap > thresholds.gap_noise for gap in gaps),
        largest_gap=max(gaps, default=0.0),
        logprob_error=error_of(unpack_logprobs(claimed.logprobs), logprobs),
        broken=tuple(name for name, holds in exact if not holds),
    )


def compare_texts(
    work: Reads, claimed: Receipt, text: str, places: Sequence[int], finding: Finding, thresholds: Thresholds
) -> Comparison:
    """As `compare`, of an answer whose *text* says something about each text of *work*, read again at *places*."""
    claims, found = read(work, text), _rows(finding.numbers, len(places))
    same_width = claims.width == len(found[0])
    gaps = [
        distance(work, claims.rows[place], row) if same_width else math.inf
        for place, row in zip(places, found, strict=True)
    ]
    exact = (
        ("replay_prompt_tokens", claimed.prompt_tokens == finding.prompt_tokens),
        ("replay_finish", claimed.finish in (finding.finish, "cancelled")),
        ("replay_labels", labels_digest(claims.labels) == finding.text_hash),
        ("replay_width", same_width),
    )
    return Comparison(
        tokens=len(gaps),
        mismatches=sum(gap > thresholds.gap_noise for gap in gaps),
        largest_gap=max(gaps),
        logprob_error=0.0,
        broken=tuple(name for name, holds in exact if not holds),
        texts=True,
    )


def _rows(data: bytes, count: int) -> list[tuple[float, ...]]:
    if not data or len(data) % (4 * count):
        raise MessageMalformed("a finding has as many numbers for each text, this one has not")
    size = len(data) // count
    rows = [unpack_logprobs(data[start : start + size]) for start in range(0, len(data), size)]
    if not all(math.isfinite(number) for row in rows for number in row):
        raise MessageMalformed("a finding holds what is no number")
    return rows


def _numbers(data: bytes, claimed: Receipt) -> tuple[float, ...]:
    if len(data) != 4 * len(claimed.token_ids):
        raise MessageMalformed("a finding has one number for each token, this one has not")
    numbers = unpack_logprobs(data)
    if any(map(math.isnan, numbers)):
        raise MessageMalformed("a finding holds what is no number")
    return numbers


def error_of(claimed: Sequence[float], replayed: Sequence[float]) -> float:
    """The root of the mean square: a few tokens that are far off weigh more than many that hardly could be.

    Infinite where a claim is no number.
    """
    squares = [(one - other) ** 2 for one, other in zip(claimed, replayed, strict=True)]
    mean = math.fsum(squares) / max(1, len(squares))
    return math.sqrt(mean) if math.isfinite(mean) else math.inf


def judge(found: Comparison, thresholds: Thresholds) -> Judgement:
    """One answer on its own.  What is only suspicious adds up over many: see `core.suspicion`."""
    what = "replay_texts" if found.texts else "replay_tokens"
    too_many = found.mismatches >= LEAST_MISMATCHES and found.mismatches > thresholds.mismatch_share * found.tokens
    sure = list(found.broken)
    if thresholds.calibrated:
        sure += [what] if too_many or found.largest_gap > thresholds.gap_fail else []
        sure += ["replay_logprobs"] if found.logprob_error > thresholds.logprob_fail else []
    if sure:
        return Judgement("fail", tuple(sure))
    doubts = [what] if found.mismatches else []
    doubts += ["replay_logprobs"] if found.logprob_error > thresholds.logprob_pass else []
    return Judgement("inconclusive", tuple(doubts)) if doubts else Judgement("pass")
