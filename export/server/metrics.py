"""What a server counts, in the format of Prometheus."""

from __future__ import annotations

from typing import TypedDict

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class _Common(TypedDict):
    registry: CollectorRegistry
    namespace: str


class Metrics:
    """The counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        made: _Common = {"registry": self.registry, "namespace": "keras_tfcl"}
        self.requests = Counter("requests", "Answers by route and status.", ["route", "status"], **made)
        self.rejected = Counter("rejected", "Requests that were refused, by reason.", ["reason"], **made)
        self.dropped = Counter("dropped_rows", "Rows that nobody waited for any more.", **made)
        self.queued = Gauge("queued_rows", "Rows that wait.", **made)
        self.in_flight = Gauge("in_flight_requests", "Requests without an answer yet.", **made)
        self.request_seconds = Histogram("request_seconds", "Time to the answer.", buckets=SECONDS, **made)
        self.queue_seconds = Histogram("queue_seconds", "Time that rows wait.", buckets=SECONDS, **made)
        self.inference_seconds = Histogram("inference_seconds", "Time of one run.", buckets=SECONDS, **made)
        self.batch_size = Histogram("batch_size", "Rows in one run.", buckets=SIZES, **made)
        self.model = Info("model", "The model and the provider that really runs it.", **made)

    def text(self) -> bytes:
        """All of them, for `/metrics`."""
        return generate_latest(self.registry)
