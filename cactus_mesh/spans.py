"""What a stretch of work is about: named once, where it begins, for every log line and, when traced, a span.

Knows no library for traces; whoever brings one (`observability.tracing`) puts a `Tracer` here for the process.
"""

from __future__ import annotations

import hashlib
import logging
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

_NOTHING: Final[dict[str, str]] = {}
_about: ContextVar[dict[str, str]] = ContextVar("cactus_mesh_about", default=_NOTHING)


@dataclass(frozen=True, slots=True)
class Span:
    """One party's part of a task.  Who knows the task's id and the parties' keys knows every id here.

    So the spans of all peers join in one trace, though nothing about traces is sent between them; and nobody else
    learns from a span's id more than from the task's.
    """

    name: str
    task_id: bytes
    party: bytes
    giver: Span | None = None
    """Whose part this one came from."""

    @property
    def trace_id(self) -> int:
        return int.from_bytes(hashlib.sha256(b"cactus-mesh trace" + self.task_id).digest()[:16])

    @property
    def span_id(self) -> int:
        named = b"\0".join((b"cactus-mesh span", self.name.encode(), self.task_id, self.party))
        return int.from_bytes(hashlib.sha256(named).digest()[:8])


def client_part(task_id: bytes, client: bytes) -> Span:
    return Span("client.task", task_id, client)


def router_part(task_id: bytes, router: bytes, client: bytes) -> Span:
    return Span("router.task", task_id, router, client_part(task_id, client))


def orchestrator_part(task_id: bytes, worker: bytes, givers: Sequence[bytes], client: bytes) -> Span:
    """*givers* are the router and, where the task was delegated, the orchestrators that did, in their order."""
    span = router_part(task_id, givers[0], client)
    for party in (*givers[1:], worker):
        span = Span("orchestrator.task", task_id, party, span)
    return span


class Tracer(Protocol):
    def part(self, span: Span, peer: str) -> AbstractContextManager[None]:
        """A span whose ids are those of *span*."""
        ...

    def step(self, name: str) -> AbstractContextManager[None]:
        """A span within whatever is under way here."""
        ...


class _Traced:
    """The process's tracer; None in nearly every one."""

    tracer: Tracer | None = None


@contextmanager
def traced_by(tracer: Tracer) -> Iterator[None]:
    _Traced.tracer = tracer
    try:
        yield
    finally:
        _Traced.tracer = None


@contextmanager
def about(**fields: str) -> Iterator[None]:
    """Log lines of this task, and of those that it starts, carry *fields* until the block is left."""
    token = _about.set({**_about.get(), **fields})
    try:
        yield
    finally:
        _about.reset(token)


@contextmanager
def working_on(span: Span, peer: str = "") -> Iterator[None]:
    """A party's part of a task, from its beginning to its end; *peer* is who asked for it, or whom it is asked of."""
    tracer = _Traced.tracer
    fields = {"task": span.task_id.hex(), "peer": peer} if peer else {"task": span.task_id.hex()}
    with about(**fields), tracer.part(span, peer) if tracer is not None else nullcontext():
        yield


def step(name: str) -> AbstractContextManager[None]:
    tracer = _Traced.tracer
    return tracer.step(name) if tracer is not None else nullcontext()


class AboutFilter(logging.Filter):
    """Gives a record what it is about, unless it says so itself."""

    def filter(self, record: logging.LogRecord) -> bool:
        for name, value in _about.get().items():
            if name not in vars(record):
                setattr(record, name, value)
        return True
