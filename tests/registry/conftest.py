from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from registry.connection import connect
from tests.fixtures.tracking import own_tracking_uri


@pytest.fixture
def client(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MlflowClient]:
    """A client of the test's own database, with artifacts below the test's folder."""
    monkeypatch.chdir(tmp_path)  # where MLflow without a server puts artifacts
    with own_tracking_uri():
        yield connect(database)
