"""Windows out of the lake at one version of its tables, with the scene that was said of each last."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import date
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from training.cohort import Cohort
from training.dataset import UNLABELLED, WindowSet
from training.errors import DataError, NoSuchCohort

if TYPE_CHECKING:
    import polars as pl

    from streaming.lake import Lake

_ORDER = ["device_id", "session_id", "start_ns", "window_id"]
_DESCRIPTION = [
    "window_id", "subject_id", "device_id", "session_id", "phone_model", "scene", "start_ns", "end_ns", "event_date",
]  # fmt: skip


def from_lake(
    lake: Lake,
    version: int | None = None,
    *,
    labels_version: int | None = None,
    cohort: str,
    channels: Sequence[str],
    scenes: Sequence[str] | None = None,
    min_coverage: float = 0.0,
    labelled_only: bool = False,
    day: date | None = None,
    verified_by: Collection[str] = (),
) -> WindowSet:
    """Read the windows of a cohort, each with the scene that was said of it last.

    Of a cohort that is one person, each session counts as a subject: what is learned of a person is tried on sessions of theirs that it
    has not seen.

    Args:
        lake: the lake's settings, or its root folder.
        version: version of its ``windows`` table; None for the newest.
        labels_version: version of its ``labels`` table; None for the newest, :data:`streaming.tables.NO_LABELS` to leave it out.
        cohort: which fleet, say ``source`` or ``target``, or which part of one (:mod:`training.cohort`).
        channels: what to read; one that the lake lacks is NaN.
        scenes: keep windows of these scenes (and unlabelled ones) only, and number them so; None for all, by name.
        min_coverage: leave out windows that are sparser than this, by the sparsest sensor that is there at all.
        labelled_only: leave out windows without a scene.
        day: read the windows of this event date only; None for all.
        verified_by: who labels rightly (``said_by`` of a label).

    Returns:
        The windows, by device, session and time. ``version`` and ``labels_version`` are those that were read.

    Raises:
        NoSuchCohort: the lake has no window of the cohort.
        DataError: no such window, or no sensor of ``channels`` is in the lake.
        streaming.errors.LakeError: no such table or version.
    """
    import polars as pl  # noqa: PLC0415  (the lake's libraries are needed here only: the rest runs from .npz)

    from streaming.lake import cohorts, scan_windows, table_version  # noqa: PLC0415
    from streaming.lake import labels_version as newest_labels  # noqa: PLC0415

    version = table_version(lake) if version is None else version
    labels_version = newest_labels(lake) if labels_version is None else labels_version
    described = described_windows(lake, version, labels_version, cohort=cohort, channels=channels, day=day)
    frame = usable(described, scenes=scenes, min_coverage=min_coverage, labelled_only=labelled_only)
    if frame.is_empty():
        msg = (
            f"The lake {lake} has at version {version} no{' labelled' if labelled_only else ''} window of cohort {cohort!r} "
            f"with a coverage of at least {min_coverage}; "
        )
        if described.is_empty():
            there = cohorts(lake, version)
            if Cohort.parse(cohort).fleet in there:
                msg += "the fleet has windows, but this part of it, or this day, has none."
            else:
                msg += f"it has windows of {', '.join(there) or 'nobody'}. Name one of these, or ingest the cohort's recordings first."
            raise NoSuchCohort(msg)
        msg += _why_none(described, channels=channels, scenes=scenes, labelled_only=labelled_only)
        raise DataError(msg)
    scan = _of(scan_windows(lake, version), cohort, day)
    present = [channel for channel in channels if channel in scan.collect_schema().names()]
    chosen = scan.filter(pl.col("window_id").is_in(frame["window_id"].implode())).sort(_ORDER)
    signals = _signals(chosen.select("window_id", *present).collect(), channels)
    names = tuple(scenes) if scenes is not None else tuple(sorted(frame["scene"].drop_nulls().unique().to_list()))
    number = {name: at for at, name in enumerate(names)}
    return WindowSet(
        signals=signals,
        channels=tuple(channels),
        rate_hz=round(signals.shape[2] / _seconds(frame), 6),
        scenes=np.array([number.get(scene, UNLABELLED) for scene in frame["scene"].to_list()], np.int64),
        scene_names=names,
        subjects=np.array(frame.select(Cohort.parse(cohort).subject()).to_series().to_list(), np.str_),
        sessions=np.array(frame["session_id"].to_list(), np.str_),
        devices=np.array(frame["device_id"].to_list(), np.str_),
        window_ids=np.array(frame["window_id"].to_list(), np.str_),
        start_ns=frame["start_ns"].to_numpy().astype(np.int64),
        coverage=frame["coverage"].to_numpy().astype(np.float32),
        version=version,
        labels_version=labels_version,
        verified=(frame["scene"].is_not_null() & frame["said_by"].is_in(list(verified_by)))
        .fill_null(value=False)
        .to_numpy()
        if verified_by
        else None,
    )


def described_windows(
    lake: Lake,
    version: int,
    labels_version: int,
    *,
    cohort: str,
    channels: Sequence[str],
    day: date | None = None,
) -> pl.DataFrame:
    """Every window of a cohort, without its signals; arguments and errors are those of :func:`from_lake`.

    Returns:
        ``window_id subject_id device_id session_id phone_model event_date scene said_by start_ns end_ns coverage``, by device, session
        and time; ``scene`` is what was said last (:mod:`training.labels`), ``said_by`` who said it, null if the phone, ``coverage``
        that of the sparsest sensor of ``channels``, null if none is there.
    """
    import polars as pl  # noqa: PLC0415

    from streaming.lake import CHANNELS, scan_labels, scan_windows  # noqa: PLC0415
    from training.labels import newest_labels  # noqa: PLC0415

    scan = _of(scan_windows(lake, version), cohort, day)
    columns = scan.collect_schema()
    present = [channel for channel in channels if channel in columns]
    # A sensor may be missing; an axis of one that is there is a slip of the pen.
    odd = [channel for channel in channels if channel not in columns and f"{channel.split('_')[0]}_coverage" in columns]
    if odd or not present:
        there = [name for name, kind in columns.items() if isinstance(kind, pl.List)]
        lacking = f"{odd[0]!r} is not" if odd else f"None of the channels {', '.join(channels)} is"
        msg = f"{lacking} in the lake {lake}, which has {', '.join(there)}: set [data] channels"
        raise DataError(msg)
    unknown = [channel for channel in channels if channel not in columns and channel not in CHANNELS]
    if unknown:
        msg = f"No sensor has the channel {unknown[0]!r}; known are {', '.join(CHANNELS)}: set [data] channels"
        raise DataError(msg)
    coverages = [pl.col(name) for name in dict.fromkeys(f"{channel.split('_')[0]}_coverage" for channel in present)]
    coverage = pl.min_horizontal(pl.when(column > 0).then(column) for column in coverages)
    frame = scan.sort(_ORDER).select(*_DESCRIPTION, coverage=coverage).collect()
    labels = scan_labels(lake, labels_version).filter(pl.col("device_id").is_in(frame["device_id"].unique().implode()))
    return frame.with_columns(newest_labels(frame, labels.collect()))


def usable(
    windows: pl.DataFrame, *, scenes: Sequence[str] | None, min_coverage: float, labelled_only: bool
) -> pl.DataFrame:
    """Those of :func:`described_windows` that :func:`from_lake` reads; arguments are the same."""
    import polars as pl  # noqa: PLC0415

    if scenes is not None:
        windows = windows.filter(pl.col("scene").is_null() | pl.col("scene").is_in(list(scenes)))
    if labelled_only:
        windows = windows.filter(pl.col("scene").is_not_null())
    return windows.filter(pl.col("coverage") >= min_coverage)


def _why_none(
    windows: pl.DataFrame, *, channels: Sequence[str], scenes: Sequence[str] | None, labelled_only: bool
) -> str:
    """What to change where none of these is usable."""
    labelled = windows.filter(windows["scene"].is_not_null())
    if labelled_only and labelled.is_empty():
        return (
            f"none of its {len(windows)} windows has a label. Ingest recordings that say a scene, or send labels "
            "('sensorloop label send')."
        )
    asked = labelled if labelled_only else windows
    if scenes is not None:
        asked = asked.filter(asked["scene"].is_null() | asked["scene"].is_in(list(scenes)))
    if asked.is_empty():
        there = ", ".join(labelled["scene"].unique().sort().to_list())
        return f"its windows are of {there}, and [data] scenes names {', '.join(scenes or ())}."
    coverage = asked["coverage"].drop_nulls().to_list()
    if not coverage:
        return (
            f"its {len(asked)} windows have no sensor of [data] channels ({', '.join(channels)}): set these to what the "
            "phones measure."
        )
    return (
        f"its {len(asked)} windows have {max(coverage):.3g} at most, by the sparsest sensor. Of phones that measure seldom a new "
        "lake with a longer [windows] max_gap has windows without gaps; or lower [data] min_coverage."
    )


def _of(scan: pl.LazyFrame, cohort: str, day: date | None) -> pl.LazyFrame:
    """A cohort's windows, of an event date only or of all; the date is what files are parted by, and those of others are not opened."""
    import polars as pl  # noqa: PLC0415

    scan = scan.filter(Cohort.parse(cohort).where())
    return scan if day is None else scan.filter(pl.col("event_date") == day)


def _seconds(windows: pl.DataFrame) -> float:
    """How long each of them is."""
    lengths = sorted((windows["end_ns"] - windows["start_ns"]).unique().to_list())
    if len(lengths) > 1:
        several = ", ".join(f"{length / 1e9:g} s" for length in lengths[:5])
        msg = f"The lake's windows are of different lengths: {several}. Ingest into a new lake after changing [windows]"
        raise DataError(msg)
    return float(lengths[0]) / 1e9


def _signals(frame: pl.DataFrame, channels: Sequence[str]) -> NDArray[np.float32]:
    """(n, c, t) out of list columns; a null list is a row of NaN."""
    present = [channel for channel in channels if channel in frame.columns]
    lengths = sorted({length for channel in present for length in frame[channel].drop_nulls().list.len().unique()})
    if len(lengths) != 1:
        msg = f"The lake's windows have {len(lengths)} different lengths {lengths[:5]}: ingest into a new lake after changing [windows]"
        raise DataError(msg)
    signals = np.full((len(frame), len(channels), lengths[0]), np.nan, np.float32)
    for at, channel in enumerate(channels):
        if channel in present:
            column = frame[channel]
            there = column.is_not_null().to_numpy()
            signals[there, at] = column.drop_nulls().explode().to_numpy().reshape(-1, lengths[0])
    return signals
