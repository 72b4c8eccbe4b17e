"""What a consumer does, for Prometheus.

Names begin with ``sensorloop_ingest_``. Counters are those of :meth:`streaming.ingest.Ingest.counters`; the rest is a gauge of the
moment. What labels that come later have is called so with ``label_`` (their rows and windows are not to be added up, see
https://prometheus.io/docs/practices/naming/); what has a topic and a partition, or can be added up, is shown for both together.

A scrape reads what the loop said last (about once a second), so that it never waits for a commit, nor a commit for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from streaming.errors import SettingsError
from streaming.offsets import TopicPartition
from streaming.progress import PartitionProgress, Progress
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
_LABEL_COUNTERS = {
    "label_records": "Kafka records of the labels topic read",
    "label_rows": "Labels committed",
    "label_withdrawals": "Labels read that withdraw an earlier one",
    "label_taken_anew": "Partitions of labels read anew because the owner before was late",
    "label_failed_tries": "Commits and look-ups of labels that failed and are tried again",
}
_COUNTED = {"labels": "label_rows", "labels_withdrawn": "label_withdrawals", "labels_taken_anew": "label_taken_anew"}
"""Counters that Prometheus knows by another name."""
_DEAD = "dead_letters_"
_LABEL_DEAD = "label_dead_letters_"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class _Commits:
    """Commits of one table: how many, why, and how long each took."""

    def __init__(self, prefix: str, what: str, **to: Any) -> None:
        self._count = Counter(f"{prefix}_commits", f"{what}, by why they were made", ["reason"], **to)
        for reason in Reason:
            self._count.labels(reason)
        self._seconds = Histogram(f"{prefix}_commit_seconds", f"Duration of {what.lower()}", buckets=_SECONDS, **to)

    def add(self, commits: Iterable[tuple[str, float]]) -> None:
        """Count these too."""
        for reason, seconds in commits:
            self._count.labels(reason).inc()
            self._seconds.observe(seconds)


class _Partitions:
    """Gauges of the partitions of one topic."""

    def __init__(self, lag: Gauge, waiting: Gauge, through: Gauge | None = None) -> None:
        self._lag, self._waiting, self._through = lag, waiting, through
        self._shown: set[tuple[str, str]] = set()

    def show(self, partitions: Iterable[PartitionProgress]) -> None:
        """Show these, and no others any more: somebody else shows them now."""
        now = set()
        for each in partitions:
            at = (each.partition.topic, str(each.partition.partition))
            now.add(at)
            self._lag.labels(*at).set(each.lag)
            self._waiting.labels(*at).set(each.waiting)
            if self._through is not None and each.valid_through_ns is not None:
                self._through.labels(*at).set(each.valid_through_ns / 1e9)
        for gone in self._shown - now:
            for gauge in (self._lag, self._waiting, *([self._through] if self._through is not None else [])):
                gauge.remove(*gone)
        self._shown = now


class Metrics:
    """The metrics of one consumer.

    Args:
        registry: where they are registered; a new one if None.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        to: dict[str, Any] = {"registry": self.registry}
        all_counters = _COUNTERS | _LABEL_COUNTERS
        self._counters = {name: Counter(f"{_PREFIX}_{name}", text, **to) for name, text in all_counters.items()}
        self._dead = Counter(f"{_PREFIX}_dead_letters", "Batches that could not be decoded", ["reason"], **to)
        self._label_dead = Counter(
            f"{_PREFIX}_label_dead_letters", "Labels that could not be decoded", ["reason"], **to
        )
        self._commits = _Commits(_PREFIX, "Commits of windows", **to)
        self._label_commits = _Commits(f"{_PREFIX}_label", "Commits of labels", **to)
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
        lag = Gauge(f"{_PREFIX}_lag_records", "Records that are not read yet", where, **to)
        waiting = Gauge(f"{_PREFIX}_waiting_windows", "Closed windows that are not committed", where, **to)
        said = Gauge(f"{_PREFIX}_waiting_labels", "Labels that are not committed", where, **to)
        through = Gauge(
            f"{_PREFIX}_valid_through_timestamp_seconds", "Event time until which the lake is complete", where, **to
        )
        self._refused = Gauge(
            f"{_PREFIX}_refused_partitions", "1: not read, its log is not the one that the lake has read", where, **to
        )
        self._refusals: dict[str, set[tuple[str, str]]] = {"windows": set(), "labels": set()}
        self._partitions, self._label_partitions = _Partitions(lag, waiting, through), _Partitions(lag, said)
        self._seen: dict[str, int] = {}
        self._holding = {"windows": 0, "labels": 0}

    def update(self, progress: Progress) -> None:
        """Show this of the windows from now on."""
        self._count(progress.counters, self._dead, _DEAD)
        self._commits.add(progress.commits)
        self._held.set(progress.held_bytes)
        self._pause(windows=progress.paused)
        self._refuse("windows", progress.refused)
        self._sessions.set(progress.counters.get("open_sessions", 0))
        self._up.set(progress.answering)
        since = [each.open_since_ns for each in progress.partitions if each.open_since_ns is not None]
        self._oldest.set(min(since, default=0) / 1e9)
        self._partitions.show(progress.partitions)

    def update_labels(self, progress: Progress) -> None:
        """Show this of the labels that come later from now on."""
        self._count(progress.counters, self._label_dead, _LABEL_DEAD)
        self._label_commits.add(progress.commits)
        self._pause(labels=progress.paused)
        self._refuse("labels", progress.refused)
        self._label_partitions.show(progress.partitions)

    def _count(self, counters: Mapping[str, int], dead: Counter, of_dead: str) -> None:
        for name, count in counters.items():
            more = count - self._seen.get(name, 0)
            if more > 0:
                self._seen[name] = count
                known = self._counters.get(_COUNTED.get(name, name))
                if known is not None:
                    known.inc(more)
                elif name.startswith(of_dead):
                    dead.labels(name.removeprefix(of_dead)).inc(more)

    def _refuse(self, whose: str, partitions: Iterable[TopicPartition]) -> None:
        now = {(partition.topic, str(partition.partition)) for partition in partitions}
        for gone in self._refusals[whose] - now:
            self._refused.remove(*gone)
        for at in now:
            self._refused.labels(*at).set(1)
        self._refusals[whose] = now

    def _pause(self, **paused: int) -> None:
        self._holding |= paused
        self._paused.set(sum(self._holding.values()))


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
