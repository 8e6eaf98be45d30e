"""What the server counts, in a registry of its own, as Prometheus text.

No label grows with the number of nodes, callers or streams; a label whose values come from
elsewhere (a cause, a reason) holds at most `MAX_VALUES` of them, and "other".
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.process_collector import ProcessCollector

from tunnel_wire.build import build

CONTENT_TYPE = CONTENT_TYPE_LATEST
MAX_VALUES = 32
OPEN_SECONDS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15)

Direction = Literal["to_node", "to_caller"]


class Metrics:
    """Gauges and plain counters are attributes; what has labels is a method."""

    def __init__(self, version: str = "") -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # they double every counter, for nobody
        self.registry = CollectorRegistry()
        self._values: dict[str, set[str]] = {}
        told = self._gauge("build_info", "Always 1; version and build are labels.", ("version", "build"))
        told.labels(version, build()).set(1)
        self.nodes_connected = self._gauge("nodes_connected", "Nodes that have at least one link.")
        self.links = self._gauge("links", "Links open.")
        self.sessions = self._gauge("sessions", "Sessions held.")
        self.streams_suspended = self._gauge(
            "streams_suspended", "Calls that wait for their agent to come back."
        )
        self.calls_open = self._gauge("calls_open", "Calls being served.")
        self.predecessors = self._gauge(
            "predecessors", "Processes that this one has replaced, and that have not ended yet."
        )
        self.predecessors_calls_open = self._gauge(
            "predecessors_calls_open", "Calls that they still serve, together; not in calls_open."
        )
        self.memory_used = self._gauge("memory_used_bytes", "Bytes granted or kept for all calls.")
        self.memory_budget = self._gauge("memory_budget_bytes", "What memory_used_bytes may grow to.")
        self.tasks = self._gauge("tasks", "Tasks of the event loop: as many as links, calls and waits need.")
        self.interception_active = self._gauge("interception_active", "1 while connections are captured.")
        self.addresses_captured = self._gauge("addresses_captured", "Edge addresses captured.")
        self.interception_restores = self._counter(
            "interception_restores", "How often the table was put back after somebody removed it."
        )
        self.addresses_refused = self._gauge(
            "addresses_refused", "Addresses that nodes claim and may not have."
        )
        self.addresses_shared = self._gauge(
            "addresses_shared", "Addresses that several nodes claim: refused for all of them."
        )
        self.mapping_problems = self._gauge(
            "mapping_problems", "Entries of the port lists that do not count; the status names them."
        )
        self._calls = self._counter("calls", "Calls ended, by frontend and cause.", ("frontend", "outcome"))
        self._bytes = self._counter("bytes", "Bytes carried for calls.", ("direction",))
        self._to_node = self._bytes.labels("to_node")
        self._to_caller = self._bytes.labels("to_caller")
        self._open_seconds = Histogram(
            "edge_tunnel_open_seconds",
            "From a call to the answer of the agent that dialled for it.",
            ("frontend",),
            buckets=OPEN_SECONDS,
            registry=self.registry,
        )
        self._handshake_failures = self._counter("handshake_failures", "TLS handshakes failed.", ("reason",))
        self._joins = self._counter("joins", "Requests to join, by outcome.", ("outcome",))
        self._watch_up = self._gauge(
            "kubernetes_watch_up",
            "1 while what is known of it is what the cluster has.",
            ("resource",),
        )
        self._watch_failures = self._counter(
            "kubernetes_watch_failures", "How often listing or watching a resource failed.", ("resource",)
        )
        self._cluster_events = self._counter(
            "kubernetes_events", "Events on objects of the cluster, by outcome.", ("outcome",)
        )
        ProcessCollector(registry=self.registry)
        # `labels` checks and looks up under a lock: a twentieth of what a short call costs.
        self._opened_by = lru_cache(MAX_VALUES)(self._open_seconds_of)
        self._ended_by = lru_cache(MAX_VALUES)(self._calls_of)

    def call_opened(self, frontend: str, seconds: float) -> None:
        """Count the time until an agent answered; for calls that succeeded."""
        self._opened_by(frontend).observe(seconds)

    def call_ended(self, frontend: str, outcome: str) -> None:
        """Count a call: "ok", or the cause of its failure."""
        self._ended_by(frontend, outcome).inc()

    def add_bytes(self, direction: Direction, count: int) -> None:
        """Count payload; cheap enough for every write."""
        (self._to_node if direction == "to_node" else self._to_caller).inc(count)

    def handshake_failed(self, reason: str) -> None:
        """Count a handshake that failed; `reason` is a word, not a message."""
        self._handshake_failures.labels(self._bounded("reason", reason)).inc()

    def join_ended(self, outcome: str) -> None:
        """Count a request to join: "ok", or the code of its refusal."""
        self._joins.labels(self._bounded("join", outcome)).inc()

    def watch_seen(self, resource: str, *, up: bool, failures: int) -> None:
        """Note how a resource of the cluster is watched; `failures` are those since it was last noted."""
        self._watch_up.labels(resource).set(up)
        self._watch_failures.labels(resource).inc(failures)

    def cluster_event_ended(self, outcome: str) -> None:
        """Count an Event: "told", "failed" or "dropped"."""
        self._cluster_events.labels(outcome).inc()

    def render(self) -> bytes:
        """Return everything in the text format that `CONTENT_TYPE` names."""
        return generate_latest(self.registry)

    def _open_seconds_of(self, frontend: str) -> Histogram:
        return self._open_seconds.labels(self._bounded("frontend", frontend))

    def _calls_of(self, frontend: str, outcome: str) -> Counter:
        return self._calls.labels(self._bounded("frontend", frontend), self._bounded("outcome", outcome))

    def _bounded(self, label: str, value: str) -> str:
        seen = self._values.setdefault(label, set())
        if value not in seen:
            if len(seen) >= MAX_VALUES:
                return "other"
            seen.add(value)
        return value

    def _gauge(self, name: str, doc: str, labels: tuple[str, ...] = ()) -> Gauge:
        return Gauge(f"edge_tunnel_{name}", doc, labels, registry=self.registry)

    def _counter(self, name: str, doc: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(f"edge_tunnel_{name}", doc, labels, registry=self.registry)
