from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from training.transfer import closed, markdown, original_beaten, rows

SCENES = ["Run", "Walk"]


def cell(arm: str, seed: int, accuracy: float, *, people: int = 6, each: int = 50, pair: str = "a") -> dict[str, Any]:
    """A holdout of which such a share is right, the same share of each person and scene."""
    truth = np.tile(np.repeat([0, 1], each), people)
    right = np.tile(np.arange(each) < round(accuracy * each), 2 * people)
    return {
        "pair": pair, "regime": "hard", "seed": seed, "arm": arm, "accuracy": accuracy, "macro_f1": accuracy,
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


def test_means_differences_and_the_way_to_the_oracle() -> None:
    found = {row.arm: row for row in rows(CELLS)}
    auto = found["filterloss-auto"]
    assert auto.seeds == 3
    assert auto.macro_f1 == pytest.approx(0.86)
    assert auto.interval == pytest.approx((0.86, 0.86), abs=1e-9), "people and seeds that are alike leave no doubt"
    assert auto.to_plain == pytest.approx(0.36)
    assert auto.to_best == pytest.approx(0.16), "focal is the best of the conventional arms"
    assert auto.to_best_interval == pytest.approx((0.16, 0.16), abs=1e-9)
    assert auto.recall == {"Run": pytest.approx(0.86), "Walk": None}
    assert auto.seconds == 3
    shares = closed(list(found.values()))
    assert shares["filterloss-auto"] == pytest.approx(0.8)
    assert shares["oracle"] == pytest.approx(1)


def test_people_who_differ_make_the_interval_wide_and_the_difference_narrow() -> None:
    """Two arms that are right and wrong on the same people: each is uncertain, their difference is not."""
    worse, better = cell("free-plain", 0, 0.5), cell("filterloss-auto", 0, 0.52)
    for each in (worse, better):
        for at, person in enumerate(each["subjects"]):
            if person in {"p0", "p1"}:
                each["predicted"][at] = 1 - each["truth"][at]
    found = {row.arm: row for row in rows([worse, better])}["filterloss-auto"]
    assert found.interval[1] - found.interval[0] > 0.2
    assert found.to_plain_interval is not None
    low, high = found.to_plain_interval
    assert 0 <= low < high < 0.03


def test_only_seeds_that_all_arms_have_are_compared() -> None:
    cells = [*CELLS, cell("free-plain", 3, 0.99)]
    found = {row.arm: row for row in rows(cells)}
    assert found["free-plain"].seeds == 3
    assert found["free-plain"].macro_f1 == pytest.approx(0.5)
    assert rows([cell("free-plain", 0, 0.5), cell("oracle", 1, 0.5)]) == []


def test_where_the_original_was_better_is_said() -> None:
    assert original_beaten(CELLS, "filterloss-auto") == []
    assert original_beaten(CELLS, "free-plain") == [("a", "hard", seed, pytest.approx(-0.1)) for seed in range(3)]


def test_the_table_reads() -> None:
    text = markdown(rows([*CELLS, *(cell("free-plain", s, 0.5, pair="b") for s in range(2))]))
    assert "### a, hard (3 seeds)" in text
    assert "### b, hard (2 seeds)" in text
    line = next(line for line in text.splitlines() if line.startswith("| filterloss-auto"))
    assert line.startswith("| filterloss-auto | **0.860** | 0.860 to 0.860 | 0.860 | 0.860 | +0.360")
    assert text.index("| original |") < text.index("| free-plain |") < text.index("| oracle |"), "in families"
