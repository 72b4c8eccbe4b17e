"""What the phones of the ingestion benchmark send: 9 channels at 100 Hz, the same bytes in every run."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from streaming.sensors import SENSORS
from streaming.wire import SensorBatch, SensorBlock

SENSOR_NAMES = ("accelerometer", "gyroscope", "magnetometer")
PERIOD_NS = 10_000_000
START_NS = 1_750_000_000 * 1_000_000_000
_SAMPLE_BYTES = 36
_POOL = 1 << 17
"""Samples of noise that batches are cut from: more than a Parquet page of one channel holds, so that zstd finds no repeats."""


def samples_for(kib: float) -> int:
    """Samples of each sensor in a batch of so many KiB."""
    return int(kib * 1024) // _SAMPLE_BYTES


def batches(
    *, devices: int, rounds: int, samples: int, jitter: bool = False, ends: bool = True, first_round: int = 0
) -> Iterator[SensorBatch]:
    """``rounds`` batches of each device, the devices taking turns, as they do where all phones are live.

    Args:
        devices: phones, one session each.
        rounds: batches of a phone.
        samples: of each sensor in a batch.
        jitter: whether the clock trembles, so that a batch says the time of each sample.
        ends: whether the last batch ends the session.
        first_round: number of the first batch.
    """
    rng = np.random.default_rng(1)
    pool = {name: rng.normal(0, 3, (_POOL, 3)).astype(np.float32) for name in SENSOR_NAMES}
    # Phones are not in step with each other, nor with the grid.
    phases = rng.integers(0, PERIOD_NS // 1_000, devices) * 1_000
    trembling = np.sort(np.arange(samples) * 10_000 + rng.integers(0, 3_000, samples)).astype(np.uint32)
    trembling -= trembling[0]
    for number in range(first_round, first_round + rounds):
        for device in range(devices):
            start_ns = START_NS + int(phases[device]) + number * samples * PERIOD_NS
            at = (number * 7_919 + device * 104_729) * 31 % (_POOL - samples)
            yield SensorBatch(
                device_id=f"device-{device:06}", session_id=f"session-{device:06}", sequence=number,
                subject_id=f"subject-{device % 97:03}", phone_model="benchmark", position="hips", cohort="bench", scene="Walk",
                end_of_session=ends and number == first_round + rounds - 1,
                blocks=tuple(
                    SensorBlock(
                        sensor=name, axes=SENSORS[name].axes, values=pool[name][at : at + samples], start_ns=start_ns,
                        period_ns=None if jitter else PERIOD_NS, offsets_us=trembling if jitter else None,
                    )
                    for name in SENSOR_NAMES
                ),
            )  # fmt: skip
