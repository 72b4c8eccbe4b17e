"""The steps of retraining: rescore, fine-tune, promote. Each leaves its result under the run key, and finds it there again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dags import scoring, steps
from dags.settings import Settings
from dags.whole import whole

if TYPE_CHECKING:
    from registry.gate import Score
    from training.arms import Bench
    from training.dataset import WindowSet
    from training.evaluation import Evaluation
    from training.folds import Split
    from training.original import OriginalModel
    from training.tracking import Progress

_RUN, _SCORES, _RESULTS, _LOCK = "run.json", "scores.npz", "results.json", "finetune.lock"


def rescore(
    settings: Settings,
    *,
    cohort: str,
    lake_version: int | None,
    labels_version: int | None = None,
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    """Score every labelled window of a cohort out of fold, into the run's folder and the lake's ``quality`` table.

    Args:
        settings: of this installation.
        cohort: whose windows.
        lake_version: of the ``windows`` table; None for the newest.
        labels_version: of the ``labels`` table; None for the newest, -1 for none.
        seed: of folds and models.
        progress: told how far it is.

    Raises:
        TrainingError: the labels do not allow it; the message says what is missing.
        LakeError: there is no lake, or no such version.
    """
    from streaming import lake as lakes

    # Whatever is easily found missing, before torch is loaded: that takes seconds, and many where others work.
    steps.check_model(settings)
    version = lakes.table_version(settings.lake) if lake_version is None else lake_version
    said = lakes.labels_version(settings.lake) if labels_version is None else labels_version
    steps.check_lake(settings, version, said)

    import numpy as np
    import pyarrow as pa

    from training.arms import Bench
    from training.heads import Head
    from training.original import OriginalModel
    from training.quality import score_quality
    from training.weights import tiers_of

    original = OriginalModel.load(settings.original_folder)
    found = {
        "cohort": cohort, "lake_version": version, "labels_version": said, "seed": seed, "original": original.digest,
    }  # fmt: skip
    key = _key(settings, found)
    folder = settings.runs / key
    windows, split = _target(settings, original, found)
    embedded = scoring.embedded(settings, original, windows, progress)
    features = embedded.features
    scored = score_quality(
        windows,
        features,
        Head.of(original.net),
        train=split.train,
        settings=settings.quality,
        seed=seed,
        progress=progress,
    )
    tiers = tiers_of(scored.score, settings.quality.thresholds)
    folder.mkdir(parents=True, exist_ok=True)
    found |= {"trust": scored.trust, "wrong": scored.wrong}
    # Each whole or not at all, and what makes it a run last.
    with whole(folder / _SCORES) as partial, partial.open("wb") as file:
        arrays: dict[str, Any] = {
            "features": features,
            "window_ids": windows.window_ids,
            "seen": scored.seen,
            **scored.looks(),
        }
        np.savez(file, **arrays)
    with whole(folder / _RUN) as partial:
        partial.write_text(json.dumps(found), encoding="utf-8")
    bench = Bench(
        windows=windows, train=split.train, holdout=split.holdout, features=features, quality=scored, original=original,
        settings=replace(settings.finetune, seed=seed), quality_settings=settings.quality,
    )  # fmt: skip
    sparse = scoring.sparse_rows(settings, key, bench, cohort)
    lakes.write_quality(settings.lake, pa.concat_tables([scoring.quality_rows(key, bench, tiers), sparse]))
    counts = {str(tier): int((tiers == tier).sum()) for tier in range(len(settings.quality.thresholds) + 1)}
    return {
        "run_key": key, "run_dir": str(folder), "scored": len(windows), "too_sparse": sparse.num_rows, "tiers": counts,
    }  # fmt: skip


def finetune(settings: Settings, *, run_key: str, arms: tuple[str, ...] | None, progress: Progress) -> dict[str, Any]:
    """Train the arms of a run key, each as an MLflow run below one parent. Of two calls at once the second waits.

    Raises:
        TrainingError: there is no such run key, or an arm failed.
        RegistryError: MLflow does not answer, or refuses.
    """
    from training.arm import ARMS, check_arms

    # As in rescore: first what takes no torch to see.
    check_arms(arms or ())
    folder, run = _run(settings, run_key)
    steps.check_model(settings)
    steps.check_lake(settings, run["lake_version"], run["labels_version"])

    from registry import pages
    from streaming import process
    from training.arms import run_arms
    from training.tracking import log_data

    bench = _bench(settings, folder, run)
    client = steps.mlflow_client(settings)
    note = "A run `retrain` for each run key, and below it a run for each arm. Open `retrain` for the comparison of its arms."
    tracker = steps.mlflow_tracker(client, settings.registry.retrain_experiment, note=note)
    tags = {"run_key": run_key, "cohort": run["cohort"], **_versions(run)}
    # Two of one run key would train every arm twice, and leave the results of one: the second waits, and finds them.
    with process.exclusive(folder / _LOCK), tracker.run("retrain", tags=tags) as parent:
        parent.params(
            {
                "cohort": run["cohort"],
                **_versions(run),
                "seed": run["seed"],
                "original": run["original"],
                "train_windows": int(bench.train.sum()),
                "holdout_windows": int(bench.holdout.sum()),
            }
        )
        log_data(parent, training=bench.windows.select(bench.train), holdout=bench.windows.select(bench.holdout))
        results = run_arms(
            bench, folder, tracker=tracker, parent=parent, arms=arms or ARMS, run_key=run_key,
            threshold=settings.gate.recovery_threshold, progress=progress,
        )  # fmt: skip
        found = {
            name: {
                "accuracy": result.evaluation.accuracy,
                "macro_f1": result.evaluation.macro_f1,
                "recovery_ratio": result.recovery_ratio,
                "seconds": result.seconds,
                "run_id": result.run_id,
                "details": result.details,
            }
            for name, result in results.items()
        }
        # Arms that an earlier call has trained stay: promote asks for them here.
        answer = {"run_key": run_key, "mlflow_run_id": parent.run_id, "arms": {**_results(folder), **found}}
        with whole(folder / _RESULTS) as partial:
            partial.write_text(json.dumps(answer, indent=1), encoding="utf-8")
        about = (
            f"Cohort {run['cohort']} at {_lake_at(run)}; the gate asks for a recovery ratio of "
            f"{settings.gate.recovery_threshold:.2f}."
        )
        parent.describe(pages.comparison_text(tracker.experiment_id, parent.run_id, found, about=about))
    url = f"{settings.registry.tracking_uri}/{pages.run_page(tracker.experiment_id, parent.run_id)}"
    return {"run_key": run_key, "mlflow_run_id": parent.run_id, "mlflow_url": url, "results": str(folder / _RESULTS)}


def promote(settings: Settings, *, run_key: str, arm: str) -> dict[str, Any]:
    """Register an arm's model and ask the gate; the champion moves if it passes.

    Asked again of a version that was judged, it answers what was found then, and who is champion now.

    Raises:
        TrainingError: the run key has no such arm.
        RegistryError: MLflow or the ledger does not answer, or refuses.
    """
    from registry.gate import Verdict, verdict
    from training.errors import RunError

    folder, run = _run(settings, run_key)
    bench = _bench(settings, folder, run)
    results = _results(folder)
    if arm not in results:
        msg = f"Run key {run_key} has no result of arm '{arm}': 'sensorloop finetune --run-key {run_key}' trains it."
        raise RunError(msg)
    holdout = bench.windows.select(bench.holdout)
    candidate, net = _arm_score(folder / arm, holdout)
    as_it_is, _ = _arm_score(folder / "original", holdout)
    client = steps.mlflow_client(settings)
    ledger = steps.promotions(settings)
    ledger.reconcile()
    champion = ledger.champion()
    recovery = results[arm]["recovery_ratio"]
    version = steps.register(
        settings, client, net, run_id=results[arm]["run_id"], example=holdout, alias="challenger",
        metrics={"target/accuracy": candidate.accuracy, "target/macro_f1": candidate.macro_f1, "recovery_ratio": recovery},
        tags={
            "policy": arm, "cohort": run["cohort"], **_versions(run), "run_key": run_key, "recovery_ratio": f"{recovery:.3f}",
        },
        description=(
            f"{arm}: recovery {recovery:.3f}, accuracy {candidate.accuracy:.3f}, macro-F1 {candidate.macro_f1:.3f} on {candidate.windows} "
            f"windows of {candidate.subjects} people held out; cohort {run['cohort']} at {_lake_at(run)}."
        ),
    )  # fmt: skip
    # What was found of a version stands: asking again is no new judgement, whatever [gate] says today and whoever serves.
    entry = ledger.judgement(version)
    if entry is None:
        score = None if champion in {None, version} else _version_score(settings, client, champion or "", holdout)
        found = verdict(candidate, score, as_it_is, bench.original.accuracy, settings.gate)
        outcome = (
            ledger.promote(version, found, judged_against=champion) if found.passed else ledger.refuse(version, found)
        )
        entry = outcome.entry
    told = Verdict.from_json(entry.verdict or "")
    return {
        "passed": told.passed, "version": version, "champion": ledger.champion(), "reasons": list(told.reasons),
        "recovery_ratio": told.recovery_ratio,
    }  # fmt: skip


def _target(settings: Settings, original: OriginalModel, run: Mapping[str, Any]) -> tuple[WindowSet, Split]:
    """The target's labelled windows as the original model sees them, and who is held out."""
    from training.folds import split_by_subject

    windows = steps.load_windows(
        settings, cohort=run["cohort"], version=run["lake_version"], labels_version=run["labels_version"]
    )
    data = settings.data
    windows = windows.with_channels(original.net.channels).with_scenes(original.net.scenes)
    split = split_by_subject(
        windows, share=data.holdout_share, subjects=data.holdout_subjects, seed=data.seed, min_labelled=data.min_labelled,
        scenes=data.scenes or original.net.scenes, min_train_subjects=2,
    )  # fmt: skip
    return windows, split


def _run(settings: Settings, run_key: str) -> tuple[Path, dict[str, Any]]:
    from streaming.tables import NO_LABELS
    from training.errors import RunError

    folder = settings.runs / run_key
    if not (folder / _RUN).exists():
        msg = f"There is no run {run_key} below {settings.runs}: 'sensorloop rescore' makes one and prints its key."
        raise RunError(msg)
    run: dict[str, Any] = json.loads((folder / _RUN).read_text(encoding="utf-8"))
    return folder, {"labels_version": NO_LABELS, **run}  # a run from before labels could come later does not say


def _versions(run: Mapping[str, Any]) -> dict[str, str]:
    """What a run saw of the lake, as tags and parameters."""
    return {name: str(run[name]) for name in ("lake_version", "labels_version")}


def _lake_at(run: Mapping[str, Any]) -> str:
    return steps.lake_at(run["lake_version"], run["labels_version"])


def _key(settings: Settings, run: Mapping[str, Any]) -> str:
    """The key of a run that saw this (cohort, versions, original model, seed) with the settings of now."""
    from streaming.tables import NO_LABELS
    from training.runkey import run_key

    return run_key(
        cohort=run["cohort"], lake_version=run["lake_version"], original=run["original"], data=settings.data,
        labels_version=None if run["labels_version"] == NO_LABELS else run["labels_version"], quality=settings.quality,
        finetune=replace(settings.finetune, seed=run["seed"]),
    )  # fmt: skip


def _results(folder: Path) -> dict[str, Any]:
    """What each arm came to; empty before any was trained."""
    file = folder / _RESULTS
    return json.loads(file.read_text(encoding="utf-8"))["arms"] if file.exists() else {}


def _bench(settings: Settings, folder: Path, run: dict[str, Any]) -> Bench:
    import numpy as np

    from training.arms import Bench
    from training.dataset import UNLABELLED
    from training.errors import RunError
    from training.original import OriginalModel
    from training.quality import Quality

    original = OriginalModel.load(settings.original_folder)
    windows, split = _target(settings, original, run)
    with np.load(folder / _SCORES, allow_pickle=False) as file:
        scores = {name: file[name] for name in file.files}
    if original.digest != run["original"] or scores.pop("window_ids").tolist() != windows.window_ids.tolist():
        msg = f"Run {folder.name} was scored for another original model or other windows: rescore, and use the new run key."
        raise RunError(msg)
    # Another split would try the models on people whose labels judged them; another recipe would go by this one's name.
    if folder.name != _key(settings, run):
        msg = (
            f"Run {folder.name} was scored with other settings: [data], [quality] or [finetune] has been changed since. "
            "Change it back, or rescore, and use the new run key."
        )
        raise RunError(msg)
    features = scores.pop("features")
    scores.setdefault("seen", np.full(len(windows), UNLABELLED))  # a run from before it was kept
    return Bench(
        windows=windows, train=split.train, holdout=split.holdout, features=features,
        quality=Quality(trust=run["trust"], wrong=run["wrong"], **scores), original=original,
        settings=replace(settings.finetune, seed=run["seed"]), quality_settings=settings.quality, compute=settings.compute,
    )  # fmt: skip


def _arm_score(folder: Path, holdout: WindowSet) -> tuple[Score, Any]:
    from training.evaluation import Evaluation
    from training.network import SceneNet

    values = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return _score(Evaluation.from_json(values["evaluation"]), holdout), SceneNet.load(folder)


def _version_score(settings: Settings, client: Any, version: str, holdout: WindowSet) -> Score:
    """The champion on the candidate's holdout, whatever it was judged on at its time."""
    from registry.models import load_model
    from training.evaluation import evaluate

    store = steps.model_versions(settings, client)
    model = load_model(client, store.version(version), settings.home / "models")
    predicted = model.predict(holdout.signals).argmax(1)
    return _score(evaluate(holdout.scenes, predicted, holdout.scene_names, subjects=holdout.subjects), holdout)


def _score(found: Evaluation, holdout: WindowSet) -> Score:
    from registry.gate import Score

    # A scene that is absent from the holdout stays in: NaN, and 0 windows. The gate says what that means.
    return Score(
        accuracy=found.accuracy, macro_f1=found.macro_f1, recall=found.recall, windows=found.windows,
        subjects=len(set(holdout.subjects.tolist())), holdout=holdout.digest(), scene_windows=holdout.counts(),
        accuracy_interval=found.interval,
    )  # fmt: skip
