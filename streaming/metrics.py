"""What a consumer does, for Prometheus.

Names begin with ``sensorloop_ingest_``. Counters are those of :meth:`streaming.ingest.Ingest.counters`; the rest is a gauge of the
moment. A scrape reads what the loop said last (about once a second), so that it never waits for a commit, nor a commit for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from streaming.errors import SettingsError
from streaming.progress import Progress
from streaming.rotation import Reason

_PREFIX = "sensorloop_ingest"
_COUNTERS = {
    "records": "Kafka records read",
    "bytes": "Bytes of their values",
    "samples": "Samples in batches that could be decoded",
    "windows": "Windows closed",
    "rows": "Windows committed",
    "sparse_windows": "Windows with less signal than [windows] min_coverage",
    "late_samples": "Samples that came after their window had closed",
    "unused_samples": "Samples of sensors that are not kept",
    "duplicate_batches": "Batches that came again",
    "out_of_order_batches": "Batches that came after a later one",
    "idle_sessions": "Sessions closed because nothing came of them for [windows] idle_timeout",
    "assignments": "Partitions given to this consumer",
    "revocations": "Partitions taken away",
    "taken_anew": "Partitions read anew because the owner before was late",
    "failed_tries": "Commits and look-ups that failed and are tried again",
    "kafka_outages": "Times that Kafka did not answer",
    "memory_turns": "Times that memory did not suffice for all partitions at once",
}
_DEAD = "dead_letters_"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The metrics of one consumer.

    Args:
        registry: where they are registered; a new one if None.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        to: dict[str, Any] = {"registry": self.registry}
        self._counters = {name: Counter(f"{_PREFIX}_{name}", text, **to) for name, text in _COUNTERS.items()}
        self._dead = Counter(f"{_PREFIX}_dead_letters", "Batches that could not be decoded", ["reason"], **to)
        self._commits = Counter(f"{_PREFIX}_commits", "Commits, by why they were made", ["reason"], **to)
        for reason in Reason:
            self._commits.labels(reason)
        self._seconds = Histogram(f"{_PREFIX}_commit_seconds", "Duration of a commit", buckets=_SECONDS, **to)
        self._held = Gauge(f"{_PREFIX}_held_bytes", "Memory held by batches and windows", **to)
        self._paused = Gauge(f"{_PREFIX}_paused_partitions", "Partitions that are not read for now", **to)
        self._sessions = Gauge(f"{_PREFIX}_open_sessions", "Sessions with open windows", **to)
        self._up = Gauge(f"{_PREFIX}_kafka_up", "Whether Kafka answers", **to)
        self._oldest = Gauge(
            f"{_PREFIX}_oldest_open_window_timestamp_seconds",
            "Event time at which the oldest open window starts; 0: none",
            **to,
        )
        where = ["topic", "partition"]
        self._lag = Gauge(f"{_PREFIX}_lag_records", "Records that are not read yet", where, **to)
        self._waiting = Gauge(f"{_PREFIX}_waiting_windows", "Closed windows that are not committed", where, **to)
        self._through = Gauge(
            f"{_PREFIX}_valid_through_timestamp_seconds", "Event time until which the lake is complete", where, **to
        )
        self._seen: dict[str, int] = {}
        self._partitions: set[tuple[str, str]] = set()

    def update(self, progress: Progress) -> None:
        """Show this from now on."""
        for name, count in progress.counters.items():
            more = count - self._seen.get(name, 0)
            if more > 0:
                self._seen[name] = count
                if name in self._counters:
                    self._counters[name].inc(more)
                elif name.startswith(_DEAD):
                    self._dead.labels(name.removeprefix(_DEAD)).inc(more)
        for reason, seconds in progress.commits:
            self._commits.labels(reason).inc()
            self._seconds.observe(seconds)
        self._held.set(progress.held_bytes)
        self._paused.set(progress.paused)
        self._sessions.set(progress.counters.get("open_sessions", 0))
        self._up.set(progress.answering)
        since = [each.open_since_ns for each in progress.partitions if each.open_since_ns is not None]
        self._oldest.set(min(since, default=0) / 1e9)
        now = set()
        for each in progress.partitions:
            at = (each.partition.topic, str(each.partition.partition))
            now.add(at)
            self._lag.labels(*at).set(each.lag)
            self._waiting.labels(*at).set(each.waiting)
            if each.valid_through_ns is not None:
                self._through.labels(*at).set(each.valid_through_ns / 1e9)
        for gone in self._partitions - now:  # somebody else shows them now
            for gauge in (self._lag, self._waiting, self._through):
                gauge.remove(*gone)
        self._partitions = now


def serve(metrics: Metrics, host: str, port: int) -> Callable[[], None]:
    """Serve metrics over HTTP at ``/metrics``.

    Returns:
        Ends it.

    Raises:
        SettingsError: the port cannot be had.
    """
    try:
        server, thread = start_http_server(port, addr=host, registry=metrics.registry)
    except OSError as error:
        msg = f"Metrics cannot be served at {host}:{port} ({error.strerror}). Choose another [ingest] metrics_port, or 0 for none."
        raise SettingsError(msg) from error

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop
