"""One full node over HTTP: bounded requests and answers, and what each answer says of its chain, version and time.

Knows neither the contract nor transactions.  Whatever answers at the URL, only `LedgerError`s come out.
"""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

import httpx
import trio

from cactus_mesh.errors import LedgerDown, LedgerRejected, LedgerWrongChain
from cactus_mesh.ledger.connect import MAX_CONNECTIONS, REQUEST_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator

RETRY_AFTER_SECONDS: Final = (0.05, 0.3, 1.0)
"""Pauses before a request is sent again: enough for a connection that was closed under us, or a node that restarts."""
MAX_ANSWER_BYTES: Final = 8 * 1024 * 1024
"""A full batch's outcome with each change that it made is below one."""
BEHIND_SECONDS: Final = 5.0
"""Public URLs hide several nodes; this is how long one may lag behind what another has already shown us."""
POLL_SECONDS: Final = 0.2
MAX_DIGITS: Final = 18
"""Of a number in a header: keeps what is made from it within a u64."""
_SLOW: Final = f"no answer within {REQUEST_SECONDS:g} s"
BCS: Final = "application/x.aptos.{}+bcs"


@dataclass(frozen=True, slots=True)
class Answer:
    """A node's answer below status 500.  *version* is the ledger's, None if unnamed; *seconds* the ledger's time."""

    status: int
    body: bytes
    version: int | None
    seconds: float

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def problem(self) -> dict[str, Any]:
        """The node's error; empty when it has another shape."""
        try:
            problem = self.json()
        except (ValueError, RecursionError):
            return {}
        return problem if isinstance(problem, dict) else {}

    @property
    def message(self) -> str:
        return str(self.problem.get("message", f"status {self.status}"))[:300]


class _Failed(Exception):
    """No answer.  *arrived*: the node may have received the request.  *slow*: it had all its time."""

    def __init__(self, problem: str, *, arrived: bool, slow: bool = False) -> None:
        super().__init__(problem)
        self.arrived = arrived
        self.slow = slow


class Node:
    """What answers at *base*, the URL with ``/v1``; it must be of chain *chain_id*."""

    def __init__(self, http: httpx.AsyncClient, base: str, chain_id: int) -> None:
        self.base = base
        self.chain_id = chain_id
        self.seen_version = 0
        self._http = http
        self._room = trio.CapacityLimiter(MAX_CONNECTIONS)  # so that a request's time begins with its connection
        self._time = (trio.current_time(), time.time())

    @property
    def now(self) -> float:
        """The ledger's time in Unix seconds: what it last said and what has passed since; at first this machine's."""
        said_at, seconds = self._time
        return seconds + trio.current_time() - said_at

    async def check_chain(self) -> None:
        """Raises `LedgerDown`, `LedgerWrongChain`."""
        answer = await self.ask("GET", "")
        with self.understanding():
            chain_id = self.expect(answer, "ledger information")["chain_id"]
        if chain_id != self.chain_id:
            self._wrong_chain(chain_id)

    async def ask(self, method: str, path: str, content: bytes | None = None, kind: str = "") -> Answer:
        """One answer, asked for again a little later where there is none.  Raises `LedgerDown`, `LedgerWrongChain`.

        *kind* names the BCS type of *content*.
        """
        try:
            return await self._insist(method, path, content, kind)
        except _Failed as failed:
            raise self.down(failed) from None

    async def tell(self, method: str, path: str, content: bytes | None = None, kind: str = "") -> Answer | None:
        """As `ask`, but None when the node may have received the request and only its answer is missing."""
        try:
            return await self._insist(method, path, content, kind)
        except _Failed as failed:
            if failed.arrived:
                return None
            raise self.down(failed) from None

    async def ask_present(self, method: str, path: str, content: bytes | None = None, kind: str = "") -> Answer:
        """As `ask`, never from before a transaction whose outcome we have seen."""
        give_up_at = trio.current_time() + BEHIND_SECONDS
        while True:
            answer = await self.ask(method, path, content, kind)
            if answer.version is None or answer.version >= self.seen_version:
                return answer
            if trio.current_time() >= give_up_at:
                break
            await trio.sleep(POLL_SECONDS)
        raise LedgerDown(
            f"the ledger at {self.base} answers as of before our own last transaction (version {self.seen_version}): "
            "it lags behind, or is another one by now; wait, or start this program again"
        )

    async def _insist(self, method: str, path: str, content: bytes | None, kind: str) -> Answer:
        arrived = False
        for pause in (*RETRY_AFTER_SECONDS, None):
            try:
                async with self._room:
                    return await self._exchange(method, path, content, kind)
            except _Failed as failed:
                arrived |= failed.arrived
                if pause is None or failed.slow:  # who was slow will not be quick now
                    raise _Failed(str(failed), arrived=arrived) from None
                await trio.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    async def _exchange(self, method: str, path: str, content: bytes | None, kind: str) -> Answer:
        headers = {"accept-encoding": "identity"}
        if kind:
            headers["content-type"] = BCS.format(kind)
        url = f"{self.base}/{path}" if path else self.base
        body = bytearray()
        with trio.move_on_after(REQUEST_SECONDS) as scope:
            try:
                async with self._http.stream(method, url, content=content, headers=headers) as reply:
                    if "content-encoding" in reply.headers:  # a small body could unfold into a large one
                        raise self._strange("its answer is compressed, which nobody asked for")
                    async for piece in reply.aiter_bytes():
                        body += piece
                        if len(body) > MAX_ANSWER_BYTES:
                            scope.cancel()  # unwinds the client's generators, as leaving the loop would not
                    return self._answer(reply, bytes(body))
            except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol):
                raise _Failed("nobody listens there", arrived=False) from None
            except httpx.TransportError as error:
                slow = isinstance(error, httpx.TimeoutException)
                problem = _SLOW if slow else f"the connection failed ({type(error).__name__})"
                raise _Failed(problem, arrived=True, slow=slow) from None
        self._bounded(body)
        raise _Failed(_SLOW, arrived=True, slow=True)

    def _answer(self, reply: httpx.Response, body: bytes) -> Answer:
        self._bounded(body)
        if reply.status_code >= 500 or reply.status_code == 429:
            message = Answer(reply.status_code, body, None, 0.0).message
            raise _Failed(f"it answers with status {reply.status_code}: {message}", arrived=reply.status_code != 429)
        if 300 <= reply.status_code < 400:
            raise self._strange(f"it redirects to {reply.headers.get('location', 'nowhere')[:200]!r}")
        return self._observe(reply, body)

    def _bounded(self, body: bytes | bytearray) -> None:
        if len(body) > MAX_ANSWER_BYTES:
            raise self._strange(f"its answer exceeds {MAX_ANSWER_BYTES} bytes")

    def _observe(self, reply: httpx.Response, body: bytes) -> Answer:
        """Each answer names its chain, version and time."""
        named = reply.headers.get("x-aptos-chain-id")
        if named is not None and named != str(self.chain_id):
            self._wrong_chain(named[:40])
        micros = _number(reply.headers.get("x-aptos-ledger-timestampusec"))
        if micros is not None:
            self._time = (trio.current_time(), micros / 1_000_000)
        version = _number(reply.headers.get("x-aptos-ledger-version"))
        return Answer(reply.status_code, body, version, self.now)

    # understanding

    def expect(self, answer: Answer, what: str) -> Any:
        """The JSON of *what*, whose *answer* must be a success.  Belongs within `understanding`."""
        if answer.status != 200:
            self.refused(answer, what)
        return answer.json()

    def refused(self, answer: Answer, what: str) -> NoReturn:
        raise LedgerRejected(f"the ledger at {self.base} refused to tell the {what}: {answer.message}")

    @contextmanager
    def understanding(self) -> Iterator[None]:
        """Whatever a stranger's answer makes Python raise means that it is not a full node's answer."""
        try:
            yield
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
            raise self._strange(type(error).__name__) from error

    def _strange(self, why: str) -> LedgerDown:
        return LedgerDown(
            f"what answers at {self.base} does not speak like an Aptos full node ({why}); check the ledger's URL"
        )

    def _wrong_chain(self, found: object) -> NoReturn:
        raise LedgerWrongChain(
            f"the ledger at {self.base} is chain {found}, but chain {self.chain_id} is configured; "
            "correct ledger or chain_id in the configuration"
        )

    def down(self, problem: object) -> LedgerDown:
        return LedgerDown(
            f"the ledger at {self.base} is not available: {problem}; check the URL and that the node runs "
            "(the embedded one: cactus-mesh devnet)"
        )


def _number(text: str | None) -> int | None:
    if text is None or not (text.isascii() and text.isdigit()) or len(text) > MAX_DIGITS:
        return None
    return int(text)
