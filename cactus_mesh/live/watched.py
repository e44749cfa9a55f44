"""Fills a `TaskTable` from what is heard of tasks (`heard_network`).

A task that somebody else asks of this process is noted once it has been taken, so that what was refused, and is perhaps
not even signed, only counts.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgspec
import trio

from cactus_mesh.core.settlement import SettlementClaim
from cactus_mesh.identity import peer_id
from cactus_mesh.live.tasks import TaskTable, new_task
from cactus_mesh.messages import Accepted, Chunk, Done, Progress

if TYPE_CHECKING:
    from cactus_mesh.heard import Listener
    from cactus_mesh.heard import Part as AnyPart
    from cactus_mesh.identity import PeerId
    from cactus_mesh.live.tasks import Part, Task
    from cactus_mesh.messages import StreamItem


def watching(tasks: TaskTable) -> Listener:
    return partial(_watch, tasks)


def _watch(tasks: TaskTable, part: AnyPart, payload: bytes, peer: PeerId) -> _Watched | None:
    if part == "verifier":
        return None
    watched = _Watched(tasks, part, payload, peer)
    if part == "client":
        watched.begin()
    return watched


class _Watched:
    def __init__(self, tasks: TaskTable, part: Part, payload: bytes, peer: PeerId) -> None:
        self._tasks = tasks
        self._part: Part = part
        self._payload = payload
        self._peer = peer
        self._began = trio.current_time()
        self._task: Task | None = None

    def begin(self) -> Task:
        request = _orders.decode(self._payload).request if self._part == "orchestrator" else self._payload
        self._task = task = new_task(self._part, _asked(request), self._peer)
        task.began = self._began
        self._tasks.begin(task)
        return task

    def item(self, item: StreamItem) -> None:
        task = self._task or self.begin()
        match item:
            case Progress(orchestrator=orchestrator):
                task.orchestrator, task.taken = peer_id(orchestrator), True
            case Chunk():
                self._tasks.took(task, len(item.token_ids), item.text)
            case Done():
                _note_receipt(task, item)
            case Accepted():
                task.taken = True

    def ended(self, outcome: str) -> None:
        if self._task is not None:
            self._tasks.end(self._task, outcome)
        else:
            self._tasks.count(self._part, outcome)


class _Order(msgspec.Struct):
    request: bytes


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


_orders = msgspec.msgpack.Decoder(_Order)
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
