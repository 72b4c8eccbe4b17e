"""Recordings to Kafka, as the phones would send them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import kafka
import polars as pl
from kafka.errors import KafkaError

from streaming.client import reaching
from streaming.delivery import Delivery, DeliverySettings, Session, deliver, whole_us
from streaming.errors import ClientError, RecordingError, SettingsError
from streaming.recording import read_recording, scan
from streaming.security import client_options
from streaming.sensors import SENSORS
from streaming.settings import KafkaSettings
from streaming.wire import HEADERS, encode


class Producer(Protocol):
    """What of a Kafka producer is used."""

    def send(self, topic: str, value: bytes, key: bytes, headers: Sequence[tuple[str, bytes]]) -> Any:
        """Queue a record; the future says what became of it."""

    def flush(self) -> Any:
        """Wait until everything queued was sent."""


_REASONS = 5
"""Files whose reason is told, where none is usable."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """How fast recordings are sent."""

    speed: float | None = None
    """How many times faster than life; None: as fast as Kafka takes it."""
    longest_pause: timedelta = timedelta(seconds=10)
    """What is left of a silence in which no phone sends, in real time. Nobody waits for the nights between sessions; 10 s
    is still long enough to see on a dashboard that nothing comes, and has no effect on life at its own speed within a session."""

    def __post_init__(self) -> None:
        if (self.speed is not None and not 0 < self.speed < math.inf) or self.longest_pause < timedelta(0):
            msg = f"speed = {self.speed}, longest_pause = {self.longest_pause}: a speed is above 0, and no pause is negative"
            raise SettingsError(msg)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayReport:
    """What was sent."""

    sessions: int
    batches: int
    """Without repeats."""
    repeats: int
    samples: int
    """Without repeats."""
    bytes: int
    refused: tuple[tuple[Path, str], ...]
    """Recordings that were left out, and why."""


def make_producer(settings: KafkaSettings) -> Any:
    """A producer that loses and doubles nothing: acknowledged by all replicas, idempotent.

    Raises:
        ClientError: Kafka cannot be reached.
    """
    with reaching(settings):
        return kafka.KafkaProducer(
            **client_options(settings),
            acks="all",
            enable_idempotence=True,
            linger_ms=20,
            batch_size=1 << 20,
        )


def replay(
    directory: Path,
    producer: Producer,
    topic: str,
    *,
    pace: Pace,
    delivery: DeliverySettings,
    progress: Callable[[int, int], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> ReplayReport:
    """Send every recording below a folder.

    Args:
        directory: of recordings; those that are refused are reported, the rest is sent.
        producer: see :func:`make_producer`.
        topic: the batches topic.
        pace: how fast.
        delivery: the phones' manners.
        progress: told (sessions ended, sessions in all).
        clock: seconds, monotonic.
        sleep: waits so many seconds.

    Raises:
        RecordingError: there is not one usable recording.
        ClientError: a batch could not be sent.
    """
    sessions, refused = _sessions(directory)
    if not sessions:
        raise _none_usable(directory, [reason for _, reason in refused])
    sent = _Sent(producer, topic)
    ended = 0
    begin, before_ns, due = clock(), None, 0.0
    for item in deliver(sessions, delivery):
        if pace.speed is not None:
            silence = 0.0 if before_ns is None else (item.due_ns - before_ns) / 1e9 / pace.speed
            before_ns = item.due_ns
            due += min(silence, pace.longest_pause.total_seconds())
            wait = due - (clock() - begin)
            if wait > 0:
                sleep(wait)
        sent.send(item)
        if item.batch.end_of_session and not item.repeat:
            ended += 1
            if progress is not None:
                progress(ended, len(sessions))
    sent.flush()
    return ReplayReport(
        sessions=len(sessions), batches=sent.batches, repeats=sent.repeats, samples=sent.samples, bytes=sent.bytes,
        refused=tuple(refused),
    )  # fmt: skip


class _Sent:
    """Counts what is sent, and does not let a failure pass."""

    def __init__(self, producer: Producer, topic: str) -> None:
        self._producer, self._topic = producer, topic
        self._failed: list[BaseException] = []
        self.batches = self.repeats = self.samples = self.bytes = 0

    def send(self, item: Delivery) -> None:
        value = encode(item.batch)
        try:
            future = self._producer.send(
                self._topic, value=value, key=item.batch.device_id.encode(), headers=list(HEADERS)
            )
            future.add_errback(self._failed.append)
        except KafkaError as error:
            self._failed.append(error)
        self._raise()
        self.bytes += len(value)
        if item.repeat:
            self.repeats += 1
        else:
            self.batches += 1
            self.samples += item.batch.samples

    def flush(self) -> None:
        try:
            self._producer.flush()
        except KafkaError as error:
            self._failed.append(error)
        self._raise()

    def _raise(self) -> None:
        if self._failed:
            msg = f"A batch could not be sent to {self._topic}: {self._failed[0]!r}. Replay again: what arrived twice counts once."
            raise ClientError(msg) from self._failed[0]


def expected_samples(directory: Path, *, hop_ns: int, refused: Callable[[str], None] | None = None) -> pl.DataFrame:
    """What a folder of recordings amounts to: distinct samples by device, session, sensor and hop.

    Args:
        directory: of recordings.
        hop_ns: the windows' hop, ns.
        refused: told of each file that is refused and so was not sent: its path and the reason.

    Returns:
        ``device_id session_id sensor slot_ns samples``; ``sensor`` is the prefix of its columns in the lake.

    Raises:
        RecordingError: there is not one usable recording.
    """
    frames, reasons = [], []
    for _, recording in scan(directory):
        if isinstance(recording, RecordingError):
            reasons.append(str(recording))
            if refused is not None:
                refused(str(recording))
            continue
        for name, (time_ns, _) in recording.samples.items():
            slots = whole_us(time_ns) // hop_ns * hop_ns
            counted = pl.DataFrame({"slot_ns": slots}).group_by("slot_ns").agg(pl.len().cast(pl.Int64).alias("samples"))
            frames.append(
                counted.select(
                    pl.lit(recording.device_id).alias("device_id"),
                    pl.lit(recording.session_id).alias("session_id"),
                    pl.lit(SENSORS[name].prefix).alias("sensor"),
                    "slot_ns",
                    "samples",
                )
            )
    if not frames:
        raise _none_usable(directory, reasons)
    return pl.concat(frames)


def _none_usable(directory: Path, reasons: Sequence[str]) -> RecordingError:
    told = "; ".join(reasons[:_REASONS]) or "there is no .parquet file"
    more = f"; and {len(reasons) - _REASONS} more" if len(reasons) > _REASONS else ""
    return RecordingError(f"{directory}: no usable recording: {told}{more}")


def _sessions(directory: Path) -> tuple[list[Session], list[tuple[Path, str]]]:
    """Sessions to send, each read (and so checked) once now and once when its time has come.

    A look at the metadata alone would save about 6 ms a recording, 15 to 20 % of a replay at full speed; but a value that is
    not finite would then be found when some of the other recordings are already sent.
    """
    sessions, refused = [], []
    for path, recording in scan(directory):
        if isinstance(recording, RecordingError):
            refused.append((path, str(recording)))
        elif recording.size:
            sessions.append(Session(recording.start_ns, partial(read_recording, path)))
    return sessions, refused
