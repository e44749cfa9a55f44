"""What the embedded ledger carries: its process beside this one, which signs, submits and follows over REST.

Settlements go in full batches, other transactions one by one, several of either under way; both in turns.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import httpx
import trio

from benchmarks.report import Measurement, Target, median
from cactus_mesh.core.settlement import NOBODY, Settlement, SettlementClaim, TaskConsent
from cactus_mesh.identity import Address, Identity, load_key_file
from cactus_mesh.ledger.client import ContractLedger, read_chain
from cactus_mesh.ledger.dev import fund
from cactus_mesh.ledger.rest import open_rest
from cactus_mesh.ledger.rules.tasks import MAX_BATCH

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from cactus_mesh.ports import Chain

TARGETS: Final = (
    Target("settled_per_s", "tasks settled per second, in batches of 50, every signature checked", ">=", 300.0),
    Target("tx_per_s", "deposits per second by one signer, each a transaction of its own"),
    Target("bytes_per_task", "bytes of the signed transaction per settled task"),
    Target("batch_p50_ms", "median time of one batch of 50 alone, from signing to its outcome"),
)
ROUNDS: Final = 5
BATCHES: Final = 12
BATCHES_AT_ONCE: Final = 4
DEPOSITS: Final = 200
COIN: Final = 10**8
YEAR_SECONDS: Final = 365 * 86_400


class _Counting(httpx.AsyncBaseTransport):
    """The network, and how many bytes of transactions went over it."""

    def __init__(self) -> None:
        self._network = httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=100))
        self.bytes = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.method == "POST" and request.url.path.endswith("/transactions"):
            self.bytes += int(request.headers["content-length"])
        return await self._network.handle_async_request(request)

    async def aclose(self) -> None:
        await self._network.aclose()


def _key(name: str) -> Identity:
    return Identity.from_seed(hashlib.sha256(name.encode()).digest())


@dataclass
class _Parties:
    """The ledger and who uses it; *made* counts the tasks."""

    ledger: ContractLedger
    client: Identity
    router: Identity
    orchestrator: Identity
    made: int = 0

    def batch(self) -> list[Settlement]:
        first, self.made = self.made, self.made + MAX_BATCH
        return [self._settlement(self.ledger.chain, number) for number in range(first, first + MAX_BATCH)]

    def _settlement(self, chain: Chain, number: int) -> Settlement:
        task_id, expires_at = number.to_bytes(16, "big"), int(time.time()) + 3_600
        consent = TaskConsent(
            chain.chain_id,
            chain.contract,
            self.client.address,
            self.router.address,
            task_id,
            number,
            10_000,
            expires_at,
        )
        claim = SettlementClaim(
            chain.chain_id, chain.contract, self.client.address, self.router.address, self.orchestrator.address,
            NOBODY, 0, task_id, hashlib.sha256(b"model").digest(), 5_000_000, 1_500, 5_000,
            hashlib.sha256(task_id).digest(),
        )  # fmt: skip
        return Settlement(
            consent, self.client.sign(consent.to_bcs()), claim, self.orchestrator.sign(claim.to_bcs()), 1_000_000
        )

    async def settle(self, batch: list[Settlement]) -> None:
        settled = await self.ledger.settle(self.router, batch)
        assert all(each.split is not None and each.split.paid > 0 for each in settled)


@asynccontextmanager
async def _open(network: _Counting) -> AsyncIterator[_Parties]:
    """A ledger in a process of its own, an authorised router, a staked orchestrator, a client with a deposit."""
    with tempfile.TemporaryDirectory(prefix="cactus-mesh-bench-") as folder, _process(folder) as process:
        assert process.stdout is not None
        chain = json.loads(process.stdout.readline())
        contract = Address(chain["contract"])
        async with open_rest(chain["url"], contract, chain["chain_id"], network) as transport:
            ledger = ContractLedger(transport, await read_chain(transport, chain["chain_id"], contract))
            parties = _Parties(ledger, _key("client"), _key("router"), _key("orchestrator"))
            for each in (parties.client, parties.router, parties.orchestrator):
                await fund(chain["url"], each.address, 10_000 * COIN)
            await ledger.register_server(parties.router)
            until = int(time.time()) + YEAR_SECONDS
            await ledger.authorise_server(_admin(folder), parties.router.address, until, 10_000 * COIN)
            await ledger.register_orchestrator(parties.orchestrator, parties.orchestrator.public_key, COIN)
            await ledger.deposit(parties.client, 1_000 * COIN)
            yield parties
        assert process.stdin is not None
        process.stdin.close()
        process.wait(30)


def _admin(folder: str) -> Identity:
    (key,) = Path(folder).rglob("admin.key")
    return load_key_file(key)


def _process(folder: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "cactus_mesh", "--home", folder, "devnet", "--port", "0", "--json"]
    return subprocess.Popen(
        [*command, "--until-stdin-closes"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )


async def _seconds(jobs: Sequence[Callable[[], Awaitable[None]]], at_once: int) -> float:
    waiting = iter(jobs)

    async def worker() -> None:
        for job in waiting:
            await job()

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(at_once):
            nursery.start_soon(worker)
    return time.perf_counter() - began


async def _measure() -> Measurement:
    settled, transactions, alone, sizes = [], [], [], []
    network = _Counting()
    async with _open(network) as parties:
        await parties.settle(parties.batch())
        for _ in range(ROUNDS):
            batches = [parties.batch() for _ in range(BATCHES)]  # signed by others, elsewhere
            before = network.bytes
            seconds = await _seconds([partial(parties.settle, batch) for batch in batches], BATCHES_AT_ONCE)
            sizes.append((network.bytes - before) / (BATCHES * MAX_BATCH))
            settled.append(BATCHES * MAX_BATCH / seconds)
            deposits = [partial(parties.ledger.deposit, parties.client, 1)] * DEPOSITS
            transactions.append(DEPOSITS / await _seconds(deposits, DEPOSITS))
            batch = parties.batch()
            alone.append(await _seconds([partial(parties.settle, batch)], 1))
    figures = {
        "settled_per_s": median(settled),
        "tx_per_s": median(transactions),
        "bytes_per_task": median(sizes),
        "batch_p50_ms": median(alone) * 1_000,
    }
    return Measurement(figures, ROUNDS)


def measure() -> Measurement:
    return trio.run(_measure)
