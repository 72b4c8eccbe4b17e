"""``make bench-rescore``: embeddings a second of a rescoring, from lake to lake, beside the bare forward pass → ``var/bench/rescore.json``.

Bare: the same network over the same windows, in memory, in the same batches, and nothing else. Both in turns. Then what a second
rescoring costs: with nothing new, and with a twentieth new. ``QUICK=1``: 1,024 windows; ``WINDOWS=n``: so many; ``TURNS=n``: so often.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import tempfile
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import torch

from benchmarks.images import SAMPLES, network, noise
from benchmarks.machine import machine, versions, write
from streaming.settings import WindowSettings
from tests.training.lakes import publish
from training.dataset import WindowSet
from training.devices import device
from training.embeddings import LakeStore, embed_days, forward
from training.lake import from_lake
from training.network import placed

QUICK = bool(os.environ.get("QUICK"))
WINDOWS = int(os.environ.get("WINDOWS", "1024" if QUICK else "20000"))
TURNS = int(os.environ.get("TURNS", "2" if QUICK else "3"))
DAYS = 8
_CUT = WindowSettings(length=timedelta(seconds=SAMPLES / 50), rate_hz=50)
_PIECE = 10_000
"""Windows of one commit of the lake."""


def main() -> None:
    """Run, write, print."""
    home = Path(os.environ.get("SENSORLOOP_HOME", "var")).absolute() / "bench"
    home.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(os.cpu_count() or 1)
    with tempfile.TemporaryDirectory(dir=home) as folder:
        result = _measure(Path(folder) / "lake")
    result |= {
        "quick": QUICK, "when": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine(),
        "versions": versions("torch", "deltalake", "pyarrow"),
    }  # fmt: skip
    write(home / "rescore.json", result)
    print(json.dumps(result, indent=2))
    print(f"\n{home / 'rescore.json'}")


def _measure(lake: Path) -> dict[str, Any]:
    net, where = network(), device("auto")
    new = max(1, WINDOWS // 20)
    for first in range(0, WINDOWS, _PIECE):
        publish(lake, noise(min(_PIECE, WINDOWS - first), days=DAYS, seed=first), cut=_CUT)
    days = [date(1970, 1, 1) + timedelta(days=day) for day in range(DAYS)]
    store, frozen = LakeStore(str(lake)), placed(net.split("head")[0].eval(), where)

    def read(day: date) -> WindowSet:
        return from_lake(str(lake), cohort="target", channels=net.channels, day=day)

    def embed() -> tuple[float, int]:
        begin = time.perf_counter()
        count, fresh = embed_days(net, "bench", read, days, store, where=where)
        return (time.perf_counter() - begin) / count, fresh

    in_memory = noise(min(WINDOWS, 20_000))
    forward(frozen, in_memory.signals[:256])  # warm
    bare, rescored = [], []
    for _ in range(TURNS):
        begin = time.perf_counter()
        forward(frozen, in_memory.signals)
        bare.append(len(in_memory) / (time.perf_counter() - begin))
        shutil.rmtree(lake / "embeddings", ignore_errors=True)
        each, fresh = embed()
        assert fresh == WINDOWS
        rescored.append(1 / each)
    again, fresh = embed()
    assert fresh == 0
    publish(lake, noise(new, days=DAYS, seed=WINDOWS + 1), cut=_CUT)
    begin = time.perf_counter()
    _, fresh = embed()
    assert fresh == new
    rates = {"bare": statistics.median(bare), "rescoring": statistics.median(rescored)}
    return {
        "device": str(where), "windows": WINDOWS, "turns": TURNS,
        "per_second": {name: round(rate, 1) for name, rate in rates.items()},
        "rescoring_to_bare": round(rates["rescoring"] / rates["bare"], 3), "wanted": 0.8,
        "again": {"windows": WINDOWS, "embedded": 0, "seconds": round(again * WINDOWS, 2)},
        "a_twentieth_new": {"windows": WINDOWS + new, "embedded": new, "seconds": round(time.perf_counter() - begin, 2)},
        "seconds_from_nothing": round(WINDOWS / rates["rescoring"], 1),
    }  # fmt: skip


if __name__ == "__main__":
    main()
