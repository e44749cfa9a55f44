"""``python -O -m tests.ledger.optimised``: what must be refused is refused, and paid is paid, where no assert runs."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from cactus_mesh.errors import LedgerAborted, LedgerDown, LedgerRejected, LedgerWrongChain, MeshError, NoFunds
from cactus_mesh.ledger import dev
from cactus_mesh.ledger.client import ContractLedger, open_ledger
from cactus_mesh.ledger.devnet import open_devnet
from tests.ledger.stage import Clock, Stage
from tests.ledger.world import CLIENT, COIN, ROUTER, STRANGER, person

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from cactus_mesh.identity import Address
    from cactus_mesh.ledger.devnet import Devnet


async def _refusals(devnet: Devnet, ledger: ContractLedger) -> int:
    async def open_with(chain_id: int, contract: Address, url: str = devnet.url) -> None:
        async with open_ledger(url, contract, chain_id):
            pass

    expected: list[tuple[type[MeshError], Callable[[], Awaitable[object]]]] = [
        (LedgerAborted, lambda: ledger.register_server(ROUTER)),
        (LedgerRejected, lambda: ledger.deposit(CLIENT, -1)),
        (NoFunds, lambda: ledger.deposit(CLIENT, 10**6 * COIN)),
        (NoFunds, lambda: ledger.deposit(person("penniless"), 1)),
        (LedgerWrongChain, lambda: open_with(99, devnet.contract)),
        (LedgerRejected, lambda: open_with(devnet.chain_id, STRANGER.address)),
        (LedgerDown, lambda: open_with(devnet.chain_id, devnet.contract, "http://127.0.0.1:9")),
    ]
    refused = 0
    for kind, attempt in expected:
        try:
            await attempt()
        except kind:
            refused += 1
    return refused


async def main() -> None:
    clock = Clock()

    async def fund(account: Address, amount: int) -> None:
        await dev.fund(devnet.url, account, amount)

    async def conserved() -> bool:
        return (await dev.audit(devnet.url)).conserved

    with tempfile.TemporaryDirectory() as home:
        async with (
            open_devnet(Path(home), clock=clock) as devnet,
            open_ledger(devnet.url, devnet.contract, devnet.chain_id) as ledger,
        ):
            stage = Stage(ledger, devnet.admin, clock, fund, conserved, devnet.url)
            await stage.furnish()
            print(f"debug:{__debug__}", f"refusals:{await _refusals(devnet, ledger)}")
            settled = await ledger.settle(ROUTER, [stage.item(1), stage.item(2), stage.item(1)])
            print(f"settled:{sum(each.split is not None for each in settled)}", f"conserved:{await conserved()}")


if __name__ == "__main__":
    trio.run(main)
