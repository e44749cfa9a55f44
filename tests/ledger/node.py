"""One embedded ledger, asked by hand, and how it says no."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from cactus_mesh.ledger import dev
from cactus_mesh.ledger.connect import http_client
from cactus_mesh.ledger.devnet import open_devnet
from cactus_mesh.ledger.rest import transaction_hash
from tests.ledger import wire
from tests.ledger.stage import Clock
from tests.ledger.world import COIN, person

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import httpx

    from cactus_mesh.identity import Identity

ALICE, BOB = person("alice"), person("bob")
PAY_BOB = wire.transfer(BOB.address, 7)


class Node:
    """One embedded ledger, asked by hand.  Alice has 10 coins."""

    def __init__(self, url: str, http: httpx.AsyncClient, clock: Clock) -> None:
        self.url = url
        self.http = http
        self.clock = clock

    async def submit(self, data: bytes) -> httpx.Response:
        return await self.http.post("/v1/transactions", content=data, headers=wire.BCS)

    async def run(self, data: bytes) -> Any:
        assert (await self.submit(data)).status_code == 202
        return (await self.http.get(f"/v1/transactions/by_hash/{transaction_hash(data)}")).json()

    async def balance(self, who: Identity | str) -> int:
        address = who if isinstance(who, str) else who.address
        reply = await self.http.get(f"/v1/accounts/{address}/balance/0x1::aptos_coin::AptosCoin")
        return int(reply.text)

    async def sequence(self, who: Identity) -> int:
        return int((await self.http.get(f"/v1/accounts/{who.address}")).json()["sequence_number"])


@asynccontextmanager
async def open_node(home: Path) -> AsyncIterator[Node]:
    clock = Clock()
    async with open_devnet(home, clock=clock) as devnet, http_client(devnet.url) as http:
        await dev.fund(devnet.url, ALICE.address, 10 * COIN)
        yield Node(devnet.url, http, clock)


def assert_refused(reply: httpx.Response, status: int, error_code: str, vm_error_code: int | None) -> None:
    problem = reply.json()
    assert (reply.status_code, problem["error_code"], problem["vm_error_code"]) == (status, error_code, vm_error_code)
    assert set(problem) == {"message", "error_code", "vm_error_code"}
    assert reply.headers["x-aptos-chain-id"] == "202"
