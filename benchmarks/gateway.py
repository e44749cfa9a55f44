"""What the gateway adds to an engine, across gateway, router and orchestrator, beside LiteLLM's proxy with its one hop.

Both stand before engines that answer the same sixteen tokens at once; the plain server that LiteLLM is in front of is
also called directly.  The three take turns within a round.  Every signature, check and settlement of the mesh is real.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from benchmarks._litellm import LiteLLMMissing, open_litellm
from benchmarks.report import Measurement, Target, median, percentile
from cactus_mesh.config import find_home
from cactus_mesh.testing.mesh import APT, open_process_mesh

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TARGETS: Final = (
    Target("added_p50_ratio", "median added, one at a time, as a share of what LiteLLM adds", "<=", 0.7),
    Target("rps_ratio", "requests per second, 64 at once, over LiteLLM's", ">=", 2.0),
    Target("streams_ratio", "streams per second, 64 at once, over LiteLLM's", ">=", 2.0),
    Target("added_p50_ms", "median added to calling the engine's server directly, one at a time"),
    Target("added_p99_ms", "99th percentile added, one at a time"),
    Target("added_p50_ms_at_64", "median added, 64 at once"),
    Target("added_p99_ms_at_64", "99th percentile added, 64 at once"),
    Target("streamed_added_p50_ms", "median added to a whole stream, one at a time"),
    Target("rps", "requests per second, 64 at once"),
    Target("streams", "streams per second, 64 at once"),
)
ROUNDS: Final = 3
SEQUENTIAL: Final = 40
CONCURRENT: Final = 256
AT_ONCE: Final = 64
ENGINE_SLOTS: Final = 256
DEPOSIT: Final = 10_000 * APT


@dataclass(slots=True)
class Figures:
    """Seconds of each request, by whether it was streamed and how many were under way; and rates per second."""

    seconds: dict[tuple[bool, int], list[float]] = field(default_factory=dict)
    rates: dict[bool, list[float]] = field(default_factory=dict)

    def note(self, *, stream: bool, at_once: int, seconds: list[float], rate: float) -> None:
        self.seconds.setdefault((stream, at_once), []).extend(seconds)
        if at_once > 1:
            self.rates.setdefault(stream, []).append(rate)

    def p(self, share: float, *, stream: bool = False, at_once: int = 1) -> float:
        return percentile(self.seconds[stream, at_once], share) * 1_000

    def rate(self, *, stream: bool) -> float:
        return median(self.rates[stream])


class Caller:
    """A kept connection that asks the same again and again; no more HTTP than that takes, so as to cost little."""

    def __init__(self, stream: trio.SocketStream, *, streamed: bool) -> None:
        message = {"role": "user", "content": "Tell me of the desert"}
        body = json.dumps({"model": "fake", "messages": [message], "max_tokens": 16, "stream": streamed}).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        self._request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        self._stream = stream

    async def ask(self) -> float:
        """Seconds to the last byte."""
        began = time.perf_counter()
        await self._stream.send_all(self._request)
        data = b""
        while not _is_whole(data):
            piece = await self._stream.receive_some(65_536)
            assert piece, f"closed after {data!r}"
            data += piece
        assert data.startswith(b"HTTP/1.1 200"), data[:500]
        return time.perf_counter() - began


def _is_whole(data: bytes) -> bool:
    head, end, body = data.partition(b"\r\n\r\n")
    if not end:
        return False
    lines = dict(line.lower().partition(b": ")[::2] for line in head.split(b"\r\n")[1:])
    if b"content-length" in lines:
        return len(body) >= int(lines[b"content-length"])
    return body.endswith(b"0\r\n\r\n")


async def _load(port: int, *, stream: bool, at_once: int, requests: int) -> tuple[list[float], float]:
    """Each request's seconds, and how many there were in a second."""
    left = requests
    seconds: list[float] = []

    async def worker() -> None:
        nonlocal left
        async with await trio.open_tcp_stream("127.0.0.1", port) as connection:
            caller = Caller(connection, streamed=stream)
            while left > 0:
                left -= 1
                seconds.append(await caller.ask())

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(at_once):
            nursery.start_soon(worker)
    return seconds, len(seconds) / (time.perf_counter() - began)


@asynccontextmanager
async def _process(*command: str) -> AsyncIterator[bytes]:
    """The first line that it prints; it ends with its standard input."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        line = b""
        with trio.fail_after(60):
            while not line.endswith(b"\n"):
                piece = await process.stdout.receive_some()
                assert piece, f"{command[0]} ended before it was ready"
                line += piece
        yield line
    finally:
        with trio.CancelScope(shield=True):
            assert process.stdin is not None
            await process.stdin.aclose()
            await process.wait()


@asynccontextmanager
async def _mesh_gateway() -> AsyncIterator[int]:
    async with open_process_mesh() as mesh:
        await mesh.router()
        await mesh.orchestrator(engine={"slots": ENGINE_SLOTS})
        await mesh.acquainted()
        identity = await mesh.fund("user")
        async with mesh.ledger() as ledger:
            await ledger.deposit(identity, DEPOSIT)
        home = find_home(mesh.family.home("user").state)
        home.config_file.write_text("[gateway]\nrequests_per_minute = 1000000\n[client]\nmax_price = 20000\n")
        place = ("--ledger", mesh.chain["url"], "--bootstrap", mesh.bootstrap, "--port", "0", "--until-stdin-closes")
        async with _process("cactus_mesh", "--home", str(home.state), "gateway", *place, "--json") as line:
            yield int(json.loads(line)["url"].rpartition(":")[2])


async def _measure() -> Measurement:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        direct = int(await stack.enter_async_context(_process("benchmarks._backend")))
        ports = {"direct": direct, "mesh": await stack.enter_async_context(_mesh_gateway())}
        try:
            ports["litellm"] = await stack.enter_async_context(open_litellm(f"http://127.0.0.1:{direct}/v1", folder))
        except LiteLLMMissing as missing:
            print(f"NOT COMPARED: {missing}", file=sys.stderr)
        found = {name: Figures() for name in ports}
        for port in ports.values():
            await _load(port, stream=True, at_once=8, requests=40)
        for _ in range(ROUNDS):
            for stream in (False, True):
                for at_once, requests in ((1, SEQUENTIAL), (AT_ONCE, CONCURRENT)):
                    for name, port in ports.items():
                        seconds, rate = await _load(port, stream=stream, at_once=at_once, requests=requests)
                        found[name].note(stream=stream, at_once=at_once, seconds=seconds, rate=rate)
    return Measurement(_figures(found), ROUNDS)


def _figures(found: dict[str, Figures]) -> dict[str, float]:
    mesh, direct, other = found["mesh"], found["direct"], found.get("litellm")
    figures = {
        "added_p50_ms": mesh.p(0.5) - direct.p(0.5),
        "added_p99_ms": mesh.p(0.99) - direct.p(0.99),
        "added_p50_ms_at_64": mesh.p(0.5, at_once=AT_ONCE) - direct.p(0.5, at_once=AT_ONCE),
        "added_p99_ms_at_64": mesh.p(0.99, at_once=AT_ONCE) - direct.p(0.99, at_once=AT_ONCE),
        "streamed_added_p50_ms": mesh.p(0.5, stream=True) - direct.p(0.5, stream=True),
        "rps": mesh.rate(stream=False),
        "streams": mesh.rate(stream=True),
    }
    if other is not None:
        theirs = other.p(0.5) - direct.p(0.5)
        figures |= {
            "litellm_added_p50_ms": theirs,
            "litellm_rps": other.rate(stream=False),
            "litellm_streams": other.rate(stream=True),
            "added_p50_ratio": figures["added_p50_ms"] / theirs,
            "rps_ratio": figures["rps"] / other.rate(stream=False),
            "streams_ratio": figures["streams"] / other.rate(stream=True),
        }
    return figures


def measure() -> Measurement:
    return trio.run(_measure)
