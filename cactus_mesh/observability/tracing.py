"""Spans for OpenTelemetry, when its own variables ask for them and the extra ``otel`` is there; else nothing is loaded.

Nothing about traces is sent between peers: each derives the ids of its spans from the task (`cactus_mesh.spans`).
"""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from cactus_mesh import __version__
from cactus_mesh.errors import MeshError
from cactus_mesh.spans import traced_by

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span as OtelSpan

    from cactus_mesh.spans import Span

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
FLUSH_MILLIS: Final = 3_000
"""For spans that are still to be sent when the program ends."""

log = logging.getLogger(__name__)
_next: ContextVar[Span | None] = ContextVar("cactus_mesh_next_span", default=None)


def wanted(environment: Mapping[str, str] = os.environ) -> bool:
    """As the SDK's specification has it: by an exporter or an endpoint, and not switched off."""
    exporter = environment.get("OTEL_TRACES_EXPORTER", "").lower()
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or exporter == "none":
        return False
    return exporter == "otlp" or any(environment.get(name) for name in ENDPOINTS)


@contextmanager
def open_tracing(environment: Mapping[str, str] = os.environ) -> Iterator[None]:
    """Trace this process for the length of the block, if that is wanted and possible."""
    if not wanted(environment):
        yield
        return
    if find_spec("opentelemetry.sdk") is None or find_spec("opentelemetry.exporter.otlp.proto.http") is None:
        log.warning("traces are asked for, but not installed: pip install 'cactus-mesh[otel]'")
        yield
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    with tracing_to(OTLPSpanExporter()):
        yield


@contextmanager
def tracing_to(exporter: SpanExporter, *, at_once: bool = False) -> Iterator[None]:
    """Trace to *exporter*, in batches by a thread of the SDK's own, or each span *at_once*."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    class Ids(RandomIdGenerator):
        """Derived ids for a party's part of a task, random ones for a step within."""

        def generate_span_id(self) -> int:
            span = _next.get()
            return super().generate_span_id() if span is None else span.span_id

        def generate_trace_id(self) -> int:
            span = _next.get()
            return super().generate_trace_id() if span is None else span.trace_id

    named = {"service.name": os.environ.get("OTEL_SERVICE_NAME", "cactus-mesh"), "service.version": __version__}
    provider = TracerProvider(resource=Resource.create(named), id_generator=Ids(), shutdown_on_exit=False)
    provider.add_span_processor((SimpleSpanProcessor if at_once else BatchSpanProcessor)(exporter))
    try:
        with traced_by(_Tracer(provider)):
            yield
    finally:
        provider.force_flush(FLUSH_MILLIS)
        provider.shutdown()


class _Tracer:
    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer("cactus_mesh", __version__)

    @contextmanager
    def part(self, span: Span, peer: str) -> Iterator[None]:
        from opentelemetry import trace

        context = trace.set_span_in_context(trace.INVALID_SPAN if span.giver is None else _elsewhere(span.giver))
        attributes = {"cactus_mesh.task": span.task_id.hex(), "cactus_mesh.peer": peer}
        token = _next.set(span)
        try:
            started = self._tracer.start_span(span.name, context, attributes=attributes)
        finally:
            _next.reset(token)
        with trace.use_span(started, record_exception=False, set_status_on_exception=False), _told(started):
            yield

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        from opentelemetry import trace

        started = self._tracer.start_span(name)
        with trace.use_span(started, record_exception=False, set_status_on_exception=False), _told(started):
            yield


def _elsewhere(span: Span) -> OtelSpan:
    """A part that another peer, or another task of this process, tells of."""
    from opentelemetry import trace

    sampled = trace.TraceFlags(trace.TraceFlags.SAMPLED)
    return trace.NonRecordingSpan(trace.SpanContext(span.trace_id, span.span_id, is_remote=True, trace_flags=sampled))


@contextmanager
def _told(span: OtelSpan) -> Iterator[None]:
    """End *span* with the code of what went wrong, never with a message."""
    from opentelemetry.trace import StatusCode

    try:
        yield
    except BaseException as error:
        code = error.code if isinstance(error, MeshError) else type(error).__name__
        span.set_attribute("error.type", code)
        span.set_status(StatusCode.ERROR, code)
        raise
    finally:
        span.end()
