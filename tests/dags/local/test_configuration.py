"""What a local Airflow is told, and what it is not told."""

from __future__ import annotations

import configparser
import dataclasses
import json
import stat
from pathlib import Path

import pytest

from dags.local import configuration
from dags.orchestration import AirflowSettings

SETTINGS = AirflowSettings(port=28123)


def options(home: Path) -> configparser.ConfigParser:
    """The configuration as Airflow reads it."""
    parser = configparser.ConfigParser()
    parser.read(home / "airflow" / "airflow.cfg", encoding="utf-8")
    return parser


def test_an_airflow_of_somebody_elses_is_not_touched(tmp_path: Path) -> None:
    theirs = {
        "AIRFLOW_HOME": "/srv/airflow",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "postgresql://production",
        "AIRFLOW_CONN_LAKE": "s3://",
        "AIRFLOW_VAR_X": "1",
    }
    env = configuration.environment(tmp_path, {**theirs, "PATH": "/bin", "AWS_PROFILE": "lake"})
    assert {name: value for name, value in env.items() if name.startswith("AIRFLOW")} == {
        "AIRFLOW_HOME": str(tmp_path / "airflow")
    }
    assert env["PATH"] == "/bin"
    assert env["AWS_PROFILE"] == "lake"


def test_tasks_find_what_the_caller_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks run in another folder, so that nothing may be relative to the caller's."""
    monkeypatch.chdir(tmp_path)
    env = configuration.environment(Path("var"), {"SENSORLOOP_CONFIG": "my.toml", "SENSORLOOP_LAKE__URI": "s3://lake"})
    assert env["SENSORLOOP_HOME"] == str(tmp_path / "var")
    assert env["AIRFLOW_HOME"] == str(tmp_path / "var" / "airflow")
    assert env["SENSORLOOP_CONFIG"] == str(tmp_path / "my.toml")
    assert env["SENSORLOOP_LAKE__URI"] == "s3://lake"
    assert configuration.environment(Path("var"), {})["SENSORLOOP_CONFIG"] == "/dev/null", (
        "a missing file may not be named"
    )
    (tmp_path / "sensorloop.toml").touch()
    assert configuration.environment(Path("var"), {})["SENSORLOOP_CONFIG"] == str(tmp_path / "sensorloop.toml")


@pytest.mark.parametrize("name", ["no_proxy", "NO_PROXY"])
def test_a_proxy_is_not_asked_for_this_machine(tmp_path: Path, name: str) -> None:
    env = configuration.environment(tmp_path, {"https_proxy": "http://proxy:3128", name: "example.org"})
    assert env["no_proxy"] == env["NO_PROXY"] == "example.org,127.0.0.1,localhost,::1"


def test_the_package_is_found_first(tmp_path: Path) -> None:
    root = str(Path(__file__).parents[3])
    assert configuration.environment(tmp_path, {"PYTHONPATH": "/theirs"})["PYTHONPATH"] == f"{root}:/theirs"
    assert configuration.environment(tmp_path, {})["PYTHONPATH"] == root


def test_secrets_are_private_different_and_kept(tmp_path: Path) -> None:
    assert configuration.read_secrets(tmp_path) is None
    first = configuration.write(tmp_path, SETTINGS)
    again = configuration.write(tmp_path, dataclasses.replace(SETTINGS, port=28124))
    assert first == again == configuration.read_secrets(tmp_path)
    assert len(set(dataclasses.astuple(first))) == 4
    assert configuration.write(tmp_path / "other", SETTINGS) != first
    for file in (tmp_path / "airflow").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


def test_a_file_that_others_could_read_is_replaced(tmp_path: Path) -> None:
    place = tmp_path / "airflow"
    place.mkdir()
    for name in ("airflow.cfg", "passwords.json"):
        (place / name).write_text("{}", encoding="utf-8")
        (place / name).chmod(0o644)
    known = configuration.write(tmp_path, SETTINGS)
    assert stat.S_IMODE(configuration.password_file(tmp_path).stat().st_mode) == 0o600
    assert stat.S_IMODE((place / "airflow.cfg").stat().st_mode) == 0o600
    assert json.loads(configuration.password_file(tmp_path).read_text("utf-8")) == {"admin": known.password}


def test_airflow_listens_on_loopback_only_and_shows_our_dags_only(tmp_path: Path) -> None:
    configuration.write(tmp_path, SETTINGS)
    told = options(tmp_path)
    assert told["api"]["host"] == "127.0.0.1"
    assert told["api"]["port"] == "28123"
    assert told["core"]["execution_api_server_url"] == "http://127.0.0.1:28123/execution/"
    assert told["core"]["load_examples"] == "False"
    assert Path(told["core"]["dags_folder"]) == Path(__file__).parents[3] / "dags"
    assert [bundle["name"] for bundle in json.loads(told["dag_processor"]["dag_bundle_config_list"])] == ["sensorloop"]


def test_a_folder_may_have_any_name(tmp_path: Path) -> None:
    home = tmp_path / "100 % größer"
    configuration.write(home, SETTINGS)
    assert options(home)["logging"]["base_log_folder"] == str(home / "airflow" / "logs")


def test_an_address_of_the_new_kind() -> None:
    assert configuration.url(AirflowSettings(host="::1", port=1)) == "http://[::1]:1"
