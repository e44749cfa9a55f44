"""A full node as far as one account's transactions need it, whose answers and faults a test decides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import trio
from aptos_sdk.bcs import Deserializer
from aptos_sdk.transactions import RawTransaction, SignedTransaction

from cactus_mesh.ledger.dev import DEVNET_CONTRACT
from cactus_mesh.ledger.rest import RestTransport, open_rest, transaction_hash
from tests.ledger.world import CLIENT, NOW

if TYPE_CHECKING:
    import random
    from contextlib import AbstractAsyncContextManager

    from cactus_mesh.ledger.values import Value

URL = "http://node.example"
Reply = "Callable[[httpx.Request], httpx.Response]"


class ScriptedNode(httpx.AsyncBaseTransport):
    """*replies* may replace its answer to a path; *pool* keeps what came before its turn; *seconds* is its time."""

    def __init__(self, seconds: float = NOW) -> None:
        self.replies: dict[str, Reply] = {}
        self.executed: dict[str, dict[str, Any]] = {}
        self.ran: list[RawTransaction] = []
        self.pool: dict[int, bytes] = {}
        self.asked: list[str] = []
        self.sequence = 0
        self.vm_status = "Executed successfully"
        self.events: list[dict[str, Any]] = []
        self.chain_id = 202
        self.began = seconds - trio.current_time()

    @property
    def seconds(self) -> int:
        return int(self.began + trio.current_time())

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
                return self.submit(request.content)
            case ["transactions", _, hash_] if hash_ in self.executed:
                return self.json(self.executed[hash_])
            case ["transactions", _, hash_] if hash_ in map(transaction_hash, self.pool.values()):
                return self.json({"type": "pending_transaction", "hash": hash_})
        return self.json({"message": "not found", "error_code": "transaction_not_found"}, 404)

    def submit(self, data: bytes) -> httpx.Response:
        raw = read_raw(data)
        if raw.expiration_timestamps_secs <= self.seconds:
            return self.json({"message": "late", "error_code": "vm_error", "vm_error_code": 6}, 400)
        if raw.sequence_number < self.sequence:
            return self.json({"message": "old", "error_code": "vm_error", "vm_error_code": 3}, 400)
        if self.pool.get(raw.sequence_number, data) != data:
            return self.json({"message": "another is there", "error_code": "invalid_transaction_update"}, 400)
        self.pool[raw.sequence_number] = data
        self.run_pool()
        return self.json({"hash": transaction_hash(data)}, 202)

    def run_pool(self) -> None:
        while (data := self.pool.pop(self.sequence, None)) is not None:
            if (raw := read_raw(data)).expiration_timestamps_secs <= self.seconds:
                return
            self.sequence += 1
            self.ran.append(raw)
            self.executed[transaction_hash(data)] = {
                "type": "user_transaction", "hash": transaction_hash(data), "version": str(len(self.ran)),
                "success": self.vm_status == "Executed successfully", "vm_status": self.vm_status,
                "events": self.events,
            }  # fmt: skip

    def use_number(self) -> None:
        """Another program's transaction takes the next number."""
        self.pool.pop(self.sequence, None)
        self.sequence += 1
        self.run_pool()

    def json(self, body: Any, status: int = 200) -> httpx.Response:
        headers = {
            "x-aptos-chain-id": str(self.chain_id),
            "x-aptos-ledger-timestampusec": f"{self.seconds}000000",
            "x-aptos-ledger-version": str(len(self.ran)),
        }
        return httpx.Response(status, json=body, headers=headers)

    def ran_named(self, function: str) -> list[RawTransaction]:
        return [raw for raw in self.ran if raw.payload.value.function == function]


class FaultyNode(ScriptedNode):
    """Drops, loses, forgets and fails at random, while another program uses the same key, until *calm*."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.rng = rng
        self.calm = False

    def answer(self, path: str, request: httpx.Request) -> httpx.Response:
        fault = None if self.calm or not path else self.rng.choice(FAULTS)
        match fault:
            case "refused":
                raise httpx.ConnectError("refused")
            case "unheard":
                raise httpx.ReadError("cut")
            case "busy":
                return httpx.Response(503, text="busy")
            case "forgetful":
                self.pool.clear()
            case "shared":
                self.use_number()
        answer = super().answer(path, request)
        if fault == "lost":
            raise httpx.ReadError("cut")
        return answer


FAULTS = ["refused", "unheard", "busy", "forgetful", "shared", "lost", *[None] * 14]


def read_raw(data: bytes) -> RawTransaction:
    return SignedTransaction.deserialize(Deserializer(data)).transaction


def opened(node: ScriptedNode) -> AbstractAsyncContextManager[RestTransport]:
    return open_rest(URL, DEVNET_CONTRACT, 202, node)


async def call(node: ScriptedNode, entry: str = "withdraw", *arguments: Value) -> list[Any]:
    async with opened(node) as transport:
        return await transport.call(CLIENT, entry, arguments)


def once(problem: Exception | httpx.Response, node: ScriptedNode, *, run_first: bool = False) -> Reply:
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
