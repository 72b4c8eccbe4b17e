"""Whether a champion still recognises what phones bring in: held against windows that were labelled since it was trained."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from dags import runs, steps, work
from dags.settings import Settings

if TYPE_CHECKING:
    import polars as pl

    from training.cohort import Cohort


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What was seen of a cohort's champion."""

    cohort: str
    lake_version: int
    labels_version: int
    version: str | None
    """The champion; None if there is none."""
    windows: int
    """Labelled since it was trained."""
    recovery_ratio: float | None
    """Its accuracy on them ÷ the original model's at home; None if that cannot be said."""
    behind: bool
    """Whether that is below ``[care] recovery_threshold``."""
    due: bool
    """Whether a retraining may help: it is behind, and enough of these windows have been judged by no retraining, promoted or refused."""
    text: str
    """The same for a person."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def watch(settings: Settings, cohorts: Iterable[str]) -> list[Seen]:
    """Look at each cohort's champion, at the newest version of the lake.

    Args:
        settings: of this installation.
        cohorts: as of :func:`dags.work.work`; a part of a fleet without a model of its own is looked at with its fleet.

    Raises:
        LakeError: there is no lake.
        RegistryError: MLflow does not answer.
    """
    versions = work.newest(settings)
    return [_seen(settings, cohort, *versions) for cohort in work.expanded(settings, cohorts, *versions)]


def _seen(settings: Settings, cohort: Cohort, lake_version: int, labels_version: int) -> Seen:
    name, care = str(cohort), settings.care

    def seen(text: str, **found: Any) -> Seen:
        nothing: dict[str, Any] = {"version": None, "windows": 0, "recovery_ratio": None, "behind": False, "due": False}
        return Seen(
            cohort=name, lake_version=lake_version, labels_version=labels_version, text=text, **{**nothing, **found}
        )

    champion = steps.promotions(settings, name).champion()
    if champion is None:
        whose = "everybody's serves it" if cohort.column else "nothing serves it"
        return seen(f"Cohort '{name}' has no champion of its own: {whose}.")
    client = steps.mlflow_client(settings)
    steps.check_model_is_of(settings, client, name)
    version = steps.model_versions(settings, client, name).version(champion)
    run_keys = [version.tags["run_key"]] if "run_key" in version.tags else []
    windows = work.described(settings, name, lake_version, labels_version)
    since = work.unseen(settings, windows, run_keys)
    if since.height < care.least_windows:
        text = (
            f"{since.height} windows of cohort '{name}' were labelled since its champion, version {champion}, was trained; "
            f"{care.least_windows - since.height} more are needed."
        )
        return seen(text, version=champion, windows=since.height)
    accuracy, source = _accuracies(settings, name, champion, since, (lake_version, labels_version))
    recovery = accuracy / source if source else 0.0
    behind = recovery < care.recovery_threshold
    # What a retraining has learned from and the gate has judged gives the same refusal tomorrow, and each asks the holdout once more.
    unjudged = work.unseen(settings, windows, runs.judged(settings, name)).height
    due = behind and unjudged >= care.least_windows
    text = (
        f"Champion of cohort '{name}' is version {champion}: accuracy {accuracy:.3f} on {since.height} windows labelled since it was "
        f"trained, recovery ratio {recovery:.3f}, {'below' if behind else 'not below'} [care] recovery_threshold = "
        f"{care.recovery_threshold:g}{': it has fallen behind' if behind else ''}."
    )
    if behind and not due:
        text += (
            f" Retrainings have learned from all but {unjudged} of them and were judged: another is due when "
            f"{care.least_windows - unjudged} more are labelled."
        )
    return seen(text, version=champion, windows=since.height, recovery_ratio=recovery, behind=behind, due=due)


def _accuracies(
    settings: Settings, cohort: str, champion: str, since: pl.DataFrame, versions: tuple[int, int]
) -> tuple[float, float]:
    """Of the champion on these windows, and of the original model at home."""
    import numpy as np

    from training.original import OriginalModel

    original = OriginalModel.load(settings.original_folder)
    every = steps.load_windows(settings, cohort=cohort, version=versions[0], labels_version=versions[1])
    chosen = every.select(np.isin(every.window_ids, since["window_id"].to_numpy()))
    windows = original.net.aligned(chosen)
    predicted = np.array(steps.predict(settings, cohort, champion, windows))
    return float((predicted == windows.scenes).mean()), original.accuracy
