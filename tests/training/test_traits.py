from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.transform import Rotation

from training import traits as module
from training.traits import told_by_trees, traits

AXES = ("acc_x", "acc_y", "acc_z")
SECONDS = np.arange(250) / 50


def swinging(hertz: float, *, seed: int = 0, n: int = 1, noise: float = 0.1) -> np.ndarray:
    """(n, 3, 250) of a phone that swings at a frequency, at 50 Hz, with some noise."""
    rng = np.random.default_rng(seed)
    phase = rng.uniform(0, 2 * np.pi, (n, 1, 1))
    swing = np.sin(2 * np.pi * hertz * SECONDS + phase) * np.array([1.0, 0.5, 2.0])[:, None]
    return swing + np.array([0, 0, 9.81])[:, None] + rng.normal(0, noise, (n, 3, 250))


@given(
    arrays(
        np.float32, st.tuples(st.integers(1, 3), st.just(4), st.integers(1, 40)),
        elements=st.one_of(st.just(np.float32("nan")), st.floats(width=32, allow_nan=False, allow_infinity=False)),
    )
)  # fmt: skip
def test_they_are_finite_whatever_is_missing(signals: np.ndarray) -> None:
    found = traits(signals, (*AXES, "pressure"))
    assert found.shape == (len(signals), traits(signals[:1], (*AXES, "pressure")).shape[1])
    assert np.isfinite(found).all()


def test_a_missing_channel_has_no_power_and_changes_no_other() -> None:
    signals = swinging(2.0, n=3)
    without = np.concatenate([signals, np.full((3, 1, 250), np.nan)], axis=1)
    missing = traits(without, (*AXES, "pressure"))
    still = traits(np.concatenate([signals, np.zeros((3, 1, 250))], axis=1), (*AXES, "pressure"))
    np.testing.assert_array_equal(missing, still)
    by_channel = missing.shape[1] // 5  # four channels and a norm
    others = np.delete(missing, np.s_[3 * by_channel : 4 * by_channel], axis=1)
    np.testing.assert_array_equal(others, traits(signals, AXES))


def test_what_was_dropped_is_no_trait() -> None:
    """Phones drop samples while people walk: that is not to be what walking is known by."""
    rng = np.random.default_rng(0)
    signals = rng.normal(0, 1, (600, 3, 250)) + np.array([0, 0, 9.81])[:, None]
    dropped = np.where(rng.random((600, 1, 250)) < 0.5, np.nan, signals)
    before, after = traits(signals, AXES).mean(0), traits(dropped, AXES).mean(0)
    np.testing.assert_allclose(after, before, atol=0.25)  # half of the power is a logarithm of 0.69


def test_how_the_phone_is_held_changes_the_axes_and_not_the_norm() -> None:
    signals = swinging(2.0, n=4)
    turned = np.einsum("ij,njt->nit", Rotation.from_rotvec([0.3, 1.2, -0.7]).as_matrix(), signals)
    same = np.isclose(traits(signals, AXES), traits(turned, AXES), rtol=1e-4, atol=1e-3).all(0)
    by_channel = traits(signals, AXES).shape[1] // 4
    assert same.sum() == by_channel


def test_many_windows_are_looked_at_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    signals = swinging(3.0, n=7)
    whole = traits(signals, AXES)
    monkeypatch.setattr(module, "_AT_ONCE", 2 * signals[0].size)
    np.testing.assert_array_equal(traits(signals, AXES), whole)
    assert traits(signals[:0], AXES).shape == (0, whole.shape[1])


def test_trees_tell_frequencies_apart_by_few_labels_some_of_them_wrong() -> None:
    learn = traits(np.concatenate([swinging(2.0, n=30), swinging(3.0, n=30, seed=1)]), AXES)
    labels = np.repeat([0, 2], 30)
    wrong = np.arange(60) % 5 == 0
    said = np.where(wrong, 2 - labels, labels)
    judge = traits(np.concatenate([swinging(2.0, n=20, seed=2), swinging(3.0, n=20, seed=3)]), AXES)
    seen = told_by_trees(learn, said, np.ones(60), judge, 3, seed=0)
    assert seen.shape == (40, 3)
    np.testing.assert_allclose(seen.sum(1), 1)
    assert (seen[:, 1] == 0).all()  # nobody has taught them that scene
    assert (seen.argmax(1) == np.repeat([0, 2], 20)).all()
    # The less a wrong label counts, the surer they are.
    surer = told_by_trees(learn, said, np.where(wrong, 0.02, 1.0), judge, 3, seed=0)
    assert surer.max(1).mean() > seen.max(1).mean() + 0.05


def test_a_rare_scene_is_seen_beside_a_common_one() -> None:
    """Hardly a third of it is where each window teaches alike."""
    learn = traits(np.concatenate([swinging(2.0, n=200, noise=3), swinging(2.4, n=10, seed=1, noise=3)]), AXES)
    judge = traits(swinging(2.4, n=60, seed=3, noise=3), AXES)
    seen = told_by_trees(learn, np.repeat([0, 1], [200, 10]), np.ones(210), judge, 2, seed=0)
    assert (seen.argmax(1) == 1).mean() > 0.6
