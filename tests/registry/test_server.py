"""The local MLflow server: its command line, and the whole way from a run to a champion through it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from registry.bounds import Person
from registry.connection import connect
from registry.errors import ServerPortTaken
from registry.gate import Score, verdict
from registry.ledger import Ledger
from registry.models import load_model, log_model
from registry.promotion import Promotions
from registry.registered import MlflowVersions
from registry.server import ServerCommand, check_port, ready, server_command
from registry.settings import GateSettings, RegistrySettings
from registry.tracker import MlflowTracker
from registry.versions import Tag
from tests.registry.networks import TinyNetwork
from tests.registry.servers import free_port, local_server


def test_the_command_line(tmp_path: Path) -> None:
    settings = RegistrySettings(port=25123, workers=2, allowed_hosts=("mlflow.example", "10.*"))
    environ = {"PATH": "/bin", "MLFLOW_TRACKING_URI": "http://elsewhere", "_MLFLOW_SERVER_FILE_STORE": "x"}
    command = server_command(tmp_path, settings, environ)
    line = " ".join(command.argv)
    assert f"--backend-store-uri sqlite:///{tmp_path}/mlflow/mlflow.db" in line
    assert f"--artifacts-destination file://{tmp_path}/mlflow/artifacts" in line
    assert "--host 127.0.0.1 --port 25123" in line
    assert "--workers 2" in line
    assert line.endswith("--allowed-hosts mlflow.example,10.*")
    assert command.url == "http://127.0.0.1:25123"
    assert command.env["PATH"] == "/bin"
    assert {name for name in command.env if "MLFLOW" in name} == {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION",
        "MLFLOW_DISABLE_TELEMETRY",
    }
    assert (command.home / "artifacts").is_dir()


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ServerPortTaken, match=rf"Port {port} .*\[registry\] port"):
            check_port(RegistrySettings(port=port))
    check_port(RegistrySettings(port=port))


def test_nobody_is_not_ready() -> None:
    assert not ready(f"http://127.0.0.1:{free_port()}")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerCommand]:
    with local_server(tmp_path) as command:
        yield command


_STRANGER = """
import json, sys
def no_pickle(event, arguments):
    if event == "pickle.find_class" and armed:
        raise RuntimeError(f"unpickled {arguments}")
armed = False
sys.addaudithook(no_pickle)
for ours in ("streaming", "training", "registry", "sensorloop"):
    sys.modules[ours] = None
import warnings
warnings.simplefilter("ignore")
import mlflow.pyfunc, mlflow.pytorch, numpy
armed = True
model = mlflow.pyfunc.load_model("models:/scene-recogniser@champion")
signals = numpy.load(sys.argv[1])
print(json.dumps(model.predict(signals).tolist()))
"""


@pytest.mark.slow
def test_from_a_run_to_a_champion_that_a_stranger_can_load(server: ServerCommand, tmp_path: Path) -> None:
    """Through HTTP: run, pictures, model, version, promotion, rollback; then a process that knows nothing of us, and may not
    unpickle, loads the champion and gets the trainer's logits."""
    settings = RegistrySettings(port=int(server.url.rpartition(":")[2])).resolved(tmp_path)
    client = connect(settings.tracking_uri)
    network = TinyNetwork().eval()
    signals = np.random.default_rng(0).normal(size=(5, 3, 250)).astype(np.float32)
    ledger = Ledger(settings.ledger_url)
    versions = MlflowVersions(client, settings.model_name)
    promotions = Promotions(versions, ledger, clock=lambda: datetime.now(tz=UTC), who="test")
    people = [Person(right=80, windows=100)] * 3
    score = Score(
        accuracy=0.8, macro_f1=0.7, recall={"Walk": 0.8}, windows=400, subjects=3, holdout="h", people=people,
        latency_s=0.02, size_mb=1.0,
    )  # fmt: skip
    passed = verdict(score, None, score, 0.85, GateSettings())

    with MlflowTracker(client, settings.retrain_experiment).run("filterloss", tags={"run_key": "k"}) as log:
        log.metrics({"target/accuracy": 0.8})
        log.figure(Figure(), "confusion")
        log.dataset("windows", version=3, digest="abc", windows=5, context="training")
        logged = log_model(client, network, run_id=log.run_id, example=signals, metrics={"target/accuracy": 0.8})
    for key in ("k", "k2"):
        versions.register(
            source=logged.uri, model_id=logged.model_id, run_id=log.run_id, description="Ours.", tags={Tag.RUN_KEY: key}
        )
    (version,) = versions.versions()  # the same model is one version
    outcome = promotions.promote(version.version, passed, judged_against=None)
    assert outcome.champion == "1"
    (listed,) = versions.versions()
    assert listed.aliases == ("champion",)
    assert listed.tags["validation_status"] == "passed"
    assert promotions.verify() == ()

    # The client's server is asked, whatever MLflow this process would ask by itself.
    again = load_model(client, listed, tmp_path / "cache")
    assert again.predict(signals).shape == network(torch.from_numpy(signals)).shape
    assert not (tmp_path / "mlflow.db").exists()

    page = httpx.get(f"{server.url}/")
    assert page.status_code == 200
    assert httpx.get(f"{server.url}/", headers={"Host": "evil.example"}).status_code == 403
    assert (server.home / "artifacts").is_dir()
    assert list((server.home / "artifacts").rglob("confusion.png"))
    assert list((server.home / "artifacts").rglob("model.pt2"))

    np.save(tmp_path / "signals.npy", signals)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environ = {
        **os.environ,
        "MLFLOW_TRACKING_URI": server.url,
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }
    environ.pop("PYTHONPATH", None)
    stranger = subprocess.run(
        [sys.executable, "-c", _STRANGER, str(tmp_path / "signals.npy")],
        env=environ, cwd=elsewhere, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert stranger.returncode == 0, stranger.stderr
    found = np.array(json.loads(stranger.stdout.splitlines()[-1]))
    with torch.no_grad():
        np.testing.assert_allclose(found, network(torch.from_numpy(signals)).numpy(), atol=1e-4)
