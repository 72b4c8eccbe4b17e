"""The client of Airflow's API, against a double that may be slow, busy, restarted or wrong."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from dags.errors import AirflowError, AirflowUnavailable, DagMissing
from dags.local.airflow_api import AirflowApi
from tests.fakes.airflow import PASSWORD, FakeAirflow

STARTED = datetime(2026, 11, 23, 12, tzinfo=UTC)
REFUSED, TIMED_OUT = "Connection refused", "timed out"
BEFORE, AFTER = "2026-11-23T11:59:59Z", "2026-11-23T12:00:01.5Z"


def client(fake: FakeAirflow, password: str = PASSWORD) -> AirflowApi:
    return AirflowApi("http://airflow.test", "admin", password, transport=httpx.MockTransport(fake))


def never(_seconds: float) -> None:
    pytest.fail("there was nothing to wait for")


class Clock:
    """Lets things happen between two looks instead of waiting."""

    def __init__(self, *events: Callable[[], object]) -> None:
        self._events = list(events)
        self.ticks = 0

    def __call__(self, _seconds: float) -> None:
        self.ticks += 1
        assert self._events, "waited for something that does not come"
        self._events.pop(0)()


def health(status: str = "healthy", beat: str | None = AFTER) -> dict[str, dict[str, str | None]]:
    return {
        "metadatabase": {"status": "healthy"},
        "scheduler": {"status": status, "latest_scheduler_heartbeat": beat},
        "dag_processor": {"status": "healthy", "latest_dag_processor_heartbeat": AFTER},
        "triggerer": {"status": None, "latest_triggerer_heartbeat": None},
    }


@pytest.mark.parametrize(
    ("answer", "well"),
    [
        (health(), True),
        (health("unhealthy"), False),
        (health(beat=BEFORE), False),
        (health(beat=None), False),
        ({**health(), "metadatabase": {"status": "unhealthy"}}, False),
        ({**health(), "dag_processor": None}, False),
        ({}, False),
    ],
)
def test_healthy_means_all_of_it_and_since_the_start(answer: dict[str, object], well: bool) -> None:
    assert client(FakeAirflow(health=answer)).healthy(STARTED) is well


def test_health_is_asked_without_a_password() -> None:
    fake = FakeAirflow(health=health(beat=BEFORE))
    assert client(fake, "wrong").healthy()
    assert fake.tokens == 0


def test_nobody_there_is_not_healthy() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError(REFUSED, request=request)

    api = client(FakeAirflow(before=refuse))
    assert not api.healthy()
    assert not api.serves_tasks()
    with pytest.raises(AirflowUnavailable, match=r"http://airflow\.test.* does not answer: Connection refused"):
        api.unpause("retrain")


def test_it_logs_in_once_and_again_when_the_token_is_no_longer_good() -> None:
    fake = FakeAirflow(dags={"retrain": {"is_paused": True}})
    api = client(fake)
    api.unpause("retrain")
    api.unpause("retrain")
    assert fake.tokens == 1
    fake.tokens = 7  # restarted, or a day later
    api.unpause("retrain")
    assert fake.tokens == 8
    assert not fake.dags["retrain"]["is_paused"]


def test_a_wrong_password_is_said() -> None:
    with pytest.raises(AirflowError, match="does not let 'admin' in: 401 Invalid credentials"):
        client(FakeAirflow(), "wrong").unpause("retrain")


def test_a_refusal_says_what_was_asked_and_why() -> None:
    with pytest.raises(AirflowError, match=r"refuses PATCH .*/dags/retrian: 404 dags/retrian was not found") as caught:
        client(FakeAirflow()).unpause("retrian")
    assert not caught.value.retriable


def test_an_error_of_the_server_is_retriable() -> None:
    fake = FakeAirflow(before=lambda request: httpx.Response(503, text="busy") if "pools" in request.url.path else None)
    with pytest.raises(AirflowUnavailable, match="503 busy"):
        client(fake).set_pool("gpu", 1, "")


def test_a_pool_is_made_and_changed() -> None:
    fake = FakeAirflow()
    api = client(fake)
    api.set_pool("gpu", 1, "Fine-tuning.")
    assert fake.pools == {
        "gpu": {"name": "gpu", "slots": 1, "description": "Fine-tuning.", "include_deferred": False},
    }
    api.set_pool("gpu", 2, "Fine-tuning.")
    assert fake.pools["gpu"]["slots"] == 2


def test_waiting_for_a_dag_that_is_there_takes_no_time() -> None:
    client(FakeAirflow(dags={"retrain": {"last_parsed_time": BEFORE}})).wait_for_dag("retrain", sleep=never)


def test_what_was_read_before_the_start_does_not_count() -> None:
    dag = {"last_parsed_time": BEFORE}
    fake = FakeAirflow(
        dags={"retrain": dag},
        import_errors=[{"filename": "retrain.py", "timestamp": BEFORE, "stack_trace": "SyntaxError: old"}],
    )
    clock = Clock(lambda: None, lambda: dag.update(last_parsed_time=AFTER))
    client(fake).wait_for_dag("retrain", since=STARTED, sleep=clock)
    assert clock.ticks == 2


def test_a_file_that_cannot_be_imported_is_said_at_once() -> None:
    error = {"filename": "retrain.py", "timestamp": AFTER, "stack_trace": "SettingsError: Unknown setting 'shedule'\n"}
    fake = FakeAirflow(dags={"retrain": {"last_parsed_time": AFTER}}, import_errors=[error])
    with pytest.raises(DagMissing, match=r"cannot read retrain\.py:\nSettingsError: Unknown setting 'shedule'$"):
        client(fake).wait_for_dag("retrain", since=STARTED, sleep=never)
    other = FakeAirflow(
        dags={"retrain": {"last_parsed_time": AFTER}}, import_errors=[{**error, "filename": "other.py"}]
    )
    client(other).wait_for_dag("retrain", since=STARTED, sleep=never)


def test_a_dag_that_does_not_come_is_not_waited_for_for_ever() -> None:
    with pytest.raises(DagMissing, match="has not read the DAG 'retrain' within 0:00:00"):
        client(FakeAirflow()).wait_for_dag("retrain", timeout=timedelta(0), sleep=never)


def test_a_run_is_triggered_without_a_date() -> None:
    fake = FakeAirflow()
    assert client(fake).trigger("retrain", {"cohort": "city"}, note="demo") == "run-0"
    assert fake.runs["run-0"]["logical_date"] is None
    assert fake.runs["run-0"]["conf"] == {"cohort": "city"}
    assert fake.runs["run-0"]["note"] == "demo"


def test_waiting_for_a_run_reports_changes_and_rides_out_a_busy_server() -> None:
    fake = FakeAirflow(runs={"run-0": {"dag_run_id": "run-0", "state": "queued"}})
    fake.tasks = [{"task_id": "rescore", "state": None, "start_date": None}]
    busy = [False]

    def before(request: httpx.Request) -> httpx.Response | None:
        if busy[0]:
            raise httpx.ReadTimeout(TIMED_OUT, request=request)
        return None

    def finish() -> None:
        busy[0] = False
        fake.tasks.insert(0, {"task_id": "pin", "state": "success", "start_date": AFTER})
        fake.runs["run-0"]["state"] = "success"

    fake.before = before
    clock = Clock(lambda: None, lambda: busy.__setitem__(0, True), finish)
    reported: list[dict[str, str | None]] = []
    state = client(fake).wait_for_run(
        "retrain",
        "run-0",
        timeout=timedelta(minutes=1),
        report=lambda states: reported.append(dict(states)),
        sleep=clock,
    )
    assert state == "success"
    assert reported == [{"rescore": None}, {"pin": "success", "rescore": None}]
    assert list(reported[-1]) == ["pin", "rescore"]


def test_a_run_that_does_not_end_is_not_waited_for_for_ever() -> None:
    fake = FakeAirflow(runs={"run-0": {"dag_run_id": "run-0", "state": "running"}})
    with pytest.raises(AirflowUnavailable, match="is still running after 0:00:00"):
        client(fake).wait_for_run("retrain", "run-0", timeout=timedelta(0), sleep=never)


def test_what_an_interrupted_airflow_left_behind_is_given_up() -> None:
    states = {"a": "success", "b": "running", "c": "queued", "d": "failed"}
    fake = FakeAirflow(runs={name: {"dag_run_id": name, "state": state} for name, state in states.items()})
    assert client(fake).fail_unfinished("retrain") == ["b", "c"]
    assert {name: run["state"] for name, run in fake.runs.items()} == {**states, "b": "failed", "c": "failed"}
    assert client(fake).fail_unfinished("retrain") == []
