"""Traffic of a small fleet with everything that phones do, the same bits on every machine.

Signals are integers by a counter-based generator, scaled by powers of two: no library's sine decides a bit of them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import timedelta

import numpy as np
from numpy.typing import NDArray

from streaming.delivery import DeliverySettings, Session, deliver
from streaming.recording import Recording, Samples
from streaming.sensors import SENSORS
from streaming.settings import WindowSettings
from streaming.wire import SensorBatch, SensorBlock

_NS = 1_000_000_000
_MS = 1_000_000
_START = 1_700_000_000 * _NS


def fleet_traffic(batch: timedelta) -> Iterator[SensorBatch]:
    """The batches of 18 sessions: regular and jittered clocks, drop-outs, repeats, reordering, hours offline.

    Args:
        batch: how much a batch holds.
    """
    manners = DeliverySettings(
        batch=batch, repeat_rate=0.1, late_repeat_rate=0.6, reorder_rate=0.06, offline_rate=0.4, seed=7
    )
    sessions = [_recording(number) for number in range(18)]
    for item in deliver([Session(one.start_ns, lambda one=one: one) for one in sessions], manners):  # type: ignore[misc]
        yield _mangled(item.batch)


def _recording(number: int) -> Recording:
    rng = np.random.Generator(np.random.Philox(number))
    start = _START + number * 7 * _NS + int(rng.integers(0, 10_000)) * 1_000 * (number % 3 > 0)
    seconds = int(rng.integers(20, 150))
    samples = {}
    for at, (sensor, axes) in enumerate((("accelerometer", 3), ("gyroscope", 3), ("magnetometer", 3), ("pressure", 1))):
        if (number + at) % 7 == 0:
            continue
        period = (10, 10, 20, 40)[at] * _MS if number % 6 else (9_973_000, 10_101_000, 13_000_000, 333_000_000)[at]
        times = start + at * 1_000_000 * (number % 2) + np.arange(seconds * _NS // period) * period
        if number % 4 == 3:
            times = np.sort(times + rng.integers(-4_000, 4_000, len(times)) * 1_000)
            times = times[times >= start]
        times = _dropped(times, rng) if number % 5 in {1, 4} else times
        samples[sensor] = Samples(times, _signal(rng, len(times), axes))
    return Recording(
        device_id=f"d{number % 11}", session_id=f"s{number}", subject_id=f"p{number % 5}", phone_model="m", position="hips",
        cohort="c", scene=(None, "Walk", "Bus")[number % 3], samples=samples,
    )  # fmt: skip


def _dropped(times: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    keep = np.ones(len(times), bool)
    for width in (5, 29, 31, 40, 300, 900):
        at = int(rng.integers(0, max(1, len(times) - width)))
        keep[at : at + width] = False
    return times[keep] if keep.any() else times


def _signal(rng: np.random.Generator, samples: int, axes: int) -> NDArray[np.float32]:
    values = (np.cumsum(rng.integers(-900, 901, (samples, axes)), axis=0) / 1024).astype(np.float32)
    values[rng.integers(0, 50, (samples, axes)) == 0] = np.float32(-0.0)
    return values


def _mangled(batch: SensorBatch) -> SensorBatch:
    """Now and then another label, no label, or one sensor in two blocks."""
    scene = {0: "Run", 1: None}.get(batch.sequence // 9 % 5, batch.scene)
    blocks = list(batch.blocks)
    if batch.sequence % 13 == 5 and len(blocks[0].values) > 4 and blocks[0].offsets_us is None:
        one = blocks[0]
        half = len(one.values) // 2
        blocks[:1] = [
            SensorBlock(sensor=one.sensor, axes=one.axes, values=one.values[:half], start_ns=one.start_ns, period_ns=one.period_ns),
            SensorBlock(
                sensor=one.sensor, axes=one.axes, values=one.values[half:], period_ns=one.period_ns,
                start_ns=one.start_ns + half * (one.period_ns or 0),
            ),
        ]  # fmt: skip
    return SensorBatch(
        device_id=batch.device_id, session_id=batch.session_id, sequence=batch.sequence, subject_id=batch.subject_id,
        phone_model=batch.phone_model, position=batch.position, cohort=batch.cohort, scene=scene,
        # One session in four never says that it ends.
        end_of_session=batch.end_of_session and int(batch.session_id[1:]) % 4 > 0, blocks=tuple(blocks),
    )  # fmt: skip


def gappy_session(rng: random.Random, name: str, samples: int, settings: WindowSettings) -> list[SensorBatch]:
    """A session of two sensors with gaps about as long as the longest that is interpolated; batches in and out of order, some late."""
    gap = settings.max_gap_ns
    steps = (*[40 * _MS] * 12, gap - 40 * _MS, gap, gap + 1_000, gap + 50 * _MS, 1_700 * _MS)
    times = np.cumsum(rng.choices(steps, k=samples)) + _START + rng.randint(0, 999) * _MS
    slots = (times - times[0]) // (rng.choice([1, 1, 2, 3]) * _NS)
    batches: list[SensorBatch] = []
    for slot in np.unique(slots):
        at = times[slots == slot]
        blocks = []
        # The second sensor is often quiet, so that its neighbours are in other batches than those of the first.
        for sensor, axes, part in (("accelerometer", 3, at), ("pressure", 1, at[: max(1, len(at) // 2)])):
            if axes == 3 or rng.random() < 0.6:
                values = (part[:, None] // 1_000 % 977 / 8 + np.arange(axes)).astype(np.float32)
                offsets = ((part - part[0]) // 1_000).astype(np.uint32)
                blocks.append(
                    SensorBlock(sensor=sensor, axes=SENSORS[sensor].axes, values=values, start_ns=int(part[0]), offsets_us=offsets)
                )  # fmt: skip
        batches.append(
            SensorBatch(
                device_id=f"d-{name}", session_id=name, sequence=len(batches), subject_id="p", blocks=tuple(blocks),
                scene=rng.choice([None, "Walk", "Bus"]), end_of_session=bool(slot == slots[-1]),
            )
        )  # fmt: skip
    for i in range(len(batches) - 1):
        if rng.random() < 0.1:
            batches.insert(i + rng.randint(1, 6), batches.pop(i))
    return batches
