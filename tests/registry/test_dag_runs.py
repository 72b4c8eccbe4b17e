"""The run of a DAG run: one of each, whoever asks and however often; who is below it; what its tags and metrics are called."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.utils.validation import _validate_metric_name, _validate_tag_name

from registry.dag_runs import DagRun, DagRuns, above, group, held
from registry.errors import TrackingError
from registry.ledger import Ledger
from registry.tracker import Above, MlflowTracker

NIGHT = DagRun(dag_id="retrain", run_id="scheduled__2026-11-25T00:00:00+00:00")
NEXT = DagRun(dag_id="retrain", run_id="scheduled__2026-11-26T00:00:00+00:00")


@pytest.fixture
def tracker(client: MlflowClient) -> MlflowTracker:
    return MlflowTracker(client, "retrain")


@pytest.fixture
def dag_runs(client: MlflowClient, tracker: MlflowTracker, database: str) -> DagRuns:
    return DagRuns(client, tracker.experiment_id, exclusive=Ledger(database).exclusive, tags={"python": "3.11"})


@pytest.fixture
def below(client: MlflowClient, dag_runs: DagRuns) -> Callable[[DagRun], MlflowTracker]:
    """A tracker for what is done for a DAG run, whose run is opened."""

    def opened(dag_run: DagRun) -> MlflowTracker:
        return MlflowTracker(client, "retrain", above=above(client, dag_runs.open(dag_run, tags={}).run_id))

    return opened


def trained(tracker: MlflowTracker, cohort: str, run_key: str) -> str:
    """Id of the run of a run key that has an arm."""
    with tracker.run(cohort, tags={"run_key": run_key}) as run:
        with tracker.run("plain", parent=run, tags={"run_key": run_key}):
            pass
        return run.run_id


def places(client: MlflowClient, tracker: MlflowTracker) -> dict[str, str | None]:
    """Below which run each stands."""
    found = client.search_runs([tracker.experiment_id])
    return {run.info.run_id: run.data.tags.get("mlflow.parentRunId") for run in found}


def test_it_is_found_again_and_goes_on(client: MlflowClient, dag_runs: DagRuns) -> None:
    assert dag_runs.find(NIGHT) is None
    first = dag_runs.open(NIGHT, tags={"lake_version": "17"})
    assert not first.resumed
    for failed, status in ((True, "FAILED"), (False, "FINISHED")):
        again = dag_runs.open(NIGHT, tags={"lake_version": "18"})
        assert (again.run_id, again.resumed) == (first.run_id, True)
        assert client.get_run(first.run_id).info.status == "RUNNING"
        dag_runs.end(again, failed=failed)
        assert client.get_run(first.run_id).info.status == status
    assert dag_runs.open(NEXT, tags={}).run_id != first.run_id
    found = dag_runs.find(NIGHT)
    assert found
    assert found[0].run_id == first.run_id
    assert found[1] | {"lake_version": "18", "python": "3.11", "dag_run": str(NIGHT), "dag_id": "retrain"} == found[1]


def test_of_two_at_once_one_makes_it_and_the_other_finds_it(
    client: MlflowClient, tracker: MlflowTracker, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each that has looked waits, for a while, until the other has looked too: without the lock both would see nothing and make one."""
    both = threading.Barrier(2)
    search = MlflowClient.search_runs

    def looks(*arguments: Any, **options: Any) -> Any:
        found = search(*arguments, **options)
        try:
            both.wait(timeout=0.5)
        except threading.BrokenBarrierError:
            both.reset()
        return found

    monkeypatch.setattr(MlflowClient, "search_runs", looks)

    def opened(_: int) -> str:
        runs = DagRuns(client, tracker.experiment_id, exclusive=Ledger(database).exclusive)
        return runs.open(NIGHT, tags={}).run_id

    with ThreadPoolExecutor(2) as pool:
        ids = set(pool.map(opened, range(2)))
    monkeypatch.undo()
    assert len(ids) == 1
    assert set(places(client, tracker)) == ids


def test_two_cohorts_at_once_stand_below_one_run(
    client: MlflowClient, dag_runs: DagRuns, tracker: MlflowTracker, below: Callable[[DagRun], MlflowTracker]
) -> None:
    place = above(client, dag_runs.open(NIGHT, tags={}).run_id)
    cohorts = [f"town/subject_id=p{number}" for number in range(6)]

    def work(cohort: str) -> str:
        dag_runs.holds(place, cohort, f"key of {cohort}")
        return trained(MlflowTracker(client, "retrain", above=place), cohort, f"key of {cohort}")

    with ThreadPoolExecutor(3) as pool:
        ids = list(pool.map(work, cohorts))
    found = places(client, tracker)
    assert {found[run_id] for run_id in ids} == {place.run_id}
    assert [run_id for run_id, parent in found.items() if parent is None] == [place.run_id]
    tags = client.get_run(place.run_id).data.tags
    assert [tags[held(cohort)] for cohort in cohorts] == [f"key of {cohort}" for cohort in cohorts]


def test_a_run_key_has_one_run_and_stays_where_it_was_born(
    client: MlflowClient, tracker: MlflowTracker, dag_runs: DagRuns, below: Callable[[DagRun], MlflowTracker]
) -> None:
    for key, order in (
        ("a", [below(NIGHT), below(NEXT), tracker]),
        ("b", [tracker, below(NIGHT), below(NEXT)]),
    ):
        first = trained(order[0], "town", key)
        born = places(client, tracker)
        for later in order[1:]:
            assert trained(later, "town", key) == first
        assert places(client, tracker) == born
    night = dag_runs.find(NIGHT)
    assert night
    members = {key: dag_runs.member("town", key) for key in "abc"}
    assert members["c"] is None
    assert members["a"]
    assert members["b"]
    assert (members["a"].dag_run, members["b"].dag_run) == (str(NIGHT), None)
    assert places(client, tracker)[members["a"].run_id] == night[0].run_id
    assert places(client, tracker)[members["b"].run_id] is None


def test_a_cohort_may_have_the_name_of_the_dag_and_any_marks(
    client: MlflowClient, dag_runs: DagRuns, below: Callable[[DagRun], MlflowTracker]
) -> None:
    for number, cohort in enumerate(("retrain", 'town/subject_id=O\'Brien "Bob"')):
        ids = {trained(below(NIGHT), cohort, f"key{number}") for _ in range(2)}
        assert len(ids) == 1
        found = dag_runs.find(NIGHT)
        assert found
        assert found[0].run_id not in ids
        place = Above(run_id=found[0].run_id, dag_run=str(NIGHT))
        dag_runs.holds(place, cohort, f"key{number}")
        assert client.get_run(place.run_id).data.tags[held(cohort)] == f"key{number}"
    client.delete_run(place.run_id)
    assert dag_runs.find(NIGHT) is None, "the cohort's is no stand-in for it"


def test_what_is_no_dag_runs_run_is_refused(client: MlflowClient, tracker: MlflowTracker, dag_runs: DagRuns) -> None:
    by_hand = trained(tracker, "town", "key")
    gone = dag_runs.open(NIGHT, tags={}).run_id
    client.delete_run(gone)
    for run_id, why in ((by_hand, "no DAG run's"), (gone, "has deleted it"), ("0" * 32, "no such run")):
        with pytest.raises(TrackingError, match=rf"Nothing can be put below run {run_id}: .*{why}"):
            above(client, run_id)


def test_cohorts_are_metrics_groups_that_can_be_read() -> None:
    assert group("target") == "target"
    assert group("target/phone_model=Pixel 8") == "target/phone_model:Pixel 8"


@given(st.lists(st.text(min_size=1, max_size=300), min_size=2, max_size=2, unique=True))
def test_mlflow_takes_every_cohort_and_tells_it_from_the_others(cohorts: list[str]) -> None:
    names = [group(cohort) for cohort in cohorts]
    assert names[0] != names[1]
    for cohort, name in zip(cohorts, names, strict=True):
        _validate_metric_name(f"{name}/recovery_ratio")
        _validate_tag_name(held(cohort))
        assert len(held(cohort)) <= 250
