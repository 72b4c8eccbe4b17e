"""A Kafka of one process and no network: a log per partition, and a consumer of it that tests can rebalance."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from streaming.client import Membership, Polled, Record
from streaming.offsets import TopicPartition


class FakeSource:
    """A :class:`streaming.client.Source` over lists of records."""

    def __init__(self, logs: Mapping[TopicPartition, Sequence[Record]], *, poll_records: int = 10) -> None:
        self.logs = logs
        self.positions: dict[TopicPartition, int] = {}
        self.hints: dict[TopicPartition, int] = {}
        self.paused: set[TopicPartition] = set()
        self.membership = Membership.OWNER
        self.answering = True
        self.mute: set[TopicPartition] = set()
        """Those without a leader: nothing comes of them, nor is it known where they end."""
        self.begins: dict[TopicPartition, int] = {}
        """Where retention has deleted up to; 0 if not said."""
        self.topic_ids: dict[str, int] = {}
        self.shared_out = False
        """Whether the group has given all partitions that are not ours to others."""
        self._poll_records = poll_records
        self._revoked: set[TopicPartition] = set()
        self._assigned: set[TopicPartition] = set()
        self.closed = False

    def assign(self, *partitions: TopicPartition) -> None:
        self._assigned |= set(partitions)
        for partition in partitions:
            self.positions[partition] = 0

    def revoke(self, *partitions: TopicPartition) -> None:
        self._revoked |= set(partitions)
        self._assigned -= set(partitions)
        for partition in partitions:
            self.positions.pop(partition, None)

    def poll(self, timeout_seconds: float) -> Polled:
        del timeout_seconds
        records = {}
        for partition, wanted in list(self.positions.items()):
            if partition in self.paused | self.mute or not self.answering:
                continue
            # Past the end, or before the beginning, Kafka's client goes to the oldest record, and says nothing.
            begin = self.begins.get(partition, 0)
            position = wanted if begin <= wanted <= self.end_offsets()[partition] else begin
            self.positions[partition] = position
            batch = [r for r in self.logs[partition] if r.offset >= position][: self._poll_records]
            if batch:
                records[partition] = batch
                self.positions[partition] = batch[-1].offset + 1
        polled = Polled(
            records=records,
            revoked=frozenset(self._revoked),
            assigned=frozenset(self._assigned),
            answering=self.answering,
            ends={
                p: end
                for p, end in self.end_offsets().items()
                if self.answering and p not in records.keys() | self.mute
            },
        )
        self._revoked, self._assigned = set(), set()
        return polled

    def seek(self, partition: TopicPartition, offset: int | None, leader_epoch: int | None = None) -> None:
        if partition in self.positions:
            later = [
                r.offset
                for r in self.logs[partition]
                if leader_epoch is not None and r.leader_epoch is not None and r.leader_epoch > leader_epoch
            ]
            self.positions[partition] = min([offset or 0, *later])

    def end_offsets(self) -> Mapping[TopicPartition, int]:
        return {p: (self.logs[p][-1].offset + 1 if self.logs[p] else self.begins.get(p, 0)) for p in self.positions}

    def known_ends(self) -> Mapping[TopicPartition, int]:
        return self.end_offsets()

    def position(self, partition: TopicPartition) -> int | None:
        return self.positions.get(partition)

    def topic_id(self, topic: str) -> int | None:
        return self.topic_ids.get(topic)

    def spare(self) -> bool:
        return self.shared_out and not self.positions

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        self.paused |= set(partitions)

    def resume(self, partitions: Collection[TopicPartition]) -> None:
        self.paused -= set(partitions)

    def confirm(self, offsets: Mapping[TopicPartition, int]) -> Membership:
        if self.membership is Membership.OWNER:
            self.hints.update(offsets)
        return self.membership

    def flush_hints(self) -> None:
        pass

    def hint(self, offsets: Mapping[TopicPartition, int]) -> None:
        self.hints.update(offsets)

    def close(self) -> None:
        self.closed = True


class FakeDeadLetters:
    """A :class:`streaming.client.DeadLetters` that keeps what is safe apart from what is queued."""

    def __init__(self) -> None:
        self.queued: list[tuple[bytes | None, Mapping[str, str]]] = []
        self.safe: list[tuple[bytes | None, Mapping[str, str]]] = []

    def send(self, value: bytes | None, *, key: bytes | None, headers: Mapping[str, str]) -> None:
        del key
        self.queued.append((value, headers))

    def flush(self) -> None:
        self.safe += self.queued
        self.queued = []
