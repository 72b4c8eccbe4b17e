"""Windows as arrays: what every other module of this package works on.

A :class:`WindowSet` comes out of the lake at one version, or out of an ``.npz`` file; nothing behind it knows of either.
A missing sensor is NaN all along, never an error: the spectrogram masks it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from training.cohort import Cohort
from training.errors import DataError, MissingScene

if TYPE_CHECKING:
    import polars as pl

    from streaming.lake import Lake

UNLABELLED = -1
"""Index of the scene of a window that nobody has labelled."""

_ORDER = ["device_id", "session_id", "start_ns", "window_id"]
_DESCRIPTION = [
    "window_id", "subject_id", "device_id", "session_id", "phone_model", "scene", "start_ns", "end_ns", "event_date",
]  # fmt: skip
_NOT_SAID = -2
"""How a file says that ``labels_version`` is None; -1 says that there was none."""
_TEXTS = ("subjects", "sessions", "devices", "window_ids")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WindowSet:
    """n windows of c channels and t samples, and what is known about each. Arrays are never written to."""

    signals: NDArray[np.float32]
    """(n, c, t) in the channel's unit; NaN in a gap and where the sensor was absent."""
    channels: tuple[str, ...]
    """Names of the c channels: ``acc_x``, …"""
    rate_hz: float
    """Samples per second."""
    scenes: NDArray[np.int64]
    """(n,) index into ``scene_names``, :data:`UNLABELLED` where nobody said."""
    scene_names: tuple[str, ...]
    """The scenes, in the order of their indices."""
    subjects: NDArray[np.str_]
    """(n,) who carried the phone."""
    sessions: NDArray[np.str_]
    """(n,) session, unique among those of its device."""
    devices: NDArray[np.str_]
    """(n,) the phone."""
    window_ids: NDArray[np.str_]
    """(n,) the lake's ids."""
    start_ns: NDArray[np.int64]
    """(n,) event time of the first sample, ns since the epoch."""
    coverage: NDArray[np.float32]
    """(n,) smallest share of the grid backed by samples, over the sensors that are there at all."""
    version: int | None = None
    """The version of the lake's ``windows`` table that the windows were read at, if they were."""
    labels_version: int | None = None
    """The version of its ``labels`` table, likewise; :data:`streaming.tables.NO_LABELS` if there was none."""

    def __post_init__(self) -> None:
        if self.signals.ndim != 3 or self.signals.shape[1] != len(self.channels):
            msg = f"Signals must be (windows, {len(self.channels)} channels, samples), not {self.signals.shape}"
            raise DataError(msg)
        for name in ("scenes", "start_ns", "coverage", *_TEXTS):
            if getattr(self, name).shape != (len(self),):
                msg = f"{name} must be ({len(self)},), one for each window, not {getattr(self, name).shape}"
                raise DataError(msg)
        if len(self) and not UNLABELLED <= self.scenes.min() <= self.scenes.max() < len(self.scene_names):
            msg = f"Scene indices must be {UNLABELLED} or below {len(self.scene_names)}, the number of scene names"
            raise DataError(msg)

    def __len__(self) -> int:
        return len(self.signals)

    @property
    def said_later(self) -> int | None:
        """``labels_version``, or None where there was none."""
        return None if self.labels_version is None or self.labels_version < 0 else self.labels_version

    def select(self, which: NDArray[Any]) -> WindowSet:
        """These windows only: ``which`` is a mask or indices."""
        arrays = ("signals", "scenes", "start_ns", "coverage", *_TEXTS)
        return dataclasses.replace(self, **{name: getattr(self, name)[which] for name in arrays})

    def labelled(self) -> WindowSet:
        """The windows that have a scene."""
        return self.select(self.scenes != UNLABELLED)

    def counts(self) -> dict[str, int]:
        """Labelled windows of each scene."""
        counts = np.bincount(self.scenes[self.scenes >= 0], minlength=len(self.scene_names))
        return {name: int(n) for name, n in zip(self.scene_names, counts, strict=True)}

    def with_scenes(self, names: Sequence[str]) -> WindowSet:
        """The same windows with indices into ``names``, say those that a model knows.

        Raises:
            MissingScene: windows are labelled with a scene that is not among ``names``.
        """
        unknown = {name: n for name, n in self.counts().items() if n and name not in names}
        if unknown:
            listed = ", ".join(f"{name} ({n} windows)" for name, n in unknown.items())
            msg = f"Labelled with scenes that are not known: {listed}; known are {', '.join(names)}. Set [data] scenes to leave them out."
            raise MissingScene(msg)
        index = np.array(
            [names.index(name) if name in names else UNLABELLED for name in self.scene_names] + [UNLABELLED]
        )
        return dataclasses.replace(self, scenes=index[self.scenes], scene_names=tuple(names))

    def with_channels(self, channels: Sequence[str]) -> WindowSet:
        """The same windows with these channels in this order; NaN where a channel is not there."""
        if tuple(channels) == self.channels:
            return self
        signals = np.full((len(self), len(channels), self.signals.shape[2]), np.nan, np.float32)
        for at, channel in enumerate(channels):
            if channel in self.channels:
                signals[:, at] = self.signals[:, self.channels.index(channel)]
        return dataclasses.replace(self, signals=signals, channels=tuple(channels))

    def groups(self) -> NDArray[np.int64]:
        """(n,) who belongs together: windows of one subject, and of one session, have one number.

        A split that keeps these apart keeps overlapping windows on one side, even if a session was ascribed to two people.
        """
        parents: dict[tuple[str, ...], tuple[str, ...]] = {}

        def root(node: tuple[str, ...]) -> tuple[str, ...]:
            while parents.setdefault(node, node) != node:
                node = parents[node]
            return node

        keys = list(zip(self.subjects.tolist(), self.devices.tolist(), self.sessions.tolist(), strict=True))
        for subject, device, session in dict.fromkeys(keys):
            # Sorted, so that the numbers depend on the names only and not on the order of the rows.
            first, second = sorted((root(("subject", subject)), root(("session", device, session))))
            parents[second] = first
        roots = [root(("subject", subject)) for subject, _, _ in keys]
        number = {node: at for at, node in enumerate(sorted(set(roots)))}
        return np.array([number[node] for node in roots], np.int64)

    def session_groups(self) -> NDArray[np.int64]:
        """(n,) a number for each session of each device."""
        keys = list(zip(self.devices.tolist(), self.sessions.tolist(), strict=True))
        number = {key: at for at, key in enumerate(sorted(set(keys)))}
        return np.array([number[key] for key in keys], np.int64)

    def digest(self) -> str:
        """16 hex digits of everything that training sees: signals and how complete they are, labels, people."""
        digest = hashlib.blake2b(digest_size=8)
        digest.update(repr((self.channels, self.scene_names, self.rate_hz, self.signals.shape)).encode())
        for array in (self.signals, self.scenes, self.coverage):
            digest.update(np.ascontiguousarray(array).data)
        for name in _TEXTS:
            # Each text ends with a mark, the last of a column too: or its letters could belong to the next column.
            digest.update("".join(f"{text}\0" for text in getattr(self, name).tolist()).encode())
        return digest.hexdigest()

    @classmethod
    def of(
        cls,
        signals: NDArray[np.float32],
        scenes: NDArray[np.int64],
        subjects: NDArray[np.str_],
        *,
        channels: Sequence[str],
        scene_names: Sequence[str],
        rate_hz: float,
        sessions: NDArray[np.str_] | None = None,
    ) -> WindowSet:
        """Windows that come from no lake: arrays, or a tensor's ``.numpy()``.

        Args:
            signals: (n, c, t) in the channel's unit; NaN where there is no sample.
            scenes: (n,) index into ``scene_names``, :data:`UNLABELLED` where nobody said.
            subjects: (n,) who carried the phone.
            channels: names of the c channels.
            scene_names: names of the scenes.
            rate_hz: samples per second.
            sessions: (n,) which windows were recorded, and labelled, in one go; None: each window by itself.

        Raises:
            DataError: the shapes do not fit.
        """
        if np.isinf(signals).any():
            msg = "Signals hold infinite samples: give NaN where there is no sample"
            raise DataError(msg)
        count = len(signals)
        numbers = np.array([f"{at:08d}" for at in range(count)], np.str_)
        there = ~np.isnan(signals)
        # The sparsest channel that is there at all, as the lake's sensors are counted.
        share = np.where(there.any(2), there.mean(2), np.inf).min(1, initial=np.inf)
        return cls(
            signals=np.asarray(signals, np.float32), channels=tuple(channels), rate_hz=rate_hz,
            scenes=np.asarray(scenes, np.int64), scene_names=tuple(scene_names), subjects=np.asarray(subjects, np.str_),
            sessions=numbers if sessions is None else np.asarray(sessions, np.str_), devices=np.asarray(subjects, np.str_),
            window_ids=numbers, start_ns=np.zeros(count, np.int64),
            coverage=np.where(np.isfinite(share), share, 0.0).astype(np.float32),
        )  # fmt: skip

    def save(self, path: Path) -> None:
        """Write an ``.npz`` without pickles; whole or not at all."""
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        fields: dict[str, Any] = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        fields["version"] = -1 if self.version is None else self.version
        fields["labels_version"] = _NOT_SAID if self.labels_version is None else self.labels_version
        try:
            with partial.open("wb") as file:
                np.savez(file, **fields)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path) -> WindowSet:
        """Read what :meth:`save` wrote.

        Raises:
            DataError: it is no such file; the message says what is missing.
        """
        try:
            # Opened here: NumPy leaves a file open that turns out to be no archive.
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                # Files from before labels could come later do not say which.
                known = [f.name for f in dataclasses.fields(cls) if f.name in archive or f.name != "labels_version"]
                fields: dict[str, Any] = {name: archive[name] for name in known}
        except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            msg = f"{path} holds no windows: {error}"
            raise DataError(msg) from error
        for name in ("channels", "scene_names"):
            fields[name] = tuple(fields[name].tolist())
        version, labels_version = int(fields["version"]), int(fields.get("labels_version", _NOT_SAID))
        fields["version"] = None if version < 0 else version
        fields["labels_version"] = None if labels_version == _NOT_SAID else labels_version
        return cls(**fields | {"rate_hz": float(fields["rate_hz"])})


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

    Returns:
        The windows, by device, session and time. ``version`` and ``labels_version`` are those that were read.

    Raises:
        DataError: no such window, or no sensor of ``channels`` is in the lake.
        streaming.errors.LakeError: no such table or version.
    """
    import polars as pl  # noqa: PLC0415  (the lake's libraries are needed here only: the rest runs from .npz)

    from streaming.lake import cohorts, scan_windows, table_version  # noqa: PLC0415
    from streaming.lake import labels_version as newest_labels  # noqa: PLC0415

    version = table_version(lake) if version is None else version
    labels_version = newest_labels(lake) if labels_version is None else labels_version
    frame = usable(
        described_windows(lake, version, labels_version, cohort=cohort, channels=channels, day=day),
        scenes=scenes, min_coverage=min_coverage, labelled_only=labelled_only,
    )  # fmt: skip
    if frame.is_empty():
        msg = (
            f"The lake {lake} has at version {version} no{' labelled' if labelled_only else ''} window of cohort {cohort!r} "
            f"with a coverage of at least {min_coverage}; it has windows of {', '.join(cohorts(lake, version)) or 'nobody'}. "
            "Name one of these, ingest the cohort's recordings first, or lower [data] min_coverage."
        )
        raise DataError(msg)
    scan = _of(scan_windows(lake, version), cohort, day)
    present = [channel for channel in channels if channel in scan.collect_schema().names()]
    chosen = scan.filter(pl.col("window_id").is_in(frame["window_id"].implode())).sort(_ORDER)
    signals = _signals(chosen.select("window_id", *present).collect(), channels)
    names = tuple(scenes) if scenes is not None else tuple(sorted(frame["scene"].drop_nulls().unique().to_list()))
    number = {name: at for at, name in enumerate(names)}
    seconds = (frame["end_ns"][0] - frame["start_ns"][0]) / 1e9
    return WindowSet(
        signals=signals,
        channels=tuple(channels),
        rate_hz=round(signals.shape[2] / seconds, 6),
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
        ``window_id subject_id device_id session_id phone_model event_date scene start_ns end_ns coverage``, by device, session and time;
        ``scene`` is what was said last (:mod:`training.labels`), ``coverage`` that of the sparsest sensor of ``channels``, null if none
        is there.
    """
    import polars as pl  # noqa: PLC0415

    from streaming.lake import scan_labels, scan_windows  # noqa: PLC0415
    from training.labels import newest_scenes  # noqa: PLC0415

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
    coverages = [pl.col(name) for name in dict.fromkeys(f"{channel.split('_')[0]}_coverage" for channel in present)]
    coverage = pl.min_horizontal(pl.when(column > 0).then(column) for column in coverages)
    frame = scan.sort(_ORDER).select(*_DESCRIPTION, coverage=coverage).collect()
    labels = scan_labels(lake, labels_version).filter(pl.col("device_id").is_in(frame["device_id"].unique().implode()))
    return frame.with_columns(newest_scenes(frame, labels.collect()))


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


def _of(scan: pl.LazyFrame, cohort: str, day: date | None) -> pl.LazyFrame:
    """A cohort's windows, of an event date only or of all; the date is what files are parted by, and those of others are not opened."""
    import polars as pl  # noqa: PLC0415

    scan = scan.filter(Cohort.parse(cohort).where())
    return scan if day is None else scan.filter(pl.col("event_date") == day)


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
