"""The DAG ``retrain`` run by a real Airflow, with a small program that keeps to the commands' contract in their place.

What the commands themselves do is tested elsewhere; here it is Airflow's part: order, parameters, answers, states, messages. For
one cohort the program makes way for the real commands, over a real lake.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import psutil
import pytest

from dags.local import standalone
from dags.local.airflow_api import UNFINISHED, instance
from dags.local.standalone import LocalAirflow
from dags.orchestration import AirflowSettings
from streaming import ports
from tests.dags.airflow_pages import look_at_it_and_approve
from tests.dags.standing_in import BEHIND, MISSING, REAL, STAND_IN, TASKS, TOO_FEW
from tests.training.lakes import SETTINGS, publish_what_cannot_be_learned_from

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.airflow, pytest.mark.slow, pytest.mark.timeout(600)]

PATIENCE = timedelta(minutes=5)


@dataclass(frozen=True, kw_only=True)
class Place:
    """A running Airflow and the program that its tasks run."""

    airflow: LocalAirflow
    home: Path
    program: Path
    told: list[dict[str, Any]]
    """What was sent to ``[retrain] alert_url``."""

    def calls(self) -> list[list[str]]:
        """What the program was called with since this was last asked."""
        file = self.program.with_name("calls.jsonl")
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return [json.loads(line) for line in lines]

    def run(self, dag_id: str = "retrain", **conf: Any) -> tuple[str, str]:
        """Trigger a DAG and wait. Returns the run's id and its state."""
        run_id = self.airflow.api.trigger(dag_id, conf)
        return run_id, self.airflow.api.wait_for_run(dag_id, run_id, timeout=PATIENCE)

    def runs(self) -> list[dict[str, Any]]:
        """Every run of ``retrain``."""
        found: list[dict[str, Any]] = self.airflow.api._ask("GET", "/dags/retrain/dagRuns").json()["dag_runs"]
        return found


@contextmanager
def listener() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An address that takes JSON, and what it was sent."""
    told: list[dict[str, Any]] = []

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nobody reads it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Listener)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", told
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """An Airflow of this module's own."""
    home = tmp_path_factory.mktemp("home with a blank")
    program = home / "sensorloop"
    program.write_text(STAND_IN, encoding="utf-8")
    program.chmod(0o755)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SENSORLOOP_")}
    (home / "sensorloop.toml").write_text(SETTINGS, encoding="utf-8")
    environ["SENSORLOOP_CONFIG"] = str(home / "sensorloop.toml")
    environ |= {"SENSORLOOP_RETRAIN__EXECUTABLE": str(program), "SENSORLOOP_RETRAIN__RETRY_DELAY": "1"}
    never = "0 0 29 2 *"
    environ |= {
        f"SENSORLOOP_{key}": never for key in ("RETRAIN__LOOK_EVERY", "RETRAIN__SCHEDULE", "CARE__CHAMPION_SCHEDULE")
    }
    settings = AirflowSettings(port=ports.free_ports(1)[0], parallel_tasks=2, parse_interval=timedelta(seconds=5))
    try:
        with listener() as (url, told):
            environ |= {"SENSORLOOP_RETRAIN__ALERT_URL": url, "SENSORLOOP_RETRAIN__DEADLINE": "5"}
            airflow = standalone.start(settings, home=home, environ=environ, die_with_parent=True)
            for dag_id in ("retrain", "watch_lake", "watch_champion"):
                airflow.api.wait_for_dag(dag_id, since=airflow.since)
                airflow.api.unpause(dag_id)
            yield Place(airflow=airflow, home=home, program=program, told=told)
            airflow.api.close()
    finally:
        standalone.stop(home)


def test_a_run_passes_its_parameters_and_answers_on(place: Place) -> None:
    api = place.airflow.api
    run_id, state = place.run(cohort=["city", "town"], arms=["plain"], seed=7, min_windows=5)
    assert state == "success"
    versions = ["--lake-version", "12", "--labels-version", "3"]
    embed = [["embed", "--cohort", "city", "--day", f"2026-01-0{day}", *versions] for day in (1, 2)]

    def of(cohort: str) -> list[list[str]]:
        key = f"{cohort}-s7"
        return [
            ["rescore", "--cohort", cohort, *versions, "--seed", "7"],
            ["finetune", "--run-key", key, "--arms", "filterloss,plain", "--below", "above"],
            ["evaluate", "--run-key", key, "--arm", "filterloss"],
            ["gate", "--run-key", key, "--arm", "filterloss", "--below", "above"],
            ["promote", "--run-key", key, "--arm", "filterloss"],
        ]

    calls = place.calls()
    named = ["--dag-id", "retrain", "--run-id", run_id, "--cohort", "city", "--cohort", "town"]
    page = f"{place.airflow.url}/dags/retrain/runs/{quote(run_id)}"
    assert calls[:4] == [
        ["lake", "pin", "--cohort", "city", "--cohort", "town", "--min-windows", "5"],
        ["track", "open", *named, *versions, "--policy", "filterloss", "--seed", "7", "--url", page],
        ["scratch", "make", "--name", run_id],
        ["lake", "shards", "--cohort", "city", "--cohort", "town", *versions],
    ]
    assert sorted(calls[4:7]) == [embed[0], embed[1], embed[1]], "one shard's failure repeats that shard"
    assert calls[-2:] == [["scratch", "clear", "--name", run_id], ["track", "close", *named, "--ended", "success"]]
    mapped = calls[7:-2]
    for cohort in ("city", "town"):
        assert [call for call in mapped if call in of(cohort)] == of(cohort), (
            "a cohort's steps come one after the other"
        )
    assert len(mapped) == 10
    tasks = {instance(task): task for task in api.tasks("retrain", run_id)}
    assert {name.partition("[")[0] for name in tasks} == set(TASKS)
    assert {task["state"] for task in tasks.values()} == {"success"}
    assert "Nobody is asked: the run's parameter 'approval' is off." in api.task_log(
        "retrain", run_id, "cohort.approve", map_index=0
    )
    assert {tasks[f"embed[{index}]"]["try_number"] for index in (0, 1)} == {1, 2}
    assert {tasks[f"cohort.gate[{index}]"]["rendered_map_index"] for index in (0, 1)} == {"city", "town"}
    assert tasks["cohort.finetune[0]"]["queue"] == tasks["cohort.finetune[0]"]["pool"] == "gpu"
    town = partial(api.xcom, "retrain", run_id, map_index=1)
    assert town("cohort.rescore") == {"run_key": "town-s7", "run_dir": str(place.home), "cohort": "town"}
    assert town("cohort.finetune")["mlflow_run_id"] == "abc"
    assert town("cohort.promote") == {"passed": True, "version": "2", "champion": "2", "reasons": []}
    for task in ("open_run", "close_run"):
        assert api.links("retrain", run_id, task) == {"MLflow run": "http://127.0.0.1:25000/#/above"}
    links = partial(api.links, "retrain", run_id, map_index=1)
    assert links("cohort.finetune") == {"MLflow run": "http://127.0.0.1:25000/#/abc"}
    assert links("cohort.gate") == {"Version in MLflow": "http://127.0.0.1:25000/#/models/2"}
    log = api.task_log("retrain", run_id, "cohort.finetune", map_index=0)
    assert "$ sensorloop finetune --run-key city-s7 --arms filterloss,plain --below above" in log
    assert "reading finetune --run-key city-s7 --arms filterloss,plain --below above" in log
    assert eventually(lambda: run_id in {told["run_id"] for told in place.told}), "it took longer than its deadline"


def eventually(done: Callable[[], bool], timeout_s: float = 60.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.5)  # between two looks at another process
    return True


@pytest.fixture(scope="module")
def failed(place: Place) -> tuple[str, list[list[str]]]:
    """A run that failed for one cohort of two: its id, and what it called."""
    run_id, state = place.run(cohort=["city", "town"], seed=3, force=True)
    assert state == "failed"
    return run_id, place.calls()


def test_what_cannot_be_done_fails_at_once_and_alone(place: Place, failed: tuple[str, list[list[str]]]) -> None:
    api, (run_id, _) = place.airflow.api, failed
    states = api.task_states("retrain", run_id)
    assert (states["cohort.rescore[0]"], states["cohort.promote[0]"]) == ("success", "success")
    assert (states["cohort.rescore[1]"], states["cohort.promote[1]"]) == ("failed", "upstream_failed")
    assert states["clear_room"] == "success"
    tries = {instance(task): task["try_number"] for task in api.tasks("retrain", run_id)}
    assert tries["cohort.rescore[1]"] == 1
    log = api.task_log("retrain", run_id, "cohort.rescore", map_index=1)
    assert f"error: {MISSING}" in log
    (file,) = (place.home / "airflow" / "logs").rglob(f"*{run_id}/task_id=cohort.rescore/map_index=1/attempt=1.log")
    written = file.read_text(encoding="utf-8")
    assert MISSING in written
    assert "Traceback" not in written
    assert "error_detail" not in written


def test_a_run_of_which_what_failed_is_cleared_has_another_end_in_mlflow_too(
    place: Place, failed: tuple[str, list[list[str]]]
) -> None:
    api, (run_id, before) = place.airflow.api, failed
    assert api.task_states("retrain", run_id)["close_run"] == "failed"
    assert "so that clearing what has failed clears it, too." in "".join(api.task_log("retrain", run_id, "close_run"))
    (place.home / "mended").touch()
    what_failed = {"dag_run_id": run_id, "only_failed": True, "dry_run": False}
    api._ask("POST", "/dags/retrain/clearTaskInstances", json=what_failed)
    assert api.wait_for_run("retrain", run_id, timeout=PATIENCE) == "success"
    (place.home / "mended").unlink()
    calls = place.calls()
    assert [call[0] for call in calls] == ["rescore", "finetune", "evaluate", "gate", "promote", "track"]
    assert {call[-1] for call in calls if call[0] in {"finetune", "gate"}} == {"above"}, "whose run goes on"
    assert before[-1][:2] == ["track", "close"]
    assert before[-1][-2:] == ["--ended", "failed"]
    assert calls[-1] == [*before[-1][:-1], "success"], "the run of the same DAG run"


def test_the_real_commands_stop_it_at_once_where_labels_are_missing(place: Place) -> None:
    api = place.airflow.api
    missing = publish_what_cannot_be_learned_from(place.home)[REAL]
    run_id, state = place.run(cohort=REAL, min_windows=5)
    assert state == "failed"
    assert [call[0] for call in place.calls()] == [
        "lake", "track", "scratch", "lake", "embed", "rescore", "scratch", "track",
    ]  # fmt: skip
    tasks = {instance(task): (task["state"], task["try_number"]) for task in api.tasks("retrain", run_id)}
    assert tasks["pin"] == ("success", 1)
    assert tasks["cohort.rescore[0]"] == ("failed", 1)
    assert {tasks[f"cohort.{name}[0]"][0] for name in ("finetune", "promote")} == {"upstream_failed"}
    (pinned,) = api.xcom("retrain", run_id, "pin")
    assert (pinned["cohort"], pinned["windows"], pinned["fresh"]) == (REAL, 18, 18)
    log = api.task_log("retrain", run_id, "cohort.rescore", map_index=0)
    assert any(re.fullmatch(f"error: {missing}.*", line) for line in log)
    assert not any("Traceback" in line for line in log)


def test_too_little_that_is_new_skips_the_run_and_says_how_much_is_missing(place: Place) -> None:
    api = place.airflow.api
    run_id, state = place.run(cohort="city")
    assert state == "success"
    assert place.calls() == [["lake", "pin", "--cohort", "city", "--min-windows", "100"]]
    assert set(api.task_states("retrain", run_id).values()) == {"skipped"}
    assert TOO_FEW in api.task_log("retrain", run_id, "pin")


def test_an_event_wakes_a_run_that_asks_the_lake_itself(place: Place) -> None:
    """What the event was about is gone by the time that the run looks, as if somebody had been faster: it is skipped."""
    before = {run["dag_run_id"] for run in place.runs()}
    place.run("watch_lake")
    assert {run["dag_run_id"] for run in place.runs()} == before, "with too little new nobody is woken"
    (place.home / "enough").touch()
    assert place.run("watch_lake")[1] == "success"

    def woken() -> list[dict[str, Any]]:
        return [run for run in place.runs() if run["dag_run_id"] not in before and run["state"] not in UNFINISHED]

    assert eventually(lambda: bool(woken()))
    (run,) = woken()
    assert (run["run_type"], run["state"]) == ("asset_triggered", "success")
    pin = ["lake", "pin", "--cohort", "target", "--min-windows", "100"]
    assert place.calls() == [pin, pin, pin]
    assert set(place.airflow.api.task_states("retrain", run["dag_run_id"]).values()) == {"skipped"}


def test_a_champion_that_has_fallen_behind_starts_one_run_with_a_note(place: Place) -> None:
    api = place.airflow.api
    api._ask("PATCH", "/dags/retrain", json={"is_paused": True})  # what the run would do was seen above
    before = {run["dag_run_id"] for run in place.runs()}
    for _ in range(2):  # the second time it was started already
        assert place.run("watch_champion")[1] == "success"
    (run,) = [run for run in place.runs() if run["dag_run_id"] not in before]
    assert run["conf"] == {"cohort": ["city"], "min_windows": 200}
    assert run["note"] == BEHIND
    assert api.fail_unfinished("retrain") == [run["dag_run_id"]]
    api.unpause("retrain")
    place.calls()


@pytest.fixture(scope="module")
def asked(place: Place) -> str:
    """A run that waits for a person, for two cohorts: its id."""
    api = place.airflow.api
    run_id = api.trigger(
        "retrain", {"cohort": ["city", "town"], "force": True, "approval": True, "arms": ["filterloss"]}
    )
    both = [f"cohort.approve[{index}]" for index in (0, 1)]
    assert eventually(
        lambda: {api.task_states("retrain", run_id).get(name) for name in both} == {"awaiting_input"}, 300
    )
    assert not [call for call in place.calls() if call[0] == "promote"]
    return run_id


@pytest.mark.browser
def test_a_person_sees_the_graph_and_approves_in_airflows_pages(place: Place, asked: str, page: Page) -> None:
    look_at_it_and_approve(page, place.airflow, asked)


def test_a_persons_answer_reaches_the_ledgers_command(place: Place, asked: str) -> None:
    """Somebody has approved one in the browser, where there is one; the other is rejected."""
    api = place.airflow.api
    for index, (answer, why) in enumerate((("Approve", "looks right"), ("Reject", "too few buses"))):
        task = f"/dags/retrain/dagRuns/{asked}/taskInstances/cohort.approve/{index}/hitlDetails"
        if not api._ask("GET", task).json()["response_received"]:
            api._ask("PATCH", task, json={"chosen_options": [answer], "params_input": {"why": why}})
    assert api.wait_for_run("retrain", asked, timeout=PATIENCE) == "success"
    promoted = sorted(call for call in place.calls() if call[0] == "promote")
    assert promoted == [
        ["promote", "--run-key", "city-s0", "--arm", "filterloss", "--approved-by", "admin", "--why", "looks right"],
        ["promote", "--run-key", "town-s0", "--arm", "filterloss", "--rejected-by", "admin", "--why", "too few buses"],
    ]


def test_it_is_found_again_fits_and_ends_with_all_it_started(place: Place) -> None:
    """Stops the module's Airflow."""
    port = int(place.airflow.url.rsplit(":", 1)[1])
    again = standalone.start(AirflowSettings(port=port), home=place.home, environ={})
    assert not again.started
    assert again.api.run_state("retrain", place.airflow.api.trigger("retrain", {"cohort": "city"})) in {
        "queued",
        "running",
    }
    again.api.close()
    memory = again.memory_bytes()
    assert memory.keys() == {"scheduler", "dag-processor", "api-server"}
    assert sum(memory.values()) < 2 * 2**30
    assert standalone.stop(place.home)
    ours = str(place.home)
    left = [
        p.pid
        for p in psutil.process_iter(["environ"])
        if (p.info["environ"] or {}).get("AIRFLOW_HOME", "").startswith(ours)
    ]
    assert not left
    assert not standalone.stop(place.home)
    assert not place.airflow.api.healthy()


def test_its_database_is_brought_up_to_date_without_loss(place: Place) -> None:
    """As after an upgrade of Airflow; with what an interrupted attempt left behind. Airflow has been stopped above."""
    folder = place.home / "airflow"
    settings = AirflowSettings(port=1)

    def runs() -> list[tuple[str]]:
        with closing(sqlite3.connect(folder / "airflow.db")) as database:
            return database.execute("SELECT run_id FROM dag_run ORDER BY run_id").fetchall()

    before = runs()
    assert len(before) >= 3
    assert not standalone.prepare(settings, home=place.home, environ={})
    (folder / "airflow.db.version").write_text("3.2.0", encoding="ascii")
    (folder / "airflow.db.part").write_text("half a database", encoding="ascii")
    assert standalone.prepare(settings, home=place.home, environ=os.environ)
    assert runs() == before
    assert not (folder / "airflow.db.part").exists()
    assert not standalone.prepare(settings, home=place.home, environ={})
