from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from registry.connection import connect
from registry.registered import MlflowVersions
from registry.versions import Alias
from tests.fakes.versions import MemoryVersions
from tests.fixtures.postgres import Postgres, running
from tests.fixtures.tracking import own_tracking_uri
from tests.registry.houses import House


@pytest.fixture
def client(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MlflowClient]:
    """A client of the test's own database, with artifacts below the test's folder."""
    monkeypatch.chdir(tmp_path)  # where MLflow without a server puts artifacts
    with own_tracking_uri():
        yield connect(database)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real PostgreSQL; skipped where it is not installed."""
    with running() as server:
        yield server


@pytest.fixture
def house(tmp_path: Path) -> House:
    memory = MemoryVersions()
    return House(memory, f"sqlite:///{tmp_path / 'ledger.db'}", memory.register)


@pytest.fixture
def real_house(client: MlflowClient, database: str) -> House:
    """MLflow's registry and the ledger in one database."""
    store = MlflowVersions(client, "scene-recogniser")
    experiment = client.create_experiment("models")

    def register() -> str:
        run = client.create_run(experiment)
        model = client.create_logged_model(experiment, name="model", source_run_id=run.info.run_id)
        number = len(store.versions()) + 1
        tags = {"run_key": f"key{number}", "lake_version": "17"}
        return store.register(
            source=model.model_uri, model_id=model.model_id, run_id=run.info.run_id, description="A model.", tags=tags,
            alias=Alias.CHALLENGER,
        ).version  # fmt: skip

    return House(store, database, register)
