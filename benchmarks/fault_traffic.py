"""What the phones of the bench of faults send, and what became of it: gaps, repeats, batches out of order and late, by seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path

import kafka
import numpy as np
import polars as pl

from streaming.lake import scan_windows
from streaming.settings import KafkaSettings, WindowSettings
from streaming.wire import encode
from tests.streaming.traffic import gappy_session

PARTITIONS = 4
WINDOWS = WindowSettings(
    length=timedelta(seconds=2), hop=timedelta(seconds=1), rate_hz=20, sensors=("accelerometer", "pressure"),
    lateness=timedelta(seconds=3), max_gap=timedelta(milliseconds=400),
)  # fmt: skip
_PHONES = 16
_SAMPLES = (60, 180)
NOT_COMPARED = ("ingested_at", "topic", "next_sequence")
"""The moment of the commit; each round has topics of its own; and up to which batch of a session all had come, of which a restart
knows only what it has read itself. It is a hint that spares a later restart work."""
_OFFSETS = ("first_offset", "last_offset")


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One Kafka record."""

    partition: int
    key: bytes
    value: bytes


@cache
def messages(seed: int) -> tuple[Message, ...]:
    """The traffic of a seed, in order of sending."""
    rng = random.Random(seed)
    queues = []
    for phone in range(_PHONES):
        session = gappy_session(rng, f"{seed}-{phone}", rng.randint(*_SAMPLES), WINDOWS)
        for batch in rng.sample(session, len(session) // 10):  # repeats, at once and later
            session.insert(rng.randint(session.index(batch) + 1, len(session)), batch)
        queues.append([(phone, batch) for batch in session])
    sent = []
    while any(queues):
        phone, batch = rng.choice([queue for queue in queues if queue]).pop(0)
        sent.append(Message(partition=phone % PARTITIONS, key=batch.device_id.encode(), value=encode(batch)))
    return tuple(sent)


class Phones:
    """Sends the traffic of a seed, in parts; use it in a ``with``."""

    def __init__(self, settings: KafkaSettings, seed: int) -> None:
        self._topic, self._messages, self._at = settings.batches_topic, messages(seed), 0
        self._producer = kafka.KafkaProducer(
            bootstrap_servers=settings.bootstrap_servers.split(","), acks="all", enable_idempotence=True, linger_ms=5
        )

    def __enter__(self) -> Phones:
        return self

    def __exit__(self, *_: object) -> None:
        self._producer.close(timeout=5)

    def send(self, until: float = 1.0) -> None:
        """Send until this share of all is there, and wait until Kafka has it."""
        end = round(len(self._messages) * until)
        sent = [
            self._producer.send(self._topic, value=each.value, key=each.key, partition=each.partition)
            for each in self._messages[self._at : end]
        ]
        self._at = end
        self._producer.flush()
        for each in sent:
            each.get(timeout=60)


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """How the windows of a round differ from those of an undisturbed run."""

    lost: int = 0
    """Windows that are not there."""
    doubled: int = 0
    """Rows of a window that is there already."""
    differing: int = 0
    """Windows of which any value is another one, and windows that should not be there."""


def rows(lake: Path) -> pl.DataFrame:
    """All windows."""
    return scan_windows(str(lake)).sort("window_id").collect()


def count(lake: Path) -> int:
    """How many rows there are; 0 if there is no table yet."""
    try:
        return int(scan_windows(str(lake)).select(pl.len()).collect().item())
    except Exception:  # noqa: BLE001  # a table that is being made
        return 0


def compare(found: pl.DataFrame, wanted: pl.DataFrame, *, offsets: bool) -> Difference:
    """Window by window and value by value, floats by their bits.

    Args:
        found: of a round.
        wanted: of an undisturbed run over the same batches.
        offsets: whether Kafka gave the batches the same offsets, so that those of the rows must be the same too.
    """
    left_out = {*NOT_COMPARED, *(() if offsets else _OFFSETS)}
    names = [name for name in wanted.columns if name not in left_out]
    once = found.unique("window_id", keep="first", maintain_order=True)
    ids, wanted_ids = set(once["window_id"]), set(wanted["window_id"])
    ours, theirs = (
        frame.filter(pl.col("window_id").is_in(list(ids & wanted_ids))).sort("window_id") for frame in (once, wanted)
    )
    same = np.ones(ours.height, bool)
    for name in names:
        same &= _same(ours[name], theirs[name])
    return Difference(
        lost=len(wanted_ids - ids), doubled=found.height - once.height, differing=int((~same).sum()) + len(ids - wanted_ids)
    )  # fmt: skip


def _same(one: pl.Series, other: pl.Series) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.array([a == b for a, b in zip(_bits(one), _bits(other), strict=True)], bool)


def _bits(values: pl.Series) -> Sequence[object]:
    if isinstance(values.dtype, pl.List):
        return [None if each is None else each.to_numpy().tobytes() for each in values]
    if values.dtype.is_float():
        bits: list[object] = values.to_numpy().view(np.uint32).tolist()  # float32 all of them
        return bits
    found: list[object] = values.to_list()
    return found
