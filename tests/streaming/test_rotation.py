"""When a commit is due, and why."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.backoff import Backoff
from streaming.rotation import Reason, Waiting, due
from streaming.settings import IngestSettings

from .sessions import NOW

SETTINGS = IngestSettings(
    commit_interval=timedelta(seconds=30), commit_idle=timedelta(seconds=5), commit_rows=100, commit_bytes=1_000
)


def seconds(count: float) -> timedelta:
    return timedelta(seconds=count)


def waiting(rows: int = 1, count: int = 10, *, waits: float | None = 1, ours: float = 3_600) -> Waiting:
    since = None if waits is None else NOW - seconds(waits)
    return Waiting(rows=rows, bytes=count, since=since, assigned=NOW - seconds(ours))


def asked(*partitions: Waiting, heard: float = 0, committed: float = 0) -> Reason | None:
    return due(partitions, now=NOW, heard=NOW - seconds(heard), committed=NOW - seconds(committed), settings=SETTINGS)


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (asked(), None),
        (asked(waiting()), None),
        (asked(waiting(rows=60), waiting(rows=40)), Reason.SIZE),
        (asked(waiting(rows=60), waiting(rows=39)), None),
        (asked(waiting(count=999), waiting(count=1)), Reason.SIZE),
        (asked(waiting(waits=29.9), heard=4.9, committed=500), None),
        (asked(waiting(waits=30)), Reason.AGE),
        (asked(waiting(waits=2), waiting(waits=30)), Reason.AGE),
        (asked(waiting(waits=0), heard=5), Reason.IDLE),
        (asked(waiting(waits=1.1, ours=2)), Reason.YOUNG),
        (asked(waiting(waits=0.9, ours=2)), None),
        (asked(waiting(waits=0, ours=0)), None),
        (asked(waiting(rows=0, count=0, waits=None, ours=0), heard=500, committed=29), None),
        (asked(waiting(rows=0, count=0, waits=None), committed=30), Reason.OFFSETS),
    ],
)
def test_reasons(found: Reason | None, reason: Reason | None) -> None:
    assert found is reason


@given(
    waits=st.floats(0, 100), ours=st.floats(0, 1000), heard=st.floats(0, 100), committed=st.floats(0, 1000),
    rows=st.integers(1, 99),
)  # fmt: skip
def test_no_window_waits_longer_than_the_interval(
    waits: float, ours: float, heard: float, committed: float, rows: int
) -> None:
    reason = asked(waiting(rows=rows, waits=waits, ours=ours), heard=heard, committed=committed)
    assert reason is not None or waits < 30


def test_a_partition_that_stays_has_few_small_files() -> None:
    """A window closes every 100 ms from the moment it is assigned."""
    commits, since = [], None
    for tick in range(1, 6_001):
        age = tick / 10
        since = age if since is None else since
        found = due(
            [Waiting(rows=1, bytes=1, since=NOW + seconds(since), assigned=NOW)], now=NOW + seconds(age),
            heard=NOW + seconds(age), committed=NOW, settings=SETTINGS,
        )  # fmt: skip
        if found is not None:
            commits.append((age, found))
            since = None
    young = [age for age, reason in commits if reason is Reason.YOUNG]
    assert young[0] < 1, "soon after it was assigned"
    assert len(young) < 15
    assert all(reason is Reason.AGE for age, reason in commits if age > 100)


def test_back_off_doubles_up_to_its_limit_and_begins_anew_after_a_success() -> None:
    backoff = Backoff(seconds(10))
    assert not backoff.waiting(NOW)
    assert [backoff.failed(NOW).total_seconds() for _ in range(6)] == [1, 2, 4, 8, 10, 10]
    assert backoff.waiting(NOW + seconds(9.9))
    assert not backoff.waiting(NOW + seconds(10))
    backoff.succeeded()
    assert backoff.failed(NOW) == seconds(1)
