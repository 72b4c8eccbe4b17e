"""A run: the folder of a run key, with what each step has left there for the next.

| file | written by | says |
|---|---|---|
| ``run.json`` | rescore | cohort, versions of the lake, seed, original model, the settings that decide the result |
| ``scores.npz`` | rescore | the scores, and what they were computed from |
| ``results.json``, ``<arm>/`` | finetune | what each arm came to; its model |
| ``<arm>/evaluation.json`` | evaluate | the candidate, the champion and the original model on one holdout |
| ``<arm>/judged.json`` | promote | what became of the arm's model; from the first one on, what the run has seen is not new any more |
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dags import steps
from dags.settings import Settings
from dags.whole import whole

if TYPE_CHECKING:
    from registry.holdouts import Frozen
    from training.arms import Bench
    from training.dataset import WindowSet
    from training.folds import Split
    from training.original import OriginalModel

RUN, SCORES, RESULTS, EVALUATION, JUDGED = "run.json", "scores.npz", "results.json", "evaluation.json", "judged.json"


def find(settings: Settings, run_key: str) -> tuple[Path, dict[str, Any]]:
    """A run's folder, and what it works on.

    Raises:
        TrainingError: there is no such run.
    """
    from streaming.tables import NO_LABELS
    from training.errors import RunError

    folder = settings.runs / run_key
    if not (folder / RUN).exists():
        msg = f"There is no run {run_key} below {settings.runs}: 'sensorloop rescore' makes one and prints its key."
        raise RunError(msg)
    run: dict[str, Any] = json.loads((folder / RUN).read_text(encoding="utf-8"))
    if "holdout" not in run:
        msg = f"Run {run_key} was scored before holdouts were frozen: rescore, and use the new run key."
        raise RunError(msg)
    return folder, {"labels_version": NO_LABELS, **run}  # a run from before labels could come later does not say


def newest(settings: Settings) -> str:
    """The run key of the last rescoring.

    Raises:
        TrainingError: there was none.
    """
    from training.errors import RunError

    files = sorted(settings.runs.glob(f"*/{RUN}"), key=lambda file: file.stat().st_mtime)
    if not files:
        msg = f"There is no rescoring below {settings.runs}: 'sensorloop rescore' makes one; or set SENSORLOOP_HOME to where it was."
        raise RunError(msg)
    return files[-1].parent.name


def judge(folder: Path, arm: str, **found: Any) -> None:
    """Keep what became of an arm's model: from here on the run is over."""
    (folder / arm).mkdir(exist_ok=True)
    with whole(folder / arm / JUDGED) as partial:
        partial.write_text(json.dumps(found, ensure_ascii=False), encoding="utf-8")


def judged(settings: Settings, cohort: str) -> list[str]:
    """Run keys of a cohort that have come to their end. One that failed on its way has not: what it has seen is still to be learned."""
    before = {file.parent for file in settings.runs.glob(f"*/{JUDGED}")}  # when a run had one file for all arms
    folders = before | {file.parent.parent for file in settings.runs.glob(f"*/*/{JUDGED}")}
    cohorts = {folder.name: json.loads((folder / RUN).read_text(encoding="utf-8"))["cohort"] for folder in folders}
    return sorted(key for key, found in cohorts.items() if found == cohort)


def versions(run: Mapping[str, Any]) -> dict[str, str]:
    """What a run saw of the lake, as tags and parameters."""
    return {name: str(run[name]) for name in ("lake_version", "labels_version")}


def lake_at(run: Mapping[str, Any]) -> str:
    """The same in words."""
    return steps.lake_at(run["lake_version"], run["labels_version"])


def decisive(settings: Settings, *, seed: int) -> dict[str, Any]:
    """What a run is scored and trained with, which its key depends on; kept with it, to say what has changed since."""
    from training import runkey

    return runkey.decisive(settings.data, settings.quality, replace(settings.finetune, seed=seed))


def key(settings: Settings, run: Mapping[str, Any]) -> str:
    """The key of a run that saw this (cohort, versions, original model, seed) with the settings of now."""
    from streaming.tables import NO_LABELS
    from training.runkey import run_key

    return run_key(
        cohort=run["cohort"], lake_version=run["lake_version"], original=run["original"], data=settings.data,
        labels_version=None if run["labels_version"] == NO_LABELS else run["labels_version"], quality=settings.quality,
        finetune=replace(settings.finetune, seed=run["seed"]), holdout=run["holdout"],
    )  # fmt: skip


def recipe(settings: Settings, *, seed: int) -> dict[str, Any]:
    """Every setting that decides what a run comes to, the gate's among them, by section."""
    finetune = replace(settings.finetune, seed=seed)
    return {
        "data": asdict(settings.data),
        "quality": asdict(settings.quality),
        "finetune": asdict(finetune),
        "gate": asdict(settings.gate),
    }


def recipe_digest(recipe: Mapping[str, Any]) -> str:
    """16 hex digits of it: what runs of the same settings have in common."""
    text = json.dumps(recipe, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def verdict(folder: Path, arm: str) -> dict[str, Any] | None:
    """What became of an arm's model; None if it has not been judged."""
    for file in (
        folder / arm / JUDGED,
        folder / JUDGED,
    ):  # the second from when a run had one file, of the arm judged last
        if file.exists():
            found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            if found.get("arm", arm) == arm:
                return found
    return None


def results(folder: Path) -> dict[str, Any]:
    """What each arm came to; empty before any was trained."""
    file = folder / RESULTS
    return json.loads(file.read_text(encoding="utf-8"))["arms"] if file.exists() else {}


def target(settings: Settings, original: OriginalModel, run: Mapping[str, Any]) -> tuple[WindowSet, Split, Frozen]:
    """A cohort's labelled windows as the original model sees them, who is held out, and since when."""
    from dags.holdout import frozen_split

    windows = steps.load_windows(
        settings, cohort=run["cohort"], version=run["lake_version"], labels_version=run["labels_version"]
    )
    windows = original.net.aligned(windows)
    split, frozen = frozen_split(
        settings, windows, cohort=run["cohort"], name=run.get("holdout"), lake_version=run["lake_version"]
    )
    return windows, split, frozen


def bench(settings: Settings, folder: Path, run: dict[str, Any]) -> Bench:
    """What all arms of a run share.

    Raises:
        TrainingError: it was scored for something else than the settings of now would score it for.
    """
    import numpy as np

    from training.arms import Bench
    from training.errors import RunError
    from training.original import OriginalModel
    from training.quality import Quality

    # Another split would try the models on people whose labels judged them; another recipe would go by this one's name.
    if folder.name != key(settings, run):
        raise RunError(_other_settings(settings, folder.name, run))
    original = OriginalModel.load(settings.original_folder)
    windows, split, _ = target(settings, original, run)
    with np.load(folder / SCORES, allow_pickle=False) as file:
        scores = {name: file[name] for name in file.files}
    if original.digest != run["original"] or scores.pop("window_ids").tolist() != windows.window_ids.tolist():
        msg = f"Run {folder.name} was scored for another original model or other windows: rescore, and use the new run key."
        raise RunError(msg)
    features = scores.pop("features")
    return Bench(
        windows=windows, train=split.train, holdout=split.holdout, features=features,
        quality=Quality(trust=run["trust"], temperature=run["temperature"], wrong=run["wrong"], **scores), original=original,
        settings=replace(settings.finetune, seed=run["seed"]), quality_settings=settings.quality,
        compute=settings.compute,
    )  # fmt: skip


def _other_settings(settings: Settings, run_key: str, run: Mapping[str, Any]) -> str:
    """Which have changed; a run from before they were kept cannot say."""
    from training.runkey import changed

    since = "[data], [quality] or [finetune], or the version of sensorloop"
    if "settings" in run:
        since = ", ".join(changed(run["settings"], decisive(settings, seed=run["seed"]))) or since
    return (
        f"Run {run_key} was made for other settings. Changed since: {since}. 'sensorloop rescore --cohort {run['cohort']}' makes a run for "
        "those of now; or set them back ('sensorloop settings' says which file or variable sets each)."
    )
