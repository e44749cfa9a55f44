"""The full node's REST API and the faucet's, as far as wallets and this package use them.

Each answer is about committed state.  Errors have Aptos's shape; what is not here is answered as a node answers it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

import msgspec
import trio
from aptos_sdk.transactions import EntryFunction

from cactus_mesh.ledger import contract as abi
from cactus_mesh.ledger.devnet import execution, shapes
from cactus_mesh.ledger.devnet.http import BadRequest, Request, Response
from cactus_mesh.ledger.devnet.refusals import Refused, bad_input, not_found
from cactus_mesh.ledger.devnet.transactions import decode_canonical, read_call, read_submission
from cactus_mesh.ledger.values import BadValue, Json, long_address, short_address, to_json

if TYPE_CHECKING:
    from cactus_mesh.identity import Address
    from cactus_mesh.ledger.devnet.chain import Chain
    from cactus_mesh.ledger.devnet.sequencer import Sequencer
    from cactus_mesh.ledger.devnet.store import Store

LONG_POLL_SECONDS: Final = 1.0
"""As long as a full node waits in wait_by_hash."""
DEFAULT_PAGE: Final = 25
MAX_PAGE: Final = 100
BCS_TRANSACTION: Final = "application/x.aptos.signed_transaction+bcs"
BCS_VIEW: Final = "application/x.aptos.view_function+bcs"
COIN_STORE: Final = f"0x1::coin::CoinStore<{execution.APTOS_COIN}>"
ACCOUNT: Final = "0x1::account::Account"
_COIN_ASSETS: Final = frozenset({execution.APTOS_COIN, "0xa"})

log = logging.getLogger(__name__)


class _View(msgspec.Struct):
    function: str
    type_arguments: list[str]
    arguments: list[Any]


class _Fund(msgspec.Struct):
    address: str
    amount: int


class Api:
    """Answers requests about one ledger."""

    def __init__(self, sequencer: Sequencer) -> None:
        self._sequencer = sequencer

    async def answer(self, request: Request) -> Response:
        """Never raises: what goes wrong becomes an error response."""
        try:
            return self._response(*await self._route(request))
        except Refused as refused:
            return self._error(refused)
        except (BadValue, msgspec.DecodeError) as error:
            return self._error(bad_input(str(error)[:300]))
        except Exception:
            log.exception("a request failed in an unforeseen way", extra={"path": request.path})
            return self._error(Refused(500, "internal_error", "internal error; see the ledger's log"))

    def refuse(self, bad: BadRequest) -> Response:
        return self._error(Refused(bad.status, "web_framework_error", bad.message))

    def _error(self, refused: Refused) -> Response:
        shape = {
            "message": refused.message,
            "error_code": refused.error_code,
            "vm_error_code": refused.vm_error_code,
        }
        return self._response(refused.status, shape)

    def _response(self, status: int, body: Json | bytes) -> Response:
        encoded = body if isinstance(body, bytes) else shapes.encode(body)
        return Response(status, encoded, self._headers())

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

    async def _route(self, request: Request) -> tuple[int, Json | bytes]:
        match request.method, *request.path.strip("/").split("/"):
            case "GET", "":
                return 200, b"tap:ok"
            case "GET", "v1":
                return 200, self._info()
            case "GET", "audit":
                return 200, await self._sequencer.read(lambda chain, _: chain.audit())
            case "POST", "mint":
                return 200, [await self._mint(_query(request, "address"), _number(_query(request, "amount")))]
            case "POST", "fund":
                fund = msgspec.json.decode(request.body, type=_Fund, strict=False)
                return 200, {"txn_hashes": [await self._mint(fund.address, fund.amount)]}
            case "POST", "v1", "transactions":
                return 202, await self._submit(request)
            case "POST", "v1", "view":
                return 200, await self._view(request)
            case "GET", "v1", "estimate_gas_price":
                price = execution.MIN_GAS_PRICE
                return 200, {
                    "deprioritized_gas_estimate": price,
                    "gas_estimate": price,
                    "prioritized_gas_estimate": price * 3 // 2,
                }
            case "GET", "v1", "transactions", "by_hash", wanted:
                return 200, await self._by_hash(wanted)
            case "GET", "v1", "transactions", "wait_by_hash", wanted:
                return 200, await self._wait_by_hash(wanted)
            case "GET", "v1", "transactions", "by_version", version:
                return 200, await self._by_version(_number(version))
            case "GET", "v1", "accounts", account, *rest:
                _refuse_history(request, self._sequencer.version)
                return 200, await self._account(long_address(account), rest, request)
        raise Refused(404, "web_framework_error", f"there is no {request.method} {request.path[:100]} here")

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

    async def _submit(self, request: Request) -> Json:
        if request.headers.get("content-type") != BCS_TRANSACTION:
            raise Refused(415, "web_framework_error", f"submit transactions as {BCS_TRANSACTION}")
        submission = read_submission(request.body)
        await self._sequencer.submit(submission)
        return shapes.pending(submission)

    async def _mint(self, account: str, amount: int) -> str:
        return await self._sequencer.mint(long_address(account), amount)

    async def _by_hash(self, wanted: str) -> Json | bytes:
        found = await self._sequencer.read(lambda chain, store: _find(chain, store, wanted))
        if found is None:
            raise not_found("transaction_not_found", f"Transaction not found by Transaction hash({wanted[:66]})")
        return found

    async def _wait_by_hash(self, wanted: str) -> Json | bytes:
        """The transaction once it has run, or after a while whatever is known of it."""
        with trio.move_on_after(LONG_POLL_SECONDS):
            while not await self._sequencer.read(lambda _, store: store.by_hash(wanted) is not None):
                await self._sequencer.next_commit()
        return await self._by_hash(wanted)

    async def _by_version(self, version: int) -> bytes:
        found = await self._sequencer.read(lambda _, store: store.by_version(version))
        if found is None:
            raise not_found("transaction_not_found", f"Transaction not found by Transaction version({version})")
        return found

    # state

    async def _view(self, request: Request) -> Json:
        _refuse_history(request, self._sequencer.version)
        if request.headers.get("content-type") == BCS_VIEW:
            call = read_call(decode_canonical(EntryFunction, request.body, "ViewFunction"))
            return await self._sequencer.read(lambda chain, _: execution.view_call(chain.state, call))
        asked = msgspec.json.decode(request.body, type=_View)
        module, function = _function(asked.function)
        types = tuple(_short_type(each) for each in asked.type_arguments)
        return await self._sequencer.read(
            lambda chain, _: execution.view_json(chain.state, module, function, types, asked.arguments)
        )

    async def _account(self, account: Address, rest: list[str], request: Request) -> Json | bytes:
        match rest:
            case []:
                return await self._sequencer.read(lambda chain, _: shapes.account(account, chain.sequence(account)))
            case ["balance", asset] if _short_type(asset) in _COIN_ASSETS:
                return await self._sequencer.read(lambda chain, _: execution.balance(chain.state, account))
            case ["resources"]:
                return await self._sequencer.read(
                    lambda chain, _: [shapes.resource(*each) for each in _resources(chain, account).items()]
                )
            case ["resource", kind]:
                return await self._sequencer.read(lambda chain, _: _resource(chain, account, _short_type(kind)))
            case ["transactions"]:
                start = request.query.get("start")
                limit = min(_number(request.query.get("limit", str(DEFAULT_PAGE))), MAX_PAGE)
                first = _number(start) if start is not None else None
                page = await self._sequencer.read(lambda _, store: store.of_sender(account, first, limit))
                return b"[" + b",".join(page) + b"]"
            case ["module", name]:
                raise not_found("module_not_found", f"Module not found by Address({account}), Module ({name[:100]})")
        raise Refused(404, "web_framework_error", f"there is no {request.path[:100]} here")


def _find(chain: Chain, store: Store, wanted: str) -> Json | bytes | None:
    executed = store.by_hash(wanted)
    if executed is not None:
        return executed
    parked = chain.parked_by_hash(wanted)
    return None if parked is None else shapes.pending(parked)


def _resources(chain: Chain, account: Address) -> dict[str, Json]:
    """What the account holds: every account its number and its coins, the contract its configuration."""
    held: dict[str, Json] = {
        ACCOUNT: shapes.account(account, chain.sequence(account)),
        COIN_STORE: {"coin": {"value": str(execution.balance(chain.state, account))}, "frozen": False},
    }
    if account == chain.state.contract:
        held[f"{short_address(account)}::{abi.MODULE}::Config"] = to_json(chain.state.config)
    return held


def _resource(chain: Chain, account: Address, kind: str) -> Json:
    held = _resources(chain, account)
    if kind not in held:
        raise not_found("resource_not_found", f"Resource not found by Address({account}), Struct tag({kind[:200]})")
    return shapes.resource(kind, held[kind])


def _query(request: Request, name: str) -> str:
    if name not in request.query:
        raise bad_input(f"the query lacks {name}")
    return request.query[name]


def _number(text: str) -> int:
    """A number that fits a signed 64-bit column."""
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise bad_input(f"{text[:40]!r} is not a number")
    return int(text)


def _refuse_history(request: Request, latest: int) -> None:
    """Only the present state is kept; an answer about another version would be a wrong one."""
    asked = request.query.get("ledger_version")
    if asked is not None and _number(asked) < latest:
        raise Refused(410, "version_pruned", f"Ledger version({asked}) has been pruned")
    if asked is not None and _number(asked) > latest:
        raise not_found("version_not_found", f"Ledger version({asked}) not found")


def _function(text: str) -> tuple[str, str]:
    parts = text.split("::")
    if len(parts) != 3:
        raise bad_input(f"{text[:200]!r} is not a function: address::module::name")
    return f"{long_address(parts[0])}::{parts[1]}", parts[2]


def _short_type(text: str) -> str:
    """A type's name with its addresses in AIP-40 form; text that is no type names nothing and stays as it is."""
    for separator in ("<", ", ", ","):
        head, found, tail = text.partition(separator)
        if found:
            return f"{_short_type(head)}{separator}{_short_type(tail)}"
    address, colons, name = text.partition("::")
    try:
        return f"{short_address(long_address(address))}{colons}{name}"
    except BadValue:
        return text
