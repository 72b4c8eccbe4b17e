"""What a person sees while Airflow works on a run."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console

from dags.errors import DagError
from dags.local.airflow_api import AirflowApi
from dags.local.stage import Stage, _Told, retrain
from tests.fakes.airflow import PASSWORD, FakeAirflow

FINETUNE = {"task_id": "cohort.finetune", "try_number": 1, "map_index": -1, "start_date": "2026-11-23T12:00:00Z"}


@dataclass(kw_only=True, slots=True)
class _Stage(Stage):
    @property
    def environ(self) -> Mapping[str, str]:
        return {}


@dataclass(kw_only=True, slots=True)
class _Watched:
    """A run that is watched, a look every so many seconds."""

    fake: FakeAirflow
    look_s: float
    happens: Callable[[int], object]
    """Told the number of each wait."""
    environ: Mapping[str, str] | None = None
    """Of a terminal; None: there is none."""
    waits: int = 0
    answers: dict[str, Any] | None = None

    def said(self) -> str:
        written = io.StringIO()
        terminal = {"force_terminal": self.environ is not None, "_environ": self.environ}
        stage = _Stage(place=Path(), console=Console(file=written, width=200, highlight=False, **terminal))  # type: ignore[arg-type]
        api = AirflowApi("http://airflow.test", "admin", PASSWORD, transport=httpx.MockTransport(self.fake))
        self.answers, _ = retrain(
            stage,
            api,
            "http://airflow.test",
            conf={},
            note="",
            sleep=self._sleep,
            clock=lambda: self.waits * self.look_s,
        )
        return written.getvalue()

    def _sleep(self, _seconds: float) -> None:
        self.happens(self.waits)
        self.waits += 1


def _airflow(*lines: str) -> FakeAirflow:
    return FakeAirflow(tasks=[{**FINETUNE, "state": "running"}], logs={"cohort.finetune": list(lines)})


def _ends(fake: FakeAirflow) -> None:
    fake.tasks[0]["state"] = "success"
    fake.runs["run-0"]["state"] = "success"


def test_what_a_long_task_says_is_shown_every_minute_and_once() -> None:
    fake = _airflow("Pre-flight", "plain: epoch 1 of 20, 3 of 500", "$ sensorloop finetune", "::endgroup::", "")

    def happens(number: int) -> None:
        if number == 15:
            fake.logs["cohort.finetune"].append("plain: epoch [bold] of 20, 90 of 500")
        if number == 30:
            _ends(fake)

    said = _Watched(fake=fake, look_s=11, happens=happens).said()
    assert said.count("plain: epoch 1 of 20, 3 of 500") == 1
    assert said.count("plain: epoch [bold] of 20, 90 of 500") == 1
    assert "Pre-flight" not in said
    assert said.index("running") < said.index("3 of 500") < said.index("90 of 500") < said.index("success")


def test_the_log_is_not_asked_for_at_every_look() -> None:
    fake = _airflow("plain: epoch 1 of 20")
    _Watched(fake=fake, look_s=1, happens=lambda number: _ends(fake) if number == 100 else None).said()
    assert 8 <= sum(path.endswith("/logs/1") for path in fake.asked) <= 11


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(404, json={"detail": "no log"}),
        httpx.Response(503, text="busy"),
        httpx.Response(200, text="<html>"),
        httpx.Response(200, json={"content": None}),
        httpx.Response(200, json={}),
    ],
)
def test_a_log_that_cannot_be_had_ends_nothing(answer: httpx.Response) -> None:
    fake = _airflow("plain: epoch 1 of 20")

    def before(request: httpx.Request) -> httpx.Response | None:
        return answer if "/logs/" in request.url.path else None

    fake.before = before
    said = _Watched(fake=fake, look_s=11, happens=lambda number: _ends(fake) if number == 20 else None).said()
    assert "success" in said
    assert "epoch" not in said


def test_on_a_terminal_what_is_said_last_stands_in_one_place_and_goes_when_nobody_speaks() -> None:
    fake = _airflow()
    fake.runs["run-0"] = {"dag_run_id": "run-0", "state": "running"}
    fake.tasks = [{**FINETUNE, "task_id": "embed", "map_index": number, "state": "running"} for number in (0, 1)]
    fake.logs = {"embed": ["64 of 300"]}
    now, shown, written = [0.0], list[str](), io.StringIO()
    api = AirflowApi("http://airflow.test", "admin", PASSWORD, transport=httpx.MockTransport(fake))
    told = _Told(api, "run-0", Console(file=written, force_terminal=True), shown.append, lambda: now[0])

    def look() -> None:
        now[0] += 10
        told.look()

    look()
    look()
    fake.tasks[1]["state"] = "success"
    look()
    fake.tasks[0]["state"] = "success"
    look()
    assert shown == ["embed[1]: 64 of 300", "embed[0]: 64 of 300", ""]
    assert written.getvalue() == ""


def test_what_is_shown_on_a_terminal_is_not_taken_for_markup() -> None:
    fake = _airflow("epoch [bold] of 20")
    watched = _Watched(
        fake=fake, look_s=11, happens=lambda number: _ends(fake) if number == 3 else None, environ={"TERM": "xterm"}
    )
    assert "epoch [bold] of 20" in watched.said()


def test_a_terminal_that_cannot_renew_a_line_gets_one_every_minute() -> None:
    fake = _airflow("plain: epoch 1 of 20")
    watched = _Watched(
        fake=fake, look_s=11, happens=lambda number: _ends(fake) if number == 20 else None, environ={"TERM": "dumb"}
    )
    assert watched.said().count("cohort.finetune: plain: epoch 1 of 20") == 1


def test_a_task_that_fails_ends_with_the_end_of_its_log() -> None:
    fake = _airflow("error: no labels")

    def fails(_number: int) -> None:
        fake.tasks[0]["state"] = "failed"
        fake.runs["run-0"]["state"] = "failed"

    with pytest.raises(DagError, match=r"cohort\.finetune' of run run-0 ended as failed:\nerror: no labels"):
        _Watched(fake=fake, look_s=11, happens=fails).said()


def test_a_run_hands_on_what_its_tasks_answered() -> None:
    fake = _airflow()

    def before(request: httpx.Request) -> httpx.Response | None:
        asked = request.url.path.endswith("/xcomEntries/return_value")
        return httpx.Response(200, json={"value": {"run_key": "k"}}) if asked else None

    fake.before = before
    watched = _Watched(fake=fake, look_s=1, happens=lambda _number: _ends(fake))
    watched.said()
    assert watched.answers == {"finetune": {"run_key": "k"}}
