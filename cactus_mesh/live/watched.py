"""A network whose tasks are noted as they pass; it does what it did.

A task that somebody else asks of this process is noted once it has been taken, so that what was refused, and is perhaps
not even signed, only counts.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
import trio

from cactus_mesh.core.settlement import SettlementClaim
from cactus_mesh.dispatch import RUN_METHOD
from cactus_mesh.errors import MeshError, MessageError
from cactus_mesh.identity import peer_id
from cactus_mesh.live.tasks import FAILED, GONE, OK, Part, Task, TaskTable, new_task
from cactus_mesh.messages import Accepted, Chunk, Done, Progress, decode_item
from cactus_mesh.router import SUBMIT_METHOD

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from typing import TypeVar

    from cactus_mesh.identity import PeerId
    from cactus_mesh.ports import Call, Handler, Network, Reply

    N = TypeVar("N", bound=Network)

SERVED: Final[dict[str, Part]] = {SUBMIT_METHOD: "router", RUN_METHOD: "orchestrator"}


def watched_network(network: N, tasks: TaskTable) -> N:
    return cast("N", _Network(network, tasks))


class _Network:
    def __init__(self, network: Network, tasks: TaskTable) -> None:
        self._network = network
        self._tasks = tasks

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    def serve(self, method: str, handler: Handler, *, at_once: int) -> None:
        part = SERVED.get(method)
        if part is None:
            self._network.serve(method, handler, at_once=at_once)
            return
        tasks = self._tasks

        async def watched(call: Call) -> None:
            noted = _Call(call, part, tasks)
            outcome = FAILED
            try:
                await handler(noted)
                outcome = OK
            except MeshError as error:
                outcome = error.code
                raise
            except trio.Cancelled:
                outcome = GONE
                raise
            finally:
                noted.end(outcome)

        self._network.serve(method, watched, at_once=at_once)

    @asynccontextmanager
    async def call(self, peer: PeerId, method: str, payload: bytes) -> AsyncIterator[Reply]:
        if method != SUBMIT_METHOD:
            async with self._network.call(peer, method, payload) as reply:
                yield reply
            return
        task = new_task("client", _asked(payload), peer)
        self._tasks.begin(task)
        outcome = FAILED
        try:
            async with self._network.call(peer, method, payload) as reply:
                yield _Reply(reply, task, self._tasks)
            outcome = OK if task.finish is not None else GONE
        except MeshError as error:
            outcome = error.code
            raise
        except (trio.Cancelled, GeneratorExit):
            outcome = GONE
            raise
        finally:
            self._tasks.end(task, outcome)


class _Reply:
    def __init__(self, reply: Reply, task: Task, tasks: TaskTable) -> None:
        self._reply = reply
        self._task = task
        self._tasks = tasks

        self._items = aiter(reply)

    def __aiter__(self) -> _Reply:
        return self

    async def __anext__(self) -> bytes:
        item = await anext(self._items)
        _note(self._task, item, self._tasks)
        return item


class _Call:
    def __init__(self, call: Call, part: Part, tasks: TaskTable) -> None:
        self.peer = call.peer
        self.public_key = call.public_key
        self.payload = call.payload
        self._call = call
        self._part = part
        self._tasks = tasks
        self._task: Task | None = None
        self._began = trio.current_time()

    async def send(self, item: bytes) -> None:
        if self._task is None:
            asked = _asked(self.payload if self._part == "router" else msgspec.msgpack.decode(self.payload)["request"])
            self._task = new_task(self._part, asked, self.peer)
            self._task.began = self._began
            self._tasks.begin(self._task)
        _note(self._task, item, self._tasks)
        await self._call.send(item)

    def end(self, outcome: str) -> None:
        if self._task is not None:
            self._tasks.end(self._task, outcome)
        else:
            self._tasks.count(self._part, outcome)


def _note(task: Task, raw: bytes, tasks: TaskTable) -> None:
    try:
        item = decode_item(raw)
    except MessageError:
        return  # whoever reads it says so
    match item:
        case Progress(orchestrator=orchestrator):
            task.orchestrator, task.taken = peer_id(orchestrator), True
        case Chunk():
            tasks.took(task, len(item.token_ids), item.text)
        case Done():
            _note_receipt(task, item)
        case Accepted():
            task.taken = True


class _Envelope(msgspec.Struct):
    header: bytes
    body: bytes


class _Sampling(msgspec.Struct):
    max_tokens: int


class _Request(msgspec.Struct):
    task_id: bytes
    model: str
    max_price: int
    sampling: _Sampling


class _Receipt(msgspec.Struct):
    prompt_tokens: int
    finish: str
    claim: bytes


_envelopes = msgspec.msgpack.Decoder(_Envelope)
_requests = msgspec.msgpack.Decoder(_Request)
_receipts = msgspec.msgpack.Decoder(_Receipt)


def _asked(request: bytes) -> tuple[bytes, str, int, int]:
    """Of a request that has been checked, or was made here."""
    body = _requests.decode(_envelopes.decode(request).body)
    return body.task_id, body.model, body.max_price, body.sampling.max_tokens


def _note_receipt(task: Task, done: Done) -> None:
    """As it says; whether it holds, the task's outcome tells."""
    try:
        receipt = _receipts.decode(_envelopes.decode(done.receipt).body)
        task.price = SettlementClaim.from_bcs(receipt.claim).price
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError):
        return  # whoever reads it says so
    task.prompt_tokens, task.finish = receipt.prompt_tokens, receipt.finish
    task.delegated = bool(done.delegations)
