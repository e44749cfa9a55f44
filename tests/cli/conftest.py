"""The command line against a real embedded ledger over sockets, both with a clock that a test can move."""

from __future__ import annotations

import json
import logging
import os
import queue
import shutil
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
from click.testing import CliRunner

from cactus_mesh.cli import main
from cactus_mesh.core.settlement import Settlement
from cactus_mesh.identity import Address, Identity, create_key_file, load_key_file
from cactus_mesh.ledger.client import open_ledger
from cactus_mesh.ledger.dev import fund
from cactus_mesh.ledger.devnet import open_devnet
from cactus_mesh.ports import EscrowOrder
from tests.ledger.world import claim_for, consent_for

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from click.testing import Result

    from cactus_mesh.ledger.devnet.service import Devnet
    from cactus_mesh.ports import Ledger

COIN = 10**8
DAY = 86_400
_real_time = time.time


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """The commands set logging up for their process, which here is that of all tests."""
    loggers = [logging.getLogger(name) for name in (None, "cactus_mesh", "cactus_mesh.net", "libp2p")]
    levels, handlers = [each.level for each in loggers], loggers[0].handlers[:]
    yield
    loggers[0].handlers[:] = handlers
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@dataclass
class Clock:
    offset: float = 0.0

    def __call__(self) -> float:
        return _real_time() + self.offset


@dataclass
class Chain:
    """A running embedded ledger."""

    devnet: Devnet
    home: Path
    clock: Clock = field(default_factory=Clock)

    def use(self, act: Callable[[Ledger], Awaitable[Any]]) -> Any:
        async def run() -> Any:
            async with open_ledger(self.devnet.url, self.devnet.contract, self.devnet.chain_id) as ledger:
                return await act(ledger)

        return trio.run(run)

    def fund(self, account: Address, amount: int) -> None:
        trio.run(fund, self.devnet.url, account, amount)


@pytest.fixture(scope="session")
def devnet() -> Iterator[Chain]:
    """One for all tests; each has its own accounts."""
    ready: queue.Queue[Any] = queue.Queue()
    clock = Clock()
    home = Path(tempfile.mkdtemp())

    async def serve() -> None:
        stop = trio.Event()
        async with open_devnet(home / "devnet", clock=clock) as chain:
            ready.put((chain, trio.lowlevel.current_trio_token(), stop))
            await stop.wait()

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    chain, token, stop = ready.get(timeout=20)
    yield Chain(chain, home, clock)
    token.run_sync_soon(stop.set)
    thread.join(timeout=20)
    shutil.rmtree(home)


@dataclass
class Person:
    """Somebody with a home of their own, at a command line."""

    chain: Chain
    home: Path

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, ["--home", str(self.home), *arguments])

    def says(self, *arguments: str) -> str:
        result = self.run(*arguments)
        assert result.exit_code == 0, result.output
        return result.stdout

    def json(self, *arguments: str) -> Any:
        result = self.run(*arguments, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def fails(self, code: str, *arguments: str) -> str:
        """The one line that says why; with ``--json`` the same code comes as JSON."""
        result = self.run(*arguments)
        assert result.exit_code in (2, 3, 4), result.output
        (line,) = [line for line in result.stderr.splitlines() if line.startswith("error:")]
        assert line.endswith(f"[{code}]"), line
        assert json.loads(self.run(*arguments, "--json").stdout.splitlines()[-1])["error"]["code"] == code
        return line

    @property
    def identity(self) -> Identity:
        if not (self.home / "key").exists():
            create_key_file(self.home / "key", Identity.generate())
        return load_key_file(self.home / "key")

    @property
    def peer(self) -> str:
        return self.identity.peer_id

    def rich(self, coins: int = 100) -> Person:
        self.chain.fund(self.identity.address, coins * COIN)
        return self


@pytest.fixture
def person(devnet: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Person]:
    for name in [name for name in os.environ if name.startswith("CACTUS_MESH_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CACTUS_MESH_LEDGER", devnet.devnet.url)
    monkeypatch.setattr(time, "time", devnet.clock)
    return lambda name: Person(devnet, tmp_path / name)


@pytest.fixture
def admin(devnet: Chain, person: Callable[[str], Person]) -> Person:
    return Person(devnet, devnet.home)


@pytest.fixture
def later(devnet: Chain) -> Callable[[float], None]:
    """Time passes, for the ledger and for the command line."""

    def move(seconds: float) -> None:
        devnet.clock.offset += seconds

    return move


@dataclass
class Escrow:
    """A task in escrow: who takes part in it, and what completes it."""

    client: Person
    router: Person
    operator: Person
    settlement: Settlement
    done_by: int

    @property
    def task(self) -> str:
        return self.settlement.consent.task_id.hex()

    def complete(self) -> Escrow:
        chain = self.client.chain
        chain.use(lambda ledger: ledger.complete_task(self.router.identity, self.settlement))
        return self


@pytest.fixture
def escrow(person: Callable[[str], Person], admin: Person) -> Callable[[], Escrow]:
    def make() -> Escrow:
        client, router, operator = (person(name).rich() for name in ("client", "router", "operator"))
        client.says("deposit", "10apt")
        router.says("register")
        admin.says("authorize", router.peer)
        operator.says("stake", "5apt")
        return in_escrow(client, router, operator)

    return make


def in_escrow(client: Person, router: Person, operator: Person, seconds: int = 60) -> Escrow:
    """The client's consent, the router's escrow, and the operator's claim to it."""
    chain, number = client.chain, time.time_ns()
    names = {"chain_id": chain.devnet.chain_id, "client": client.identity.address, "router": router.identity.address}
    now = int(chain.clock())
    consent = consent_for(number, **names, max_price=COIN // 4, expires_at=now + 1_200)
    claim = claim_for(number, **names, orchestrator=operator.identity.address)
    settlement = Settlement(
        consent, client.identity.sign(consent.to_bcs()), claim, operator.identity.sign(claim.to_bcs()), 1_000_000
    )
    order = EscrowOrder(
        consent, settlement.consent_signature, operator.identity.address, accept_by=now + 30, done_by=now + seconds
    )
    chain.use(lambda ledger: ledger.create_task(router.identity, order))
    return Escrow(client, router, operator, settlement, now + seconds)
