"""Cells of an experiment, as it keeps them."""

from __future__ import annotations

from typing import Any

import numpy as np

SCENES = ["Run", "Walk"]


def cell(arm: str, seed: int, accuracy: float, *, people: int = 6, each: int = 50, pair: str = "a") -> dict[str, Any]:
    """A holdout of which such a share is right, the same share of each person and scene."""
    truth = np.tile(np.repeat([0, 1], each), people)
    right = np.tile(np.arange(each) < round(accuracy * each), 2 * people)
    return {
        "pair": pair, "regime": "hard", "seed": seed, "arm": arm, "accuracy": accuracy, "macro_f1": accuracy,
        "train_windows": 90, "wrong": 18, "details": {},
        "recovery_ratio": accuracy, "recall": {"Run": accuracy, "Walk": None}, "spread": None, "seconds": 2.0 + seed,
        "scenes": SCENES, "truth": truth.tolist(), "predicted": np.where(right, truth, 1 - truth).tolist(),
        "subjects": [f"p{n}" for n in np.repeat(np.arange(people), 2 * each)],
    }  # fmt: skip


CELLS = [
    cell(arm, seed, value)
    for seed in range(3)
    for arm, value in (
        ("original", 0.6), ("free-plain", 0.5), ("free-focal", 0.7), ("filterloss-auto", 0.86), ("oracle", 0.9),
    )
]  # fmt: skip

BOTH = [
    cell(arm, 0, value, pair=pair)
    for pair, values in (("a", (0.6, 0.7, 0.5, 0.7, 0.6, 0.8, 0.9)), ("b", (0.5, 0.4, 0.7, 0.6, 0.7, 0.8, 0.9)))
    for arm, value in zip(
        ("original", "free-plain", "free-focal", "oversampling", "pruned", "filterloss-auto", "oracle"), values, strict=True
    )
]  # fmt: skip
