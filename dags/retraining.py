"""The steps of retraining that learn: rescore and fine-tune. Each leaves its result under the run key, and finds it there again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dags import runs, scoring, steps
from dags.settings import Settings
from dags.verified import verified
from dags.whole import whole

if TYPE_CHECKING:
    from training.tracking import Progress

_LOCK = "finetune.lock"


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
    windows, split, frozen = runs.target(settings, original, found)
    found["holdout"] = frozen.name
    key = runs.key(settings, found)
    folder = settings.runs / key
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
    found |= {"trust": scored.trust, "temperature": scored.temperature, "wrong": scored.wrong}
    found["settings"] = runs.decisive(settings, seed=seed)
    # Each whole or not at all, and what makes it a run last.
    with whole(folder / runs.SCORES) as partial, partial.open("wb") as file:
        arrays: dict[str, Any] = {
            "features": features,
            "window_ids": windows.window_ids,
            "seen": scored.seen,
            "mixed": scored.mixed,
            **scored.looks(),
        }
        np.savez(file, **arrays)
    with whole(folder / runs.RUN) as partial:
        partial.write_text(json.dumps(found), encoding="utf-8")
    bench = Bench(
        windows=windows, train=split.train, holdout=split.holdout, features=features, quality=scored, original=original,
        settings=replace(settings.finetune, seed=seed), quality_settings=settings.quality,
    )  # fmt: skip
    sparse = scoring.sparse_rows(settings, key, bench, cohort, held_out=frozen.subjects)
    lakes.write_quality(settings.lake, pa.concat_tables([scoring.quality_rows(key, bench, tiers), sparse]))
    counts = {str(tier): int((tiers == tier).sum()) for tier in range(len(settings.quality.thresholds) + 1)}
    return {
        "run_key": key, "run_dir": str(folder), "scored": len(windows), **verified(settings, bench), "too_sparse": sparse.num_rows,
        "tiers": counts,
    }  # fmt: skip


def finetune(
    settings: Settings,
    *,
    run_key: str,
    arms: tuple[str, ...] | None,
    below: str = "",
    progress: Progress,
    waits: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Train the arms of a run key, each as an MLflow run below one parent, named after the cohort. Of two calls at once the second waits.

    Returns the run key, MLflow's run and its page, the file of the results, and ``kept``: arms that an earlier call has trained.

    A run key has one such run. It is below that of the DAG run that began it, and stays there; others name it (:mod:`registry.dag_runs`).

    Args:
        settings: of this installation.
        run_key: of a rescoring.
        arms: which; None for every one.
        below: MLflow's id of the DAG run's run; empty: it is done by hand.
        progress: told how far it is.
        waits: told who is at work, if it has to wait.

    Raises:
        TrainingError: there is no such run key, or an arm failed.
        RegistryError: MLflow does not answer, or refuses.
        SettingsError: the cohort's registered model is another cohort's.
    """
    from training.arm import ARMS, ORIGINAL, check_arms

    # As in rescore: first what takes no torch to see.
    check_arms(arms or ())
    folder, run = runs.find(settings, run_key)
    steps.check_model(settings)
    steps.check_lake(settings, run["lake_version"], run["labels_version"])

    from registry import pages
    from registry.dag_runs import above
    from streaming import process
    from training.arms import run_arms
    from training.tracking import log_data

    client = steps.mlflow_client(settings)
    steps.check_model_is_of(settings, client, run["cohort"])
    place = above(client, below) if below else None
    bench = runs.bench(settings, folder, run)
    tracker = steps.retrain_tracker(settings, client, above=place)
    if place is not None:
        steps.dag_runs(settings, client, tracker).holds(place, run["cohort"], run_key)
    recipe = runs.recipe(settings, seed=run["seed"])
    tags = {
        "run_key": run_key, "cohort": run["cohort"], **runs.versions(run), "settings_digest": runs.recipe_digest(recipe),
    }  # fmt: skip
    # Two of one run key would train every arm twice, and leave the results of one: the second waits, and finds them.
    with (
        process.exclusive(folder / _LOCK, waits=waits),
        tracker.run(run["cohort"], tags=tags) as parent,
    ):
        parent.params(
            {
                "cohort": run["cohort"],
                **runs.versions(run),
                "seed": run["seed"],
                "original": run["original"],
                "holdout": run["holdout"],
                "train_windows": int(bench.train.sum()),
                "holdout_windows": int(bench.holdout.sum()),
                **recipe,
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
        answer = {"run_key": run_key, "mlflow_run_id": parent.run_id, "arms": {**runs.results(folder), **found}}
        with whole(folder / runs.RESULTS) as partial:
            partial.write_text(json.dumps(answer, indent=1), encoding="utf-8")
        about = (
            f"Cohort {run['cohort']} at {runs.lake_at(run)}; the gate asks for a recovery ratio of "
            f"{settings.gate.recovery_threshold:.2f}."
        )
        parent.describe(pages.comparison_text(tracker.experiment_id, parent.run_id, found, about=about))
    url = f"{settings.registry.tracking_uri}/{pages.run_page(tracker.experiment_id, parent.run_id)}"
    return {
        "run_key": run_key,
        "mlflow_run_id": parent.run_id,
        "mlflow_url": url,
        "results": str(folder / runs.RESULTS),
        "kept": [name for name, each in results.items() if each.kept and name != ORIGINAL],
    }
