"""What the mesh adds to an engine: client → router → orchestrator → back, with a fixed 16-token engine.

Every process, socket, signature, check and settlement is real; only the engine is fixed.  Interleaved with calling the
same engine directly in this process.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import trio

from benchmarks.report import Measurement, Target, median, percentile
from cactus_mesh.messages import Generate, Sampling
from cactus_mesh.testing.engine import FAKE_MODEL, FakeEngine
from cactus_mesh.testing.mesh import open_process_mesh

if TYPE_CHECKING:
    from cactus_mesh.client import Client

TARGETS: Final = (
    Target("added_p50_ms", "median added to calling the engine directly, one request at a time", "<=", 8.0),
    Target("rps64", "requests per second, 64 at once, all signatures checked", ">=", 250.0),
    Target("ttft_ms", "median time to the first token, one request at a time"),
    Target("p99_ms", "99th percentile, one request at a time"),
    Target("p50_ms_at_64", "median, 64 at once"),
)
ROUNDS: Final = 5
SEQUENTIAL: Final = 60
CONCURRENT: Final = 640
AT_ONCE: Final = 64
ENGINE_SLOTS: Final = 256
PROMPT: Final = "Tell me of the desert"


async def _ask(client: Client) -> tuple[float, float]:
    """Seconds to the first text and to the verified end."""
    began = time.perf_counter()
    answer = client.generate(PROMPT, model=FAKE_MODEL.name, max_tokens=16, max_price=20_000)
    first = 0.0
    async for _ in answer:
        first = first or time.perf_counter() - began
    assert len(answer.result.token_ids) == 16
    return first, time.perf_counter() - began


async def _directly(engine: FakeEngine) -> float:
    began = time.perf_counter()
    work, sampling = Generate(PROMPT), Sampling(max_tokens=16)
    async with engine.generate(FAKE_MODEL.digest, work, sampling, bytes(32)) as events:
        async for _ in events:
            pass
    return time.perf_counter() - began


async def _at_once(client: Client) -> tuple[float, list[float]]:
    """Requests per second with `AT_ONCE` under way, and each one's seconds."""
    left = CONCURRENT
    seconds: list[float] = []

    async def worker() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            seconds.append((await _ask(client))[1])

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(AT_ONCE):
            nursery.start_soon(worker)
    return len(seconds) / (time.perf_counter() - began), seconds


async def _measure() -> Measurement:
    engine = FakeEngine()
    added, first, p99, rps, loaded = [], [], [], [], []
    async with open_process_mesh() as mesh:
        await mesh.router()
        await mesh.orchestrator(engine={"slots": ENGINE_SLOTS})
        await mesh.acquainted()
        async with mesh.client() as client:
            for _ in range(20):
                await _ask(client)
            for _ in range(ROUNDS):
                meshed = [await _ask(client) for _ in range(SEQUENTIAL)]
                direct = [await _directly(engine) for _ in range(SEQUENTIAL)]
                added.append(median([whole for _, whole in meshed]) - median(direct))
                first.append(median([start for start, _ in meshed]))
                p99.append(percentile([whole for _, whole in meshed], 0.99))
                rate, seconds = await _at_once(client)
                rps.append(rate)
                loaded.append(median(seconds))
    return Measurement(
        {
            "added_p50_ms": median(added) * 1_000,
            "rps64": median(rps),
            "ttft_ms": median(first) * 1_000,
            "p99_ms": median(p99) * 1_000,
            "p50_ms_at_64": median(loaded) * 1_000,
        },
        ROUNDS,
    )


def measure() -> Measurement:
    return trio.run(_measure)
