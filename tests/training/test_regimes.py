from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.made import windows
from training.errors import SettingsError
from training.regimes import REGIMES, Regime, plant, relabelled

MADE = windows(people=6, each=30)
ROWS = np.flatnonzero(MADE.subjects != "p0")


@given(
    labels=st.floats(0.05, 1), imbalance=st.floats(1, 30), wrong=st.floats(0, 0.6), seed=st.integers(0, 1000),
)  # fmt: skip
def test_what_is_planted_is_known(labels: float, imbalance: float, wrong: float, seed: int) -> None:
    planted = plant(MADE, ROWS, Regime(labels=labels, imbalance=imbalance, wrong=wrong), seed=seed)
    assert set(planted.rows) <= set(ROWS)
    assert len(set(planted.rows)) == len(planted.rows)
    truth = MADE.scenes[planted.rows]
    assert ((planted.labels != truth) == planted.wrong).all(), "wrong means another scene, and only there"
    assert planted.wrong.sum() == round(wrong * len(planted.rows))
    assert (np.bincount(truth, minlength=3) >= 3).all(), "every scene stays learnable"
    assert len(planted.rows) <= max(round(labels * len(ROWS)), 9) + 9
    assert (relabelled(MADE, planted).scenes == planted.labels).all()
    verified = replace(MADE, verified=np.ones(len(MADE), bool))
    assert relabelled(verified, planted).verified is None, "of labels that were made wrong none is known to be right"


def test_a_wrong_label_names_any_other_scene() -> None:
    planted = plant(MADE, ROWS, Regime(wrong=0.6), seed=2)
    truth, said = MADE.scenes[planted.rows][planted.wrong], planted.labels[planted.wrong]
    pairs = np.zeros((3, 3), int)
    np.add.at(pairs, (truth, said), 1)
    assert (np.diagonal(pairs) == 0).all()
    shares = pairs / pairs.sum(1, keepdims=True)
    assert (shares[~np.eye(3, dtype=bool)] > 0.35).all(), "either of the two others about as often"


def test_scenes_go_from_common_to_rare_in_even_steps() -> None:
    counts = np.sort(np.bincount(plant(MADE, ROWS, Regime(imbalance=20), seed=1).labels))[::-1]
    assert counts[0] / counts[2] == pytest.approx(20, rel=0.2)
    assert counts[0] / counts[1] == pytest.approx(np.sqrt(20), rel=0.2)


def test_the_same_seed_is_the_same_and_the_regimes_of_a_seed_keep_the_same_windows() -> None:
    hard, clean = (plant(MADE, ROWS, REGIMES[name], seed=4) for name in ("hard", "few-imbalanced"))
    assert (hard.rows == clean.rows).all()
    assert (plant(MADE, ROWS, REGIMES["hard"], seed=4).labels == hard.labels).all()
    assert (plant(MADE, ROWS, REGIMES["hard"], seed=5).rows.tolist()) != hard.rows.tolist()
    assert not clean.wrong.any()
    assert (plant(MADE, ROWS, REGIMES["every-label"], seed=4).rows == ROWS).all()


@pytest.mark.parametrize("values", [{"labels": 0.0}, {"labels": 1.5}, {"imbalance": 0.5}, {"wrong": -0.1}])
def test_what_cannot_be(values: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=next(iter(values))):
        Regime(**values)
