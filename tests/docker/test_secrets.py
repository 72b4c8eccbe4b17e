"""docker/secrets.sh, run: everything that compose.yaml wants is made, once, and nobody else may read it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.fernet import Fernet
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from dags.local.here import REPOSITORY
from tests.docker.cluster import DOCKER, raw, services

NOT_MOUNTED = {"kafka_ca.key"}
"""Signs further certificates; no container needs it."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything."""
    folder = tmp_path_factory.mktemp("docker")
    _make(folder, KAFKA_HOST="phones.example.org")
    return folder


def _make(folder: Path, **environ: str) -> None:
    subprocess.run(
        (str(DOCKER / "secrets.sh"), str(folder)),
        check=True,
        capture_output=True,
        env={"PATH": "/usr/bin:/bin", **environ},
    )


def test_all_that_is_mounted_is_made_and_nothing_else(made: Path) -> None:
    wanted = {Path(each["file"]) for each in raw()["secrets"].values()}
    assert {path.parent for path in wanted} == {Path("secrets")}
    assert {path.name for path in wanted} == set(raw()["secrets"])
    assert {path.name for path in (made / "secrets").iterdir()} == {path.name for path in wanted} | NOT_MOUNTED
    assert set(raw()["secrets"]) == {name for each in services().values() for name in each.secrets}


def test_only_containers_can_read_them(made: Path) -> None:
    assert (made / "secrets").stat().st_mode & 0o777 == 0o700
    assert (made / ".env").stat().st_mode & 0o077 == 0
    modes = {path.name: path.stat().st_mode & 0o777 for path in (made / "secrets").iterdir()}
    assert modes.pop("kafka_ca.key") == 0o400
    assert set(modes.values()) == {0o444}


def test_git_does_not_take_them() -> None:
    for path in ("docker/secrets/postgres_password", "docker/.env"):
        assert subprocess.run(("git", "check-ignore", "-q", path), cwd=REPOSITORY, check=False).returncode == 0, path


def test_a_second_run_changes_nothing_and_a_removed_one_is_made_anew(tmp_path: Path) -> None:
    _make(tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / "secrets").iterdir()} | {
        ".env": (tmp_path / ".env").read_bytes()
    }
    (tmp_path / "secrets" / "grafana_admin_password").unlink()
    _make(tmp_path)
    after = {path.name: path.read_bytes() for path in (tmp_path / "secrets").iterdir()} | {
        ".env": (tmp_path / ".env").read_bytes()
    }
    assert after.keys() == before.keys()
    assert {name for name in before if before[name] != after[name]} == {"grafana_admin_password"}


def test_two_installations_share_nothing(made: Path, tmp_path: Path) -> None:
    _make(tmp_path)
    for path in (made / "secrets").iterdir():
        assert path.read_bytes() != (tmp_path / "secrets" / path.name).read_bytes(), path.name
    assert (made / ".env").read_bytes() != (tmp_path / ".env").read_bytes()


def test_they_are_what_their_readers_take(made: Path) -> None:
    def read(name: str) -> str:
        return (made / "secrets" / name).read_text(encoding="utf-8")

    Fernet(read("airflow_fernet_key"))
    assert re.fullmatch(
        r"[\w-]{22}", re.search(r"^KAFKA_CLUSTER_ID=(.*)$", (made / ".env").read_text("utf-8"), re.MULTILINE)[1]
    )  # type: ignore[index]
    for name in raw()["secrets"]:
        assert read(name).endswith("\n") == name.startswith("kafka_"), (
            f"{name}: who reads it may take the newline for a part"
        )
    for name in ("postgres_password", "redis_password", "airflow_admin_password", "airflow_jwt_secret"):
        assert len(read(name)) >= 48, name
    for url, password in (
        ("airflow_database_url", "airflow_database_password"),
        ("mlflow_database_url", "mlflow_database_password"),
    ):
        assert f":{read(password)}@postgres:5432/" in read(url)
    assert f">{read('redis_password')} " in read("redis_acl")
    assert read("celery_broker_url") == f"redis://:{read('redis_password')}@redis:6379/0"
    for name in ("s3_config.json", "s3_credentials"):
        assert read("s3_secret_key") in read(name)


def test_the_certificates_are_for_the_brokers_and_for_us(made: Path) -> None:
    authority = x509.load_pem_x509_certificate((made / "secrets" / "kafka_ca.pem").read_bytes())
    broker_pem = (made / "secrets" / "kafka_broker.pem").read_bytes()
    broker, *rest = x509.load_pem_x509_certificates(broker_pem)
    assert rest == [authority]
    client = x509.load_pem_x509_certificate((made / "secrets" / "kafka_client.pem").read_bytes())
    for certificate, name in ((broker, "CN=kafka"), (client, "CN=sensorloop")):
        certificate.verify_directly_issued_by(authority)
        assert certificate.subject.rfc4514_string() == name
        assert name in services()["kafka-1"].environment["KAFKA_SUPER_USERS"]
    names = broker.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
        x509.DNSName
    )
    brokers = {name for name in services() if name.startswith("kafka-")}
    assert set(names) == brokers | {"localhost", "phones.example.org"}
    key = serialization.load_pem_private_key((made / "secrets" / "kafka_client.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.public_key() == client.public_key()
    assert serialization.load_pem_private_key(broker_pem, None).public_key() == broker.public_key()
