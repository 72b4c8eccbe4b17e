"""Quality in the lake: embeddings made once, the rows of a rescoring, and which labels it distrusts most."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from dags import steps
from dags.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from training.arms import Bench
    from training.dataset import WindowSet
    from training.embeddings import Embedded
    from training.original import OriginalModel
    from training.tracking import Progress


def embedded(settings: Settings, original: OriginalModel, windows: WindowSet, progress: Progress) -> Embedded:
    """The original's features of windows, those that the lake has from there, the others computed and kept in it."""
    from training.devices import device
    from training.embeddings import LakeStore, embed

    store, where = LakeStore(settings.lake), device(settings.finetune.device)
    return embed(original.net, original.digest, windows, store, where=where, progress=progress)


def embed_days(
    settings: Settings,
    *,
    cohort: str,
    lake_version: int | None,
    labels_version: int | None = None,
    day: date | None = None,
    progress: Progress,
) -> dict[str, Any]:
    """Fill the lake's ``embeddings`` with what a rescoring of this cohort will ask for, day by day.

    Args:
        settings: of this installation.
        cohort: whose windows.
        lake_version: of the ``windows`` table; None for the newest.
        labels_version: of the ``labels`` table; None for the newest, -1 for none.
        day: this event date only; None for all.
        progress: told after each day.

    Raises:
        TrainingError: there is no original model.
        LakeError: there is no lake, or no such version.
    """
    from streaming import lake as lakes

    steps.check_model(settings)
    version = lakes.table_version(settings.lake) if lake_version is None else lake_version
    said = lakes.labels_version(settings.lake) if labels_version is None else labels_version

    from training import embeddings
    from training.devices import device
    from training.lake import described_windows, from_lake, usable
    from training.original import OriginalModel

    original, data = OriginalModel.load(settings.original_folder), settings.data
    kept: dict[str, Any] = {
        "scenes": data.scenes or None, "min_coverage": data.min_coverage, "labelled_only": True,
    }  # fmt: skip
    found = usable(
        described_windows(settings.lake, version, said, cohort=cohort, channels=data.channels, day=day), **kept
    )
    days = found["event_date"].unique().sort().to_list()

    def read(one: date) -> WindowSet:
        return from_lake(
            settings.lake, version, labels_version=said, cohort=cohort, channels=data.channels, day=one, **kept
        )

    count, fresh = embeddings.embed_days(
        original.net, original.digest, read, days, embeddings.LakeStore(settings.lake),
        where=device(settings.finetune.device), progress=progress,
    )  # fmt: skip
    return {
        "windows": count, "embedded": fresh, "days": len(days), "model": original.digest,
        "lake_version": version, "labels_version": said,
    }  # fmt: skip


def filter_weights(bench: Bench) -> NDArray[np.float64]:
    """(n,) what FilterLoss makes a window count in the loss; NaN where it trains nothing."""
    import numpy as np

    from training.arm import FILTERLOSS, RETRAINING
    from training.arms import labelled
    from training.policies import weigh

    weights = np.full(len(bench.windows), np.nan)
    policy = RETRAINING[FILTERLOSS].weights
    weights[bench.train] = weigh(policy, labelled(bench), bench.quality_settings, seed=bench.settings.seed).weights
    return weights


def quality_rows(key: str, bench: Bench, tiers: NDArray[np.int64]) -> pa.Table:
    """Rows of the ``quality`` table for the windows that were scored."""
    import numpy as np
    import pyarrow as pa

    from streaming.tables import QUALITY_SCHEMA

    windows, scored, count = bench.windows, bench.quality, len(bench.windows)
    weights = filter_weights(bench)
    columns = {
        "run_key": [key] * count,
        "window_id": windows.window_ids.tolist(),
        "label": [windows.scene_names[scene] for scene in windows.scenes],
        "subject_id": windows.subjects.tolist(),
        **{name: look.astype(np.float32) for name, look in scored.looks().items()},
        "tier": tiers.astype(np.int16),
        "weight": [None if np.isnan(weight) else float(weight) for weight in weights],
        "seen": [windows.scene_names[scene] for scene in scored.seen],
        "reasons": scored.reasons(windows),
        "model": [bench.original.digest] * count,
        "lake_version": [windows.version] * count,
        "labels_version": [windows.labels_version] * count,
    }
    return pa.table([pa.array(columns[field.name], field.type) for field in QUALITY_SCHEMA], schema=QUALITY_SCHEMA)


def sparse_rows(settings: Settings, key: str, bench: Bench, cohort: str, *, held_out: Collection[str]) -> pa.Table:
    """Rows of the labelled windows that are too sparse to be scored: a score of 0, the reason, and no weight where people are held out."""
    import polars as pl
    import pyarrow as pa

    from streaming.tables import NO_LABELS, QUALITY_SCHEMA
    from training.lake import described_windows

    windows, data = bench.windows, settings.data
    version, said = int(windows.version or 0), NO_LABELS if windows.labels_version is None else windows.labels_version
    found = described_windows(settings.lake, version, said, cohort=cohort, channels=data.channels)
    sparse = found.filter(
        pl.col("scene").is_in(list(windows.scene_names)), pl.col("coverage").fill_null(0.0) < data.min_coverage
    )
    people = sparse["subject_id"].to_list()
    known = {
        "window_id": sparse["window_id"].to_list(), "label": sparse["scene"].to_list(), "subject_id": people,
        "weight": [None if person in held_out else 0.0 for person in people],
        "reasons": [_too_sparse(coverage, data.min_coverage) for coverage in sparse["coverage"].to_list()],
    }  # fmt: skip
    same: Mapping[str, Any] = {
        "run_key": key, "score": 0.0, "tier": 0, "model": bench.original.digest, "lake_version": version,
        "labels_version": said,
    }  # fmt: skip
    columns = [
        pa.array(known.get(field.name, [same.get(field.name)] * sparse.height), field.type) for field in QUALITY_SCHEMA
    ]
    return pa.table(columns, schema=QUALITY_SCHEMA)


def _too_sparse(coverage: float | None, least: float) -> str:
    if coverage is None:
        return "not scored: no sensor of [data] channels has a sample in it"
    return f"not scored: its coverage of {coverage:.2f} is below [data] min_coverage = {least:g}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Distrusted:
    """A labelled window, and why it is distrusted."""

    window_id: str
    subject_id: str
    device_id: str
    session_id: str
    start: str
    """Event time of its first sample, UTC, as 'sensorloop label send' takes it."""
    end: str
    """And where it ends."""
    label: str
    score: float
    """0 to 1, higher is cleaner."""
    weight: float | None
    """In FilterLoss; None where it trains nothing."""
    reasons: str


def most_distrusted(
    settings: Settings, *, run_key: str, most: int, scene: str | None = None, subject: str | None = None
) -> tuple[list[Distrusted], int]:
    """The windows of a rescoring with the lowest scores, the lowest first, and how many there are in all.

    Those that are too sparse to be scored come last: their labels are not what is wrong with them, and there may be many.

    Args:
        settings: of this installation.
        run_key: of the rescoring.
        most: how many.
        scene: only those labelled so.
        subject: only this person's.

    Raises:
        RunError: there is no such rescoring, label or person.
        LakeError: the lake cannot be read.
    """
    import polars as pl

    from streaming.errors import NoTable
    from streaming.lake import read_quality, scan_windows
    from training.errors import RunError

    none_such = RunError(
        f"There is no rescoring {run_key} in the lake {settings.lake.uri}: 'sensorloop rescore' makes one and prints its run key; or set "
        "[lake] uri."
    )
    try:
        rows = read_quality(settings.lake, run_key)
    except NoTable as error:  # it comes with the first rescoring
        raise none_such from error
    if rows.is_empty():
        raise none_such
    wanted = {name: value for name, value in (("label", scene), ("subject_id", subject)) if value is not None}
    for name, value in wanted.items():
        known = rows[name].unique().sort().to_list()
        if value not in known:
            msg = f"Rescoring {run_key} has no {name} {value!r}; it has {', '.join(known)}."
            raise RunError(msg)
    chosen = rows.filter(**wanted).sort(pl.col("margin").is_null(), "score", "window_id")
    found = chosen.head(most)
    where = scan_windows(settings.lake, rows["lake_version"][0]).filter(
        pl.col("window_id").is_in(found["window_id"].implode())
    )
    told = found.join(
        where.select("window_id", "device_id", "session_id", "start_ns", "end_ns").collect(),
        on="window_id",
        how="left",
        maintain_order="left",
    )
    return [_distrusted(row) for row in told.iter_rows(named=True)], chosen.height


def _distrusted(row: Mapping[str, Any]) -> Distrusted:
    return Distrusted(
        window_id=row["window_id"], subject_id=row["subject_id"], device_id=row["device_id"] or "",
        session_id=row["session_id"] or "", start=_time(row["start_ns"]), end=_time(row["end_ns"]), label=row["label"],
        score=row["score"], weight=row.get("weight"), reasons=row["reasons"] or "",
    )  # fmt: skip


def _time(ns: int | None) -> str:
    return "" if ns is None else datetime.fromtimestamp(ns / 1e9, UTC).isoformat(timespec="milliseconds")
