"""What the ingestion benchmark measures, one measure a process: ``python -m benchmarks.measures NAME '{"json": "arguments"}'``.

The result is one line of JSON on standard output. Times are wall-clock; a broker and nothing else should be busy beside it.
"""

from __future__ import annotations

import gc
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.load import batches, samples_for
from benchmarks.sources import Idle
from streaming.assembler import Assembler
from streaming.client import KafkaSource, Polled, Record, Source
from streaming.ingest import Ingest
from streaming.letters import KafkaDeadLetters
from streaming.offsets import TopicPartition
from streaming.rows import windows_table
from streaming.settings import IngestSettings, KafkaSettings, LakeSettings, WindowSettings
from streaming.windows import WindowsTable
from streaming.wire import SensorBatch, decode, encode

_MEGA = 1e6
_NOW = datetime(2026, 1, 1, tzinfo=UTC)
_NOW_NS = 1_767_225_600 * 1_000_000_000


def bare(*, servers: str, topic: str, total: int, **consumer: Any) -> dict[str, float]:
    """kafka-python's ``poll()`` and nothing else, until so many records have come."""
    import kafka  # noqa: PLC0415  # not for the measures without it

    options = {"max_poll_records": 5_000, "fetch_max_bytes": 16 << 20, "max_partition_fetch_bytes": 4 << 20, **consumer}
    found = kafka.KafkaConsumer(
        bootstrap_servers=servers, group_id=None, enable_auto_commit=False, auto_offset_reset="earliest", **options
    )
    found.assign([kafka.TopicPartition(topic, p) for p in sorted(found.partitions_for_topic(topic))])
    while not (polled := found.poll(timeout_ms=500)):
        pass
    got = first = sum(len(records) for records in polled.values())
    size = 0
    begin, cpu = time.perf_counter(), time.process_time()
    while got < total:
        for records in found.poll(timeout_ms=500).values():
            got += len(records)
            for record in records:
                size += len(record.value)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    found.close()
    return {"mb_s": size / _MEGA / seconds, "cpu_ms_mb": cpu * 1e3 / (size / _MEGA), "first": first}


def bare_librdkafka(*, servers: str, topic: str, total: int, partitions: int) -> dict[str, float]:
    """The same with librdkafka's ``consume()``."""
    from confluent_kafka import Consumer  # noqa: PLC0415  # an environment apart has it
    from confluent_kafka import TopicPartition as Theirs  # noqa: PLC0415

    found = Consumer({"bootstrap.servers": servers, "group.id": "bench", "enable.auto.commit": False})
    found.assign([Theirs(topic, p, 0) for p in range(partitions)])
    while not (messages := found.consume(100, 0.5)):
        pass
    got, size = len(messages), 0
    begin, cpu = time.perf_counter(), time.process_time()
    while got < total:
        messages = found.consume(100, 0.5)
        got += len(messages)
        for message in messages:
            size += len(message.value())
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    found.close()
    return {"mb_s": size / _MEGA / seconds, "cpu_ms_mb": cpu * 1e3 / (size / _MEGA)}


class _Timed(Idle):
    """A source that notes when its first records came: until then a consumer joins its group and says nothing of its speed."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.records = self.bytes = self.first_bytes = 0
        self.begin = self.cpu = 0.0

    def poll(self, timeout_seconds: float) -> Polled:
        polled = self._source.poll(timeout_seconds)
        size = sum(len(record.value or b"") for records in polled.records.values() for record in records)
        self.bytes += size
        self.records += sum(len(records) for records in polled.records.values())
        if size and not self.begin:
            self.begin, self.cpu, self.first_bytes = time.perf_counter(), time.process_time(), size
        return polled

    def seek(self, partition: TopicPartition, offset: int | None, leader_epoch: int | None = None) -> None:
        self._source.seek(partition, offset, leader_epoch)
        # What was fetched before is fetched again.
        self.records = self.bytes = self.first_bytes = 0
        self.begin = 0.0

    def end_offsets(self) -> Mapping[TopicPartition, int]:
        return self._source.end_offsets()

    def position(self, partition: TopicPartition) -> int | None:
        return self._source.position(partition)

    def known_ends(self) -> Mapping[TopicPartition, int]:
        return self._source.known_ends()

    def hint(self, offsets: Mapping[TopicPartition, int]) -> None:
        self._source.hint(offsets)

    def close(self) -> None:
        self._source.close()


def ours(
    *, servers: str, topic: str, total: int, lake: str, group: str, client: str = "kafka-python"
) -> dict[str, float]:
    """Ingestion as it is, from the first records to the last commit; the first poll's bytes do not count, its work does."""
    kafka_settings = KafkaSettings(bootstrap_servers=servers, batches_topic=topic, group_id=group)
    settings, windows = IngestSettings(), WindowSettings()
    source = _Timed(_source(client, kafka_settings, settings))
    letters = KafkaDeadLetters(kafka_settings)
    table = WindowsTable(LakeSettings(uri=lake), windows.sensors)
    ingest = Ingest(source=source, table=table, dead_letters=letters, windows=windows, settings=settings)
    ingest.run(stop=lambda: source.records >= total)
    seconds, cpu = time.perf_counter() - source.begin, time.process_time() - source.cpu
    size = (source.bytes - source.first_bytes) / _MEGA
    counters = ingest.counters()
    source.close()
    letters.close()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "mb_s": size / seconds,
        "cpu_ms_mb": cpu * 1e3 / size,
        "rows": counters["rows"],
        "commits": counters["commits"],
        "peak_mib": peak,
    }


def _source(client: str, kafka_settings: KafkaSettings, settings: IngestSettings) -> Source:
    if client == "kafka-python":
        return KafkaSource(kafka_settings, settings)
    from benchmarks.librdkafka import LibrdkafkaSource  # noqa: PLC0415  # an environment apart has its client

    return LibrdkafkaSource(kafka_settings, settings)


def assembly(*, kib: float, mb: float, jitter: bool = False) -> dict[str, float]:
    """Decoded batches → closed windows, in memory; and what decoding and the Arrow rows cost beside it."""
    samples = samples_for(kib)
    devices = 100
    rounds = max(4, int(mb * _MEGA / (devices * kib * 1024)))
    values = [encode(batch) for batch in batches(devices=devices, rounds=rounds, samples=samples, jitter=jitter)]
    size = sum(map(len, values)) / _MEGA
    windows = WindowSettings()
    begin = time.process_time()
    decoded = [_decoded(value) for value in values]
    decoding = time.process_time() - begin
    assembler = Assembler(windows, {}, together=64)
    del values
    spent = rows = row_seconds = 0.0
    closed = []
    for at in range(0, len(decoded), 1_000):
        begin = time.process_time()
        for offset, batch in enumerate(decoded[at : at + 1_000], at):
            closed += assembler.add(batch, offset, _NOW)
        closed += assembler.flush()
        then = time.process_time()
        rows += windows_table(closed, windows, topic="t", partition=0, ingested_at=_NOW).num_rows
        row_seconds += time.process_time() - then
        spent += then - begin
        closed.clear()
    return {
        "mb_s": size / spent,
        "decode_mb_s": size / decoding,
        "rows_mb_s": size / row_seconds,
        "windows": rows,
        "mb": size,
    }


def _decoded(value: bytes) -> SensorBatch:
    return decode(value, max_bytes=1 << 20, max_samples=200_000, max_ahead_ns=86_400 * 10**9, received_ns=_NOW_NS)


def devices(*, devices: int, batches_in_all: int, samples: int = 250) -> dict[str, float]:
    """What a sample costs where so many phones take turns: windows, idle sessions, offsets and rows, without Kafka and disk.

    Every session is as long (4 batches of 5 s at 50 Hz), so that only the number of those that are open at once differs.
    """
    windows = WindowSettings(rate_hz=50)
    assembler = Assembler(windows, {}, together=64)
    spent = 0.0
    count = at = 0
    closed: list[Any] = []
    rounds = 4
    generations = max(1, batches_in_all // (devices * rounds))
    gc.collect()
    for generation in range(generations):
        stream = _sessions(devices, rounds, samples, generation)
        while part := [batch for _, batch in zip(range(5_000), stream, strict=False)]:
            begin = time.process_time()
            for batch in part:
                closed += assembler.add(batch, at, _NOW)
                at += 1
            closed += assembler.close_idle(_NOW)
            if len(closed) >= 200:
                closed += assembler.flush()
                windows_table(closed, windows, topic="t", partition=0, ingested_at=_NOW)
                assembler.needed_offset()
                closed.clear()
            spent += time.process_time() - begin
            count += sum(batch.samples for batch in part)
    return {"us_sample": spent * 1e6 / count, "batches": at, "open": assembler.open_sessions}


def _sessions(devices: int, rounds: int, samples: int, generation: int) -> Iterator[SensorBatch]:
    """Batches of 50 Hz, sessions of this generation."""
    for batch in batches(devices=devices, rounds=rounds, samples=samples):
        yield replace(
            batch,
            session_id=f"{batch.session_id}-{generation}",
            blocks=tuple(
                replace(block, period_ns=20_000_000, start_ns=block.start_ns + batch.sequence * samples * 10_000_000)
                for block in batch.blocks
            ),
        )


class _Live(Idle):
    """Phones that are live, without Kafka: each poll brings the next batches of the fleet."""

    def __init__(self, devices: int, rounds: int, samples: int) -> None:
        self._partition = TopicPartition(topic="t", partition=0)
        self._stream = batches(devices=devices, rounds=rounds, samples=samples, ends=False)
        self._offset = 0
        self._new = True
        self.done = False

    def poll(self, timeout_seconds: float) -> Polled:
        del timeout_seconds
        if self._new:
            self._new = False
            return Polled(assigned=frozenset({self._partition}))
        records = []
        for _, batch in zip(range(1_000), self._stream, strict=False):
            records.append(Record(offset=self._offset, timestamp_ns=_NOW_NS, key=None, value=encode(batch)))
            self._offset += 1
        self.done = not records
        return Polled(records={self._partition: records})


class _NoLetters:
    def send(self, value: bytes | None, *, key: bytes | None, headers: Mapping[str, str]) -> None:
        del value, key
        raise AssertionError(headers)

    def flush(self) -> None: ...


def memory(*, devices: int, seconds: int, lake: str, batch_seconds: float = 1.0) -> dict[str, float]:
    """Peak memory of a consumer to which so many phones send, all open at once, 1 s a batch; with decoding, lake and commits."""
    windows = WindowSettings()
    samples = int(batch_seconds * 100)
    source = _Live(devices, int(seconds / batch_seconds), samples)
    table = WindowsTable(LakeSettings(uri=lake), windows.sensors)
    idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    ingest = Ingest(source=source, table=table, dead_letters=_NoLetters(), windows=windows, settings=IngestSettings())
    while not source.done:
        ingest.step()
    counters = ingest.counters()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"peak_mib": peak, "before_mib": idle, "open": counters["open_sessions"], "rows": counters.get("rows", 0)}


_MEASURES: Mapping[str, Callable[..., dict[str, float]]] = {
    f.__name__: f for f in (bare, bare_librdkafka, ours, assembly, devices, memory)
}


def main(arguments: Sequence[str]) -> None:
    name, options = arguments
    print(json.dumps(_MEASURES[name](**json.loads(options))))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main(sys.argv[1:])
