"""Tokens per second and time to first token beside `transformers serve` and plain `generate`, run by turns.

Same model (16 million parameters, random), float32, same threads (CACTUS_BENCH_THREADS, by default half of the
processors).  The server is asked over its own HTTP API, our engine through its own process boundary.
"""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

import httpx
import trio

from benchmarks._engine_model import WORDS
from benchmarks.report import Measurement, Target, median, percentile
from cactus_mesh.engine import EngineSettings, open_engine
from cactus_mesh.messages import Generate, Sampling
from cactus_mesh.ports import EngineTokens

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from cactus_mesh.engine.service import Service

TARGETS: Final = (
    Target("vs_serve_8", "tokens/s at 8 at once, as a share of transformers serve's", ">=", 1.3),
    Target("vs_serve_32", "the same at 32 at once", ">=", 1.3),
    Target("vs_generate_1", "tokens/s of one alone, as a share of plain generate's", ">=", 1.0),
    Target("ttft_32_ratio", "median time to first token at 32 at once, as a share of the server's", "<=", 0.7),
    Target("prefix_speedup", "8 prompts that share 512 tokens, beside 8 that share none"),
    Target("peak_mb", "memory of the worker at its highest"),
    Target("late_p99_ms", "how late the node's event loop is while 32 generate, 99th percentile", "<=", 20),
    Target("late_loading_ms", "how late it is at worst while the model is loaded", "<=", 50),
)
RUNS: Final = 5
AT_ONCE: Final = (1, 8, 32, 64)
TOKENS: Final = 64
THREADS: Final = int(os.environ.get("CACTUS_BENCH_THREADS", max(1, (os.cpu_count() or 1) // 2)))
SHARED_WORDS: Final = 300
"""About 512 tokens."""
_TICK_SECONDS: Final = 0.01
_ENVIRONMENT: Final = {
    **os.environ,
    "OMP_NUM_THREADS": str(THREADS),
    "OMP_WAIT_POLICY": "PASSIVE",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}


@dataclass
class Samples:
    by_key: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, key: str, value: float) -> None:
        self.by_key[key].append(value)

    def median(self, key: str) -> float:
        return median(self.by_key[key])

    def ratio(self, one: str, other: str) -> float:
        """The median of the rounds' ratios: what else a machine does changes from round to round."""
        return median([a / b for a, b in zip(self.by_key[one], self.by_key[other], strict=True)])


Ask: TypeAlias = "Callable[[str, int], Awaitable[float]]"
"""Ask for so many tokens of a prompt; the seconds to the first."""


def prompts(rng: random.Random, count: int, words: int = 36) -> list[str]:
    """About 64 tokens each, all different from the first word on."""
    return [" ".join([str(rng.randrange(10**6)), *rng.choices(WORDS, k=words)]) for _ in range(count)]


async def together(ask: Ask, texts: Sequence[str], tokens: int = TOKENS) -> tuple[float, float]:
    """Tokens per second of all, and the median time to the first."""
    firsts: list[float] = []

    async def one(text: str) -> None:
        firsts.append(await ask(text, tokens))

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for text in texts:
            nursery.start_soon(one, text)
    return len(texts) * tokens / (time.perf_counter() - began), median(firsts)


# --- the three ------------------------------------------------------------------------------------------------------


def asking_engine(engine: Service) -> Ask:
    digest = engine.models[0].digest

    async def ask(prompt: str, tokens: int) -> float:
        began, first, count = time.perf_counter(), 0.0, 0
        async with engine.generate(digest, Generate(prompt), Sampling(max_tokens=tokens), bytes(32)) as events:
            async for event in events:
                first = first or time.perf_counter() - began
                count += len(event.token_ids) if isinstance(event, EngineTokens) else 0
        assert count == tokens
        return first

    return ask


def asking_server(client: httpx.AsyncClient, model: str) -> Ask:
    async def ask(prompt: str, tokens: int) -> float:
        began, first, usage = time.perf_counter(), 0.0, ""
        body = {"model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True}
        async with client.stream("POST", "/v1/completions", json=body) as reply:
            async for line in reply.aiter_lines():
                if line:
                    first, usage = first or time.perf_counter() - began, line
        assert f'"completion_tokens":{tokens}' in usage, usage
        return first

    return ask


@contextmanager
def child(*command: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, *command],
        env=_ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def server(folder: str) -> Iterator[str]:
    """Its address.  Its cache is given the bounds that it needs on a CPU: by default it takes gigabytes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = ("-m", "transformers.cli.transformers", "serve", folder, "--continuous-batching", "--device", "cpu")
    bounds = ("--cb-block-size", "32", "--cb-num-blocks", "512", "--cb-max-batch-tokens", "512")
    kind = ("--dtype", "float32", "--attn-implementation", "sdpa", "--host", "127.0.0.1", "--port", port)
    with child(*command, *bounds, *kind) as process:
        url = f"http://127.0.0.1:{port}"
        for _ in range(600):
            assert process.poll() is None, "transformers serve ended; is transformers[serving] installed?"
            try:
                if httpx.get(f"{url}/health").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.1)
        yield url


# --- the measurement ------------------------------------------------------------------------------------------------


def measure() -> Measurement:
    with tempfile.TemporaryDirectory(prefix="cactus-mesh-bench-") as place, ExitStack() as stack:
        folder = str(Path(place) / "model")
        subprocess.run([sys.executable, "-m", "benchmarks._engine_model", "make", folder], check=True)
        plain = stack.enter_context(child("-m", "benchmarks._engine_model", "generate", folder))
        url = stack.enter_context(server(folder))
        assert plain.stdout is not None
        assert plain.stdout.readline() == "ready\n"
        samples = trio.run(_measure, folder, url, plain)
    figures = {
        "vs_serve_8": samples.ratio("engine_8", "serve_8"),
        "vs_serve_32": samples.ratio("engine_32", "serve_32"),
        "vs_generate_1": samples.ratio("engine_1", "generate_1"),
        "ttft_32_ratio": samples.ratio("engine_ttft_32_ms", "serve_ttft_32_ms"),
        "prefix_speedup": samples.ratio("shared", "unshared"),
        "late_p99_ms": percentile(samples.by_key.pop("late_ms"), 0.99),
        "late_loading_ms": max(samples.by_key.pop("late_loading_ms")),
        "peak_mb": max(samples.by_key.pop("peak_mb")),
    }
    return Measurement(figures | {key: samples.median(key) for key in sorted(samples.by_key)}, RUNS)


async def _measure(folder: str, url: str, plain: subprocess.Popen[str]) -> Samples:
    samples, rng = Samples(), random.Random(7)
    settings = EngineSettings(threads=THREADS, slots=max(AT_ONCE))
    async with (
        httpx.AsyncClient(base_url=url, timeout=600, limits=httpx.Limits(max_connections=100)) as client,
        trio.open_nursery() as nursery,
    ):
        loading = trio.CancelScope()
        nursery.start_soon(_watch_loop, samples, "late_loading_ms", loading)
        async with open_engine([folder], settings) as engine:
            loading.cancel()
            ours, theirs = asking_engine(engine), asking_server(client, folder)
            for ask in (ours, theirs):
                await together(ask, prompts(rng, 4))  # the first requests warm everything up
            for _ in range(RUNS):
                await _round(samples, rng, engine, ours, theirs, plain)
    return samples


async def _round(
    samples: Samples, rng: random.Random, engine: Service, ours: Ask, theirs: Ask, plain: subprocess.Popen[str]
) -> None:
    samples.add("generate_1", await trio.to_thread.run_sync(_generate, plain, prompts(rng, 1)[0]))
    for count in AT_ONCE:
        for name, ask in (("engine", ours), ("serve", theirs)):
            async with trio.open_nursery() as nursery:
                watching = trio.CancelScope()
                if (name, count) == ("engine", 32):
                    nursery.start_soon(_watch_loop, samples, "late_ms", watching)
                rate, first = await together(ask, prompts(rng, count))
                watching.cancel()
            samples.add(f"{name}_{count}", rate)
            samples.add(f"{name}_ttft_{count}_ms", first * 1000)
    (beginning,) = prompts(rng, 1, SHARED_WORDS)
    shared = [f"{beginning} {text}" for text in prompts(rng, 8, 8)]
    samples.add("shared", (await together(ours, shared, 16))[0])
    samples.add("unshared", (await together(ours, prompts(rng, 8, SHARED_WORDS + 8), 16))[0])
    samples.add("peak_mb", _peak_mb(engine.worker_pid))


def _generate(plain: subprocess.Popen[str], prompt: str) -> float:
    assert plain.stdin is not None
    assert plain.stdout is not None
    plain.stdin.write(f"{TOKENS} {prompt}\n")
    plain.stdin.flush()
    return TOKENS / float(plain.stdout.readline())


async def _watch_loop(samples: Samples, key: str, scope: trio.CancelScope) -> None:
    with scope:
        while True:
            due = time.perf_counter() + _TICK_SECONDS
            await trio.sleep(_TICK_SECONDS)
            samples.add(key, max(0.0, time.perf_counter() - due) * 1000)


def _peak_mb(pid: int | None) -> float:
    """As Linux counts it; 0 elsewhere."""
    status = Path(f"/proc/{pid}/status")
    lines = status.read_text(encoding="ascii").splitlines() if status.exists() else []
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
