"""The REST client against nodes that are down, lying or merely real: one transaction; and what views remember."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest
import trio
import trio.testing

from cactus_mesh.errors import LedgerAborted, LedgerDown, LedgerError, LedgerRejected, LedgerWrongChain, NoFunds
from cactus_mesh.ledger.client import MAX_CACHED_VIEWS, VIEW_AGE_SECONDS, ViewCache, open_ledger
from cactus_mesh.ledger.dev import DEVNET_CONTRACT
from cactus_mesh.ledger.rest import EXPIRY_SECONDS
from cactus_mesh.ledger.submitting import VARIATION_SECONDS
from tests.ledger.scripted import ScriptedNode, call, once, opened
from tests.ledger.world import CLIENT, STRANGER, person

if TYPE_CHECKING:
    from cactus_mesh.ledger.values import Json, Value
    from tests.ledger.stage import Stage

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
        await call(node)


async def test_a_node_that_changes_chain_later_is_noticed() -> None:
    node = ScriptedNode()
    async with opened(node) as transport:
        node.chain_id = 2
        with pytest.raises(LedgerWrongChain):
            await transport.balance(CLIENT.address)


async def test_a_node_that_never_answers_is_down(autojump_clock: trio.testing.MockClock) -> None:
    node = ScriptedNode()

    def slow(_: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("slow")

    node.replies["accounts"] = slow
    with pytest.raises(LedgerDown, match=r"no answer within 10 s"):
        await call(node)
    assert node.asked.count("accounts") == 1, "who was slow will not be quick at once"


async def test_a_failing_node_is_down_and_says_how_it_fails(autojump_clock: trio.testing.MockClock) -> None:
    node = ScriptedNode()
    node.replies["estimate"] = lambda _: httpx.Response(503, text="busy")
    with pytest.raises(LedgerDown, match="status 503"):
        await call(node)


async def test_a_passing_failure_goes_unnoticed(autojump_clock: trio.testing.MockClock) -> None:
    node = ScriptedNode()
    node.replies["accounts"] = once(httpx.RemoteProtocolError("closed"), node)
    node.replies["estimate"] = once(httpx.Response(502), node)
    assert await call(node) == []


@pytest.mark.parametrize("body", ["<html>", "[]", '{"chain_id": "x"', "7", "null"])
async def test_something_that_is_no_full_node_is_named_so(body: str) -> None:
    node = ScriptedNode()
    node.replies[""] = lambda _: httpx.Response(200, text=body)
    with pytest.raises((LedgerDown, LedgerWrongChain), match=r"URL|chain"):
        await call(node)


@pytest.mark.parametrize(
    "body", [None, 3, [], {}, {"type": "user_transaction"}, {"type": 1, "success": True, "events": 5}]
)
async def test_a_malformed_outcome_is_an_error_of_the_ledger(body: Any) -> None:
    node = ScriptedNode()
    node.replies["transactions/wait_by_hash"] = lambda _: node.json(body)
    with pytest.raises(LedgerError):
        await call(node)


# --- one transaction ---------------------------------------------------------------------------------------------


async def test_a_transaction_whose_answer_was_lost_runsonce(autojump_clock: trio.testing.MockClock) -> None:
    node = ScriptedNode()
    node.replies["transactions"] = once(httpx.ReadError("cut"), node, run_first=True)
    assert await call(node) == []
    assert (len(node.executed), node.sequence) == (1, 1)


async def test_a_number_taken_by_another_program_is_replaced(autojump_clock: trio.testing.MockClock) -> None:
    node = ScriptedNode()
    async with opened(node) as transport:
        await transport.call(CLIENT, "withdraw", ())
        node.sequence = 7
        await transport.call(CLIENT, "withdraw", ())
    assert node.sequence == 8


async def test_an_account_that_is_always_taken_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    node = ScriptedNode()

    def too_late(request: httpx.Request) -> httpx.Response:
        node.use_number()
        return node.answer("transactions", request) if request.method == "POST" else node.json({}, 404)

    node.replies["transactions"] = too_late
    with pytest.raises(LedgerRejected, match="key of its own"):
        await call(node)


@pytest.mark.parametrize("seconds", [1_000_000_000, 4_000_000_000])
async def test_a_transaction_expires_by_the_ledgers_clock_and_not_the_machines(
    autojump_clock: trio.testing.MockClock, seconds: int
) -> None:
    node = ScriptedNode(seconds)
    assert await call(node) == []
    assert 0 <= seconds + EXPIRY_SECONDS - node.ran[0].expiration_timestamps_secs < VARIATION_SECONDS


async def test_a_transaction_that_waits_is_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    node = ScriptedNode()
    node.replies["transactions/wait_by_hash"] = once(node.json({"type": "pending_transaction"}), node)
    assert await call(node) == []


async def test_a_transaction_that_never_runs_ends_with_its_expiry(autojump_clock: trio.testing.MockClock) -> None:
    node = ScriptedNode()
    node.replies["transactions/wait_by_hash"] = lambda _: node.json({"type": "pending_transaction"})
    with pytest.raises(LedgerRejected, match="expired before"):
        await call(node)
    assert EXPIRY_SECONDS - VARIATION_SECONDS < trio.current_time() < 2 * EXPIRY_SECONDS


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
        await call(node)
    assert type(failed.value) is expected
    assert getattr(failed.value, "abort_code", None) == code


async def test_only_the_contracts_own_events_count() -> None:
    node = ScriptedNode()
    trimmed = "0x" + DEVNET_CONTRACT[2:].lstrip("0")
    node.events = [
        {"type": "0x1::coin::CoinDeposit", "data": {}},
        {"type": f"{trimmed}::cactus_payment::Withdrawn", "data": {"amount": "1"}},
    ]
    assert await call(node) == [("Withdrawn", {"amount": "1"})]


async def test_a_contract_that_is_not_there_is_named(rest: Stage) -> None:
    with pytest.raises(LedgerRejected, match="contract's address"):
        async with open_ledger(rest.url, STRANGER.address, 202):
            pass


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


async def test_many_readers_of_one_view_askonce(autojump_clock: trio.testing.MockClock) -> None:
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
