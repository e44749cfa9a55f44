"""An in-memory ledger: the contract's own rules behind the `Ledger` port, without a chain, fees or a network.

>>> ledger = FakeLedger()
>>> ledger.authorise(router)            # register and authorise a server
>>> ledger.stake(orchestrator)          # fund and register an orchestrator with the minimum stake
>>> ledger.deposit_for(client, 10**9)   # fund a client and deposit all of it
>>> ledger.down = True                  # from here on every call raises `LedgerDown`
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import trio

from cactus_mesh.errors import LedgerDown, LedgerRejected
from cactus_mesh.identity import Address, Identity, PublicKey
from cactus_mesh.ledger import contract as abi
from cactus_mesh.ledger import rules
from cactus_mesh.ledger.client import ContractLedger
from cactus_mesh.ledger.rules import Abort, Params, Tx
from cactus_mesh.ledger.values import BadValue, Json, Value, to_json
from cactus_mesh.ports import Chain

if TYPE_CHECKING:
    from collections.abc import Callable

FAKE_CHAIN_ID: Final = 203
YEAR_SECONDS: Final = 365 * 86_400
_ADMIN_SEED: Final = b"cactus-mesh fake ledger's admin!"
_CONTRACT: Final = Address("0x" + "cac7" * 16)


class MemoryTransport:
    """Runs calls and views on a `State` of the rules.  Arguments pass through BCS, as they would over a wire."""

    def __init__(self, state: rules.State, clock: Callable[[], float]) -> None:
        self.state = state
        self.down = False
        self._clock = clock

    async def call(self, signer: Identity, entry: str, arguments: tuple[Value, ...]) -> list[abi.Event]:
        await self._reach()
        return self.run(signer.address, entry, arguments)

    def run(self, sender: Address, entry: str, arguments: tuple[Value, ...]) -> list[abi.Event]:
        types = abi.ENTRY_TYPES[entry]
        try:
            decoded = abi.decode_arguments(types, abi.encode_arguments(types, arguments))
            events = rules.ENTRIES[entry](self.state, Tx(sender, int(self._clock())), *decoded)
        except BadValue as error:
            raise LedgerRejected(f"{entry} cannot be called like this: {error}") from None
        except Abort as abort:
            raise abi.error_of(abort.code.number, entry) from None
        self.state.take_journal()
        return [(type(event).__name__, to_json(event)) for event in events]

    async def view(self, function: str, arguments: tuple[Value, ...]) -> Json:
        await self._reach()
        result = rules.VIEWS[function](self.state, *arguments)
        return None if result is None else to_json(result)

    async def balance(self, account: Address) -> int:
        await self._reach()
        return self.state.coins.get(account, 0)

    async def _reach(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.down:
            raise LedgerDown("the fake ledger is down; set ledger.down = False to bring it back")


class FakeLedger(ContractLedger):
    """`cactus_mesh.ports.Ledger` in memory.  *clock* gives Unix seconds; nothing is cached, nothing costs a fee."""

    def __init__(self, *, params: Params | None = None, clock: Callable[[], float] = time.time) -> None:
        self.admin = Identity.from_seed(_ADMIN_SEED)
        self.clock = clock
        self.state = rules.init(FAKE_CHAIN_ID, _CONTRACT, self.admin.address, params)
        self._memory = MemoryTransport(self.state, clock)
        chain = Chain(FAKE_CHAIN_ID, _CONTRACT, self.state.params.reward, self.state.params.min_stake)
        super().__init__(self._memory, chain, view_age_seconds={})

    @property
    def down(self) -> bool:
        """Whether every call raises `LedgerDown`."""
        return self._memory.down

    @down.setter
    def down(self, down: bool) -> None:
        self._memory.down = down

    @property
    def conserved(self) -> bool:
        """Nothing was minted or lost, and each vault holds what it accounts for."""
        return rules.conserved(self.state)

    def run(self, signer: Identity, entry: str, *arguments: Value) -> list[abi.Event]:
        """Any entry of the contract, at once; raises what the port would."""
        return self._memory.run(signer.address, entry, arguments)

    def fund(self, account: Address, amount: int) -> None:
        """Mint *amount* octas, as a faucet does."""
        rules.mint(self.state, account, amount)

    def authorise(self, router: Identity, *, expires_at: int | None = None, max_budget: int = 10**15) -> None:
        """Register *router* where needed and authorise it, by default for a year."""
        if router.address not in self.state.servers:
            self.run(router, "register_server")
        until = int(self.clock()) + YEAR_SECONDS if expires_at is None else expires_at
        self.run(self.admin, "authorize_server", router.address, until, max_budget)

    def stake(self, orchestrator: Identity, amount: int | None = None) -> None:
        """Register *orchestrator*, its own owner, with *amount* (default: the minimum stake) fresh octas."""
        amount = self.state.params.min_stake if amount is None else amount
        self.fund(orchestrator.address, amount)
        self.run(orchestrator, "register_orchestrator", orchestrator.public_key, b"", amount)

    def deposit_for(self, client: Identity | PublicKey, amount: int) -> None:
        """Deposit *amount* fresh octas for *client*."""
        key = client.public_key if isinstance(client, Identity) else client
        self.fund(self.admin.address, amount)
        self.run(self.admin, "deposit", key, amount)
