"""What there is to do: cohorts with enough that is new, at one version of the lake, and the shards of it that scoring goes through.

Nothing here knows why it is asked. An event, a schedule or a person only wake whoever asks; the answer comes from the lake and from the
runs that have come to their end, so that events may be lost, doubled, merged or late.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from dags import runs, steps
from dags.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

    from training.cohort import Cohort
    from training.dataset import WindowSet


@dataclass(frozen=True, kw_only=True, slots=True)
class Pin:
    """A version of the lake, and what is in it for a cohort."""

    cohort: str
    lake_version: int
    """Of the ``windows`` table."""
    labels_version: int
    """Of the ``labels`` table; -1 if there is none."""
    windows: int
    labelled: int
    fresh: int
    """Labelled windows that no finished run of this cohort has learned from, or only with another label, and that the next one will: those
    that are too sparse for it, or of scenes that [data] leaves out, would be new for ever, and so would those whose label was withdrawn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What a retraining has to do."""

    pins: tuple[Pin, ...]
    """Cohorts to retrain for, all at the same versions."""
    lacking: tuple[str, ...]
    """A sentence for each cohort that is left out: how much is missing, or whose model serves it."""


def pin(settings: Settings, cohort: str) -> Pin:
    """Name the newest version of the lake and count.

    Raises:
        LakeError: there is no lake.
        DataError: it has none of the channels of the settings.
    """
    return _pinned(settings, cohort, *newest(settings))


def work(settings: Settings, cohorts: Iterable[str], *, min_windows: int, force: bool = False) -> Work:
    """Name the newest version of the lake, and what to do at it.

    Args:
        settings: of this installation.
        cohorts: fleets, parts of them, and patterns (``target/phone_model=*``) for every part of a kind.
        min_windows: new labelled windows that make a retraining worth it.
        force: whether there is anything new or not. Where a part of a fleet has too little for a model of its own, it has none even so.

    Raises:
        LakeError: there is no lake.
        DataError: it has none of the channels of the settings.
        SettingsError: a cohort is none.
    """
    versions = newest(settings)
    pins, lacking = [], []
    for cohort in expanded(settings, cohorts, *versions):
        found = _pinned(settings, str(cohort), *versions)
        if found.fresh < min_windows and not force:
            missing = min_windows - found.fresh
            lacking.append(f"{found.fresh} labelled windows of cohort '{cohort}' are new; {missing} more are needed.")
        elif why := _no_model_of_its_own(settings, cohort, found):
            lacking.append(f"Cohort '{cohort}' has no model of its own: {why} Everybody's serves it.")
        else:
            pins.append(found)
    return Work(pins=tuple(pins), lacking=tuple(lacking))


def shards(settings: Settings, cohorts: Sequence[str], *, version: int, labels_version: int) -> list[dict[str, Any]]:
    """The shards of the lake, by fleet and event date, in which cohorts have windows that the original model has not been fed.

    After another original model was trained, that is every day. The newest day where there is none. Parts of one fleet share its shards:
    what a network makes of a window is the same, whoever asks.

    Returns:
        For each shard ``fleet``, ``day``, ``lake_version`` and ``labels_version``, by fleet and day; at least one.

    Raises:
        DataError: there is no labelled window that could be scored.
        ModelError: there is no original model.
    """
    from streaming import lake as lakes
    from training.cohort import Cohort
    from training.errors import DataError
    from training.saved import read_config

    known = lakes.embedded_windows(settings.lake, read_config(settings.original_folder)["digest"])
    days: dict[str, set[date]] = {}
    for cohort in cohorts:
        usable = _usable(settings, described(settings, cohort, version, labels_version))
        missing = usable.join(known, on="window_id", how="anti")
        found = missing if missing.height else usable.sort("event_date").tail(1)
        days.setdefault(Cohort.parse(cohort).fleet, set()).update(found["event_date"].to_list())
    if not any(days.values()):
        msg = (
            f"No window of {', '.join(cohorts)} at {steps.lake_at(version, labels_version)} is labelled and complete enough to be scored: "
            "label some, or lower [data] min_coverage."
        )
        raise DataError(msg)
    return [
        {"fleet": fleet, "day": str(day), "lake_version": version, "labels_version": labels_version}
        for fleet in days
        for day in sorted(days[fleet])
    ]


def unseen(settings: Settings, windows: pl.DataFrame, run_keys: Collection[str]) -> pl.DataFrame:
    """Those of :func:`described`'s windows that scoring sees and none of these runs has seen with the label that they have."""
    from streaming import lake as lakes

    known = lakes.scored_windows(settings.lake, run_keys)
    return _usable(settings, windows).join(
        known, left_on=["window_id", "scene"], right_on=["window_id", "label"], how="anti"
    )


def described(settings: Settings, cohort: str, version: int, labels_version: int) -> pl.DataFrame:
    """Every window of a cohort, without its signals, see :func:`training.lake.described_windows`."""
    from training.lake import described_windows

    return described_windows(settings.lake, version, labels_version, cohort=cohort, channels=settings.data.channels)


def expanded(settings: Settings, cohorts: Iterable[str], version: int, labels_version: int) -> list[Cohort]:
    """Cohorts, each once, with those that patterns stand for in their place.

    Raises:
        SettingsError: a cohort is none.
    """
    from training.cohort import Cohort

    found: list[Cohort] = []
    for cohort in map(Cohort.parse, cohorts):
        if cohort.is_pattern:
            values = _usable(settings, described(settings, str(cohort), version, labels_version))[cohort.column]
            found += cohort.each([value for value in values.unique().to_list() if value])
        else:
            found.append(cohort)
    return list(dict.fromkeys(found))


def newest(settings: Settings) -> tuple[int, int]:
    """The newest version of the lake's windows, and of its labels."""
    from streaming import lake as lakes

    return lakes.table_version(settings.lake), lakes.labels_version(settings.lake)


def _pinned(settings: Settings, cohort: str, version: int, labels_version: int) -> Pin:
    windows = described(settings, cohort, version, labels_version)
    return Pin(
        cohort=cohort, lake_version=version, labels_version=labels_version, windows=windows.height,
        labelled=windows.height - windows["scene"].null_count(), fresh=_fresh(settings, cohort, windows).height,
    )  # fmt: skip


def _fresh(settings: Settings, cohort: str, windows: pl.DataFrame) -> pl.DataFrame:
    return unseen(settings, windows, runs.judged(settings, cohort))


def _usable(settings: Settings, windows: pl.DataFrame) -> pl.DataFrame:
    """Those that are scored."""
    from training.lake import usable

    data = settings.data
    return usable(windows, scenes=data.scenes or None, min_coverage=data.min_coverage, labelled_only=True)


def _no_model_of_its_own(settings: Settings, cohort: Cohort, pin: Pin) -> str:
    """Why a part of a fleet does without; empty where it need not. A whole fleet is never left out: what it lacks is an error later."""
    from training.errors import DataError
    from training.folds import split_by_subject
    from training.saved import read_config

    if not cohort.column:
        return ""
    if pin.labelled < settings.retrain.own_windows:
        return f"{pin.labelled} labelled windows, and [retrain] own_windows asks for {settings.retrain.own_windows}."
    data = settings.data
    found = _usable(settings, described(settings, str(cohort), pin.lake_version, pin.labels_version))
    scenes = data.scenes or tuple(read_config(settings.original_folder)["scenes"])
    try:
        windows = _without_signals(found, cohort).with_scenes(scenes)
        split_by_subject(
            windows, share=data.holdout_share, subjects=steps.held_out(settings, windows, str(cohort)), seed=data.seed,
            min_labelled=data.min_labelled, scenes=scenes, min_train_subjects=2,
        )  # fmt: skip
    except DataError as error:
        return str(error)
    return ""


def _without_signals(windows: pl.DataFrame, cohort: Cohort) -> WindowSet:
    """Windows of no channels: enough to see who would be held out."""
    import numpy as np

    from training.dataset import WindowSet

    def texts(column: pl.Expr | str) -> NDArray[np.str_]:
        return np.array(windows.select(column).to_series().to_list(), np.str_)

    names = tuple(sorted(windows["scene"].unique().to_list()))
    return WindowSet(
        signals=np.empty((len(windows), 0, 0), np.float32), channels=(), rate_hz=1.0,
        scenes=np.array([names.index(scene) for scene in windows["scene"].to_list()], np.int64), scene_names=names,
        subjects=texts(cohort.subject()), sessions=texts("session_id"), devices=texts("device_id"),
        window_ids=texts("window_id"), start_ns=windows["start_ns"].to_numpy().astype(np.int64),
        coverage=windows["coverage"].to_numpy().astype(np.float32),
    )  # fmt: skip
