"""What a relay costs: calls through it against direct ones, and how many token streams one core of it carries.

Processes on the loopback: the relay, of one thread and so on one core, a peer behind it, one that is reached directly,
and this one, whose clients each have a circuit of their own.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio

from benchmarks.report import Measurement, Target, median, percentile
from cactus_mesh.identity import Identity, PeerId
from cactus_mesh.messages import Hello
from cactus_mesh.net import NetworkSettings, open_network

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from cactus_mesh.messages import Role
    from cactus_mesh.ports import Call, Network

TARGETS: Final = (
    Target("relay_streams", "token streams at 20 tokens/s that kept pace through one core of a relay", ">=", 200),
    Target("relayed_throughput_ratio", "bytes echoed per second: through the relay / directly"),
    Target("relayed_rtt_ratio", "1 KiB echo, one after the other, median time: through the relay / directly", "<=", 4),
    Target("relay_core_share_200", "share of one core that the relay took for 200 streams"),
    Target("token_late_p99_ms_200", "how late the latest hundredth of the tokens came, with 200 streams"),
    Target("relayed_mb_per_s", "bytes echoed per second through the relay, in MB, each way"),
    Target("direct_mb_per_s", "the same directly"),
    Target("relayed_rtt_ms", "1 KiB echo through the relay, median time"),
    Target("direct_rtt_ms", "the same directly"),
)
ROUNDS: Final = 3
CLIENTS: Final = 8
"""Each with a connection, and so a circuit, of its own."""
LEVELS: Final = (200, 300, 400, 600, 800)
"""Numbers of streams that are tried, until one cannot keep pace."""
TOKENS_PER_SECOND: Final = 20
STREAM_SECONDS: Final = 5.0
ATTEMPTS: Final = 2
"""For each level; the better one counts, for what else runs on the machine makes tokens late too."""
LATE_SECONDS: Final = 0.25
"""Streams keep pace when 99 of 100 of their tokens come no later than this after their time."""
TOKEN: Final = secrets.token_bytes(32)
ECHO_BYTES: Final = 1_024
SEQUENTIAL: Final = 200
BULK_BYTES: Final = 1 << 18
BULKS: Final = 64
BULKS_AT_ONCE: Final = 8
AT_ONCE: Final = 1_024
LISTEN: Final = "/ip4/127.0.0.1/tcp/0"


def measure() -> Measurement:
    with ExitStack() as stack:
        relay, relay_address = stack.enter_context(_child("relay"))
        _, hidden_address = stack.enter_context(_child("hidden", relay_address))
        _, open_address = stack.enter_context(_child("open"))
        figures = trio.run(_measure, relay.pid, hidden_address, open_address)
    return Measurement(figures, ROUNDS)


async def _measure(relay_pid: int, hidden: str, direct: str) -> dict[str, float]:
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(_client(hidden)) for _ in range(CLIENTS)]
        near = await stack.enter_async_context(_client(direct))
        rounds = [await _compare(clients[0], near) for _ in range(ROUNDS)]
        figures = {key: median([each[key] for each in rounds]) for key in rounds[0]}
        return figures | await _streams(clients, relay_pid)


# --- one call, and bulk ------------------------------------------------------------------------------------------

_Way = tuple["Network", PeerId]


async def _compare(relayed: _Way, direct: _Way) -> dict[str, float]:
    relayed_rtt, direct_rtt = await _rtt_ms(*relayed), await _rtt_ms(*direct)
    relayed_rate, direct_rate = await _bulk(*relayed), await _bulk(*direct)
    return {
        "relayed_throughput_ratio": relayed_rate / direct_rate,
        "relayed_rtt_ratio": relayed_rtt / direct_rtt,
        "relayed_mb_per_s": relayed_rate,
        "direct_mb_per_s": direct_rate,
        "relayed_rtt_ms": relayed_rtt,
        "direct_rtt_ms": direct_rtt,
    }


async def _rtt_ms(network: Network, peer: PeerId) -> float:
    payload = secrets.token_bytes(ECHO_BYTES)
    taken = []
    for _ in range(SEQUENTIAL):
        began = time.perf_counter()
        await network.ask(peer, "echo", payload)
        taken.append(time.perf_counter() - began)
    return percentile(taken, 0.5) * 1_000


async def _bulk(network: Network, peer: PeerId) -> float:
    """MB/s each way."""
    payload = secrets.token_bytes(BULK_BYTES)
    limiter = trio.CapacityLimiter(BULKS_AT_ONCE)

    async def one() -> None:
        async with limiter:
            await network.ask(peer, "echo", payload)

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(BULKS):
            nursery.start_soon(one)
    return BULKS * BULK_BYTES / (time.perf_counter() - began) / 1e6


# --- many streams ------------------------------------------------------------------------------------------------


async def _streams(clients: list[_Way], relay_pid: int) -> dict[str, float]:
    """The most streams that kept pace, and what the relay took for the first level."""
    best = 0
    first: dict[str, float] = {}
    for level in LEVELS:
        busy, began = _cpu_seconds(relay_pid), time.perf_counter()
        late = min([await _stream(clients, level) for _ in range(ATTEMPTS)])
        share = (_cpu_seconds(relay_pid) - busy) / (time.perf_counter() - began)
        first = first or {"relay_core_share_200": share, "token_late_p99_ms_200": late * 1_000}
        if late > LATE_SECONDS:
            break
        best = level
    return {"relay_streams": best, **first}


async def _stream(clients: list[_Way], streams: int) -> float:
    """Of 100 tokens, how late the last but one came, in seconds: after its stream's own schedule, reckoned from the
    quickest token."""
    late: list[float] = []

    async def read(network: Network, peer: PeerId, after: float) -> None:
        await trio.sleep(after)
        seen: list[float] = []
        async with network.call(peer, "tokens", b"") as reply:
            async for _ in reply:
                seen.append(time.perf_counter() - len(seen) / TOKENS_PER_SECOND)
        assert len(seen) == int(STREAM_SECONDS * TOKENS_PER_SECOND)
        late.extend(at - min(seen) for at in seen)

    async with trio.open_nursery() as nursery:
        for number in range(streams):
            nursery.start_soon(read, *clients[number % len(clients)], number / streams / TOKENS_PER_SECOND)
    return percentile(late, 0.99)


def _cpu_seconds(pid: int) -> float:
    """Of another process; 0 where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / float(os.sysconf("SC_CLK_TCK"))


# --- peers -------------------------------------------------------------------------------------------------------


def _hello(role: Role) -> Hello:
    return Hello(network="benchmark", chain_id=1, contract=bytes(32), version=1, roles=[role], agent="benchmark")


@asynccontextmanager
async def _client(address: str) -> AsyncIterator[_Way]:
    peer = PeerId(address.rpartition("/")[2])
    async with open_network(Identity.generate(), NetworkSettings(listen=()), _hello("client")) as network:
        found = await network.connect(peer, [address])
        assert found.relayed == ("p2p-circuit" in address)
        yield network, peer


async def _serve(kind: str, relay: str = "") -> None:
    async def echo(call: Call) -> None:
        await call.send(call.payload)

    async def tokens(call: Call) -> None:
        began = trio.current_time()
        for number in range(int(STREAM_SECONDS * TOKENS_PER_SECOND)):
            await trio.sleep_until(began + number / TOKENS_PER_SECOND)
            await call.send(TOKEN)

    settings = {
        "relay": NetworkSettings(listen=(LISTEN,), serve_relay=True),
        "hidden": NetworkSettings(listen=(), bootstrap=(relay,), relays="always"),
        "open": NetworkSettings(listen=(LISTEN,)),
    }[kind]
    async with open_network(Identity.generate(), settings, _hello("relay" if kind == "relay" else "client")) as network:
        network.serve("echo", echo, at_once=AT_ONCE)
        network.serve("tokens", tokens, at_once=AT_ONCE)
        while not network.addresses():  # noqa: ASYNC110 - its reservation comes, and nobody is told
            await trio.sleep(0.02)
        print(network.addresses()[0], flush=True)
        await trio.sleep_forever()


@contextmanager
def _child(kind: str, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A peer in a process of its own, and its address."""
    command = [sys.executable, "-m", "benchmarks.relay", kind, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            if not address:
                raise RuntimeError(f"the peer {kind!r} did not start")
            yield process, address
        finally:
            process.terminate()


if __name__ == "__main__":
    trio.run(_serve, sys.argv[1], "".join(sys.argv[2:]))
