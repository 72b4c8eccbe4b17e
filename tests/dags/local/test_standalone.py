"""Starting a local Airflow where it cannot work; where it can is tested with the DAG, in test_in_airflow.py."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from dags.errors import AirflowError
from dags.local import standalone
from dags.orchestration import AirflowSettings
from streaming.errors import PortTaken


def test_a_port_that_is_taken_is_said_before_anything_is_started(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(PortTaken, match=rf"Airflow cannot listen on 127\.0\.0\.1:{port} .*\[airflow\] port"):
            standalone.start(AirflowSettings(port=port), home=tmp_path)
    assert [file.name for file in (tmp_path / "airflow").iterdir()] == ["start.lock"]


def test_a_database_that_cannot_be_made_is_said_and_leaves_none(tmp_path: Path) -> None:
    environ = {"PATH": "", "PYTHONHOME": str(tmp_path)}  # no Python starts there
    with pytest.raises(AirflowError, match=r"database cannot be set up. The end of .*migrate\.log:\n"):
        standalone.prepare(AirflowSettings(), home=tmp_path, environ=environ)
    assert not (tmp_path / "airflow" / "airflow.db").exists()


def test_stopping_what_does_not_run(tmp_path: Path) -> None:
    assert not standalone.stop(tmp_path)
