"""System metrics: of a run that takes long enough, in MLflow, and of a resumed one in a line."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from mlflow import MlflowClient

from registry.measured import system_metrics
from registry.tracker import MlflowTracker

SOON = timedelta(milliseconds=50)


def _wait_for(client: MlflowClient, run_id: str, steps: int) -> None:
    """Until the run has so many looks at its machine; they come from a thread of MLflow's."""
    pause = threading.Event()
    for _ in range(400):
        if len(client.get_metric_history(run_id, "system/cpu_utilization_percentage")) >= steps:
            return
        pause.wait(0.05)
    raise AssertionError


def test_a_run_says_what_it_took_of_its_machine(client: MlflowClient) -> None:
    tracker = MlflowTracker(client, "retrain", system_metrics_every=SOON)
    for steps in (2, 4):  # the second resumes
        with tracker.run("retrain", tags={"run_key": "k"}) as run:
            _wait_for(client, run.run_id, steps)
    found = client.get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= set(found.data.metrics)
    history = client.get_metric_history(run.run_id, "system/cpu_utilization_percentage")
    assert len({point.step for point in history}) == len(history), "a resumed run goes on in the same line"


@pytest.mark.parametrize("every", [None, timedelta(0)])
def test_none_is_none(client: MlflowClient, every: timedelta | None) -> None:
    before = threading.active_count()
    run_id = client.create_run(client.create_experiment("retrain")).info.run_id
    with system_metrics(client, run_id, every=every, resumed=False):
        assert threading.active_count() == before
