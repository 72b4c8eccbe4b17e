"""The steps of the loop that need training and the registry together: what the commands and so the DAG's tasks do.

Each is named by what it works on (a lake version, a run key), never by the time, so that doing it again does the same or nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dags.settings import Settings

if TYPE_CHECKING:
    from registry.connection import Client
    from registry.dag_runs import DagRuns
    from registry.promotion import Promotions
    from registry.registered import MlflowVersions
    from registry.tracker import Above, MlflowTracker
    from registry.webhook import Webhook
    from training.dataset import WindowSet
    from training.tracking import Progress

_CODE = Path(__file__).parents[1]


def load_windows(
    settings: Settings, *, cohort: str, version: int | None, labels_version: int | None = None
) -> WindowSet:
    """The labelled windows of a cohort, with the channels and scenes of the settings."""
    from training.lake import from_lake

    data = settings.data
    return from_lake(
        settings.lake, version, labels_version=labels_version, cohort=cohort, channels=data.channels, scenes=data.scenes or None,
        min_coverage=data.min_coverage, labelled_only=True, verified_by=data.verified_by,
    )  # fmt: skip


def held_out(settings: Settings, windows: WindowSet, cohort: str) -> tuple[str, ...]:
    """Those whom [data] names to be held out; of a part of a fleet, those of them who are in it."""
    from training.cohort import Cohort

    named = settings.data.holdout_subjects
    if not Cohort.parse(cohort).column:
        return named
    there = set(windows.subjects.tolist())
    return tuple(subject for subject in named if subject in there)


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
    tracker = mlflow_tracker(settings, client, settings.registry.original_experiment, note=note)
    tags = {"cohort": cohort, "lake_version": str(windows.version), "labels_version": str(windows.labels_version)}
    with tracker.run("original", tags=tags) as run:
        original = train(
            windows, replace(settings.original, seed=seed), data=settings.data, spectrogram=settings.spectrogram,
            compute=settings.compute, run=run, progress=progress,
        )  # fmt: skip
        original.save(settings.original_folder)
        low, high = original.evaluation.interval
        version = register(
            settings, client, original.net, name=settings.registry.model_name, run_id=run.run_id, example=windows, alias="original",
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
    name: str,
    run_id: str,
    example: WindowSet,
    metrics: Mapping[str, float],
    tags: Mapping[str, str],
    description: str,
    alias: str,
) -> str:
    """Log a network with the run that trained it, checked against itself, and make it a version of the registered model ``name``.

    Repeatable: what the same run key and policy have made a version of is not logged again, and keeps the alias that it has come to.
    """
    from registry.models import log_model
    from registry.registered import MlflowVersions
    from registry.versions import Status, Tag

    store = MlflowVersions(client, name)
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
        source=logged.uri, model_id=logged.model_id, run_id=run_id, description=description, tags={**tags, **logged.tags},
        alias=alias,
    )  # fmt: skip
    return version.version


def mlflow_client(settings: Settings) -> Client:
    """A client of the MLflow that the settings name."""
    from registry.connection import connect

    return connect(settings.registry.tracking_uri)


def mlflow_tracker(
    settings: Settings, client: Client, experiment: str, *, note: str, above: Above | None = None
) -> MlflowTracker:
    """A tracker whose runs say which code, packages and machine they are of; ``note`` is shown on the experiment's page."""
    from registry.environment import environment
    from registry.tracker import MlflowTracker

    return MlflowTracker(
        client,
        experiment,
        tags=environment(_CODE),
        above=above,
        note=note,
        system_metrics_every=settings.registry.system_metrics_every,
    )


def retrain_tracker(settings: Settings, client: Client, *, above: Above | None = None) -> MlflowTracker:
    """A tracker of retrainings; those of a DAG run are put below its run."""
    note = (
        "A run `retrain` for each DAG run, below it one for each cohort (a run key), and below that one for each arm. Open a cohort's for "
        "the comparison of its arms. What was trained by hand is below no DAG run."
    )
    return mlflow_tracker(settings, client, settings.registry.retrain_experiment, note=note, above=above)


def arms_tracker(settings: Settings, client: Client) -> MlflowTracker:
    """A tracker of ``sensorloop experiment``."""
    note = (
        "A run for each pair of data sets that arms were compared on, with the table and its pictures; below it one for each cell: an arm "
        "in a regime of labels, with a seed."
    )
    from registry.environment import environment
    from registry.tracker import MlflowTracker

    # A cell is logged when it is done: there is no machine to watch.
    return MlflowTracker(client, settings.registry.arms_experiment, tags=environment(_CODE), note=note)


def dag_runs(settings: Settings, client: Client, tracker: MlflowTracker) -> DagRuns:
    """The runs of DAG runs in a tracker's experiment; they say which code, packages and machine they were opened with."""
    from registry.dag_runs import DagRuns
    from registry.environment import environment
    from registry.ledger import Ledger

    ledger = Ledger(settings.ledger_url, lock_timeout=settings.registry.lock_timeout)
    return DagRuns(client, tracker.experiment_id, exclusive=ledger.exclusive, tags=environment(_CODE))


def model_name(settings: Settings, cohort: str = "") -> str:
    """The registered model of a cohort: everybody's for the first of [retrain] cohorts (and if none is said), else one of its own."""
    from urllib.parse import quote

    from training.cohort import Cohort

    name = settings.registry.model_name
    if cohort in {"", settings.retrain.cohorts[0]}:
        return name
    part = Cohort.parse(cohort)
    # MLflow takes neither '/' nor ':' in a name.
    own = f"{name}.{quote(part.fleet, safe=' ,')}"
    return f"{own}.{part.column}={quote(part.value, safe=' ,')}" if part.column else own


def model_versions(settings: Settings, client: Client, cohort: str = "") -> MlflowVersions:
    """The versions of a cohort's registered model."""
    from registry.registered import MlflowVersions

    return MlflowVersions(client, model_name(settings, cohort))


def check_model_is_of(settings: Settings, client: Client, cohort: str) -> None:
    """See that the champion of a cohort's registered model was trained for that cohort.

    The first of [retrain] cohorts has everybody's model, so that another order gives a cohort another's champion to be compared with.

    Raises:
        SettingsError: it was trained for another.
        RegistryError: MLflow does not answer.
    """
    from registry.versions import Alias, Tag
    from streaming.errors import SettingsError

    store = model_versions(settings, client, cohort)
    champion = store.alias(Alias.CHAMPION)
    tags = {} if champion is None else store.version(champion).tags
    own, theirs = cohort or settings.retrain.cohorts[0], tags.get(Tag.COHORT)
    if theirs in {None, own} or tags.get(Tag.POLICY) == "original":
        return
    msg = (
        f"Version {champion} of {store.name}, its champion, was trained for cohort '{theirs}', not for '{own}': the first of [retrain] "
        f"cohorts has the model without a cohort in its name, and it was '{theirs}' once. Put '{theirs}' first again, or begin anew with "
        "another [registry] model_name."
    )
    raise SettingsError(msg)


def predict(settings: Settings, cohort: str, version: str, windows: WindowSet) -> list[int]:
    """What a version of a cohort's model says of windows: indices into their scenes.

    Raises:
        ModelError: it was made for windows of another rate, of other channels or of other scenes; their shape may be the same.
    """
    from registry.models import load_model

    client = mlflow_client(settings)
    store = model_versions(settings, client, cohort)
    model = load_model(client, store.version(version), settings.home / "models")
    _require_made_for(model.metadata, windows, f"Version {version} of {store.name}")
    return [int(scene) for scene in model.predict(windows.signals).argmax(1)]


def _require_made_for(metadata: Mapping[str, Any], windows: WindowSet, model: str) -> None:
    from training.errors import ModelError

    theirs = {
        "rate_hz": windows.rate_hz, "channels": list(windows.channels), "scenes": list(windows.scene_names),
    }  # fmt: skip
    for what, value in theirs.items():
        if (made_for := metadata.get(what, value)) != value:
            msg = (
                f"{model} was made for windows with {what} = {made_for}, and these have {value}: what it says of them means nothing. Set "
                "[windows] and [data] back to what they were, or begin anew with another [registry] model_name."
            )
            raise ModelError(msg)


def promotions(settings: Settings, cohort: str = "") -> Promotions:
    """Who is champion of a cohort's model, and how that changes."""
    from registry.environment import user
    from registry.ledger import Ledger
    from registry.notices import Notices
    from registry.promotion import Promotions

    registry = settings.registry
    ledger = Ledger(settings.ledger_url, lock_timeout=registry.lock_timeout)
    name = model_name(settings, cohort)
    notices = Notices(settings.ledger_url, ledger, name, sender=_webhook(settings), clock=_now)
    return Promotions(
        model_versions(settings, mlflow_client(settings), cohort), ledger, clock=_now, who=user(), notices=notices
    )


def serving(settings: Settings, cohort: str) -> tuple[str, str | None]:
    """Name of the registered model that serves a cohort, and its champion: its own if it has one, else everybody's.

    Raises:
        SettingsError: it was trained for another cohort, see :func:`check_model_is_of`.
    """
    own = promotions(settings, cohort).champion()
    check_model_is_of(settings, mlflow_client(settings), cohort if own else "")
    return (model_name(settings, cohort), own) if own else (model_name(settings), promotions(settings).champion())


def _webhook(settings: Settings) -> Webhook | None:
    """Where changes of the champion are announced, if anywhere."""
    from registry.webhook import Webhook
    from streaming.secret import reveal

    registry = settings.registry
    if not registry.webhook_url:
        return None
    secret = reveal(registry.webhook_secret, setting="[registry] webhook_secret")
    return Webhook(registry.webhook_url, secret, timeout=registry.webhook_timeout, clock=_now)


def _now() -> datetime:
    return datetime.now(UTC)
