"""What could not be decoded: list it, and send it again once the reason is gone.

The dead-letter topic holds two kinds of records: a *letter* (the bytes of a batch or label, its coordinates and the reason as headers)
and a *note* (no bytes; its header ``replayed`` names the coordinates of a letter that was sent again). So what was replayed is
remembered where the letters are, by whomever it is replayed, and for as long.

A replay first sends the batches, waits until Kafka has them, and then notes it. A crash in between leaves at most one chunk without its
notes; those batches are sent once more the next time. That is harmless: a batch or a label that comes twice counts once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import kafka
from kafka.errors import KafkaError

from streaming.client import reaching
from streaming.errors import ClientError
from streaming.label_wire import LABEL_HEADERS
from streaming.replay import make_producer
from streaming.security import client_options
from streaming.settings import KafkaSettings
from streaming.wire import HEADERS

REPLAY_HEADER = "sensorloop-replay-of"
"""Header of a batch that was sent again: ``topic/partition/offset`` of the record it was in."""

_NOTE = "replayed"
_CHUNK = 100
_TIMEOUT_S = 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Letter:
    """A dead letter, without its bytes."""

    topic: str
    partition: int
    offset: int
    """Where the batch was: topic, partition and offset."""
    reason: str
    """A stable word."""
    detail: str
    bytes: int
    at: datetime
    """When it became a dead letter."""
    replayed: bool
    """Whether it was sent again."""

    @property
    def coordinates(self) -> str:
        """``topic/partition/offset``."""
        return f"{self.topic}/{self.partition}/{self.offset}"


def letters(settings: KafkaSettings, *, reasons: Collection[str] = ()) -> list[Letter]:
    """The dead letters there are now, in order of their coordinates; each once, also if a restart has sent it twice.

    Args:
        settings: where Kafka is.
        reasons: only those; empty for all.

    Raises:
        ClientError: Kafka cannot be reached.
    """
    found: dict[str, Letter] = {}
    replayed: set[str] = set()
    for record in _records(settings):
        headers = _headers(record)
        if _NOTE in headers:
            replayed.add(headers[_NOTE])
        elif letter := _letter(record, headers):
            found.setdefault(letter.coordinates, letter)
    kept = (letter for letter in found.values() if not reasons or letter.reason in reasons)
    marked = [replace(letter, replayed=letter.coordinates in replayed) for letter in kept]
    return sorted(marked, key=lambda letter: (letter.topic, letter.partition, letter.offset))


def send_again(
    settings: KafkaSettings, chosen: Sequence[Letter], *, progress: Callable[[int, int], None] | None = None
) -> int:
    """Send the batches and labels of these letters again, each to its topic, and note that it was done.

    Args:
        settings: where Kafka is, and the topics.
        chosen: which; those that were replayed before are sent again too.
        progress: called with how many are sent, of how many.

    Returns:
        How many were sent: letters that Kafka has deleted meanwhile are not.

    Raises:
        ClientError: Kafka cannot be reached or refuses. What was noted so far is not sent the next time.
    """
    wanted = {letter.coordinates for letter in chosen}
    sent = 0
    producer = make_producer(settings)
    try:
        chunk: list[tuple[str, Any]] = []
        for record in _records(settings):
            headers = _headers(record)
            letter = None if _NOTE in headers else _letter(record, headers)
            if letter is not None and letter.coordinates in wanted:
                wanted.discard(letter.coordinates)
                chunk.append((letter.coordinates, record))
            if len(chunk) >= _CHUNK:
                sent += _send(producer, settings, chunk)
                chunk = []
                if progress is not None:
                    progress(sent, len(chosen))
        sent += _send(producer, settings, chunk)
        if progress is not None:
            progress(sent, len(chosen))
    finally:
        producer.close()
    return sent


def _send(producer: Any, settings: KafkaSettings, chunk: Sequence[tuple[str, Any]]) -> int:
    labels = [coordinates.rsplit("/", 2)[0] == settings.labels_topic for coordinates, _ in chunk]
    again = [
        (
            settings.labels_topic if is_label else settings.batches_topic, record.value, record.key,
            [*(LABEL_HEADERS if is_label else HEADERS), (REPLAY_HEADER, coordinates.encode())],
        )
        for is_label, (coordinates, record) in zip(labels, chunk, strict=True)
    ]  # fmt: skip
    notes = [
        (settings.deadletter_topic, None, record.key, [(_NOTE, coordinates.encode())]) for coordinates, record in chunk
    ]
    for records in (again, notes):
        try:
            pending = [
                producer.send(topic, value=value, key=key, headers=headers) for topic, value, key, headers in records
            ]
            producer.flush()
            for each in pending:
                each.get(timeout=_TIMEOUT_S)
        except KafkaError as error:
            msg = f"Dead letters could not be sent again to {settings.batches_topic} at {settings.bootstrap_servers}: {error}"
            raise ClientError(msg) from error
    return len(chunk)


def _records(settings: KafkaSettings) -> Iterator[Any]:
    """Every record that is in the dead-letter topic when asked."""
    with _consumer(settings) as consumer:
        numbers = consumer.partitions_for_topic(settings.deadletter_topic) or set()
        partitions = [kafka.TopicPartition(settings.deadletter_topic, number) for number in sorted(numbers)]
        if not partitions:
            return
        consumer.assign(partitions)
        begins, ends = consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)
        left = {partition for partition in partitions if begins[partition] < ends[partition]}
        consumer.seek_to_beginning(*partitions)
        while left:
            polled = consumer.poll(timeout_ms=1000)
            for partition, records in polled.items():
                yield from (record for record in records if record.offset < ends[partition])
            left = {partition for partition in left if consumer.position(partition) < ends[partition]}


@contextmanager
def _consumer(settings: KafkaSettings) -> Iterator[Any]:
    with reaching(settings):
        consumer = kafka.KafkaConsumer(
            **client_options(settings),
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )
        try:
            yield consumer
        finally:
            consumer.close(autocommit=False)


def _headers(record: Any) -> dict[str, str]:
    return {name: (value or b"").decode(errors="replace") for name, value in record.headers}


def _letter(record: Any, headers: dict[str, str]) -> Letter | None:
    """None for a record that is none of ours."""
    try:
        return Letter(
            topic=headers["topic"], partition=int(headers["partition"]), offset=int(headers["offset"]),
            reason=headers["reason"], detail=headers.get("detail", ""), bytes=len(record.value or b""),
            at=datetime.fromtimestamp(record.timestamp / 1000, UTC), replayed=False,
        )  # fmt: skip
    except (KeyError, ValueError):
        return None
