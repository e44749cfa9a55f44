"""Many transactions of one signer in flight: each runs exactly once, whatever happens to one of them."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import trio
import trio.testing

from cactus_mesh.errors import LedgerAborted, LedgerDown, LedgerError, LedgerRejected
from cactus_mesh.ledger import dev
from cactus_mesh.ledger.client import open_ledger
from cactus_mesh.ledger.connect import MAX_CONNECTIONS
from cactus_mesh.ledger.dev import DEVNET_CONTRACT
from cactus_mesh.ledger.rest import EXPIRY_SECONDS, transaction_hash
from cactus_mesh.ledger.rules import codes
from cactus_mesh.ledger.sequences import MAX_IN_FLIGHT, Sequences
from tests.ledger.scripted import FaultyNode, ScriptedNode, call, once, opened
from tests.ledger.world import CLIENT, COIN, ROUTER

if TYPE_CHECKING:
    from cactus_mesh.ledger.rest import RestTransport
    from tests.ledger.stage import Stage


class HoldingNode(ScriptedNode):
    """Answers no submission before *together* of them are there."""

    def __init__(self, together: int) -> None:
        super().__init__()
        self.together = together
        self.waiting = self.most = 0
        self.go = trio.Event()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            self.waiting += 1
            self.most = max(self.most, self.waiting)
            if self.waiting == self.together:
                self.go.set()
            await self.go.wait()
            await trio.sleep(0.01)
            self.waiting -= 1
        return await super().handle_async_request(request)


async def _deposit(transport: RestTransport, amount: int, outcomes: dict[int, Any]) -> None:
    try:
        outcomes[amount] = await transport.call(CLIENT, "deposit", (CLIENT.public_key, amount))
    except LedgerError as error:
        outcomes[amount] = error


async def _deposits(node: ScriptedNode, count: int) -> dict[int, Any]:
    """Deposits of 1, 2, 3... at once, and what became of each."""
    outcomes: dict[int, Any] = {}
    async with opened(node) as transport, trio.open_nursery() as nursery:
        for amount in range(1, count + 1):
            nursery.start_soon(_deposit, transport, amount, outcomes)
    return outcomes


def _amounts(node: ScriptedNode) -> list[int]:
    return [int.from_bytes(raw.payload.value.args[1], "little") for raw in node.ran_named("deposit")]


async def test_one_signers_transactions_are_under_way_together(autojump_clock: trio.testing.MockClock) -> None:
    node = HoldingNode(MAX_CONNECTIONS)
    with trio.fail_after(EXPIRY_SECONDS / 2):  # one after the other, they would wait for each other for ever
        outcomes = await _deposits(node, 2 * MAX_IN_FLIGHT + 20)
    assert all(outcome == [] for outcome in outcomes.values())
    assert sorted(_amounts(node)) == sorted(outcomes)
    assert node.most == MAX_CONNECTIONS
    assert node.asked.count("accounts") == node.asked.count("estimate_gas_price") == 1


async def test_what_a_node_accepts_and_forgets_is_sent_again(autojump_clock: trio.testing.MockClock) -> None:
    node = ScriptedNode()
    forgotten: list[bytes] = []

    def forget_first(request: httpx.Request) -> httpx.Response:
        if request.method != "POST" or len(forgotten) >= 5 or request.content in forgotten:
            return node.answer(request.url.path.removeprefix("/v1/"), request)
        forgotten.append(request.content)
        return node.json({"hash": transaction_hash(request.content)}, 202)

    node.replies["transactions"] = forget_first
    outcomes = await _deposits(node, 10)
    assert all(outcome == [] for outcome in outcomes.values())
    assert sorted(_amounts(node)) == list(range(1, 11))
    assert trio.current_time() < 5


async def test_a_transaction_that_no_node_takes_does_not_hold_up_the_others(
    autojump_clock: trio.testing.MockClock,
) -> None:
    node = ScriptedNode()
    poisoned: set[bytes] = set()

    def swallow_one(request: httpx.Request) -> httpx.Response:
        if request.method == "POST" and (not poisoned or request.content in poisoned):
            poisoned.add(request.content)
            return node.json({"message": "no", "error_code": "vm_error", "vm_error_code": 2}, 400)
        return node.answer(request.url.path.removeprefix("/v1/"), request)

    node.replies["transactions"] = swallow_one
    outcomes = await _deposits(node, 10)
    failed = [outcome for outcome in outcomes.values() if isinstance(outcome, LedgerRejected)]
    assert len(failed) == 1
    assert len(_amounts(node)) == 9
    assert len(node.ran_named("transfer")) == 1, "the gap was closed by a transfer of nothing"
    assert trio.current_time() < EXPIRY_SECONDS


async def test_after_a_refusal_the_number_is_used_by_the_next(autojump_clock: trio.testing.MockClock) -> None:
    node = ScriptedNode()
    async with opened(node) as transport:
        await _deposit(transport, 1, {})
        node.replies["transactions"] = once(
            node.json({"message": "no", "error_code": "vm_error", "vm_error_code": 2}, 400), node
        )
        with pytest.raises(LedgerRejected):
            await transport.call(CLIENT, "deposit", (CLIENT.public_key, 2))
        await transport.call(CLIENT, "deposit", (CLIENT.public_key, 3))
    assert (_amounts(node), len(node.ran)) == ([1, 3], 2)
    assert trio.current_time() < 1


async def test_a_cancelled_call_does_not_hold_up_the_others(autojump_clock: trio.testing.MockClock) -> None:
    node = ScriptedNode()
    outcomes: dict[int, Any] = {}

    def never_arrives(request: httpx.Request) -> httpx.Response:
        if request.method == "POST" and not node.ran and b"\x07\x00\x00\x00\x00\x00\x00\x00" in request.content:
            raise httpx.ReadError("cut")
        return node.answer(request.url.path.removeprefix("/v1/"), request)

    node.replies["transactions"] = never_arrives
    async with opened(node) as transport, trio.open_nursery() as nursery:
        with trio.move_on_after(0.03):
            await _deposit(transport, 7, {})
        for amount in (1, 2, 3):
            nursery.start_soon(_deposit, transport, amount, outcomes)
    assert set(_amounts(node)) >= {1, 2, 3}
    assert outcomes == {1: [], 2: [], 3: []}


async def test_a_number_that_another_program_used_is_noticed_after_acceptance(
    autojump_clock: trio.testing.MockClock,
) -> None:
    node = ScriptedNode()
    met: list[str] = []

    def displace(request: httpx.Request) -> httpx.Response:
        if request.method == "POST" and not met:
            met.append("accepted")
            node.use_number()
            return node.json({}, 202)
        return node.answer(request.url.path.removeprefix("/v1/"), request)

    node.replies["transactions"] = displace
    assert await call(node, "deposit", CLIENT.public_key, 9) == []
    assert _amounts(node) == [9]


async def test_a_node_that_lags_behind_is_no_proof_that_a_number_was_lost(
    autojump_clock: trio.testing.MockClock,
) -> None:
    node = ScriptedNode()

    def lag(request: httpx.Request) -> httpx.Response:
        """Another node behind the same URL, which has not seen the transaction until some time has passed."""
        if trio.current_time() > began + 5:
            return node.answer(request.url.path.removeprefix("/v1/"), request)
        reply = node.json({"message": "not found"}, 404)
        reply.headers["x-aptos-ledger-version"] = "0"
        return reply

    began = trio.current_time()
    node.replies["transactions/wait_by_hash"] = node.replies["transactions/by_hash"] = lag
    assert await call(node, "deposit", CLIENT.public_key, 9) == []
    assert _amounts(node) == [9]


async def test_a_ledger_that_dies_after_the_commit_is_asked_when_it_is_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    node = ScriptedNode()

    def dead_for_a_while(request: httpx.Request) -> httpx.Response:
        if trio.current_time() > began + 20:
            return node.answer(request.url.path.removeprefix("/v1/"), request)
        if not node.ran:
            node.answer("transactions", request)
            raise httpx.ReadError("killed")
        raise httpx.ConnectError("nobody")

    began = trio.current_time()
    node.replies["transactions"] = dead_for_a_while
    assert await call(node, "deposit", CLIENT.public_key, 9) == []
    assert _amounts(node) == [9]


async def test_an_unknown_fate_is_told_with_the_transactions_name(autojump_clock: trio.testing.MockClock) -> None:
    node = ScriptedNode()
    hashes: list[str] = []

    def dead(request: httpx.Request) -> httpx.Response:
        hashes.extend([transaction_hash(request.content)] if request.method == "POST" else [])
        raise httpx.ReadError("killed") if request.method == "POST" else httpx.ConnectError("nobody")

    node.replies["transactions"] = dead
    with pytest.raises(LedgerDown, match="may have run") as down:
        await call(node)
    assert hashes[0] in str(down.value)


async def test_no_more_numbers_are_given_out_than_a_mempool_keeps(autojump_clock: trio.testing.MockClock) -> None:
    numbers, given = Sequences(), []

    async def read() -> int:
        return 7

    async def hold() -> None:
        async with numbers.take(read) as number:
            given.append(number)
            assert len(numbers.under_way) <= MAX_IN_FLIGHT
            await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        for _ in range(3 * MAX_IN_FLIGHT):
            nursery.start_soon(hold)
    assert given == list(range(7, 7 + 3 * MAX_IN_FLIGHT))
    assert trio.current_time() == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize("seed", range(25))
async def test_whatever_a_node_does_no_call_runs_twice_and_each_knows_its_fate(
    autojump_clock: trio.testing.MockClock, seed: int
) -> None:
    node = FaultyNode(random.Random(seed))
    outcomes: dict[int, Any] = {}
    async with opened(node) as transport:
        for wave in range(3):
            async with trio.open_nursery() as nursery:
                for amount in range(wave * 20 + 1, wave * 20 + 21):
                    nursery.start_soon(_deposit, transport, amount, outcomes)
        node.calm = True
        await _deposit(transport, 61, outcomes)
    ran = _amounts(node)
    assert len(ran) == len(set(ran))
    assert outcomes[61] == []
    for amount, outcome in outcomes.items():
        if outcome == []:
            assert amount in ran
        elif isinstance(outcome, LedgerRejected):
            assert amount not in ran
        else:
            assert isinstance(outcome, LedgerDown)
    assert sum(outcome == [] for outcome in outcomes.values()) > 45


# --- the embedded ledger -----------------------------------------------------------------------------------------


async def test_many_transactions_of_one_signer_fly_atonce(rest: Stage) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(25):
            nursery.start_soon(rest.ledger.deposit, CLIENT, 1)
    client = await rest.ledger.client(CLIENT.address)
    assert client is not None
    assert client.deposit == 10 * COIN + 25


async def test_two_programs_with_one_key_get_along(rest: Stage) -> None:
    """They make the same calls with the same numbers at the same time, and each call must count."""
    async with open_ledger(rest.url, DEVNET_CONTRACT, 202) as other, trio.open_nursery() as nursery:
        for _ in range(30):
            for ledger in (rest.ledger, other):
                nursery.start_soon(ledger.deposit, CLIENT, 1)
    client = await rest.ledger.client(CLIENT.address)
    assert client is not None
    assert client.deposit == 10 * COIN + 60


async def test_a_refused_transaction_does_not_block_the_next(rest: Stage) -> None:
    with pytest.raises(LedgerAborted) as refused:
        await rest.ledger.register_server(ROUTER)
    assert refused.value.abort_code == codes.SERVER_EXISTS.number
    await rest.ledger.deposit(ROUTER, 1)


async def test_a_cancelled_call_leaves_the_account_usable(rest: Stage) -> None:
    for attempt in range(20):
        with trio.move_on_after(attempt / 2_000):
            await rest.ledger.deposit(CLIENT, 1)
        await rest.ledger.deposit(CLIENT, 1)
    assert (await dev.audit(rest.url)).conserved
