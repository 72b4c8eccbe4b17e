"""Fixtures for all tests."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# One thread a process: two libraries that each take all cores slow both down tenfold.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("sensorloop", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("sensorloop")

pytest_plugins = [
    "pytester",
    "tests.fixtures.browser",
    "tests.fixtures.kafka",
    "tests.fixtures.s3",
    "tests.fixtures.tracking",
]
