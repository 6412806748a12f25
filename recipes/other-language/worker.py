"""A second worker, in Python: its spans are in the same traces as those of cmd/worker, the one in Go.

process does what pkg/broker.go does, handle what cmd/worker does, and main what pkg/tracer.go does.
"""

import json
import logging
import os
import signal
import threading
import time

import redis
from opentelemetry import baggage, context, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.propagate import extract
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

CHANNEL = "work"

log = logging.getLogger("worker-python")
tracer = trace.get_tracer("worker-python")


def process(payload: bytes) -> None:
    """Processes one message, inside a span that is a child of the producer's and links to it."""
    message = json.loads(payload)
    # The extracted context holds the producer's span and the baggage. It must be attached: the argument context= of
    # start_as_current_span only chooses the parent, and handle would find no baggage.
    token = context.attach(extract(message.get("headers") or {}))
    try:
        with tracer.start_as_current_span(
            f"process {CHANNEL}",
            kind=trace.SpanKind.CONSUMER,
            links=[trace.Link(trace.get_current_span().get_span_context())],
            attributes={
                "messaging.system": "redis",
                "messaging.destination.name": CHANNEL,
                "messaging.operation.name": "process",
                "messaging.operation.type": "process",
                "messaging.message.id": message["id"],
                "messaging.message.body.size": len(message["body"].encode()),
                "service.peer.name": "redis",
            },
        ):
            handle(message)  # an exception from here marks the span as failed
    finally:
        context.detach(token)


def handle(message: dict) -> None:
    username = str(baggage.get_baggage("username") or "")
    span = trace.get_current_span()
    span.set_attribute("user.name", username)
    time.sleep(0.2)  # simulated work
    trace_id = trace.format_trace_id(span.get_span_context().trace_id)
    log.info("processed message=%s username=%s trace_id=%s", message["id"], username, trace_id)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())

    # The SDK reads OTEL_SERVICE_NAME, and the exporter OTEL_EXPORTER_OTLP_ENDPOINT. No propagator has to be set.
    os.environ.setdefault("OTEL_SERVICE_NAME", "worker-python")
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)

    subscription = redis.Redis.from_url(os.environ.get("REDIS_URL", "redis://localhost:6379/0")).pubsub()
    while not stopping.is_set():  # SIGTERM doesn't cut off a message in progress
        try:
            if not subscription.subscribed:
                subscription.subscribe(CHANNEL)
            received = subscription.get_message(timeout=0.5)
        except redis.RedisError as error:
            log.warning("Redis is unreachable; trying again until it is back: %s", error)
            stopping.wait(1)
            continue
        if received and received["type"] == "subscribe":
            log.info("listening on the channel %s", CHANNEL)
        elif received:
            try:
                process(received["data"])
            except Exception:
                log.exception("process message")

    subscription.close()
    provider.shutdown()  # exports the spans that are still queued; without the signal handler, they would be lost


if __name__ == "__main__":
    main()
