"""``make bench-quality``: how well the quality score finds planted faults on the simulated target → ``var/bench/quality.json``.

The fleets go through Kafka into a lake, and an original model is trained on the source, as for ``make bench-transfer`` (and shared with
it). All labels of the target are right; then faults of each kind are planted in 5, 20 and 40 % of the windows, and the score of every
window is held against whether it has one. ``QUICK=1``: a quarter of the fleets and one seed; ``SEEDS=n``: so many draws of the faults.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from benchmarks.machine import machine, versions, write
from dags.local.pair import pair_of
from dags.settings import load
from training.arm import FILTERLOSS, RETRAINING
from training.dataset import WindowSet
from training.embeddings import features_of
from training.faults import KINDS, Faulty, Kind, plant_faults
from training.heads import Head
from training.network import SceneNet
from training.policies import Labelled, weigh
from training.quality import Quality, score_quality
from training.settings import QualitySettings

QUICK = bool(os.environ.get("QUICK"))
SHARES = (0.05, 0.2, 0.4)
SEEDS = int(os.environ.get("SEEDS", "1" if QUICK else "3"))
SIZE = 0.25 if QUICK else 1.0
_TITLES: dict[Kind, str] = {
    "uniform": "labels flipped, any other scene",
    "look_alike": "labels flipped between look-alike scenes",
    "session": "whole sessions labelled wrongly",
    "subject": "mislabelled people",
    "signal": "corrupted signals",
}


def main() -> None:
    """Run, write, print the table."""
    home = Path(os.environ.get("SENSORLOOP_HOME", "var")).absolute() / "bench"
    home.mkdir(parents=True, exist_ok=True)
    settings = load({**os.environ, "SENSORLOOP_HOME": str(home)})
    where = (_fleet(home, "source"), _fleet(home, "target"))
    pair = pair_of(settings, home / "experiments", where, ("source", "target"), "simulated")
    net = pair.original.net
    target = net.aligned(pair.target).labelled()
    features = features_of(net, target)
    begin, rows = time.monotonic(), list[dict[str, Any]]()
    result: dict[str, Any] = {}
    for kind in KINDS:
        for share in SHARES:
            cells = [_cell(net, target, features, kind, share, seed) for seed in range(SEEDS)]
            rows.append(
                {
                    "fault": kind, "share": share, "auroc": round(float(np.mean([c["auroc"] for c in cells])), 4),
                    "least": round(min(c["auroc"] for c in cells), 4),
                    "most_weight_lost": round(max(c["lost"] for c in cells), 3), "of": max(cells, key=lambda c: c["lost"])["scene"],
                }
            )  # fmt: skip
            result = {
                "windows": len(target), "scenes": list(target.scene_names), "people": len(set(target.subjects.tolist())),
                "seeds": SEEDS, "original_accuracy": pair.original.accuracy, "rows": rows,
                "seconds": round(time.monotonic() - begin),
            }  # fmt: skip
            write(home / "quality.json", result)
            print(json.dumps(rows[-1]), file=sys.stderr)
    result |= {
        "quick": QUICK, "when": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine(),
        "versions": versions("torch", "numpy", "scipy"),
    }  # fmt: skip
    write(home / "quality.json", result)
    print(_table(rows))
    print(f"\n{home / 'quality.json'}")


def _fleet(home: Path, name: str) -> str:
    """Simulated recordings; the labels of all of the target's people are right."""
    folder = home / "fleets" / (name if SIZE == 1 else f"{name}-{SIZE:g}")
    if not folder.exists():
        right = ("--wrong-labels", "0") if name == "target" else ()
        command = (
            sys.executable,
            "-m",
            "sensorloop",
            "simulate",
            str(folder),
            "--fleet",
            name,
            "--size",
            f"{SIZE:g}",
            *right,
        )
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return str(folder)


def _cell(
    net: SceneNet, target: WindowSet, features: NDArray[np.floating], kind: Kind, share: float, seed: int
) -> dict[str, Any]:
    planted = plant_faults(target, kind, share, features=features, seed=seed)
    if kind == "signal":
        features = features.copy()
        features[planted.faulty] = features_of(net, planted.windows.select(planted.faulty))
    everything = np.ones(len(target), bool)
    quality = score_quality(planted.windows, features, Head.of(net), train=everything, seed=seed)
    lost, scene = _weight_lost(net, planted, features, quality, seed)
    return {"auroc": float(roc_auc_score(~planted.faulty, quality.score)), "lost": lost, "scene": scene}


def _weight_lost(
    net: SceneNet, planted: Faulty, features: NDArray[np.floating], quality: Quality, seed: int
) -> tuple[float, str]:
    """The largest share of the weight of its right windows that a scene loses in FilterLoss, and which scene."""
    windows = planted.windows
    data = Labelled.of(windows, features, quality, Head.of(net))
    weights = weigh(RETRAINING[FILTERLOSS].weights, data, QualitySettings(), seed=seed).weights
    kept = {
        name: float(weights[rows].mean() / weights.max())
        for at, name in enumerate(windows.scene_names)
        if (rows := (windows.scenes == at) & ~planted.faulty).any()
    }
    least = min(kept, key=lambda name: kept[name])
    return 1 - kept[least], least


def _table(rows: list[dict[str, Any]]) -> str:
    lines = ["| fault | 5 % | 20 % | 40 % | most weight lost by a scene |", "|---|---|---|---|---|"]
    for kind in KINDS:
        found = {row["share"]: row for row in rows if row["fault"] == kind}
        cells = " | ".join(f"{found[share]['auroc']:.3f}" for share in SHARES)
        lost = ", ".join(f"{found[share]['most_weight_lost']:.2f}" for share in SHARES)
        lines.append(f"| {_TITLES[kind]} | {cells} | {lost} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
