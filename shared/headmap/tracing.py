"""Traces over OTLP: which request led to which work, in all processes (OpenTelemetry, the extra `traces`).

The standard OTEL_* variables configure them. Without OTEL_EXPORTER_OTLP_ENDPOINT a span is `NO_SPAN`, which does
nothing, and nothing is imported. Context crosses processes as W3C Trace Context. Attributes have the names of
OpenTelemetry's semantic conventions (HTTP, GenAI), ours begin with `headmap.`; none holds a prompt, an answer or a key.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Literal

import headmap

if TYPE_CHECKING:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

logger = logging.getLogger(__name__)

Attributes = Mapping[str, str | int | float | bool | tuple[str, ...] | None]
"""Those that are None are left out."""

Kind = Literal["internal", "server", "consumer"]

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class Span:
    """Work with a begin and an end, which may have parts. This one records nothing; see `Tracer`."""

    started = 0
    """In nanoseconds since 1970."""
    ids: Mapping[str, str] = {}
    """`trace_id` and `span_id` in hexadecimal digits, for log lines."""
    traceparent: str | None = None
    """The span for another process, as W3C Trace Context writes it."""

    @property
    def recording(self) -> bool:
        """Whether anybody will read it."""
        return False

    def set(self, attributes: Attributes) -> None:
        """Add attributes."""

    def rename(self, name: str) -> None:
        """Change its name, which `Tracer.start` or `child` gave."""

    def fail(self, kind: str) -> None:
        """Mark it as failed. `kind`: a short name of the error."""

    def child(self, name: str, attributes: Attributes | None = None, *, start: int | None = None) -> Span:
        """Begin a part of it, now or at `start`, in nanoseconds since 1970."""
        return self

    def end(self, at: int | None = None) -> None:
        """End it, now or at `at`, in nanoseconds since 1970; once is enough."""


NO_SPAN = Span()

current_span: ContextVar[Span] = ContextVar("headmap_span", default=NO_SPAN)
"""The span of what runs here; log lines carry its ids."""


class Tracer:
    """Begins spans. This one begins none; `open_tracer` makes one that does."""

    def start(self, name: str, kind: Kind, carrier: Mapping[str, str], attributes: Attributes | None = None) -> Span:
        """Begin the first span of this process. `carrier`: `traceparent` and `tracestate` of its parent, if any."""
        return NO_SPAN

    def flush(self) -> None:
        """Send what has ended. A process that exits does so by itself, one that `os._exit` ends does not."""


NO_TRACER = Tracer()


@contextmanager
def entered(span: Span) -> Iterator[Span]:
    """Make `span` the current one until the end of the block, which ends it; an exception marks it as failed."""
    token = current_span.set(span)
    try:
        yield span
    except BaseException as error:
        span.fail(type(error).__name__)
        raise
    finally:
        current_span.reset(token)
        span.end()


def open_tracer(service: str) -> Tracer:
    """The tracer of this process. `service`: its part of Headmap, which names it where OTEL_SERVICE_NAME does not."""
    wanted = any(os.environ.get(name) for name in _ENDPOINTS)
    off = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if not wanted or off or os.environ.get("OTEL_TRACES_EXPORTER", "otlp") == "none":
        return NO_TRACER
    try:
        return _make_tracer(service)
    except ImportError as error:
        logger.warning("no traces: OTEL_EXPORTER_OTLP_ENDPOINT is set, and the extra `traces` is missing (%s)", error)
        return NO_TRACER


def _make_tracer(service: str) -> Tracer:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    name = service if service == "headmap" else f"headmap-{service}"
    ours = {"service.name": name, "service.namespace": "headmap", "service.version": headmap.__version__}
    provider = TracerProvider(resource=Resource.create(ours).merge(OTELResourceDetector().detect()))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return _OtlpTracer(provider)


class _OtlpTracer(Tracer):
    """Sends spans in the background, and the last ones when the process exits."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("headmap", headmap.__version__)
        self._propagator = TraceContextTextMapPropagator()

    def start(self, name: str, kind: Kind, carrier: Mapping[str, str], attributes: Attributes | None = None) -> Span:
        from opentelemetry.trace import SpanKind

        parent = self._propagator.extract(carrier)
        return _OtlpSpan(self._tracer, self._tracer.start_span(name, parent, SpanKind[kind.upper()]), attributes)

    def flush(self) -> None:
        self._provider.force_flush()


class _OtlpSpan(Span):
    def __init__(
        self, tracer: trace.Tracer, span: trace.Span, attributes: Attributes | None, start: int | None = None
    ) -> None:
        self._tracer, self._span = tracer, span
        self.started = time.time_ns() if start is None else start
        context = span.get_span_context()
        trace_id, span_id = f"{context.trace_id:032x}", f"{context.span_id:016x}"
        self.ids = {"trace_id": trace_id, "span_id": span_id}
        self.traceparent = f"00-{trace_id}-{span_id}-{int(context.trace_flags):02x}"
        self._ended = False
        self.set(attributes or {})

    @property
    def recording(self) -> bool:
        return self._span.is_recording()

    def set(self, attributes: Attributes) -> None:
        self._span.set_attributes({name: value for name, value in attributes.items() if value is not None})

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def fail(self, kind: str) -> None:
        from opentelemetry.trace import StatusCode

        self._span.set_status(StatusCode.ERROR)
        self.set({"error.type": kind})

    def child(self, name: str, attributes: Attributes | None = None, *, start: int | None = None) -> Span:
        from opentelemetry.trace import set_span_in_context

        begun = self._tracer.start_span(name, set_span_in_context(self._span), start_time=start)
        return _OtlpSpan(self._tracer, begun, attributes, start)

    def end(self, at: int | None = None) -> None:
        if not self._ended:
            self._ended = True
            self._span.end(at)
