"""The steps of the loop that need training and the registry together: what the commands and so the DAG's tasks do.

Each is named by what it works on (a lake version, a run key), never by the time, so that doing it again does the same or nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dags.settings import Settings

if TYPE_CHECKING:
    from registry.connection import Client
    from registry.promotion import Promotions
    from registry.registered import MlflowVersions
    from registry.tracker import MlflowTracker
    from training.dataset import WindowSet
    from training.tracking import Progress

_CODE = Path(__file__).parents[1]


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
    """Labelled windows that no rescoring has seen, or that had another label when one did, and that the next one will see: those that
    are too sparse for it, or of scenes that [data] leaves out, would be new for ever, and so would those whose label was withdrawn."""


def pin(settings: Settings, cohort: str) -> Pin:
    """Name the newest version of the lake and count.

    Raises:
        LakeError: there is no lake.
        DataError: it has none of the channels of the settings.
    """
    from streaming import lake as lakes
    from training.dataset import described_windows, usable

    lake, data = settings.lake, settings.data
    version, labels_version = lakes.table_version(lake), lakes.labels_version(lake)
    windows = described_windows(lake, version, labels_version, cohort=cohort, channels=data.channels)
    found = usable(windows, scenes=data.scenes or None, min_coverage=data.min_coverage, labelled_only=True)
    known = lakes.scored_windows(lake)
    fresh = found.join(known, left_on=["window_id", "scene"], right_on=["window_id", "label"], how="anti")
    return Pin(
        cohort=cohort, lake_version=version, labels_version=labels_version, windows=windows.height,
        labelled=windows.height - windows["scene"].null_count(), fresh=fresh.height,
    )  # fmt: skip


def load_windows(
    settings: Settings, *, cohort: str, version: int | None, labels_version: int | None = None
) -> WindowSet:
    """The labelled windows of a cohort, with the channels and scenes of the settings."""
    from training.dataset import from_lake

    data = settings.data
    return from_lake(
        settings.lake, version, labels_version=labels_version, cohort=cohort, channels=data.channels, scenes=data.scenes or None,
        min_coverage=data.min_coverage, labelled_only=True,
    )  # fmt: skip


def lake_at(version: int | None, labels_version: int | None) -> str:
    """Which lake, in words."""
    later = "" if labels_version is None or labels_version < 0 else f", labels version {labels_version}"
    return f"lake version {version}{later}"


def check_model(settings: Settings) -> None:
    """See that there is an original model, without loading it.

    Raises:
        ModelError: there is none.
    """
    from training.saved import read_config

    read_config(settings.original_folder)


def check_lake(settings: Settings, version: int | None, labels_version: int) -> None:
    """See that the lake has these versions, without reading them.

    Raises:
        LakeError: it has not.
    """
    from streaming import lake as lakes

    lakes.scan_windows(settings.lake, version)
    lakes.scan_labels(settings.lake, labels_version)


def train_original(settings: Settings, *, cohort: str, seed: int, progress: Progress) -> dict[str, Any]:
    """Train, keep and register the original model.

    Raises:
        TrainingError: the source's windows do not allow it.
        RegistryError: MLflow does not answer, or refuses.
    """
    from streaming.tables import NO_LABELS

    check_lake(settings, None, NO_LABELS)  # before torch is loaded

    from training.original import train_original as train

    client = mlflow_client(settings)
    windows = load_windows(settings, cohort=cohort, version=None)
    note = "A run for each training of the original model on the source: what recovery is measured from."
    tracker = mlflow_tracker(client, settings.registry.original_experiment, note=note)
    tags = {"cohort": cohort, "lake_version": str(windows.version), "labels_version": str(windows.labels_version)}
    with tracker.run("original", tags=tags) as run:
        original = train(
            windows, replace(settings.original, seed=seed), data=settings.data, spectrogram=settings.spectrogram,
            run=run, progress=progress,
        )  # fmt: skip
        original.save(settings.original_folder)
        low, high = original.evaluation.interval
        version = register(
            settings, client, original.net, run_id=run.run_id, example=windows, alias="original",
            metrics={"source/accuracy": original.accuracy, "source/macro_f1": original.macro_f1},
            tags={**tags, "policy": "original"},
            description=(
                f"original: accuracy {original.accuracy:.3f} ({low:.3f} to {high:.3f}) on {original.evaluation.windows} windows of "
                f"people it has not seen; trained on cohort {cohort} at {lake_at(windows.version, windows.labels_version)}."
            ),
        )  # fmt: skip
    return {
        "source_accuracy": original.accuracy, "source_macro_f1": original.macro_f1, "digest": original.digest,
        "version": version, "lake_version": windows.version, "labels_version": windows.labels_version,
        "folder": str(settings.original_folder), "mlflow_run_id": run.run_id,
    }  # fmt: skip


def register(
    settings: Settings,
    client: Client,
    net: Any,
    *,
    run_id: str,
    example: WindowSet,
    metrics: Mapping[str, float],
    tags: Mapping[str, str],
    description: str,
    alias: str,
) -> str:
    """Log a network with the run that trained it, checked against itself, and make it a version.

    Repeatable: what the same run key and policy have made a version of is not logged again, and keeps the alias that it has come to.
    """
    from registry.models import log_model
    from registry.versions import Status, Tag

    store = model_versions(settings, client)
    known = store.find(run_key=tags[Tag.RUN_KEY], policy=tags[Tag.POLICY]) if Tag.RUN_KEY in tags else None
    if known is not None:
        if known.tags.get(Tag.STATUS) == Status.PENDING:
            store.point(alias, known.version)
        return known.version
    logged = log_model(
        client, net, run_id=run_id, example=example.signals[:4], metrics=metrics,
        metadata={"scenes": list(example.scene_names), "channels": list(example.channels), "rate_hz": example.rate_hz},
        tolerance=settings.registry.logits_tolerance,
    )  # fmt: skip
    version = store.register(
        source=logged.uri, model_id=logged.model_id, run_id=run_id, description=description, tags=tags, alias=alias
    )
    return version.version


def mlflow_client(settings: Settings) -> Client:
    """A client of the MLflow that the settings name."""
    from registry.connection import connect

    return connect(settings.registry.tracking_uri)


def mlflow_tracker(client: Client, experiment: str, *, note: str) -> MlflowTracker:
    """A tracker whose runs say which code, packages and machine they are of; ``note`` is shown on the experiment's page."""
    from registry.tracker import MlflowTracker, environment

    return MlflowTracker(client, experiment, tags=environment(_CODE), note=note)


def model_versions(settings: Settings, client: Client) -> MlflowVersions:
    """The versions of the registered model."""
    from registry.registered import MlflowVersions

    return MlflowVersions(client, settings.registry.model_name)


def promotions(settings: Settings) -> Promotions:
    """Who is champion, and how that changes."""
    from registry.ledger import Ledger
    from registry.promotion import Promotions
    from registry.tracker import user

    return Promotions(
        model_versions(settings, mlflow_client(settings)),
        Ledger(settings.ledger_url),
        clock=lambda: datetime.now(UTC),
        who=user(),
    )
