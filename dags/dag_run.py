"""The run in MLflow of a whole DAG run: opened before the work, and ended, with what came of it, when all the work has.

| | |
|---|---|
| tags | DAG and run, Airflow's page of it, versions of the lake, commit, digest of the settings, policy, each cohort's run key |
| parameters | versions, seed, policy, number of cohorts, every setting that decides the result |
| data sets | those of its cohorts: lake version and digest, for training and holdout |
| metrics | of a cohort ``<cohort>/recovery_ratio``, ``accuracy`` and ``macro_f1`` of the policy's arm, ``<cohort>/passed`` (0 or 1) |
| ``runs.json``, the description | cohort by cohort: its run, the arms, the verdict with its reasons |

A run key that was trained before is not trained again, nor is its run moved: it stays below the DAG run that began it (or below none),
and is named here, with the DAG run that trained it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from dags import runs, steps
from dags.settings import Settings

if TYPE_CHECKING:
    from registry.dag_runs import DagRun, Member

_SUMMARY = ("recovery_ratio", "accuracy", "macro_f1")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Cohort:
    """What came of a cohort in a DAG run."""

    cohort: str
    run_key: str | None = None
    run_id: str | None = None
    """MLflow's; None: it did not get as far as training."""
    trained: str = "–"
    """``here``, the DAG run that had done it before, or ``by hand``."""
    status: str | None = None
    """Of that run."""
    arms: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    outcome: str = "not trained"
    passed: bool | None = None
    version: str | None = None
    arm: str | None = None
    """Whose model was judged."""
    reasons: Sequence[str] = ()


def open_run(
    settings: Settings,
    dag_run: DagRun,
    *,
    cohorts: Sequence[str],
    lake_version: int,
    labels_version: int,
    policy: str,
    seed: int,
    url: str = "",
) -> dict[str, Any]:
    """Open the run of a DAG run, or go on with it.

    Args:
        settings: of this installation.
        dag_run: whose.
        cohorts: that it retrains for.
        lake_version: of the ``windows`` table.
        labels_version: of the ``labels`` table; -1 for none.
        policy: the arm that is to become champion.
        seed: of folds and models.
        url: of Airflow's page of it; empty: there is none.

    Raises:
        RegistryError: MLflow does not answer, or refuses.
    """
    from registry import pages

    client = steps.mlflow_client(settings)
    tracker = steps.retrain_tracker(settings, client)
    recipe = runs.recipe(settings, seed=seed)
    versions = runs.versions({"lake_version": lake_version, "labels_version": labels_version})
    tags = {**versions, "policy": policy, "settings_digest": runs.recipe_digest(recipe)}
    run = steps.dag_runs(settings, client, tracker).open(
        dag_run, tags={**tags, **({"airflow_url": url} if url else {})}
    )
    run.params({**versions, "policy": policy, "seed": seed, "cohorts": len(cohorts), **recipe})
    waiting = [asdict(_Cohort(cohort=cohort, outcome="under way")) for cohort in cohorts]
    about = _about(dag_run, url, steps.lake_at(lake_version, labels_version), "is under way")
    run.describe(pages.dag_run_text(tracker.experiment_id, waiting, about=about))
    return _where(settings, tracker.experiment_id, run.run_id)


def close_run(settings: Settings, dag_run: DagRun, *, cohorts: Iterable[str], failed: bool) -> dict[str, Any] | None:
    """End the run of a DAG run as the DAG run ended, with what came of each cohort.

    Args:
        settings: of this installation.
        dag_run: whose.
        cohorts: that it was to retrain for.
        failed: how it ended.

    Returns:
        Where it is; None if it was never opened, or somebody has deleted it in MLflow.

    Raises:
        RegistryError: MLflow does not answer, or refuses.
    """
    from registry import pages
    from registry.dag_runs import group, held

    client = steps.mlflow_client(settings)
    tracker = steps.retrain_tracker(settings, client)
    dag_runs = steps.dag_runs(settings, client, tracker)
    known = dag_runs.find(dag_run)
    if known is None:
        return None
    run, tags = known
    found = []
    for cohort in cohorts:
        key = tags.get(held(cohort))
        member = dag_runs.member(cohort, key) if key else None
        found.append(_came_of(settings, dag_run, cohort, key, member, tags["policy"]))
        if member is not None:
            dag_runs.saw(run, member)
    url = tags.get("airflow_url", "")
    run.metrics(
        {f"{group(each.cohort)}/{name}": value for each in found for name, value in _summary(each, tags["policy"])}
    )
    told = [asdict(each) for each in found]
    run.json(
        {"dag_run": str(dag_run), "airflow_url": url, "ended": "failed" if failed else "success", "cohorts": told}, "runs.json"
    )  # fmt: skip
    lake = steps.lake_at(int(tags["lake_version"]), int(tags["labels_version"]))
    about = _about(dag_run, url, lake, "has failed" if failed else "has ended well")
    run.describe(pages.dag_run_text(tracker.experiment_id, told, about=about))
    dag_runs.end(run, failed=failed)
    return _where(settings, tracker.experiment_id, run.run_id)


def _came_of(
    settings: Settings, dag_run: DagRun, cohort: str, run_key: str | None, member: Member | None, policy: str
) -> _Cohort:
    if run_key is None or member is None:
        return _Cohort(cohort=cohort, run_key=run_key)
    folder = settings.runs / run_key
    judged = runs.verdict(folder, policy)
    arms = {
        name: {"run_id": arm["run_id"], **{key: arm[key] for key in _SUMMARY}}
        for name, arm in runs.results(folder).items()
    }
    seen = _Cohort(
        cohort=cohort, run_key=run_key, run_id=member.run_id, status=member.status, arms=arms,
        trained="here" if member.dag_run == str(dag_run) else member.dag_run or "by hand", outcome="not judged",
    )  # fmt: skip
    if judged is None:
        return seen
    passed, version = bool(judged["passed"]), judged["version"]
    outcome = f"{policy} {'passed' if passed else 'refused'}, version {version}"
    return replace(seen, outcome=outcome, passed=passed, version=version, arm=policy, reasons=tuple(judged["reasons"]))


def _summary(found: _Cohort, policy: str) -> Iterable[tuple[str, float]]:
    """A cohort's metrics: those of the policy's arm."""
    arm = found.arms.get(policy, {})
    yield from ((name, float(arm[name])) for name in _SUMMARY if name in arm)
    if found.passed is not None:
        yield "passed", float(found.passed)


def _about(dag_run: DagRun, url: str, lake: str, state: str) -> str:
    name = f"[{dag_run.run_id}]({url})" if url else dag_run.run_id
    return f"DAG `{dag_run.dag_id}`, run {name}, {state}; {lake}."


def _where(settings: Settings, experiment_id: str, run_id: str) -> dict[str, Any]:
    from registry import pages

    url = f"{settings.registry.tracking_uri}/{pages.run_page(experiment_id, run_id)}"
    return {"mlflow_run_id": run_id, "mlflow_url": url}
