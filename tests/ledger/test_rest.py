"""The REST client against nodes that are slow, down, lying or merely real; and many transactions in flight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest
import trio
import trio.testing
from aptos_sdk.bcs import Deserializer
from aptos_sdk.transactions import SignedTransaction

from cactus_mesh.errors import LedgerAborted, LedgerDown, LedgerError, LedgerRejected, LedgerWrongChain, NoFunds
from cactus_mesh.ledger import dev
from cactus_mesh.ledger.client import MAX_CACHED_VIEWS, VIEW_AGE_SECONDS, ViewCache, open_ledger
from cactus_mesh.ledger.dev import DEVNET_CONTRACT
from cactus_mesh.ledger.rest import EXPIRY_SECONDS, open_rest, transaction_hash
from cactus_mesh.ledger.rules import codes
from tests.ledger.world import CLIENT, COIN, ROUTER, STRANGER, person

if TYPE_CHECKING:
    from collections.abc import Callable

    from cactus_mesh.ledger.values import Json, Value
    from tests.ledger.stage import Stage

URL = "http://node.example"


class ScriptedNode(httpx.AsyncBaseTransport):
    """A full node as far as one transaction needs it.  *replies* may replace its answer to a path."""

    def __init__(self) -> None:
        self.replies: dict[str, Callable[[httpx.Request], httpx.Response]] = {}
        self.executed: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        self.sequence = 0
        self.vm_status = "Executed successfully"
        self.events: list[dict[str, Any]] = []
        self.chain_id = 202
        self.seconds = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        path = request.url.path.removeprefix("/v1").strip("/")
        self.asked.append(path.split("/")[0] or "info")
        await trio.lowlevel.checkpoint()
        for prefix, reply in self.replies.items():
            if path.startswith(prefix):
                return reply(request)
        return self.answer(path, request)

    def answer(self, path: str, request: httpx.Request) -> httpx.Response:
        match path.split("/"):
            case [""]:
                return self.json({"chain_id": self.chain_id})
            case ["accounts", _]:
                return self.json({"sequence_number": str(self.sequence)})
            case ["estimate_gas_price"]:
                return self.json({"gas_estimate": 100})
            case ["transactions"]:
                return self.run(request.content)
            case ["transactions", _, hash_] if hash_ in self.executed:
                return self.json(self.executed[hash_])
        return self.json({"message": "not found", "error_code": "transaction_not_found"}, 404)

    def run(self, data: bytes) -> httpx.Response:
        transaction = SignedTransaction.deserialize(Deserializer(data)).transaction
        if transaction.expiration_timestamps_secs <= self.seconds:
            return self.json({"message": "late", "error_code": "vm_error", "vm_error_code": 6}, 400)
        if transaction.sequence_number < self.sequence:
            return self.json({"message": "old", "error_code": "vm_error", "vm_error_code": 3}, 400)
        self.sequence += 1
        success = self.vm_status == "Executed successfully"
        self.executed[transaction_hash(data)] = {
            "type": "user_transaction", "success": success, "vm_status": self.vm_status, "events": self.events,
        }  # fmt: skip
        return self.json({"hash": transaction_hash(data)}, 202)

    def json(self, body: Any, status: int = 200) -> httpx.Response:
        headers = {"x-aptos-chain-id": str(self.chain_id), "x-aptos-ledger-timestampusec": f"{self.seconds}000000"}
        return httpx.Response(status, json=body, headers=headers)


async def _call(node: ScriptedNode, entry: str = "withdraw", *arguments: Value) -> list[Any]:
    async with open_rest(URL, DEVNET_CONTRACT, 202, node) as transport:
        return await transport.call(CLIENT, entry, arguments)


def _once(problem: Exception | httpx.Response, node: ScriptedNode, *, run_first: bool = False) -> Callable[..., Any]:
    """The first request meets *problem*, after having been carried out or not; the next ones are answered."""
    met = False

    def reply(request: httpx.Request) -> httpx.Response:
        nonlocal met
        path = request.url.path.removeprefix("/v1").strip("/")
        if met:
            return node.answer(path, request)
        met = True
        if run_first:
            node.answer(path, request)
        if isinstance(problem, Exception):
            raise problem
        return problem

    return reply


# --- nodes that fail ---------------------------------------------------------------------------------------------


async def test_nobody_at_the_url_is_a_clear_error() -> None:
    with pytest.raises(LedgerDown, match=r"http://127\.0\.0\.1:9.*nobody listens.*cactus-mesh devnet"):
        async with open_ledger("http://127.0.0.1:9", DEVNET_CONTRACT, 202):
            pass


@pytest.mark.parametrize("url", ["", "node.example", "ftp://node.example", "http://", "http://a:b"])
async def test_what_is_no_url_is_named_so(url: str) -> None:
    with pytest.raises(LedgerDown, match="no URL of a ledger"):
        async with open_ledger(url, DEVNET_CONTRACT, 202):
            pass


async def test_another_chain_is_named_beside_the_expected_one() -> None:
    node = ScriptedNode()
    node.chain_id = 1
    with pytest.raises(LedgerWrongChain, match="chain 1, but chain 202"):
        await _call(node)


async def test_a_node_that_changes_chain_later_is_noticed() -> None:
    node = ScriptedNode()
    async with open_rest(URL, DEVNET_CONTRACT, 202, node) as transport:
        node.chain_id = 2
        with pytest.raises(LedgerWrongChain):
            await transport.balance(CLIENT.address)


async def test_a_node_that_never_answers_is_down(autojump_clock: trio.testing.MockClock) -> None:
    node = ScriptedNode()

    def slow(_: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("slow")

    node.replies["accounts"] = slow
    with pytest.raises(LedgerDown, match=r"no answer within 10 s"):
        await _call(node)
    assert node.asked.count("accounts") == 3


async def test_a_failing_node_is_down_and_says_how_it_fails(autojump_clock: trio.testing.MockClock) -> None:
    node = ScriptedNode()
    node.replies["estimate"] = lambda _: httpx.Response(503, text="busy")
    with pytest.raises(LedgerDown, match="status 503"):
        await _call(node)


async def test_a_passing_failure_goes_unnoticed(autojump_clock: trio.testing.MockClock) -> None:
    node = ScriptedNode()
    node.replies["accounts"] = _once(httpx.RemoteProtocolError("closed"), node)
    node.replies["estimate"] = _once(httpx.Response(502), node)
    assert await _call(node) == []


@pytest.mark.parametrize("body", ["<html>", "[]", '{"chain_id": "x"', "7", "null"])
async def test_something_that_is_no_full_node_is_named_so(body: str) -> None:
    node = ScriptedNode()
    node.replies[""] = lambda _: httpx.Response(200, text=body)
    with pytest.raises((LedgerDown, LedgerWrongChain), match=r"URL|chain"):
        await _call(node)


@pytest.mark.parametrize(
    "body", [None, 3, [], {}, {"type": "user_transaction"}, {"type": 1, "success": True, "events": 5}]
)
async def test_a_malformed_outcome_is_an_error_of_the_ledger(body: Any) -> None:
    node = ScriptedNode()
    node.replies["transactions/wait_by_hash"] = lambda _: node.json(body)
    with pytest.raises(LedgerError):
        await _call(node)


# --- one transaction ---------------------------------------------------------------------------------------------


async def test_a_transaction_whose_answer_was_lost_runs_once(autojump_clock: trio.testing.MockClock) -> None:
    node = ScriptedNode()
    node.replies["transactions"] = _once(httpx.ReadError("cut"), node, run_first=True)
    assert await _call(node) == []
    assert (len(node.executed), node.sequence) == (1, 1)


async def test_a_number_taken_by_another_program_is_replaced(autojump_clock: trio.testing.MockClock) -> None:
    node = ScriptedNode()
    async with open_rest(URL, DEVNET_CONTRACT, 202, node) as transport:
        await transport.call(CLIENT, "withdraw", ())
        node.sequence = 7
        await transport.call(CLIENT, "withdraw", ())
    assert node.sequence == 8


async def test_an_account_that_is_always_taken_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    node = ScriptedNode()
    node.replies["accounts"] = lambda _: node.json({"sequence_number": "0"})
    node.sequence = 5
    with pytest.raises(LedgerRejected, match="key of its own"):
        await _call(node)


async def test_the_ledgers_clock_counts_when_it_is_ahead(autojump_clock: trio.testing.MockClock) -> None:
    node = ScriptedNode()
    node.seconds = 4_000_000_000
    assert await _call(node) == []


async def test_a_transaction_that_waits_is_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    node = ScriptedNode()
    node.replies["transactions/wait_by_hash"] = _once(node.json({"type": "pending_transaction"}), node)
    assert await _call(node) == []


async def test_a_transaction_that_never_runs_ends_with_its_expiry(autojump_clock: trio.testing.MockClock) -> None:
    node = ScriptedNode()
    node.replies["transactions/wait_by_hash"] = lambda _: node.json({"type": "pending_transaction"})
    with pytest.raises(LedgerRejected, match="expired before"):
        await _call(node)
    assert EXPIRY_SECONDS < trio.current_time() < 2 * EXPIRY_SECONDS


async def test_a_sender_without_coins_for_the_fee_is_told_so(rest: Stage) -> None:
    with pytest.raises(NoFunds, match="fee"):
        await rest.ledger.register_server(person("penniless"))


@pytest.mark.parametrize(
    ("status", "expected", "code"),
    [
        (f"Move abort in {DEVNET_CONTRACT}::cactus_payment: E_PAUSED(0x30004): paused", LedgerAborted, 0x30004),
        (f"Move abort in {DEVNET_CONTRACT}::cactus_payment: 0x30004", LedgerAborted, 0x30004),
        (f"Move abort in {DEVNET_CONTRACT}::cactus_payment: E_INSUFFICIENT_DEPOSIT(0x90029): x", NoFunds, None),
        (f"Move abort in {DEVNET_CONTRACT}::cactus_payment: 0x7ffff", LedgerAborted, 0x7FFFF),
        (f"Move abort in {DEVNET_CONTRACT}::another: E_PAUSED(0x30004): x", LedgerAborted, 0x30004),
        ("Move abort in 0x1::coin: EINSUFFICIENT_BALANCE(0x10006): Not enough coins", NoFunds, None),
        ("Move abort in 0x1::fungible_asset: 0x10004", NoFunds, None),
        ("Out of gas", LedgerAborted, None),
        ("", LedgerAborted, None),
    ],
)
async def test_a_failed_transaction_raises_what_the_contract_said(
    status: str, expected: type[LedgerError], code: int | None
) -> None:
    node = ScriptedNode()
    node.vm_status = status
    with pytest.raises(expected) as failed:
        await _call(node)
    assert type(failed.value) is expected
    assert getattr(failed.value, "abort_code", None) == code


async def test_only_the_contracts_own_events_count() -> None:
    node = ScriptedNode()
    trimmed = "0x" + DEVNET_CONTRACT[2:].lstrip("0")
    node.events = [
        {"type": "0x1::coin::CoinDeposit", "data": {}},
        {"type": f"{trimmed}::cactus_payment::Withdrawn", "data": {"amount": "1"}},
    ]
    assert await _call(node) == [("Withdrawn", {"amount": "1"})]


async def test_a_contract_that_is_not_there_is_named(rest: Stage) -> None:
    with pytest.raises(LedgerRejected, match="contract's address"):
        async with open_ledger(rest.url, STRANGER.address, 202):
            pass


# --- many at once ------------------------------------------------------------------------------------------------


async def test_many_transactions_of_one_signer_fly_at_once(rest: Stage) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(25):
            nursery.start_soon(rest.ledger.deposit, CLIENT, 1)
    client = await rest.ledger.client(CLIENT.address)
    assert client is not None
    assert client.deposit == 10 * COIN + 25


async def test_two_programs_with_one_key_get_along(rest: Stage) -> None:
    async with open_ledger(rest.url, DEVNET_CONTRACT, 202) as other, trio.open_nursery() as nursery:
        for ledger in (rest.ledger, other):
            nursery.start_soon(ledger.deposit, CLIENT, 1)
            await ledger.deposit(STRANGER, 1)
    client = await rest.ledger.client(CLIENT.address)
    assert client is not None
    assert client.deposit == 10 * COIN + 2


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


# --- the cache ---------------------------------------------------------------------------------------------------


class CountingTransport:
    def __init__(self) -> None:
        self.asked = 0

    async def view(self, function: str, arguments: tuple[Value, ...]) -> Json:
        self.asked += 1
        await trio.sleep(0.1)
        if arguments == ("fails",):
            raise LedgerDown("down")
        return self.asked

    async def call(self, *_: Any) -> Any:
        raise NotImplementedError

    async def balance(self, *_: Any) -> int:
        raise NotImplementedError


async def test_a_view_is_remembered_for_its_age_and_no_longer(autojump_clock: trio.testing.MockClock) -> None:
    transport = CountingTransport()
    views = ViewCache(transport, VIEW_AGE_SECONDS)
    assert await views.view("client", "a") == 1
    await trio.sleep(VIEW_AGE_SECONDS["client"] - 0.2)
    assert await views.view("client", "a") == 1
    await trio.sleep(0.2)
    assert await views.view("client", "a") == 2
    assert await views.view("task", "a") == 3
    assert await views.view("task", "a") == 4


async def test_many_readers_of_one_view_ask_once(autojump_clock: trio.testing.MockClock) -> None:
    transport = CountingTransport()
    views = ViewCache(transport, VIEW_AGE_SECONDS)
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(views.view, "server", "a")
        nursery.start_soon(views.view, "server", "b")
    assert transport.asked == 2


async def test_a_failed_view_is_not_remembered(autojump_clock: trio.testing.MockClock) -> None:
    views = ViewCache(CountingTransport(), VIEW_AGE_SECONDS)
    for _ in range(2):
        with pytest.raises(LedgerDown):
            await views.view("server", "fails")
    assert views._asking == {}


async def test_an_answer_from_before_our_own_change_is_not_remembered(autojump_clock: trio.testing.MockClock) -> None:
    transport = CountingTransport()
    views = ViewCache(transport, VIEW_AGE_SECONDS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(views.view, "client", "a")
        await trio.sleep(0.05)
        views.forget()
    assert await views.view("client", "a") == 2


async def test_the_cache_is_bounded(autojump_clock: trio.testing.MockClock) -> None:
    views = ViewCache(CountingTransport(), {"server": 1e9})
    async with trio.open_nursery() as nursery:
        for number in range(MAX_CACHED_VIEWS + 10):
            nursery.start_soon(views.view, "server", number)
    assert len(views._known) == MAX_CACHED_VIEWS
    assert views._asking == {}
