"""Which label of a window counts: what was said last, of those that cover more than half of it. Pure, over frames.

A label inside a batch, the window's own, counts as one that was said at the window's end. Of two labels that were said at the
same moment the one that Kafka took later wins, and either of them over the window's own. A label without a scene withdraws:
if it is the newest, the window has none.

**How.** An interval [a, b) covers more than half of a window [s, e) exactly if it is longer than half of it and the window's
middle lies within it: a < m < b. (The overlap is the least of e - s, e - a, b - s and b - a; each must exceed half of e - s.) So
with the windows of each device sorted by their middle, a label covers a run of them, found by sorting. Of all labels, numbered
from the oldest to the newest, each window takes the highest number among the runs that hold it: each run is noted as two runs
of a power of two in length that overlap, and then each power of two is handed down to the next lower one. That is
O((windows + labels) log windows), without a loop over either.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

_NONE = -1
_WINDOWS = ("device_id", "session_id", "start_ns", "end_ns", "scene")
_LABELS = ("device_id", "session_id", "start_ns", "end_ns", "scene", "said_by", "said_ns")
_ORDER = ("said_ns", "kafka_offset", "kafka_partition", "topic")
"""From the oldest to the newest. A device's labels are in one partition of one topic, so that its offset says which came later."""


def newest_labels(windows: pl.DataFrame, labels: pl.DataFrame) -> pl.DataFrame:
    """The scene of each window, when everything that was said later is taken into account, and who said it.

    Args:
        windows: ``device_id session_id start_ns end_ns scene``, the latter null where the window's own label says nothing.
        labels: rows of the ``labels`` table, in any order: ``device_id session_id start_ns end_ns scene said_by said_ns`` and where
            in Kafka they were. ``session_id`` null is any session, ``scene`` null withdraws.

    Returns:
        (windows,) ``scene``, null for none, and ``said_by``, null where it is the window's own, in the order of ``windows``.
    """
    own = windows.select("scene", said_by=pl.lit(None, pl.String))
    if windows.is_empty() or labels.is_empty():
        return own
    windows = windows.select(_WINDOWS)
    labels = labels.sort(_ORDER).select(_LABELS)
    newest = np.full(len(windows), _NONE, np.int64)
    for keys, of in (
        (["device_id"], pl.col("session_id").is_null()),
        (["device_id", "session_id"], pl.col("session_id").is_not_null()),
    ):
        mine = labels.with_row_index("number").filter(of)
        if not mine.is_empty():
            np.maximum(newest, _newest(windows, mine, keys), out=newest)
    said = labels["said_ns"].to_numpy()[newest]
    spoken = pl.Series(
        (newest != _NONE) & (windows["scene"].is_null().to_numpy() | (said >= windows["end_ns"].to_numpy()))
    )
    said_of_it = labels.select("scene", "said_by")[np.maximum(newest, 0)]
    return pl.DataFrame([said_of_it[name].zip_with(spoken, own[name]).alias(name) for name in own.columns])


def _newest(windows: pl.DataFrame, labels: pl.DataFrame, keys: list[str]) -> NDArray[np.int64]:
    """(windows,) highest ``number`` of the labels that cover more than half of each, among those with the same keys; or -1."""
    groups = windows.select(keys).unique().with_row_index("group")
    labels = labels.join(groups, on=keys, how="inner")
    group = windows.select(keys).join(groups, on=keys, how="left", maintain_order="left")["group"].to_numpy()
    found = np.full(len(windows), _NONE, np.int64)
    starts, ends = windows["start_ns"].to_numpy(), windows["end_ns"].to_numpy()
    lengths = ends - starts
    earliest, latest = starts.min(), ends.max()
    # What lies beyond the windows says nothing; without it twice a time fits into 64 bits.
    begin = 2 * (np.clip(labels["start_ns"].to_numpy(), earliest, latest) - earliest)
    end = 2 * (np.clip(labels["end_ns"].to_numpy(), earliest, latest) - earliest)
    duration = labels["end_ns"].to_numpy() - labels["start_ns"].to_numpy()
    numbers, label_group = labels["number"].to_numpy().astype(np.int64), labels["group"].to_numpy()
    for length in np.unique(lengths):
        of = np.flatnonzero(lengths == length)
        middle = 2 * (starts[of] - earliest) + length
        long = duration > length // 2
        found[of] = _highest(group[of], middle, label_group[long], begin[long], end[long], numbers[long])
    return found


def _highest(
    group: NDArray[np.uint32],
    point: NDArray[np.int64],
    run_group: NDArray[np.uint32],
    begin: NDArray[np.int64],
    end: NDArray[np.int64],
    numbers: NDArray[np.int64],
) -> NDArray[np.int64]:
    """(points,) highest number of the open intervals (begin, end) of a point's group that hold it; -1 for none."""
    order = np.lexsort((point, group))
    first, stop = _between(group[order], point[order], run_group, begin, end)
    some = stop > first
    first, stop, numbers = first[some], stop[some], numbers[some]
    best = np.full(len(point), _NONE, np.int64)
    if not len(first):
        return best
    power = np.frexp(stop - first)[1] - 1  # the largest power of two that fits
    above = np.full(len(point), _NONE, np.int64)
    for level in range(int(power.max()), -1, -1):
        # ``above`` says of each place what holds it and the 2^(level+1) - 1 places after it.
        here, half = above.copy(), 1 << level
        np.maximum(here[half:], above[: max(0, len(point) - half)], out=here[half:])
        mine = power == level
        np.maximum.at(here, first[mine], numbers[mine])
        np.maximum.at(here, stop[mine] - half, numbers[mine])
        above = here
    best[order] = above
    return best


def _between(
    group: NDArray[np.uint32],
    point: NDArray[np.int64],
    run_group: NDArray[np.uint32],
    begin: NDArray[np.int64],
    end: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of points sorted by group: where those strictly between begin and end of a group start and stop."""
    count, runs = len(point), len(begin)
    groups = np.concatenate([group, run_group, run_group])
    places = np.concatenate([point, begin, end])
    # At the same place an end comes before the point, and a begin after it: neither holds it.
    kinds = np.repeat(np.array([1, 2, 0], np.int8), [count, runs, runs])
    order = np.lexsort((kinds, places, groups))
    before = np.cumsum(order < count)
    position = np.empty(len(order), np.int64)
    position[order] = before
    return position[count : count + runs], position[count + runs :]
