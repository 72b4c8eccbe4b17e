"""A Kafka producer that keeps what it was given."""

from __future__ import annotations

from collections.abc import Callable, Sequence


class Future:
    """Fails at once, if it fails."""

    def __init__(self, error: Exception | None) -> None:
        self._error = error

    def add_errback(self, call: Callable[[BaseException], object]) -> Future:
        if self._error is not None:
            call(self._error)
        return self


class FakeProducer:
    """A :class:`streaming.replay.Producer`; the record with index ``fail_at`` fails with ``error``."""

    def __init__(self, *, fail_at: int | None = None, error: Exception | None = None) -> None:
        self.records: list[tuple[str, bytes, bytes, Sequence[tuple[str, bytes]]]] = []
        self.flushed = 0
        self._fail_at, self._error = fail_at, error

    def send(self, topic: str, value: bytes, key: bytes, headers: Sequence[tuple[str, bytes]]) -> Future:
        self.records.append((topic, value, key, headers))
        return Future(self._error if len(self.records) - 1 == self._fail_at else None)

    def flush(self) -> None:
        self.flushed = len(self.records)
