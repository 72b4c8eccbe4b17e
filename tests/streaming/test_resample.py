import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streaming.resample import largest_gap_ns, resample

MS = 1_000_000


def test_a_line_stays_a_line() -> None:
    times = np.array([0, 7, 20, 33, 50], np.int64) * MS
    values = np.stack([times / MS, -times / MS], axis=1).astype(np.float32)
    grid = np.arange(0, 51, 10, dtype=np.int64) * MS
    out = resample(times, values, grid=grid, period_ns=10 * MS, max_gap_ns=20 * MS)
    np.testing.assert_allclose(out, [grid / MS, -grid / MS], rtol=1e-6)


def test_a_gap_is_a_gap_and_its_edges_are_signal() -> None:
    times = np.array([0, 10, 100, 110], np.int64) * MS
    values = np.ones((4, 1), np.float32)
    grid = np.arange(0, 120, 10, dtype=np.int64) * MS
    (out,) = resample(times, values, grid=grid, period_ns=10 * MS, max_gap_ns=50 * MS)
    assert np.flatnonzero(np.isnan(out)).tolist() == list(range(2, 10))


def test_beyond_its_ends_a_signal_is_held_for_one_step() -> None:
    times = np.array([100], np.int64) * MS
    grid = np.arange(80, 130, 10, dtype=np.int64) * MS
    (out,) = resample(times, np.array([[3.0]], np.float32), grid=grid, period_ns=10 * MS, max_gap_ns=50 * MS)
    np.testing.assert_array_equal(out, np.array([np.nan, 3, 3, 3, np.nan], np.float32))


def test_no_samples_no_signal() -> None:
    out = resample(np.empty(0, np.int64), np.empty((0, 3), np.float32), grid=np.arange(4), period_ns=1, max_gap_ns=1)
    assert out.shape == (3, 4)
    assert np.isnan(out).all()


@given(
    st.lists(st.integers(0, 3_000), min_size=2, max_size=80, unique=True),
    st.integers(1, 78),
    st.integers(0, 10**15),
)
def test_the_same_values_whatever_part_of_the_signal_is_at_hand(ms: list[int], cut: int, epoch: int) -> None:
    """Samples further away than the neighbours of a grid point do not touch its value, not in the last bit."""
    times = np.sort(np.array(ms, np.int64)) * MS + epoch
    values = np.sin(times.astype(np.float64))[:, None].astype(np.float32)
    cut = min(cut, len(times) - 1)
    grid = np.arange(times[cut - 1], times[-1] + 1, 10 * MS, dtype=np.int64)
    whole = resample(times, values, grid=grid, period_ns=10 * MS, max_gap_ns=300 * MS)
    part = resample(times[cut - 1 :], values[cut - 1 :], grid=grid, period_ns=10 * MS, max_gap_ns=300 * MS)
    np.testing.assert_array_equal(whole, part)


def test_largest_gap_counts_the_edges() -> None:
    times = np.array([30, 40, 60], np.int64)
    assert largest_gap_ns(times, 0, 70) == 30
    assert largest_gap_ns(times, 25, 200) == 140
    assert largest_gap_ns(times, 100, 150) == 50
