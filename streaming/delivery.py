"""How a phone sends what it recorded: in batches, some of them twice, some out of order, some after hours offline. Pure.

Every sample of a recording is in exactly one batch, whatever the mess; a repeat is the same batch again.
"""

from __future__ import annotations

import heapq
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streaming.errors import SettingsError
from streaming.recording import Recording
from streaming.sensors import SENSORS
from streaming.wire import SensorBatch, SensorBlock

_US = 1_000
_LONGEST_OFFSET_US = 2**32 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class DeliverySettings:
    """The phones' manners."""

    batch: timedelta = timedelta(seconds=1)
    """What a phone collects before it sends."""
    repeat_rate: float = 0.02
    """Share of batches that are sent twice, as after an acknowledgement that was lost."""
    late_repeat_rate: float = 0.5
    """Share of the repeats that come later than at once, as from a phone that first waits for its acknowledgement."""
    late_repeat: timedelta = timedelta(minutes=5)
    """Longest time until then, at least 1 s: most wait for seconds, some for minutes. Time offline comes on top."""
    reorder_rate: float = 0.02
    """Share of batches that change places with the next one."""
    offline_rate: float = 0.1
    """Share of sessions in which the phone goes offline at some point; what it records from then on is sent later, in order."""
    offline: timedelta = timedelta(hours=2)
    """Longest time offline."""
    seed: int = 1
    """The same seed gives the same batches in the same order."""

    def __post_init__(self) -> None:
        rates = {"repeat_rate": self.repeat_rate, "reorder_rate": self.reorder_rate, "offline_rate": self.offline_rate,
                 "late_repeat_rate": self.late_repeat_rate}  # fmt: skip
        for name, rate in rates.items():
            if not 0 <= rate <= 1:
                msg = f"{name} = {rate}: a share is between 0 and 1"
                raise SettingsError(msg)
        if not timedelta(milliseconds=1) <= self.batch <= timedelta(minutes=1) or self.offline < timedelta(0):
            msg = f"batch = {self.batch}, offline = {self.offline}: a batch is 1 ms to 1 min long, and time offline not negative"
            raise SettingsError(msg)
        if self.late_repeat < timedelta(seconds=1):
            msg = f"late_repeat = {self.late_repeat}: a repeat that is late is so by 1 s at least"
            raise SettingsError(msg)


class Delivery(NamedTuple):
    """A batch, and when it is sent."""

    due_ns: int
    """On the clock of the recordings, ns since the epoch."""
    batch: SensorBatch
    repeat: bool
    """Whether it was sent before."""


class Session(NamedTuple):
    """A recording that need not be in memory yet."""

    start_ns: int
    load: Callable[[], Recording]


def deliver(sessions: Iterable[Session], settings: DeliverySettings) -> Iterator[Delivery]:
    """All sessions as the phones would send them at the same time, in order of sending.

    A session is loaded when its time has come, so that as many are in memory as are being sent.
    """
    running: list[tuple[int, int, Delivery, Iterator[Delivery]]] = []
    waiting = sorted(enumerate(sessions), key=lambda item: (item[1].start_ns, item[0]), reverse=True)
    while running or waiting:
        while waiting and (not running or waiting[-1][1].start_ns <= running[0][0]):
            number, session = waiting.pop()
            _push(running, number, deliver_session(session.load(), settings))
        _, number, delivery, rest = heapq.heappop(running)
        yield delivery
        _push(running, number, rest)


def _push(
    running: list[tuple[int, int, Delivery, Iterator[Delivery]]], number: int, deliveries: Iterator[Delivery]
) -> None:
    following = next(deliveries, None)
    if following is not None:
        heapq.heappush(running, (following.due_ns, number, following, deliveries))


def deliver_session(recording: Recording, settings: DeliverySettings) -> Iterator[Delivery]:
    """One session's batches in order of sending, never earlier than the one before."""
    name = f"{settings.seed}/{recording.device_id}/{recording.session_id}"
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    batches = list(_batches(recording, settings))
    if not batches:
        return
    length_ns = settings.batch // timedelta(microseconds=1) * _US
    due = [recording.start_ns + (index + 1) * length_ns for index, _ in batches]
    left = back = due[-1]
    if rng.random() < settings.offline_rate and len(batches) > 1:
        gone = int(rng.integers(1, len(batches)))
        left, back = due[gone], back + int(rng.random() * settings.offline.total_seconds() * 1e9)
        due[gone:] = [max(moment, back) for moment in due[gone:]]
    order = [batch for _, batch in batches]
    swaps = rng.random(len(order)) < settings.reorder_rate
    at = 0
    while at + 1 < len(order):
        if swaps[at]:
            order[at], order[at + 1] = order[at + 1], order[at]
            at += 1  # a batch changes places once, so that none drifts away from its neighbours
        at += 1
    repeated = rng.random(len(order)) < settings.repeat_rate
    late = rng.random(len(order)) < settings.late_repeat_rate
    # From 1 s to the longest, evenly in the logarithm: mostly seconds.
    waits = settings.late_repeat.total_seconds() ** rng.random(len(order))
    sent = [(moment, at, False) for at, moment in enumerate(due)]
    for at in np.flatnonzero(repeated).tolist():
        moment = due[at] + (int(waits[at] * 1e9) if late[at] else 0)
        sent.append((back if left <= moment < back else moment, at, True))
    for moment, at, again in sorted(sent):
        yield Delivery(moment, order[at], repeat=again)


def _batches(recording: Recording, settings: DeliverySettings) -> Iterator[tuple[int, SensorBatch]]:
    """(which stretch of time since the start, the batch); stretches without a sample have none, and no number is left out."""
    length_ns = settings.batch // timedelta(microseconds=1) * _US
    start = recording.start_ns // _US * _US
    signals = [
        (name, whole_us(time_ns), values) for name, (time_ns, values) in recording.samples.items() if len(time_ns)
    ]
    if not signals:
        return
    stretches = np.unique(np.concatenate([(times - start) // length_ns for _, times, _ in signals]))
    cuts = {name: np.searchsorted(times, start + stretches * length_ns) for name, times, _ in signals}
    for sequence, stretch in enumerate(stretches.tolist()):
        blocks = []
        for name, times, values in signals:
            first = cuts[name][sequence]
            last = cuts[name][sequence + 1] if sequence + 1 < len(stretches) else len(times)
            if last > first:
                blocks.append(_block(name, times[first:last], values[first:last]))
        yield (
            stretch,
            SensorBatch(
                device_id=recording.device_id, session_id=recording.session_id, sequence=sequence,
                subject_id=recording.subject_id, phone_model=recording.phone_model, position=recording.position,
                cohort=recording.cohort, scene=recording.scene, end_of_session=sequence + 1 == len(stretches),
                blocks=tuple(blocks),
            ),
        )  # fmt: skip


def whole_us(time_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Times as they are sent: in whole µs, which is finer than any phone's clock and what the wire can say."""
    return time_ns // _US * _US


def _block(sensor: str, times: NDArray[np.int64], values: NDArray[np.float32]) -> SensorBlock:
    steps = np.diff(times)
    regular = len(steps) > 0 and steps[0] > 0 and bool(np.all(steps == steps[0]))
    return SensorBlock(
        sensor=sensor, axes=SENSORS[sensor].axes, values=values, start_ns=int(times[0]),
        period_ns=int(steps[0]) if regular else None,
        offsets_us=None if regular else ((times - times[0]) // _US).astype(np.uint32),
    )  # fmt: skip
