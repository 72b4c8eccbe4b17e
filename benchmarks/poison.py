"""``make bench-poison``: a million damaged batches → ``var/bench/poison.json``.

Each is decoded and cut into windows as ingestion does. It must come out as a batch that can be relied upon or be refused with a
reason; anything else is a failure, and its seed is in the result. ``QUICK=1``: a twentieth of them.
"""

from __future__ import annotations

import json
import os
import random
import resource
import sys
import time
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.progress import track

from benchmarks.machine import machine, versions, write
from tests.streaming.poison import Examiner, claiming, mutated, valid_batches

ROOT = Path(__file__).parents[1]
QUICK = bool(os.environ.get("QUICK"))
BATCHES = 50_000 if QUICK else 1_000_000
CLAIMS = 2_000
"""Batches of a few bytes that claim billions of samples, each with its peak of memory measured."""
_WRITE_EVERY = 20_000


def main() -> None:
    """Run, write, print; exit code 1 if a batch was neither taken nor refused."""
    home = Path(os.environ.get("SENSORLOOP_HOME", ROOT / "var")).absolute() / "bench"
    home.mkdir(parents=True, exist_ok=True)
    pool, examiner, failures = valid_batches(), Examiner(), list[dict[str, Any]]()
    begin, before = time.monotonic(), _resident_mib()
    result: dict[str, Any] = {}
    for seed in track(range(1, BATCHES + 1), "damaged batches"):
        value = mutated(seed, pool)
        try:
            examiner.examine(value)
        except Exception as error:  # noqa: BLE001  # this is what is looked for
            failures.append({"seed": seed, "bytes": len(value), "error": f"{type(error).__name__}: {error}"[:300]})
            examiner = Examiner(examiner.outcomes)  # what the failure left behind is not another one's fault
        if seed % _WRITE_EVERY == 0 or seed == BATCHES:
            result = {
                "batches": seed, "wanted": BATCHES, "failed": len(failures), "failures": failures[:20],
                "outcomes": dict(examiner.outcomes.most_common()),
                "peak_mib": {"before": before, "after": _resident_mib()}, "seconds": round(time.monotonic() - begin),
            }  # fmt: skip
            write(home / "poison.json", result)
    result |= {
        "claims": {"batches": CLAIMS, "most_bytes_allocated": _most_allocated()}, "quick": QUICK,
        "when": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine(), "versions": versions("protobuf", "numpy"),
    }  # fmt: skip
    write(home / "poison.json", result)
    print(json.dumps(result, indent=2))
    print(f"\n{home / 'poison.json'}")
    sys.exit(1 if failures else 0)


def _most_allocated() -> int:
    rng, examiner, most = random.Random(0), Examiner(), 0
    values = [claiming(rng, []) for _ in range(CLAIMS)]
    tracemalloc.start()
    for value in values:
        tracemalloc.reset_peak()
        already = tracemalloc.get_traced_memory()[0]
        examiner.examine(value)
        most = max(most, tracemalloc.get_traced_memory()[1] - already)
    tracemalloc.stop()
    return most


def _resident_mib() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


if __name__ == "__main__":
    main()
