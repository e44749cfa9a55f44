"""Calls between two processes: ours (`open_network`, `ask`, `call`) against plain py-libp2p, a stream per worker."""

from __future__ import annotations

import hashlib
import logging
import secrets
import subprocess
import sys
import time
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_x25519
from libp2p.custom_types import TProtocol
from libp2p.io.utils import read_exactly
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as Noise
from multiaddr import Multiaddr

from benchmarks.report import Measurement, Target, median, percentile
from cactus_mesh.identity import Identity, PeerId
from cactus_mesh.messages import Hello
from cactus_mesh.net import NetworkSettings, open_network

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from libp2p.abc import IHost, INetStream

    from cactus_mesh.ports import Call, Network

    Echo = Callable[[], Awaitable[None]]

TARGETS: Final = (
    Target("rps64_ratio", "1 KiB echoes per second, 64 at once: ours / plain py-libp2p", ">=", 8.0),
    Target("seq_p50_ratio", "1 KiB echo, one after the other, median time: ours / plain", "<=", 1.0),
    Target("rps64", "1 KiB echoes per second, 64 at once"),
    Target("seq_p50_ms", "1 KiB echo, one after the other, median time in ms"),
    Target("stream_tokens_per_s", "tokens of 32 B, sent one by one on 64 streams of one connection", ">=", 50_000),
    Target("plain_rps64", "what plain py-libp2p did in the same runs"),
    Target("plain_seq_p50_ms", "what plain py-libp2p did in the same runs"),
)
RUNS: Final = 5
WORKERS: Final = 64
SEQUENTIAL: Final = 300
ECHOES_PER_WORKER: Final = 120
PLAIN_ECHOES_PER_WORKER: Final = 25
TOKENS_PER_STREAM: Final = 1_000
PAYLOAD: Final = secrets.token_bytes(1024)
TOKEN: Final = secrets.token_bytes(32)
LISTEN: Final = "/ip4/127.0.0.1/tcp/0"
ECHO: Final = TProtocol("/benchmark/echo/1")


def measure() -> Measurement:
    with ExitStack() as stack:
        ours, plain = (stack.enter_context(_server(kind)) for kind in ("ours", "plain"))
        rounds = trio.run(_rounds, ours, plain)
    return Measurement({key: median([figures[key] for figures in rounds]) for key in rounds[0]}, RUNS)


async def _rounds(ours: str, plain: str) -> list[dict[str, float]]:
    async with AsyncExitStack() as stack:
        network, peer = await stack.enter_async_context(_our_client(ours))
        open_plain = await stack.enter_async_context(_plain_client(plain))
        plain_echoes = [await open_plain() for _ in range(WORKERS)]
        our_echoes: list[Echo] = [partial(_our_echo, network, peer)] * WORKERS
        for echoes in (plain_echoes, our_echoes):
            await _p50_ms(echoes[0], 50)
        return [await _round(network, peer, our_echoes, plain_echoes) for _ in range(RUNS)]


async def _round(
    network: Network,
    peer: PeerId,
    ours: list[Echo],
    plain: list[Echo],
) -> dict[str, float]:
    plain_p50, our_p50 = await _p50_ms(plain[0], SEQUENTIAL), await _p50_ms(ours[0], SEQUENTIAL)
    plain_rps = await _per_second(plain, PLAIN_ECHOES_PER_WORKER)
    our_rps = await _per_second(ours, ECHOES_PER_WORKER)
    return {
        "rps64_ratio": our_rps / plain_rps,
        "seq_p50_ratio": our_p50 / plain_p50,
        "rps64": our_rps,
        "seq_p50_ms": our_p50,
        "stream_tokens_per_s": await _tokens_per_second(network, peer),
        "plain_rps64": plain_rps,
        "plain_seq_p50_ms": plain_p50,
    }


async def _p50_ms(echo: Echo, times: int) -> float:
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        await echo()
        taken.append(time.perf_counter() - began)
    return percentile(taken, 0.5) * 1000


async def _per_second(echoes: list[Echo], times: int) -> float:
    async def worker(echo: Echo) -> None:
        for _ in range(times):
            await echo()

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for echo in echoes:
            nursery.start_soon(worker, echo)
    return len(echoes) * times / (time.perf_counter() - began)


# --- ours --------------------------------------------------------------------------------------------------------


def _hello() -> Hello:
    return Hello(network="benchmark", chain_id=1, contract=bytes(32), version=1, roles=["client"], agent="benchmark")


@asynccontextmanager
async def _our_client(address: str) -> AsyncIterator[tuple[Network, PeerId]]:
    peer = PeerId(address.rpartition("/")[2])
    async with open_network(Identity.generate(), NetworkSettings(listen=()), _hello()) as network:
        await network.connect(peer, [address])
        yield network, peer


async def _our_echo(network: Network, peer: PeerId) -> None:
    assert len(await network.ask(peer, "echo", PAYLOAD)) == len(PAYLOAD)


async def _tokens_per_second(network: Network, peer: PeerId) -> float:
    received = 0

    async def read() -> None:
        nonlocal received
        async with network.call(peer, "tokens", b"") as reply:
            async for _ in reply:
                received += 1

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(WORKERS):
            nursery.start_soon(read)
    assert received == WORKERS * TOKENS_PER_STREAM
    return received / (time.perf_counter() - began)


async def _serve_ours() -> None:
    async def echo(call: Call) -> None:
        await call.send(call.payload)

    async def tokens(call: Call) -> None:
        for _ in range(TOKENS_PER_STREAM):
            await call.send(TOKEN)
            await trio.lowlevel.checkpoint()  # as an engine would: the other streams' tokens come in between

    async with open_network(Identity.generate(), NetworkSettings(listen=(LISTEN,)), _hello()) as network:
        network.serve("echo", echo, at_once=WORKERS)
        network.serve("tokens", tokens, at_once=WORKERS)
        print(network.addresses()[0], flush=True)
        await trio.sleep_forever()


# --- plain py-libp2p ---------------------------------------------------------------------------------------------


def _plain_host() -> IHost:
    logging.disable(logging.CRITICAL)  # what it logs is not what we measure
    keys = create_new_key_pair(hashlib.sha256(secrets.token_bytes(32)).digest())
    return new_host(key_pair=keys, sec_opt={NOISE: Noise(keys, noise_privkey=create_x25519().private_key)})


async def _send(stream: INetStream, data: bytes) -> None:
    await stream.write(len(data).to_bytes(4, "big") + data)


async def _receive(stream: INetStream) -> bytes:
    return await read_exactly(stream, int.from_bytes(await read_exactly(stream, 4), "big"))


@asynccontextmanager
async def _plain_client(address: str) -> AsyncIterator[Callable[[], Awaitable[Echo]]]:
    """Opens long-lived streams; each gives an echo."""
    host = _plain_host()
    info = info_from_p2p_addr(Multiaddr(address))

    async def open_echo() -> Echo:
        stream = await host.new_stream(info.peer_id, [ECHO])

        async def echo() -> None:
            await _send(stream, PAYLOAD)
            assert len(await _receive(stream)) == len(PAYLOAD)

        return echo

    async with host.run([Multiaddr(LISTEN)]):
        await host.connect(info)
        yield open_echo


async def _serve_plain() -> None:
    async def echo(stream: INetStream) -> None:
        try:
            while True:
                await _send(stream, await _receive(stream))
        except StreamError:
            pass

    host = _plain_host()
    host.set_stream_handler(ECHO, echo)
    async with host.run([Multiaddr(LISTEN)]):
        print(host.get_addrs()[0], flush=True)
        await trio.sleep_forever()


# --- the other process -------------------------------------------------------------------------------------------


@contextmanager
def _server(kind: str) -> Iterator[str]:
    """The address of an echo server in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.rpc", kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            if not address:
                raise RuntimeError(f"the {kind} server did not start")
            yield address
        finally:
            process.terminate()


if __name__ == "__main__":
    trio.run({"ours": _serve_ours, "plain": _serve_plain}[sys.argv[1]])
