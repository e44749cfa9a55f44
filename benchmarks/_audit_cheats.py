"""What a cheat signs instead of honest work, and what an audit makes of it.

A `Signed` is all that a receipt says of an answer; `judged` holds it against a replay on the honest engine.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from cactus_mesh.core.audit import Comparison, Judgement, compare, finding_of, judge
from cactus_mesh.core.receipts import pack_logprobs
from cactus_mesh.core.suspicion import Suspicion
from cactus_mesh.messages import Generate, Receipt, Sampling, text_digest
from cactus_mesh.ports import EngineFinish, EngineTokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cactus_mesh.core.thresholds import Thresholds
    from cactus_mesh.messages import FinishReason
    from cactus_mesh.ports import Engine, EngineModel

TASKS: Final = 50
TRIALS: Final = 400
"""Histories of audited tasks drawn from the measured answers, to say how many are found out within so many tasks."""


@dataclass(frozen=True)
class Task:
    """What was asked, and with which seed it must be answered."""

    work: Generate
    sampling: Sampling
    seed: bytes


@dataclass(frozen=True)
class Signed:
    task: Task
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    finish: FinishReason
    prompt_tokens: int


async def honest(engine: Engine, model: EngineModel, task: Task, before: Sequence[int] = ()) -> Signed:
    """What *engine* answers, whatever its model is."""
    token_ids: list[int] = []
    logprobs: list[float] = []
    text: list[str] = []
    finish: EngineFinish | None = None
    async with engine.generate(model.digest, task.work, task.sampling, task.seed, before) as events:
        async for event in events:
            if isinstance(event, EngineTokens):
                token_ids += event.token_ids
                logprobs += event.logprobs
                text.append(event.text)
            else:
                finish = event
    assert finish is not None
    return Signed(task, tuple(token_ids), tuple(logprobs), "".join(text), finish.finish, finish.prompt_tokens)


async def forged(engine: Engine, model: EngineModel, answer: Signed) -> Signed:
    """*answer* with all that one pass of the true model can make look right: counts, text and log-probabilities."""
    task = answer.task
    true = await engine.replay(model.digest, task.work, task.sampling, task.seed, answer.token_ids)
    return replace(
        answer,
        logprobs=true.logprobs,
        text=true.text,
        prompt_tokens=true.prompt_tokens,
        finish=true.finish or answer.finish,
    )


async def judged(
    engine: Engine, model: EngineModel, signed: Signed, thresholds: Thresholds
) -> tuple[Comparison, Judgement]:
    task = signed.task
    replay = await engine.replay(model.digest, task.work, task.sampling, task.seed, signed.token_ids)
    found = compare(receipt(signed, model), finding_of(bytes(32), replay, engine.name), thresholds)
    return found, judge(found, thresholds)


def receipt(signed: Signed, model: EngineModel) -> Receipt:
    return Receipt(
        task_id=bytes(16),
        order_hash=bytes(32),
        model_digest=model.digest,
        dtype=model.dtype,
        prompt_hash=bytes(32),
        sampling_hash=bytes(32),
        token_ids=list(signed.token_ids),
        logprobs=pack_logprobs(signed.logprobs),
        text_hash=text_digest(signed.text),
        finish=signed.finish,
        prompt_tokens=signed.prompt_tokens,
        compute_ms=1,
        engine="",
        claim=b"",
        claim_signature=bytes(64),
        delegate_receipt=None,
    )


def tasks(count: int, seed: int, words: Sequence[str], max_tokens: int, *, greedy: bool = True) -> list[Task]:
    """Prompts of several lengths; a third is answered greedily, where *greedy*, a third with top-p."""
    rng = random.Random(seed)
    kinds = [
        Sampling(max_tokens=max_tokens),
        Sampling(max_tokens=max_tokens, temperature_milli=1_000),
        Sampling(max_tokens=max_tokens, temperature_milli=800, top_p_milli=950, top_k=100),
    ]
    kinds = kinds if greedy else kinds[1:]
    return [
        Task(
            Generate(" ".join(rng.choices(words, k=rng.choice((5, 15, 45))))),
            kinds[number % len(kinds)],
            hashlib.sha256(f"{seed} {number}".encode()).digest(),
        )
        for number in range(count)
    ]


def row(
    name: str, kind: str, found: Sequence[tuple[Comparison, Judgement]], thresholds: Thresholds
) -> dict[str, object]:
    """One line of the table."""
    tokens = sum(each.tokens for each, _ in found)
    return {
        "cheat": name,
        "kind": kind,
        "answers": len(found),
        "mismatched": round(sum(each.mismatches for each, _ in found) / tokens, 5),
        "logprob_error": float(f"{sum(min(each.logprob_error, 99) for each, _ in found) / len(found):.2g}"),
        "largest_gap": float(f"{min(99, max(each.largest_gap for each, _ in found)):.2g}"),
        "failed_per_task": round(sum(verdict.result == "fail" for _, verdict in found) / len(found), 4),
        "doubted_per_task": round(sum(verdict.result != "pass" for _, verdict in found) / len(found), 4),
        "found_in_10": round(found_within(found, thresholds, 10), 4),
        "found_in_50": round(found_within(found, thresholds, TASKS), 4),
    }


def found_within(found: Sequence[tuple[Comparison, Judgement]], thresholds: Thresholds, count: int) -> float:
    """The share of histories of *count* audited answers in which one fails or a suspicion is raised."""
    rng = random.Random(7)
    return sum(_is_found(rng.choices(found, k=count), thresholds) for _ in range(TRIALS)) / TRIALS


def _is_found(history: Sequence[tuple[Comparison, Judgement]], thresholds: Thresholds) -> bool:
    suspicion = Suspicion()
    for seen, verdict in history:
        suspicion = suspicion.after(seen.tokens, seen.mismatches, thresholds.honest_rate)
        if verdict.result == "fail" or suspicion.raised:
            return True
    return False
