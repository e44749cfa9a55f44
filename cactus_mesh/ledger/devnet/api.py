"""The full node's REST API and the faucet's, as far as wallets and this package use them: which request asks what.

Each answer is about committed state.  Errors have Aptos's shape; what is not here is answered as a node answers it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio

from cactus_mesh.ledger.devnet import execution, ledger, shapes, submissions, views
from cactus_mesh.ledger.devnet.http import BadRequest, Request, Response
from cactus_mesh.ledger.devnet.queries import (
    account_in,
    decoded,
    function_name,
    hash_in,
    number,
    refuse_history,
    required,
    short_type,
    switched,
)
from cactus_mesh.ledger.devnet.refusals import Refused, bad_input, not_found
from cactus_mesh.ledger.devnet.transactions import read_batch, read_call, read_simulation, read_submission
from cactus_mesh.ledger.values import BadValue, Json, long_address

if TYPE_CHECKING:
    from cactus_mesh.identity import Address
    from cactus_mesh.ledger.devnet.sequencer import Sequencer
    from cactus_mesh.ledger.devnet.transactions import Submission

LONG_POLL_SECONDS: Final = 1.0
"""As long as a full node waits in wait_by_hash."""
MAX_BATCH: Final = 10
"""A full node's limit for one request."""
BCS: Final = "application/x-bcs"
BCS_TRANSACTION: Final = "application/x.aptos.signed_transaction+bcs"
BCS_VIEW: Final = "application/x.aptos.view_function+bcs"
JSON: Final = "application/json"

log = logging.getLogger(__name__)


class _View(msgspec.Struct):
    function: str
    type_arguments: list[str]
    arguments: list[Any]


class _Fund(msgspec.Struct):
    address: str
    amount: int


@dataclass(frozen=True, slots=True)
class _Both:
    """One answer in both of its forms, of which the request chooses."""

    json: Json
    bcs: bytes


Body = Json | bytes | _Both
"""What a route answers: JSON to be encoded, JSON as bytes, or both forms."""


class Api:
    """Answers requests about one ledger."""

    def __init__(self, sequencer: Sequencer) -> None:
        self._sequencer = sequencer

    async def answer(self, request: Request) -> Response:
        """Never raises: what goes wrong becomes an error response."""
        try:
            return self._respond(request, *await self._route(request))
        except Refused as refused:
            return self._error(refused)
        except BadValue as error:
            return self._error(bad_input(str(error)[:300]))
        except Exception:
            log.exception("a request failed in an unforeseen way", extra={"path": request.path})
            return self._error(Refused(500, "internal_error", "internal error; see the ledger's log"))

    def refuse(self, bad: BadRequest) -> Response:
        return self._error(Refused(bad.status, "web_framework_error", bad.message))

    def _error(self, refused: Refused) -> Response:
        return Response(refused.status, shapes.encode(shapes.problem(refused)), self._headers())

    def _respond(self, request: Request, status: int, body: Body) -> Response:
        wants_bcs = request.headers.get("accept", "").split(";")[0].strip() == BCS
        if wants_bcs and isinstance(body, _Both):
            return Response(status, body.bcs, self._headers(), BCS)
        if wants_bcs and request.method == "GET":  # what a POST has done is told in any case
            raise Refused(400, "bcs_not_supported", f"{request.path[:100]} is answered in JSON only")
        if isinstance(body, _Both):
            body = body.json
        return Response(status, body if isinstance(body, bytes) else shapes.encode(body), self._headers())

    def _headers(self) -> tuple[tuple[str, str], ...]:
        version, state = str(self._sequencer.version), self._sequencer.chain.state
        return (
            ("x-aptos-chain-id", str(state.chain_id)),
            ("x-aptos-ledger-version", version),
            ("x-aptos-ledger-oldest-version", "0"),
            ("x-aptos-ledger-timestampusec", str(self._sequencer.timestamp_us)),
            ("x-aptos-epoch", "1"),
            ("x-aptos-block-height", version),
            ("x-aptos-oldest-block-height", "0"),
            ("x-cactus-devnet", "1"),
        )

    # routing

    async def _route(self, request: Request) -> tuple[int, Body]:
        match request.method, *request.path.strip("/").split("/"):
            case "GET", "":
                return 200, b"tap:ok"
            case "GET", "audit":
                return 200, await self._sequencer.read(lambda chain, _: chain.audit())
            case "POST", "mint":
                return 200, [await self._mint(required(request, "address"), number(required(request, "amount")))]
            case "POST", "fund":
                fund = decoded(request.body, _Fund, strict=False)
                return 200, {"txn_hashes": [await self._mint(fund.address, fund.amount)]}
            case "POST", "v1", "view":
                return 200, await self._view(request)
            case "POST", "v1", "transactions", *rest:
                return await self._post_transactions(request, rest)
            case "POST", "v1", "tables", handle, "item" | "raw_item":
                raise not_found("table_item_not_found", f"Table Item not found by Table handle({handle[:66]})")
            case "GET", "v1", "accounts", account, *rest:
                refuse_history(request, self._sequencer.version)
                return 200, await self._account(account_in(account), rest, request)
            case "GET", "v1", "transactions", *rest:
                return 200, await self._transactions(request, rest)
            case "GET", "v1", *rest:
                return 200, await self._chain(request, rest)
        raise _nothing_there(request)

    async def _chain(self, request: Request, rest: list[str]) -> Body:
        match rest:
            case []:
                return self._info()
            case ["-", "healthy"]:
                return {"message": "aptos-node:ok"}
            case ["estimate_gas_price"]:
                return {
                    "deprioritized_gas_estimate": execution.MIN_GAS_PRICE,
                    "gas_estimate": execution.MIN_GAS_PRICE,
                    "prioritized_gas_estimate": execution.PRIORITY_GAS_PRICE,
                }
            case ["blocks", "by_height" | "by_version", height]:
                whole = switched(request, "with_transactions")
                return await self._sequencer.read(lambda _, store: ledger.block(store, number(height), whole))
        raise _nothing_there(request)

    def _info(self) -> Json:
        version = str(self._sequencer.version)
        return {
            "chain_id": self._sequencer.chain.state.chain_id,
            "epoch": "1",
            "ledger_version": version,
            "oldest_ledger_version": "0",
            "ledger_timestamp": str(self._sequencer.timestamp_us),
            "node_role": "full_node",
            "oldest_block_height": "0",
            "block_height": version,
            "git_hash": "embedded",
        }

    # transactions

    async def _post_transactions(self, request: Request, rest: list[str]) -> tuple[int, Body]:
        match rest:
            case []:
                submission = await self._submit(await self._signed_bytes(request))
                return 202, _Both(shapes.pending(submission), b"")
            case ["simulate"]:
                return 200, await self._simulate(request)
            case ["batch"]:
                return await self._submit_all(request)
            case ["encode_submission"]:
                return 200, await self._sequencer.read(
                    lambda chain, _: submissions.message_to_sign(chain.state, request.body)
                )
        raise _nothing_there(request)

    async def _signed_bytes(self, request: Request) -> bytes:
        match _content_type(request):
            case kind if kind == BCS_TRANSACTION:
                return request.body
            case kind if kind == JSON:
                return await self._sequencer.read(lambda chain, _: submissions.signed_bytes(chain.state, request.body))
        raise Refused(415, "web_framework_error", f"submit transactions as {BCS_TRANSACTION} or {JSON}")

    async def _submit(self, signed: bytes) -> Submission:
        submission = read_submission(signed)
        await self._sequencer.submit(submission)
        return submission

    async def _submit_all(self, request: Request) -> tuple[int, Body]:
        """One after another; those that are refused are named, the others go on."""
        if _content_type(request) != BCS_TRANSACTION:
            raise Refused(415, "web_framework_error", f"submit batches as {BCS_TRANSACTION}")
        batch = read_batch(request.body)
        if len(batch) > MAX_BATCH:
            raise bad_input(f"Submitted too many transactions: {len(batch)}, while limit is {MAX_BATCH}")
        failures = []
        for index, signed in enumerate(batch):
            try:
                await self._submit(signed)
            except Refused as refused:
                failures.append({"error": shapes.problem(refused), "transaction_index": index})
        return 206 if failures else 202, {"transaction_failures": failures}

    async def _simulate(self, request: Request) -> Body:
        submission = read_simulation(await self._signed_bytes(request))
        now_us = self._sequencer.timestamp_us
        executed = await self._sequencer.read(
            lambda chain, _: chain.simulate(ledger.estimated(chain, submission, request), now_us)
        )
        return [shapes.shown(executed)]

    async def _mint(self, account: str, amount: int) -> str:
        return await self._sequencer.mint(long_address(account), amount)

    async def _transactions(self, request: Request, rest: list[str]) -> Body:
        match rest:
            case []:
                return await self._sequencer.read(lambda chain, store: ledger.latest(chain, store, request))
            case ["by_hash", wanted]:
                return await self._by_hash(hash_in(wanted))
            case ["wait_by_hash", wanted]:
                return await self._wait_by_hash(hash_in(wanted))
            case ["by_version", version]:
                return await self._sequencer.read(lambda _, store: ledger.by_version(store, number(version)))
        raise _nothing_there(request)

    async def _by_hash(self, wanted: str) -> Body:
        found = await self._sequencer.read(lambda chain, store: ledger.by_hash(chain, store, wanted))
        if found is None:
            raise not_found("transaction_not_found", f"Transaction not found by Transaction hash({wanted})")
        return found

    async def _wait_by_hash(self, wanted: str) -> Body:
        """The transaction once it has run, or after a while whatever is known of it."""
        with trio.move_on_after(LONG_POLL_SECONDS):
            while not await self._sequencer.read(lambda _, store: store.by_hash(wanted) is not None):
                await self._sequencer.next_commit()
        return await self._by_hash(wanted)

    # state

    async def _view(self, request: Request) -> Body:
        refuse_history(request, self._sequencer.version)
        if _content_type(request) == BCS_VIEW:
            call = read_call(request.body)
            return await self._sequencer.read(lambda chain, _: _both(chain.state, *views.view_call(chain.state, call)))
        asked = decoded(request.body, _View)
        module, function = function_name(asked.function)
        types = tuple(short_type(each) for each in asked.type_arguments)
        return await self._sequencer.read(
            lambda chain, _: _both(chain.state, *views.view_json(chain.state, module, function, types, asked.arguments))
        )

    async def _account(self, account: Address, rest: list[str], request: Request) -> Body:
        answer = await self._sequencer.read(lambda chain, store: ledger.account(chain, store, account, rest, request))
        if answer is None:
            raise _nothing_there(request)
        return _Both(*answer) if isinstance(answer, tuple) else answer


def _both(state: Any, types: tuple[str, ...], values: list[Json]) -> _Both:
    return _Both(values, views.to_bcs(state, types, values))


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "").split(";")[0].strip().lower()


def _nothing_there(request: Request) -> Refused:
    return Refused(404, "web_framework_error", f"there is no {request.method} {request.path[:100]} here")
