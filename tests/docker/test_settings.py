"""The processes of compose.yaml and what they are told: our settings, Airflow's, Kafka's, and how they fit."""

from __future__ import annotations

import ast
import re
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from dags.local import standalone
from dags.local.brokers import properties
from dags.local.compose import SECRETS, Service
from dags.local.here import REPOSITORY
from dags.settings import Settings, load
from streaming.errors import SettingsError
from streaming.security import client_options
from tests.docker.cluster import DOCKER, raw, services

AIRFLOW = [each for each in services().values() if "AIRFLOW_HOME" in each.environment]
OURS = [each for each in services().values() if "SENSORLOOP_CONFIG" in each.environment]
BROKERS = [each for name, each in services().items() if name.startswith("kafka-")]
TOML = (DOCKER / "sensorloop.toml").read_text(encoding="utf-8")


@pytest.fixture
def settings() -> Settings:
    """What a worker reads."""
    return load({"SENSORLOOP_HOME": "/var/lib/sensorloop", "SENSORLOOP_CONFIG": str(DOCKER / "sensorloop.toml")})


@pytest.mark.parametrize("service", OURS, ids=lambda each: each.name)
def test_who_reads_our_settings_finds_the_file_and_known_settings(service: Service) -> None:
    config = service.environment["SENSORLOOP_CONFIG"]
    assert service.files[config] == DOCKER / "sensorloop.toml"
    # An unknown section or key, and a variable that is none, are errors.
    loaded = load({**service.environment, "SENSORLOOP_CONFIG": str(service.files[config])})
    assert str(loaded.home) == service.environment["SENSORLOOP_HOME"]


def test_who_works_shares_a_home_and_has_the_secrets_of_the_settings() -> None:
    named = set(re.findall(rf"{SECRETS}/([\w.]+)", TOML))
    for name in ("worker", "gpu-worker"):
        assert services()[name].volumes["/var/lib/sensorloop"] == "home"
        assert named <= set(services()[name].secrets)
    ledger = {"mlflow_database_url"}
    assert named - ledger <= set(services()["ingest"].secrets), "ingestion needs no ledger"


def test_secrets_are_named_and_not_written(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="mlflow_database_url"):
        _ = settings.ledger_url
    (tmp_path / "url").write_text("postgresql+psycopg2://mlflow:secret@postgres:5432/mlflow", encoding="utf-8")
    elsewhere = load(
        {
            "SENSORLOOP_CONFIG": str(DOCKER / "sensorloop.toml"),
            "SENSORLOOP_REGISTRY__LEDGER_URL": f"file:{tmp_path / 'url'}",
        }
    )
    assert elsewhere.ledger_url.endswith("@postgres:5432/mlflow")
    assert settings.lake.s3_secret_access_key == f"file:{SECRETS}/s3_secret_key"
    assert load({"SENSORLOOP_CONFIG": "/dev/null"}).ledger_url.startswith("sqlite:///"), "a plain URL stays one"


def test_kafka_is_where_the_brokers_are(settings: Settings) -> None:
    listeners = [
        dict(re.findall(r"(\w+)://([\w.-]+:\d+)", each.environment["KAFKA_ADVERTISED_LISTENERS"])) for each in BROKERS
    ]
    assert settings.kafka.bootstrap_servers.split(",") == [each["CLIENT"] for each in listeners]
    protocols = dict(
        pair.split(":") for pair in BROKERS[0].environment["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(",")
    )
    assert set(protocols.values()) == {settings.kafka.security_protocol} == {"SSL"}, "nothing goes in the clear"
    with pytest.raises(SettingsError, match=r"kafka_ca\.pem"):
        client_options(settings.kafka)  # the certificates are looked for where the secrets are
    assert settings.kafka.partitions >= services()["ingest"].replicas, "a consumer more would have nothing to do"


def test_the_brokers_are_one_cluster_of_which_one_may_die() -> None:
    told = [each.environment for each in BROKERS]
    assert sorted(each["KAFKA_NODE_ID"] for each in told) == ["1", "2", "3"]
    for broker in BROKERS:
        node = broker.environment["KAFKA_NODE_ID"]
        assert f"{node}@{broker.name}:9093" in broker.environment["KAFKA_CONTROLLER_QUORUM_VOTERS"].split(",")
        listening = dict(re.findall(r"(\w+)://0\.0\.0\.0:(\d+)", broker.environment["KAFKA_LISTENERS"]))
        assert {int(port) for port in listening.values()} == set(broker.ports)
        advertised = dict(re.findall(r"(\w+)://[\w.-]+:(\d+)", broker.environment["KAFKA_ADVERTISED_LISTENERS"]))
        assert advertised["CLIENT"] == listening["CLIENT"]
        assert broker.published == {int(advertised["OUTSIDE"]): int(listening["OUTSIDE"])}
        # The image would look for a password file of a listener that is called so.
        assert "SSL://" not in broker.environment["KAFKA_ADVERTISED_LISTENERS"]
    common = [
        {k: v for k, v in each.items() if k not in {"KAFKA_NODE_ID", "KAFKA_ADVERTISED_LISTENERS"}} for each in told
    ]
    assert common[0] == common[1] == common[2]
    for name in ("DEFAULT", "OFFSETS_TOPIC", "TRANSACTION_STATE_LOG"):
        assert common[0][f"KAFKA_{name}_REPLICATION_FACTOR"] == "3"
    assert common[0]["KAFKA_MIN_INSYNC_REPLICAS"] == "2"
    assert common[0]["KAFKA_SSL_CLIENT_AUTH"] == "required"


def test_kafka_reads_its_variables_as_its_image_would() -> None:
    text = properties(
        {
            "KAFKA_LOG_DIRS": "/var/lib/kafka/data",
            "KAFKA_A_B": "1",
            "KAFKA_A__B___C": "2",
            "KAFKA_HEAP_OPTS": "-Xmx1g",
            "PATH": "/bin",
        },
        data="data",
    )
    lines = text.splitlines()
    assert {"a.b=1", "a_b-c=2", "log.dirs=data"} <= set(lines)
    assert not [line for line in lines if "heap" in line or "path" in line.lower()]


def test_the_store_and_its_buckets_are_those_that_are_used(settings: Settings) -> None:
    assert settings.lake.s3_endpoint == services()["buckets"].environment["AWS_ENDPOINT_URL"]
    assert settings.lake.s3_endpoint == services()["mlflow"].environment["MLFLOW_S3_ENDPOINT_URL"]
    buckets = services()["buckets"].command[2:]
    used = {settings.lake.uri, *re.findall(r"s3://[\w-]+", " ".join(services()["mlflow"].command))}
    assert {uri.split("/")[2] for uri in used} == set(buckets)
    script = (DOCKER / "secrets.sh").read_text(encoding="utf-8")
    assert f'"accessKey": "{settings.lake.s3_access_key_id}"' in script


def test_mlflow_answers_to_the_name_that_it_is_called_by(settings: Settings) -> None:
    address = settings.registry.tracking_uri.removeprefix("http://")
    command = " ".join(services()["mlflow"].command)
    assert address in re.search(r"--allowed-hosts (\S+)", command)[1].split(",")  # type: ignore[index]
    assert f"--port {address.split(':')[1]}" in command
    assert "--serve-artifacts" in command


def test_metrics_are_served_where_they_are_asked_for() -> None:
    ingest = services()["ingest"]
    settings = load({**ingest.environment, "SENSORLOOP_CONFIG": str(DOCKER / "sensorloop.toml")})
    assert ingest.ports == (settings.ingest.metrics_port,)
    assert settings.ingest.metrics_host == "0.0.0.0"  # noqa: S104 - Prometheus is another container


def test_nobody_is_ended_sooner_than_it_needs(settings: Settings) -> None:
    grace = {name: _seconds(each.get("stop_grace_period", "10s")) for name, each in raw()["services"].items()}
    assert grace["ingest"] > settings.ingest.stop_within
    for name in ("worker", "gpu-worker"):
        assert grace[name] > settings.retrain.grace


def test_redis_hands_nothing_out_again_that_still_trains(settings: Settings) -> None:
    for service in AIRFLOW:
        seconds = int(service.environment["AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT"])
        assert timedelta(seconds=seconds) > max(settings.retrain.finetune_timeout, settings.retrain.rescore_timeout)


def test_every_queue_of_a_dag_has_a_worker_and_every_pool_is_made() -> None:
    queues, pools = {services()["scheduler"].environment["AIRFLOW__OPERATORS__DEFAULT_QUEUE"]}, set()
    for path in (REPOSITORY / "dags").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.keyword)
                and isinstance(node.value, ast.Constant)
                and isinstance(node.value.value, str)
            ):
                queues |= {node.value.value} if node.arg == "queue" else set()
                pools |= {node.value.value} if node.arg == "pool" else set()
    served = [
        each.command[each.command.index("--queues") + 1].split(",") for each in AIRFLOW if "--queues" in each.command
    ]
    assert queues == {"default", "gpu"}
    assert queues <= {queue for some in served for queue in some}
    init = (DOCKER / "airflow" / "init.sh").read_text(encoding="utf-8")
    assert pools == set(re.findall(r"airflow pools set (\w+)", init)) == {standalone.POOL}


def test_the_gpu_worker_has_a_gpu_and_nobody_else() -> None:
    with_gpu = [
        name
        for name, each in raw()["services"].items()
        if "devices" in each.get("deploy", {}).get("resources", {}).get("reservations", {})
    ]
    assert with_gpu == ["gpu-worker"]


def test_all_of_airflow_is_told_the_same() -> None:
    own = {"AIRFLOW__API__BASE_URL"}
    told = [
        {k: v for k, v in each.environment.items() if k.startswith("AIRFLOW__") and k not in own} for each in AIRFLOW
    ]
    assert len(told) == 7
    assert all(each == told[0] for each in told)
    server = services()["api-server"]
    assert told[0]["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == f"http://api-server:{server.ports[0]}/execution/"
    assert server.command[server.command.index("--port") + 1] == str(server.ports[0])
    logs = told[0]["AIRFLOW__LOGGING__BASE_LOG_FOLDER"]
    assert {each.volumes[logs] for each in AIRFLOW} == {"airflow-logs"}, "the API server shows the workers' logs"


def _options() -> dict[tuple[str, str], bool]:
    """(Section, option) → whether it is a secret, of Airflow and its providers, without importing Airflow."""
    found: dict[str, dict[str, Any]] = {}
    (core,) = find_spec("airflow").submodule_search_locations or ()  # type: ignore[union-attr]
    found |= yaml.safe_load((Path(core) / "config_templates" / "config.yml").read_text(encoding="utf-8"))
    for provider in ("celery", "fab"):
        file = Path(core) / "providers" / provider / "get_provider_info.py"
        scope: dict[str, Any] = {}
        exec(compile(file.read_text(encoding="utf-8"), str(file), "exec"), scope)  # noqa: S102 - a function that returns a dictionary
        for section, values in scope["get_provider_info"]()["config"].items():
            found.setdefault(section, {"options": {}})["options"] |= values["options"]
    return {
        (section, option): bool(about.get("sensitive"))
        for section, each in found.items()
        for option, about in each["options"].items()
    }


def test_airflow_knows_every_option() -> None:
    options = _options()
    for service in AIRFLOW:
        for name in service.environment:
            if not name.startswith("AIRFLOW__"):
                continue
            section, _, option = name.removeprefix("AIRFLOW__").lower().partition("__")
            if option.endswith("_cmd"):
                assert options[section, option.removesuffix("_cmd")], f"{name}: Airflow reads _CMD of secrets only"
            else:
                assert (section, option) in options, name
                assert not options[section, option], f"{name} is a secret, and stands in the file"


def _seconds(text: str) -> timedelta:
    number, unit = re.fullmatch(r"(\d+)([sm])", text).groups()  # type: ignore[union-attr]
    return timedelta(seconds=int(number) * {"s": 1, "m": 60}[unit])
