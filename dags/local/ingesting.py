"""The command ``sensorloop ingest``: one consumer or several, from their settings to their end."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from dags.settings import Settings
from dags.terminal import EXIT_RETRIABLE, counters, log_to_stderr, say
from streaming.client import KafkaSource
from streaming.ingest import Ingest
from streaming.labels import LabelIngest
from streaming.labels_table import LabelsTable
from streaming.letters import KafkaDeadLetters
from streaming.metrics import Metrics, serve
from streaming.progress import Progress, total
from streaming.settings import KafkaSettings
from streaming.topics import create_topics
from streaming.windows import WindowsTable
from streaming.workers import supervise

_STOPPING = (signal.SIGINT, signal.SIGTERM)


def ingest(settings: Settings, *, until_caught_up: bool, worker: int = 0) -> dict[str, Any]:
    """Consume until told to stop, or until everything has been read.

    Args:
        settings: all of them.
        until_caught_up: stop when everything that is in Kafka now has been read.
        worker: number of this consumer among those of the machine, from 0.

    Raises:
        StreamingError: see :meth:`streaming.ingest.Ingest.run`.
    """
    log_to_stderr(logging.getLogger("streaming"))
    stopping = threading.Event()
    # Started now, since a signal's handler may interrupt whatever holds the lock that starting a thread needs.
    threading.Thread(
        target=_end_late, args=(stopping, settings.ingest.stop_within.total_seconds()), daemon=True
    ).start()
    for number in _STOPPING:
        signal.signal(number, lambda *_: stopping.set())
    kafka = settings.kafka
    until = "everything in it has been read" if until_caught_up else "SIGTERM or Ctrl-C"
    say(f"Ingesting {kafka.batches_topic} as {kafka.group_id} until {until}.")
    create_topics(kafka, _topics(kafka))
    metrics, line = Metrics(), Line()
    with ExitStack() as stack:
        if settings.ingest.metrics_port:
            stack.callback(serve(metrics, settings.ingest.metrics_host, settings.ingest.metrics_port + worker))
        table, said = _tables(settings)
        dead_letters = KafkaDeadLetters(kafka)
        stack.callback(dead_letters.close)
        source = KafkaSource(kafka, settings.ingest)
        stack.callback(source.close)
        other = KafkaSource(kafka, settings.ingest, topic=kafka.labels_topic)
        stack.callback(other.close)
        loop = Ingest(
            source=source, table=table, dead_letters=dead_letters, windows=settings.windows, settings=settings.ingest,
            watch=line.watching("lag_records", metrics.update),
        )  # fmt: skip
        labels = LabelIngest(
            source=other, table=said, dead_letters=dead_letters, windows=settings.windows, settings=settings.ingest,
            watch=line.watching("label_lag_records", metrics.update_labels),
        )  # fmt: skip
        with counters() as show:
            loop.run(
                stop=lambda: stopping.is_set() or (until_caught_up and loop.caught_up() and labels.caught_up()),
                report=lambda counted: show(line.of(counted, labels.counters())),
                beside=labels,
            )
    return {**loop.counters(), **labels.counters(), "lake_version": table.version, "labels_version": said.version}


class Line:
    """What a person sees while it ingests: the counters of batches and of labels, and how many records of each are left."""

    _ALWAYS = ("records", "rows", "dead_letters", "label_records", "labels", "label_dead_letters")

    def __init__(self) -> None:
        self._lags: dict[str, int] = {}

    def watching(self, name: str, watch: Callable[[Progress], None]) -> Callable[[Progress], None]:
        """``watch``, that notes the lag under this name on the way."""

        def both(progress: Progress) -> None:
            self._lags[name] = progress.lag
            watch(progress)

        return both

    def of(self, *counters: Mapping[str, int]) -> dict[str, int]:
        """What is shown: also the zeros of what is looked for."""
        return {**dict.fromkeys(self._ALWAYS, 0), **total(counters), **self._lags}


def _tables(settings: Settings) -> tuple[WindowsTable, LabelsTable]:
    """The lake's tables, made if they are not there, with windows that are cut as these settings say."""
    windows = WindowsTable(settings.lake, settings.windows.sensors)
    windows.require_cut(settings.windows)
    return windows, LabelsTable(settings.lake)


def _topics(kafka: KafkaSettings) -> dict[str, int]:
    """Topic → partitions of it that are made if it is not there."""
    return {kafka.batches_topic: kafka.partitions, kafka.labels_topic: kafka.partitions, kafka.deadletter_topic: 1}


def _end_late(stopping: threading.Event, seconds: float) -> None:
    """Whatever the disk, Kafka or a library keeps us waiting for: gone by then. What is not committed is read again."""
    stopping.wait()
    time.sleep(max(0.1, seconds - 0.5))
    say(
        f"error: Not done {seconds:g} s ([ingest] stop_within) after the signal to stop; ending as it is. What was not committed is "
        "read again by the next consumer."
    )
    os._exit(EXIT_RETRIABLE)


def ingest_many(settings: Settings, *, workers: int, until_caught_up: bool) -> dict[str, Any]:
    """The same with several consumers of the group, each a process of its own.

    Returns:
        Their counters, added up.

    Raises:
        ClientError: Kafka cannot be reached.
        ServiceError: a worker fails each time it is started.
    """
    log_to_stderr(logging.getLogger("streaming"))
    stopping = threading.Event()
    for number in _STOPPING:
        signal.signal(number, lambda *_: stopping.set())
    kafka = settings.kafka
    there = create_topics(kafka, _topics(kafka))
    count = min(workers, there[kafka.batches_topic])
    if count < workers:
        say(
            f"{kafka.batches_topic} has {count} partitions, so there are {count} workers: more would have nothing to do."
        )
    _tables(settings)  # made here, so that they need not race for them

    def command(number: int) -> list[str]:
        caught_up = ["--until-caught-up"] if until_caught_up else []
        return [sys.executable, sys.argv[0], "ingest", "--worker", str(number), *caught_up]

    done = supervise(
        command, count, stop=stopping.is_set, say=say, grace=settings.ingest.stop_within,
        longest_retry=settings.ingest.longest_retry,
    )  # fmt: skip
    versions = {
        name: max((result.pop(name) for result in done.results), default=None)
        for name in ("lake_version", "labels_version")
    }
    return {
        **total(done.results),
        **versions,
        "workers": count,
        "restarts": done.restarts,
    }
