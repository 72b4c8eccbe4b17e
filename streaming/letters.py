"""The dead-letter topic as its writer: what could not be decoded, safe before the offset that it had is committed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import kafka
from kafka.errors import KafkaError

from streaming.client import reaching
from streaming.errors import ClientError
from streaming.security import client_options
from streaming.settings import KafkaSettings

_ANSWER_MS = 2_000
_DELIVERY_MS = 4_000
_CLOSE_MS = 1_500


@dataclass(frozen=True, slots=True)
class _Letter:
    value: bytes | None
    key: bytes | None
    headers: list[tuple[str, bytes]]


class KafkaDeadLetters:
    """A :class:`streaming.client.DeadLetters` as a Kafka topic.

    Its producer, with a thread and connections of its own, is made for the first letter.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        # A letter has come from Kafka, so Kafka is there; if it is not, the loop must not wait for it.
        self._settings = replace(settings, bootstrap_timeout=timedelta(milliseconds=_ANSWER_MS))
        self._topic = settings.deadletter_topic
        self._producer: Any = None
        self._pending: list[tuple[_Letter, Any]] = []
        """What is not safe yet, and what became of its sending."""

    def send(self, value: bytes | None, *, key: bytes | None, headers: Mapping[str, str]) -> None:
        """See :meth:`streaming.client.DeadLetters.send`."""
        # kafka-python refuses a record that has neither key nor value.
        letter = _Letter(
            b"" if value is None and key is None else value, key, [(n, t.encode()) for n, t in headers.items()]
        )
        try:
            self._pending.append((letter, self._send(letter)))
        except (KafkaError, ClientError):
            self._pending.append((letter, None))  # flush tries again, and says what is wrong

    def flush(self) -> None:
        """See :meth:`streaming.client.DeadLetters.flush`. Those that did not get through are sent again by the next one."""
        failures: list[Exception] = []
        waiting, self._pending = self._pending, []
        for letter, sent in waiting:
            if failures:  # the others would wait as long, and in vain
                self._pending.append((letter, sent))
                continue
            try:
                (sent or self._send(letter)).get(timeout=_DELIVERY_MS / 1000)
            except (KafkaError, ClientError) as error:
                failures.append(error)
                self._pending.append((letter, None))
        if failures:
            msg = f"Dead letters cannot be written to {self._topic}: {failures[0]}. Their batches stay uncommitted."
            raise ClientError(msg) from failures[0]

    def _send(self, letter: _Letter) -> Any:
        if self._producer is None:
            with reaching(self._settings):
                self._producer = kafka.KafkaProducer(
                    **client_options(self._settings), acks="all", linger_ms=20, reconnect_backoff_max_ms=2_000,
                    # While the loop waits for a letter it does not poll, and it must end in time when it is told to.
                    request_timeout_ms=_DELIVERY_MS // 2, delivery_timeout_ms=_DELIVERY_MS, max_block_ms=_ANSWER_MS,
                )  # fmt: skip
        return self._producer.send(self._topic, value=letter.value, key=letter.key, headers=letter.headers)

    def close(self) -> None:
        """Give the connection back."""
        if self._producer is not None:
            self._producer.close(timeout=_CLOSE_MS / 1000)
