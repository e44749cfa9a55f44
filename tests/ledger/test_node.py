"""Whatever answers at the ledger's URL: its answers are bounded in size and time, and understood or named."""

from __future__ import annotations

import subprocess
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import trio
import trio.testing

from cactus_mesh.errors import LedgerAborted, LedgerDown, LedgerError, LedgerRejected, LedgerWrongChain, NoFunds
from cactus_mesh.ledger import dev
from cactus_mesh.ledger.connect import REQUEST_SECONDS
from cactus_mesh.ledger.dev import DEVNET_CONTRACT
from cactus_mesh.ledger.node import BEHIND_SECONDS, MAX_ANSWER_BYTES
from cactus_mesh.ledger.rest import MAX_GAS, open_rest
from cactus_mesh.ledger.submitting import MAX_GAS_PRICE
from tests.ledger.scripted import ScriptedNode, call, opened, read_raw
from tests.ledger.world import CLIENT, COIN, person

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.ledger.stage import Stage


class Trickle(httpx.AsyncByteStream):
    """Always a little more, each piece well within any single read's time."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            await trio.sleep(1)
            yield b" "


async def test_a_body_that_trickles_ends_with_the_requests_time(autojump_clock: trio.testing.MockClock) -> None:
    node = ScriptedNode()
    node.replies["accounts"] = lambda _: httpx.Response(200, stream=Trickle())
    began = trio.current_time()
    with pytest.raises(LedgerDown, match=r"no answer within 10 s"):
        await call(node)
    assert trio.current_time() - began == pytest.approx(REQUEST_SECONDS)


async def test_a_body_without_end_is_cut_off() -> None:
    sent = 0

    async def pour(stream: trio.SocketStream) -> None:
        nonlocal sent
        async with stream:
            await stream.receive_some()
            try:
                await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
                while True:
                    await stream.send_all(bytes(65_536))
                    sent += 65_536
            except trio.BrokenResourceError:
                return

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, pour, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        with trio.fail_after(30), pytest.raises(LedgerDown, match="exceeds"):
            async with open_rest(f"http://127.0.0.1:{port}", DEVNET_CONTRACT, 202):
                pass
        nursery.cancel_scope.cancel()
    assert sent < MAX_ANSWER_BYTES + 32 * 1024 * 1024, "what the sockets buffer comes on top"


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (httpx.Response(302, headers={"location": "http://node.example/v1"}), "redirects to 'http://node"),
        (httpx.Response(301), "redirects to 'nowhere'"),
        (httpx.Response(200, headers={"content-encoding": "gzip"}, content=b""), "compressed"),
        (httpx.Response(200, text='{"chain_id": 202'), "does not speak"),
        (httpx.Response(200, content=b"[" * 100_000), "does not speak"),
        (httpx.Response(200, content=b"\xff\xfe\x00"), "does not speak"),
        (httpx.Response(200, json=[{"chain_id": 202}]), "does not speak"),
    ],
)
async def test_what_is_no_nodes_answer_is_named(reply: httpx.Response, expected: str) -> None:
    node = ScriptedNode()
    node.replies[""] = lambda _: reply
    with pytest.raises(LedgerDown, match=expected):
        await call(node)


@pytest.mark.parametrize(
    "number", ["1e999", "-1", '"x"', "null", "[]", '"99999999999999999999999"', "1" * 5_000, "NaN", '{"a": 1}']
)
@pytest.mark.parametrize("path", ["accounts", "estimate_gas_price"])
async def test_a_number_that_is_none_is_an_error_of_the_ledger(path: str, number: str) -> None:
    node = ScriptedNode()
    name = {"accounts": "sequence_number", "estimate_gas_price": "gas_estimate"}[path]
    node.replies[path] = lambda _: httpx.Response(200, text=f'{{"{name}": {number}}}')
    with pytest.raises(LedgerError, match=r"does not speak|octas a unit"):
        await call(node)


@pytest.mark.parametrize("value", ["", "x", "-1", "²", "9" * 400, "1.5"])
@pytest.mark.parametrize("name", ["x-aptos-ledger-timestampusec", "x-aptos-ledger-version"])
async def test_a_header_that_is_no_number_is_no_header(
    autojump_clock: trio.testing.MockClock, name: str, value: str
) -> None:
    node = ScriptedNode(time.time())

    def strange(request: httpx.Request) -> httpx.Response:
        reply = node.answer(request.url.path.removeprefix("/v1").strip("/"), request)
        others = [(key, text) for key, text in reply.headers.multi_items() if key != name]
        return httpx.Response(reply.status_code, headers=[*others, (name, value.encode())], content=reply.content)

    node.replies[""] = strange
    assert await call(node) == []


async def test_the_wrong_chain_is_noticed_in_the_header_of_a_refusal() -> None:
    node = ScriptedNode()
    node.replies["transactions"] = lambda _: httpx.Response(400, headers={"x-aptos-chain-id": "1"})
    with pytest.raises(LedgerWrongChain, match="chain 1, but chain 202"):
        await call(node)


async def test_another_transactions_outcome_is_not_taken_for_ours() -> None:
    node = ScriptedNode()
    other = {"type": "user_transaction", "hash": "0x1", "version": "1", "success": True, "events": []}
    node.replies["transactions/wait_by_hash"] = lambda _: node.json(other)
    with pytest.raises(LedgerDown, match="does not speak"):
        await call(node)


@pytest.mark.parametrize("success", ["false", "true", None, 1])
async def test_success_is_true_or_false_and_nothing_like_it(success: Any) -> None:
    node = ScriptedNode()

    def outcome(request: httpx.Request) -> httpx.Response:
        hash_ = request.url.path.split("/")[-1]
        return node.json({"type": "user_transaction", "hash": hash_, "version": "1", "success": success, "events": []})

    node.replies["transactions/wait_by_hash"] = outcome
    with pytest.raises(LedgerDown, match="does not speak"):
        await call(node)


async def test_no_answer_is_from_before_our_own_last_transaction(autojump_clock: trio.testing.MockClock) -> None:
    node = ScriptedNode()
    answers = iter(["0", "0", "1"])

    def lag(_: httpx.Request) -> httpx.Response:
        reply = node.json(5)
        reply.headers["x-aptos-ledger-version"] = next(answers)
        return reply

    async with opened(node) as transport:
        await transport.call(CLIENT, "withdraw", ())
        node.replies["accounts"] = lag
        assert await transport.balance(CLIENT.address) == 5
        answers = iter(["0"] * 100)
        began = trio.current_time()
        with pytest.raises(LedgerDown, match="lags behind"):
            await transport.balance(CLIENT.address)
        assert trio.current_time() - began == pytest.approx(BEHIND_SECONDS)


# --- fees ----------------------------------------------------------------------------------------------------------


async def test_a_price_that_would_eat_the_account_is_refused() -> None:
    node = ScriptedNode()
    node.replies["estimate_gas_price"] = lambda _: node.json({"gas_estimate": MAX_GAS_PRICE + 1})
    with pytest.raises(LedgerRejected, match="octas a unit of gas"):
        await call(node)
    assert node.ran == []


async def test_a_price_that_has_risen_is_asked_for_again(autojump_clock: trio.testing.MockClock) -> None:
    node = ScriptedNode()
    async with opened(node) as transport:
        await transport.call(CLIENT, "withdraw", ())
        node.replies["estimate_gas_price"] = lambda _: node.json({"gas_estimate": 150})
        node.replies["transactions"] = _below(node, 150)
        await transport.call(CLIENT, "withdraw", ())
    assert [raw.gas_unit_price for raw in node.ran] == [100, 150]


def _below(node: ScriptedNode, price: int) -> Callable[[httpx.Request], httpx.Response]:
    def reply(request: httpx.Request) -> httpx.Response:
        if request.method == "POST" and price.to_bytes(8, "little") not in request.content:
            return node.json({"message": "low", "error_code": "vm_error", "vm_error_code": 15}, 400)
        return node.answer(request.url.path.removeprefix("/v1/"), request)

    return reply


class PoorNode(ScriptedNode):
    """Its account holds *held*; transactions use *gas*; it simulates if *simulated* is not None."""

    def __init__(self, held: int, simulated: dict[str, Any] | None) -> None:
        super().__init__()
        self.held = held
        self.simulated = simulated

    def answer(self, path: str, request: httpx.Request) -> httpx.Response:
        if path.endswith("AptosCoin"):
            return self.json(self.held)
        if path == "transactions/simulate" and self.simulated is not None:
            return self.json([self.simulated])
        return super().answer(path, request)

    def submit(self, data: bytes) -> httpx.Response:
        if read_raw(data).max_gas_amount > 1_000:
            return self.json({"message": "poor", "error_code": "vm_error", "vm_error_code": 5}, 400)
        return super().submit(data)


async def test_a_small_purse_is_enough_for_what_a_transaction_really_uses(
    autojump_clock: trio.testing.MockClock,
) -> None:
    node = PoorNode(100 * 40, {"success": True, "gas_used": "20", "vm_status": "Executed successfully"})
    assert await call(node) == []
    assert node.ran[0].max_gas_amount == 31, "what the simulation used and half as much again"


@pytest.mark.parametrize(
    ("simulated", "expected"),
    [
        (None, NoFunds),
        ({"success": False, "gas_used": "40", "vm_status": "Out of gas"}, NoFunds),
        ({"success": False, "gas_used": "0", "vm_status": "INSUFFICIENT_BALANCE_FOR_TRANSACTION_FEE"}, NoFunds),
        ({"success": False, "gas_used": "9", "vm_status": f"Move abort in {DEVNET_CONTRACT}::cactus_payment: 0x30004"},
         LedgerAborted),
        ({"success": "?"}, LedgerDown),
    ],
)  # fmt: skip
async def test_a_purse_too_small_is_named_before_anything_is_paid(
    autojump_clock: trio.testing.MockClock, simulated: dict[str, Any] | None, expected: type[LedgerError]
) -> None:
    node = PoorNode(100 * 40, simulated)
    with pytest.raises(expected) as refused:
        await call(node)
    assert node.ran == []
    if expected is NoFunds:
        assert "holds 4000 octas" in str(refused.value)


async def test_a_purse_below_the_limit_but_above_the_fee_is_enough_on_the_embedded_ledger(rest: Stage) -> None:
    small = person("small purse")
    await dev.fund(rest.url, small.address, 100 * MAX_GAS // 4)
    await rest.ledger.deposit(small, 1_000)
    client = await rest.ledger.client(small.address)
    assert client is not None
    assert client.deposit == 1_000


async def test_all_that_one_holds_cannot_be_deposited_for_lack_of_the_fee(rest: Stage) -> None:
    with pytest.raises(NoFunds, match="fund it"):
        await rest.ledger.deposit(CLIENT, await rest.ledger.balance(CLIENT.address))
    await rest.ledger.deposit(CLIENT, await rest.ledger.balance(CLIENT.address) - COIN)


# --- python -O -----------------------------------------------------------------------------------------------------


def test_without_asserts_every_refusal_is_still_an_error() -> None:
    command = [sys.executable, "-O", "-W", "error::ResourceWarning", "-m", "tests.ledger.optimised"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.split()) == (
        0,
        ["debug:False", "refusals:7", "settled:2", "conserved:True"],
    ), done.stderr
