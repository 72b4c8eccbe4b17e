"""Telling somebody that a run is late; that it reaches them is seen in a real Airflow (:mod:`tests.dags.test_in_airflow`)."""

from __future__ import annotations

import pytest

from dags.alerts import late
from streaming import ports

RUN = {"dag_run": {"dag_id": "retrain", "dag_run_id": "manual__1"}}
TEXT = "Run manual__1 of the DAG 'retrain' has not ended within 18:00:00 ([retrain] deadline). It goes on; Airflow says where it is."


def test_it_is_in_the_log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SENSORLOOP_RETRAIN__ALERT_URL", raising=False)
    late(within="18:00:00", context=RUN)
    assert caplog.messages == [TEXT]


def test_an_address_that_nobody_answers_at_is_in_the_log_too(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (port,) = ports.free_ports(1)
    monkeypatch.setenv("SENSORLOOP_RETRAIN__ALERT_URL", f"http://127.0.0.1:{port}/")
    late(within="18:00:00", context=RUN)
    assert caplog.messages[0] == TEXT
    assert caplog.messages[1].startswith("[retrain] alert_url cannot be reached: ")
