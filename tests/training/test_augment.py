from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.augment import augment

CHANNELS = ("acc_x", "acc_y", "acc_z", "pre", "gyr_z", "gyr_x", "gyr_y", "mag_x")
ACC, GYR = [0, 1, 2], [5, 6, 4]
SEEDS = st.integers(0, 10**6)


def signals(n: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, len(CHANNELS), 30, generator=torch.Generator().manual_seed(seed))


def changed(
    given_: torch.Tensor, *, seed: int, rotate: bool = False, gain: float = 0.0, sensor_dropout: float = 0.0
) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return augment(given_, CHANNELS, rotate=rotate, gain=gain, sensor_dropout=sensor_dropout, generator=generator)


@given(SEEDS)
def test_a_rotation_keeps_norms_and_angles_and_leaves_the_rest_alone(seed: int) -> None:
    before = signals(seed=seed)
    after = changed(before, seed=seed, rotate=True)
    for axes in (ACC, GYR):
        torch.testing.assert_close(after[:, axes].norm(dim=1), before[:, axes].norm(dim=1))
    # One rotation for all the phone's sensors: the angle between acceleration and turning stays.
    torch.testing.assert_close((after[:, ACC] * after[:, GYR]).sum(1), (before[:, ACC] * before[:, GYR]).sum(1))
    # No mirror image: the product of three vectors keeps its sign.
    volume = [torch.linalg.det(each[:, ACC, :3]) for each in (before, after)]
    torch.testing.assert_close(volume[0], volume[1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(after[:, [3, 7]], before[:, [3, 7]])
    assert not torch.allclose(after[:, ACC], before[:, ACC])


def test_rotations_are_uniform() -> None:
    """Where the upright axis goes has no favourite direction."""
    up = torch.zeros(4000, len(CHANNELS), 1)
    up[:, 2] = 1
    turned = changed(up, seed=0, rotate=True)[:, ACC, 0]
    np.testing.assert_allclose(turned.mean(0), 0, atol=0.04)
    np.testing.assert_allclose(turned.square().mean(0), 1 / 3, atol=0.03)


@given(SEEDS)
def test_a_gain_is_one_factor_a_window_and_sensor(seed: int) -> None:
    before = signals(seed=seed)
    factor = changed(before, seed=seed, gain=0.3) / before
    assert (factor > 0).all()
    for axes in (ACC, GYR, [3], [7]):
        torch.testing.assert_close(factor[:, axes], factor[:, axes[:1], :1].expand(-1, len(axes), 30))
    assert len(torch.unique(factor[:, [0, 3, 5, 7], 0])) == 4 * 4


@given(SEEDS, st.floats(0.1, 1.0))
def test_a_sensor_is_missing_as_a_whole_and_never_all_are(seed: int, share: float) -> None:
    before = signals(n=20, seed=seed)
    missing = changed(before, seed=seed, sensor_dropout=share).isnan()
    for axes in (ACC, GYR, [3], [7]):
        gone = missing[:, axes].all(dim=(1, 2))
        torch.testing.assert_close(missing[:, axes].any(dim=(1, 2)), gone)
    assert not missing.all(dim=(1, 2)).any()


@given(SEEDS)
def test_a_phone_that_lacks_sensors_keeps_one_of_those_it_has(seed: int) -> None:
    before = signals(n=40, seed=seed)
    before[:, 3:] = torch.nan
    after = changed(before, seed=seed, rotate=True, gain=0.1, sensor_dropout=0.7)
    torch.testing.assert_close(after[:, ACC].isnan(), torch.zeros_like(after[:, ACC], dtype=torch.bool))
    assert after[:, 3:].isnan().all()


def test_the_same_generator_gives_the_same_and_the_input_is_left_alone() -> None:
    before = signals()
    kept = before.clone()
    settings = {"rotate": True, "gain": 0.1, "sensor_dropout": 0.3}
    torch.testing.assert_close(changed(before, seed=3, **settings), changed(before, seed=3, **settings), equal_nan=True)
    assert not torch.equal(changed(before, seed=3, rotate=True), changed(before, seed=4, rotate=True))
    torch.testing.assert_close(before, kept)


def test_with_everything_off_nothing_changes() -> None:
    torch.testing.assert_close(changed(signals(), seed=0), signals())


def test_a_phone_without_one_of_three_axes_keeps_the_two() -> None:
    """What is turned would be made of one that is not there, and all three were missing."""
    before = signals()
    before[1, ACC[2]] = torch.nan
    after = changed(before, seed=0, rotate=True)
    torch.testing.assert_close(after[1, ACC], before[1, ACC], equal_nan=True)
    assert not torch.equal(after[0, ACC], before[0, ACC])
    assert torch.isfinite(after[1, GYR]).all()
    assert not torch.equal(after[1, GYR], before[1, GYR])
