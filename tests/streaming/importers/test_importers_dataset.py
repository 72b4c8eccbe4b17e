from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streaming.importers.dataset import EPOCH_NS, SLOT_NS, Findings, Refusal, made_up_starts, regular_times

DAY_NS = 24 * 3600 * 10**9


@given(st.integers(0, 500))
def test_made_up_sessions_never_overlap_and_are_spread_over_days(count: int) -> None:
    starts = made_up_starts(count)

    assert len(starts) == count
    assert all(later - start >= SLOT_NS for start, later in pairwise(starts))
    assert all(start >= EPOCH_NS and start % 1000 == 0 for start in starts)
    days = {(start - EPOCH_NS) // DAY_NS for start in starts}
    assert len(days) >= min(count, 5)
    assert all((start - EPOCH_NS) % DAY_NS + SLOT_NS <= 16 * 3600 * 10**9 for start in starts)  # 08:00 to midnight


@given(st.integers(0, 10**7), st.sampled_from([15.0, 24.0, 50.0, 100.0]))
def test_regular_times_are_whole_microseconds_that_do_not_drift(row: int, rate_hz: float) -> None:
    (time_ns,) = regular_times(np.array([row]), rate_hz)

    assert time_ns % 1000 == 0
    assert abs(time_ns - row / rate_hz * 1e9) <= 501


@given(st.sets(st.integers(1, 60)))
def test_refused_lines_are_put_into_runs_and_none_is_forgotten(lines: set[int]) -> None:
    findings = Findings()

    findings.refuse_lines("a.csv", np.array(sorted(lines), dtype=np.int64), "bad")

    told = [line for one in findings.refused for line in range(one.row, one.row + one.rows)]
    assert told == sorted(lines)
    assert all(one.row + one.rows < later.row for one, later in pairwise(findings.refused))


def test_findings() -> None:
    findings = Findings()

    findings.refuse_file("a.csv", "gone")
    findings.note("seen", 2)
    findings.note("seen")
    findings.note("never", 0)

    assert findings.refused == [Refusal("a.csv", 0, "gone", 0)]
    assert findings.notes == {"seen": 3}
