"""docker/compose.yaml as a whole: it is what Compose takes, nothing of it is anybody's default, and everything fits together."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dags.local.compose import SECRETS, Service
from dags.local.here import REPOSITORY
from streaming.artifacts import read_pins
from tests.docker.cluster import DOCKER, IMAGE, VARIABLES, raw, said, scripts, services

EVERY = pytest.mark.parametrize("service", services().values(), ids=lambda each: each.name)
_SHELL_VARIABLE = re.compile(r"\$\{?([A-Za-z_]\w*)")
_BY_THE_ENGINE = frozenset({"HOSTNAME"})
"""Variables that every container has."""


def _compose() -> tuple[str, ...] | None:
    """A Docker Compose that this machine has."""
    for command in (("docker", "compose"), ("docker-compose",)):
        if shutil.which(command[0]):
            tried = subprocess.run((*command, "version"), capture_output=True, check=False)
            if not tried.returncode:
                return command
    return None


def test_compose_takes_it(tmp_path: Path) -> None:
    command = _compose()
    if command is None:
        pytest.skip("No Docker Compose. To have this checked, type: sudo apt-get install docker-compose")
    (tmp_path / "env").write_text("".join(f"{name}={value}\n" for name, value in VARIABLES.items()), encoding="utf-8")
    options = ("--file", str(DOCKER / "compose.yaml"), "--env-file", str(tmp_path / "env"))
    done = subprocess.run((*command, *options, "config"), capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for name in services():
        assert f"  {name}:" in done.stdout


@EVERY
def test_versions_are_pinned(service: Service) -> None:
    name, _, tag = service.image.rpartition(":")
    assert name, f"{service.image} has no tag"
    assert re.match(r"v?\d+\.\d+", tag), f"{service.image} is no version"


def test_the_brokers_are_the_kafka_that_is_tested() -> None:
    assert {each.image for name, each in services().items() if name.startswith("kafka-")} == {
        f"apache/kafka:{read_pins().kafka}"
    }


@EVERY
def test_nobody_is_root(service: Service) -> None:
    uid = service.user.split(":")[0]
    assert uid.isdigit(), f"user is {service.user!r}: a number, which no image can take for another"
    assert int(uid) > 0
    assert raw()["services"][service.name]["cap_drop"] == ["ALL"]


@EVERY
def test_who_stays_has_a_health_check_and_who_ends_has_none(service: Service) -> None:
    assert service.once != bool(service.health)


@EVERY
def test_who_is_waited_for_can_become_that(service: Service) -> None:
    for other, condition in service.after.items():
        awaited = services()[other]
        assert condition == ("service_completed_successfully" if awaited.once else "service_healthy"), other


@EVERY
def test_every_secret_that_is_read_is_given_and_no_other(service: Service) -> None:
    programs = "\n".join(
        (said(service), *(text for name, text in scripts(service).items() if not name.endswith(".toml")))
    )
    programs = programs.replace(
        "${name}_database_password", f"airflow_database_password {SECRETS}/mlflow_database_password"
    )
    read = set(re.findall(rf"{SECRETS}/([\w.]+)", programs))
    assert read <= set(service.secrets), "read, and not given"
    # Of sensorloop.toml a process reads what it needs; test_settings.py says what that is.
    named = set(re.findall(rf"{SECRETS}/([\w.]+)", "\n".join(scripts(service).values())))
    assert set(service.secrets) <= read | named, "given, and never read"


@EVERY
def test_no_secret_stands_in_the_file(service: Service) -> None:
    for name, value in service.environment.items():
        if re.search(r"PASSWORD|SECRET|_KEY(_|$)|TOKEN|CONN|BROKER_URL|RESULT_BACKEND|CREDENTIALS", name):
            assert f"{SECRETS}/" in value, f"{name} = {value}"
    assert not re.search(r"(?i)password\s*[=:]\s*\w", said(service))


@EVERY
def test_every_address_is_somebody_who_listens_there(service: Service) -> None:
    everything = "\n".join((said(service), *scripts(service).values()))
    names = "|".join(map(re.escape, services()))
    for host, port in re.findall(rf"(?<![\w.-])({names}):(\d{{2,5}})\b", everything):
        assert int(port) in services()[host].ports, f"{host}:{port}"
    for port in re.findall(r"localhost[:/](\d{2,5})\b", said(service)):
        assert int(port) in {*service.ports, *service.published}, f"localhost:{port}"


def test_published_ports_are_listened_to_by_one_and_only_seen_here() -> None:
    taken: dict[int, str] = {}
    for service in services().values():
        for outside, inside in service.published.items():
            assert inside in service.ports
            assert taken.setdefault(outside, service.name) == service.name
    for name, values in raw()["services"].items():
        for text in values.get("ports", ()):
            assert text.startswith("${BIND:-127.0.0.1}:"), f"{name} is open to every network"


def test_volumes_are_declared_and_used() -> None:
    used = {name for each in services().values() for name in each.volumes.values()}
    assert used == set(raw()["volumes"])
    alone = [
        name for each in services().values() for name in each.volumes.values() if name not in {"home", "airflow-logs"}
    ]
    assert len(alone) == len(set(alone)), "two services with one volume"


@EVERY
def test_what_is_mounted_is_there(service: Service) -> None:
    for source in service.files.values():
        assert source.exists(), source
        assert source.is_relative_to(REPOSITORY)
    for path in re.findall(rf"{IMAGE}/([\w./-]+)", said(service)):
        assert (REPOSITORY / path).exists(), path


@EVERY
def test_every_variable_that_a_shell_reads_is_set(service: Service) -> None:
    texts = {name: text for name, text in scripts(service).items() if name.endswith(".sh")}
    texts |= {"command": " ".join(service.command), "health check": " ".join(service.health)}
    for name, text in texts.items():
        made = set(re.findall(r"\b([A-Za-z_]\w*)=", text)) | set(re.findall(r"\bfor (\w+) in\b", text))
        code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
        missing = set(_SHELL_VARIABLE.findall(code)) - made - set(service.environment) - _BY_THE_ENGINE
        assert not missing, f"{name} of {service.name} reads {missing}"


def test_every_variable_of_the_file_has_a_default_or_is_made() -> None:
    text = (DOCKER / "compose.yaml").read_text(encoding="utf-8")
    bare = set(re.findall(r"(?<!\$)\$\{(\w+)(?!:-)[:?}]", text))
    made = set(re.findall(r"\\n(\w+)=%s", (DOCKER / "secrets.sh").read_text(encoding="utf-8")))
    assert bare == set(VARIABLES)
    assert bare <= made
