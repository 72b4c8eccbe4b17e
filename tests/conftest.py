"""Fixtures for all tests."""

from __future__ import annotations

import os

# One thread a process: two libraries that each take all cores slow both down tenfold.
os.environ.setdefault("OMP_NUM_THREADS", "1")

pytest_plugins = ["tests.fixtures.kafka"]
