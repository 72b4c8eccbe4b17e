"""Containers' addresses and paths as those of this machine."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from dags.local import compose
from dags.local.here import REPOSITORY, Here

SERVICES = compose.read(variables={"KAFKA_CLUSTER_ID": "4L6g3nShT-eMCtK--X86sw", "INGEST_REPLICAS": "2"})


@pytest.fixture
def here(tmp_path: Path) -> Here:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "url").write_text("redis://:5000@redis:6379/0", encoding="utf-8")
    (tmp_path / "secrets" / "url").chmod(0o444)
    return Here(SERVICES, place=tmp_path, extra={"SENSORLOOP_DATA__SCENES": "[]"})


def test_addresses_of_others_and_of_itself(here: Here) -> None:
    mlflow, worker = SERVICES["mlflow"], SERVICES["worker"]
    port = here.port("mlflow", 5000)
    assert here.text("http://mlflow:5000/x", worker) == f"http://127.0.0.1:{port}/x"
    assert here.text("http://localhost:5000/health", mlflow) == f"http://127.0.0.1:{port}/health"
    assert here.text("--host 0.0.0.0 --port 5000", mlflow) == f"--host 127.0.0.1 --port {port}"
    assert here.text("http://localhost:5000/", worker) == "http://localhost:5000/", "nobody of its own"
    assert here.text("mlflow:50001 my-mlflow:5000 5000", worker) == "mlflow:50001 my-mlflow:5000 5000"


def test_a_broker_listens_and_is_called_by_the_same_ports(here: Here) -> None:
    broker = SERVICES["kafka-2"]
    environ = here.environment(broker)
    listening = dict(re.findall(r"(\w+)://127\.0\.0\.1:(\d+)", environ["KAFKA_LISTENERS"]))
    advertised = dict(re.findall(r"(\w+)://127\.0\.0\.1:(\d+)", environ["KAFKA_ADVERTISED_LISTENERS"]))
    assert listening.keys() == {"CLIENT", "CONTROLLER", "OUTSIDE"}
    assert advertised == {name: listening[name] for name in ("CLIENT", "OUTSIDE")}
    assert f"2@127.0.0.1:{listening['CONTROLLER']}" in environ["KAFKA_CONTROLLER_QUORUM_VOTERS"]
    assert listening["CLIENT"] in here.argv(broker.health, broker)[-1]


def test_each_replica_has_ports_of_its_own(here: Here) -> None:
    ingest = SERVICES["ingest"]
    urls = {here.argv(ingest.health, ingest, replica)[-1] for replica in range(2)}
    assert len(urls) == 2


def test_paths(here: Here, tmp_path: Path) -> None:
    worker, processor = SERVICES["worker"], SERVICES["dag-processor"]
    assert here.text("cat /run/secrets/url", worker) == f"cat {tmp_path}/secrets/url"
    assert here.text("/opt/sensorloop/dags", worker) == f"{REPOSITORY}/dags"
    assert here.text("/var/lib/sensorloop", worker) == str(tmp_path / "volumes" / "home")
    assert here.text("/var/lib/sensorloop", processor) == str(tmp_path / "own" / "dag-processor" / "var/lib/sensorloop")
    assert here.text("/var/lib/sensorlooper /my/run/secrets", worker) == "/var/lib/sensorlooper /my/run/secrets"


def test_nothing_gets_in_from_outside(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AIRFLOW__CORE__EXECUTOR", "SENSORLOOP_LAKE__URI", "MLFLOW_TRACKING_URI", "AWS_PROFILE", "PGHOST"):
        monkeypatch.setenv(name, "somebody's")
    monkeypatch.setenv("LANG", "C.UTF-8")
    environ = here.environment(SERVICES["worker"])
    assert "somebody's" not in environ.values()
    assert environ["LANG"] == "C.UTF-8"
    assert environ["SENSORLOOP_DATA__SCENES"] == "[]"
    assert environ["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)
    assert "SENSORLOOP_DATA__SCENES" not in here.environment(SERVICES["postgres"])


def test_what_is_mounted_is_copied_and_translated(here: Here, tmp_path: Path) -> None:
    here.lay_out()
    text = here.file("/etc/sensorloop/sensorloop.toml").read_text(encoding="utf-8")
    assert f'tracking_uri = "http://127.0.0.1:{here.port("mlflow", 5000)}"' in text
    assert f'ssl_ca_file = "{tmp_path}/secrets/kafka_ca.pem"' in text
    assert not re.search(r"\b(kafka-\d|s3|mlflow):\d", text)
    secret = (tmp_path / "secrets" / "url").read_text(encoding="utf-8")
    assert secret == f"redis://:5000@127.0.0.1:{here.port('redis', 6379)}/0", "a password is none of its business"
    assert here.folder(SERVICES["postgres"], "/var/lib/postgresql/data").is_dir()


def test_debians_names_of_programs(here: Here) -> None:
    redis = SERVICES["redis"]
    assert here.argv(redis.command, redis)[0] == "redis-server"
    assert "redis-cli" in here.argv(redis.health, redis)[-1]
