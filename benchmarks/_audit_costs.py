"""What a replay costs, beside making the answer, on the engine benchmark's model of 16 million parameters."""

from __future__ import annotations

import os
import random
import sys
import time
from typing import TYPE_CHECKING

import trio

from benchmarks import _audit_cheats as cheats
from benchmarks._audit_cheats import Signed, Task
from benchmarks.report import median
from cactus_mesh.core.draws import AuditPolicy
from cactus_mesh.engine import EngineSettings, open_engine
from cactus_mesh.messages import Generate, Sampling

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cactus_mesh.ports import Engine


async def run(module: str, *arguments: str) -> None:
    await trio.run_process([sys.executable, "-m", module, *arguments], env=environment())


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "TRANSFORMERS_VERBOSITY": "error"}


async def costs(folder: Path, seed: int, words: Sequence[str], runs: int) -> dict[str, float]:
    """On the engine benchmark's model of 16 million parameters: 64 tokens in, 64 out, float32, greedy."""
    place = str(folder / "llama-16m")
    await run("benchmarks._engine_model", "make", place)
    rng = random.Random(seed)
    shares: dict[int, list[float]] = {1: [], 32: []}
    async with open_engine([place], EngineSettings(slots=32, threads=1)) as engine:
        for _ in range(runs):
            for at_once, found in shares.items():
                found.append(await _share(engine, rng, words, at_once))
    rate = AuditPolicy().floor
    return {
        "replay_share": median(shares[1]),
        "replay_share_32": median(shares[32]),
        "amortised_share": rate * median(shares[1]),
        "amortised_share_32": rate * median(shares[32]),
    }


async def _share(engine: Engine, rng: random.Random, words: Sequence[str], at_once: int) -> float:
    """Seconds for *at_once* replays beside each other, over those for making the answers."""
    model, sampling = engine.models[0], Sampling(max_tokens=64)
    asked = [
        Task(Generate(" ".join([str(rng.randrange(10**6)), *rng.choices(words, k=30)])), sampling, rng.randbytes(32))
        for _ in range(at_once)
    ]
    made: list[Signed] = []

    async def make(task: Task) -> None:
        made.append(await cheats.honest(engine, model, task))

    async def again(answer: Signed) -> None:
        task = answer.task
        await engine.replay(model.digest, task.work, task.sampling, task.seed, answer.token_ids)

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for task in asked:
            nursery.start_soon(make, task)
    half_way = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for answer in made:
            nursery.start_soon(again, answer)
    return (time.perf_counter() - half_way) / (half_way - began)
