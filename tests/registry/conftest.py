"""MLflow on a database of its own for each test, in this process: the real stores, without a server."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from registry.connection import connect


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables: making them takes seconds, copying the file none."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    before = mlflow.get_tracking_uri()
    connect(f"sqlite:///{path}").search_experiments()
    mlflow.set_tracking_uri(before)
    return path


@pytest.fixture
def database(tmp_path: Path, empty_database: Path) -> str:
    """URL of a database with MLflow's tables, for MLflow and the ledger."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def client(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MlflowClient]:
    """A client of that database, with artifacts below the test's folder."""
    monkeypatch.chdir(tmp_path)  # where MLflow without a server puts artifacts
    before = mlflow.get_tracking_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # set_tracking_uri also writes it: this brings the old one back
    yield connect(database)
    mlflow.set_tracking_uri(before)
