"""A retraining as MLflow would hear of it: the numbers are made up, the names, pictures and steps are those of a real one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from mlflow import MlflowClient

from registry import pages
from registry.bounds import Person
from registry.dag_runs import DagRun, DagRuns, above, group
from registry.environment import environment
from registry.gate import Score, verdict
from registry.ledger import Ledger
from registry.models import LoggedModel, log_model
from registry.promotion import Promotions
from registry.registered import MlflowVersions
from registry.settings import GateSettings, RegistrySettings
from registry.tracker import MlflowRunLog, MlflowTracker
from registry.versions import Alias, Tag
from tests.registry.networks import TinyNetwork
from training.evaluation import Evaluation, evaluate, recovery_ratio
from training.figures import comparison_figure, confusion_figure, tier_figure

SCENES = ("Bus", "Run", "Still", "Walk")
RIGHT = {"original": 0.62, "plain": 0.66, "oversampling": 0.68, "undersampling": 0.71, "filterloss": 0.86}
"""Share of the holdout that each arm gets right, about."""
AT_HOME = 0.91
THRESHOLDS = (0.4, 0.6)
KEY = "3f0c2a91d47be856"
DIGEST = "b1946ac92492d234"
NOTE = "Retrainings that never took place."
ABOUT = "Cohort target at lake version 17."
COHORT = "target"
DAG_RUN = DagRun(dag_id="retrain", run_id="scheduled__2026-11-25T00:00:00+00:00")
AIRFLOW = "http://127.0.0.1:28080/dags/retrain/runs/scheduled__2026-11-25T00%3A00%3A00%2B00%3A00"
OUTCOME = "filterloss passed, version 1"
REASON = "The recovery ratio is far above the threshold."
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True, slots=True)
class Retraining:
    """What was logged."""

    experiment: str
    dag_run: str
    """Id of the run that the cohort's is below."""
    parent: str
    """Id of the run that the arms are below."""
    arms: Mapping[str, str]
    """Ids of the arms' runs."""
    results: Mapping[str, Evaluation]
    recovery: Mapping[str, float]
    version: str
    """Of the registered model."""
    description: str


def log_retraining(client: MlflowClient, settings: RegistrySettings) -> Retraining:
    """Log a DAG run's run, below it a cohort's, its arms and their pictures; register FilterLoss and promote it."""
    experiment = MlflowTracker(client, settings.retrain_experiment, note=NOTE).experiment_id
    dag_runs = DagRuns(client, experiment, exclusive=Ledger(settings.ledger_url).exclusive, tags=environment(ROOT))
    night = dag_runs.open(DAG_RUN, tags={"lake_version": "17", "airflow_url": AIRFLOW})
    place = above(client, night.run_id)
    tracker = MlflowTracker(client, settings.retrain_experiment, tags=environment(ROOT), above=place)
    results = {arm: _result(share) for arm, share in RIGHT.items()}
    recovery = {arm: recovery_ratio(found.accuracy, AT_HOME) for arm, found in results.items()}
    numbers = {
        arm: {"accuracy": found.accuracy, "macro_f1": found.macro_f1, "recovery_ratio": recovery[arm]}
        for arm, found in results.items()
    }
    tags = {"run_key": KEY, "cohort": "target", "lake_version": "17"}
    runs: dict[str, str] = {}
    dag_runs.holds(place, COHORT, KEY)
    with tracker.run(COHORT, tags=tags) as parent:
        parent.params({"cohort": "target", "lake_version": 17, "seed": 0, "original": DIGEST})
        parent.dataset("windows", version=17, digest="d" * 16, windows=400, context="training")
        parent.dataset("windows", version=17, digest="e" * 16, windows=260, context="holdout")
        for arm, found in results.items():
            with tracker.run(arm, parent=parent, tags={"run_key": KEY, "arm": arm}) as run:
                _log_arm(run, arm, found, recovery[arm])
                runs[arm] = run.run_id
        parent.figure(comparison_figure(numbers, 0.9), "comparison.png")
        arms = {arm: {**each, "run_id": runs[arm]} for arm, each in numbers.items()}
        parent.describe(pages.comparison_text(tracker.experiment_id, parent.run_id, arms, about=ABOUT))
        parent.metrics({f"{arm}/{name}": value for arm, each in numbers.items() for name, value in each.items()})
    _end(dag_runs, experiment, night, arms, recovery["filterloss"])
    description = f"filterloss: recovery {recovery['filterloss']:.3f}; cohort target at lake version 17."
    version = _promote(client, settings, runs["filterloss"], results, recovery["filterloss"], description)
    return Retraining(
        experiment=tracker.experiment_id, dag_run=night.run_id, parent=parent.run_id, arms=runs, results=results,
        recovery=recovery, version=version, description=description,
    )  # fmt: skip


def _end(
    dag_runs: DagRuns,
    experiment: str,
    night: MlflowRunLog,
    arms: Mapping[str, Mapping[str, float | str]],
    recovery: float,
) -> None:
    member = dag_runs.member(COHORT, KEY)
    assert member
    dag_runs.saw(night, member)
    night.metrics({f"{group(COHORT)}/recovery_ratio": recovery, f"{group(COHORT)}/passed": 1.0})
    row = {
        "cohort": COHORT,
        "run_id": member.run_id,
        "trained": "here",
        "arms": arms,
        "outcome": OUTCOME,
        "reasons": [REASON],
    }
    lacking = {"cohort": "town", "run_id": None, "trained": "–", "arms": {}, "outcome": "not trained", "reasons": []}
    about = f"DAG `retrain`, run [{DAG_RUN.run_id}]({AIRFLOW}), has ended well; lake version 17."
    night.describe(pages.dag_run_text(experiment, [row, lacking], about=about))
    dag_runs.end(night, failed=False)


def _result(right: float) -> Evaluation:
    rng = np.random.default_rng(7)
    truth = np.repeat(np.arange(len(SCENES)), (20, 40, 120, 80))
    predicted = np.where(rng.random(len(truth)) < right, truth, rng.integers(len(SCENES), size=len(truth)))
    subjects = np.array([f"p{at % 5}" for at in range(len(truth))])
    return evaluate(truth, predicted, SCENES, subjects=subjects)


def _log_arm(run: MlflowRunLog, arm: str, found: Evaluation, recovery: float) -> None:
    rng = np.random.default_rng(len(arm))
    if arm != "original":
        for epoch in range(1, 9):
            run.metrics(
                {"loss": 1.2 / epoch + rng.random() / 20, "validation/balanced_accuracy": 0.5 + epoch / 25}, step=epoch
            )
    run.metrics(
        {
            **{f"target/{name}": value for name, value in found.metrics().items()},
            "recovery_ratio": recovery,
            "seconds": 41.5,
        }
    )
    run.json({"epochs": 8, "share": 0.5}, "choices.json")
    run.figure(confusion_figure(found.confusion, SCENES, f"{arm}: accuracy {found.accuracy:.3f}"), "confusion.png")
    labels = rng.integers(len(SCENES), size=400)
    run.figure(tier_figure(rng.beta(4, 2, 400), labels, SCENES, THRESHOLDS), "tiers.png")


def _promote(
    client: MlflowClient, settings: RegistrySettings, run_id: str, results: Mapping[str, Evaluation], recovery: float,
    description: str,
) -> str:  # fmt: skip
    example = np.random.default_rng(0).normal(size=(4, 3, 250)).astype(np.float32)
    best = results["filterloss"]
    logged = log_model(
        client, TinyNetwork().eval(), run_id=run_id, example=example,
        metrics={"target/accuracy": best.accuracy, "target/macro_f1": best.macro_f1, "recovery_ratio": recovery},
        metadata={"scenes": list(SCENES)},
    )  # fmt: skip
    versions = MlflowVersions(client, settings.model_name)
    version = versions.register(
        source=logged.uri, model_id=logged.model_id, run_id=run_id, description=description, alias=Alias.CHALLENGER,
        tags={
            Tag.POLICY: "filterloss", Tag.COHORT: "target", Tag.LAKE_VERSION: "17", Tag.RUN_KEY: KEY,
            Tag.RECOVERY: f"{recovery:.3f}", **logged.tags,
        },
    )  # fmt: skip
    found = verdict(_score(best, logged), None, _score(results["original"]), AT_HOME, GateSettings())
    promotions = Promotions(versions, Ledger(settings.ledger_url), clock=lambda: datetime.now(tz=UTC), who="test")
    promotions.promote(version.version, found, judged_against=None)
    return version.version


def _score(found: Evaluation, logged: LoggedModel | None = None) -> Score:
    return Score(
        accuracy=found.accuracy, macro_f1=found.macro_f1, recall=found.recall, windows=found.windows, subjects=5,
        holdout="h", people=[Person(right=right, windows=windows) for right, windows in found.people],
        latency_s=logged.latency_s if logged else None, size_mb=logged.size_mb if logged else None,
    )  # fmt: skip
