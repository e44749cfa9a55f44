"""One ledger for the conformance tests, whatever is behind the port."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cactus_mesh.ledger import dev
from cactus_mesh.ledger.client import ContractLedger, open_ledger
from cactus_mesh.ledger.devnet import open_devnet
from cactus_mesh.testing.ledger import FakeLedger
from tests.ledger.world import (
    CLIENT,
    COIN,
    DELEGATE,
    EVERYBODY,
    NOW,
    ORCHESTRATOR,
    OTHER_ROUTER,
    ROUTER,
    claim_for,
    consent_for,
    signed,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from cactus_mesh.core.settlement import Settlement
    from cactus_mesh.identity import Address, Identity
    from cactus_mesh.ports import Ledger


@dataclass
class Clock:
    seconds: float = NOW

    def __call__(self) -> float:
        return self.seconds


@dataclass
class Stage:
    """*ledger* is the port under test; the rest is scenery."""

    ledger: Ledger
    admin: Identity
    clock: Clock
    fund: Callable[[Address, int], Awaitable[None]]
    conserved: Callable[[], Awaitable[bool]]
    url: str = ""

    async def furnish(self) -> None:
        """As `tests.ledger.world.new_world`."""
        for each in EVERYBODY:
            await self.fund(each.address, 100 * COIN)
        for router in (ROUTER, OTHER_ROUTER):
            await self.ledger.register_server(router)
            await self.ledger.authorise_server(self.admin, router.address, NOW + 10**6, COIN)
        for each in (ORCHESTRATOR, DELEGATE):
            await self.ledger.register_orchestrator(each, each.public_key, COIN)
        await self.ledger.deposit(CLIENT, 10 * COIN)

    def item(
        self, number: int = 1, *, consent: dict[str, Any] | None = None, claim: dict[str, Any] | None = None
    ) -> Settlement:
        chain = self.ledger.chain
        here: dict[str, Any] = {"chain_id": chain.chain_id, "contract": chain.contract}
        return signed(
            replace(consent_for(number), **here, **(consent or {})), replace(claim_for(number), **here, **(claim or {}))
        )


@asynccontextmanager
async def open_fake_stage(_: Path) -> AsyncIterator[Stage]:
    clock = Clock()
    fake = FakeLedger(clock=clock)

    async def fund(account: Address, amount: int) -> None:
        fake.fund(account, amount)

    async def conserved() -> bool:
        return fake.conserved

    yield Stage(fake, fake.admin, clock, fund, conserved)


@asynccontextmanager
async def open_rest_stage(home: Path) -> AsyncIterator[Stage]:
    clock = Clock()
    async with (
        open_devnet(home, clock=clock) as devnet,
        open_ledger(devnet.url, devnet.contract, devnet.chain_id) as ledger,
    ):

        async def fund(account: Address, amount: int) -> None:
            await dev.fund(devnet.url, account, amount)

        async def conserved() -> bool:
            return (await dev.audit(devnet.url)).conserved

        assert isinstance(ledger, ContractLedger)
        yield Stage(ledger, devnet.admin, clock, fund, conserved, devnet.url)
