"""What Airflow on this machine is told: its folder, its secrets, its configuration file and its environment.

Everything is in ``<home>/airflow``; with ``AIRFLOW_HOME`` pointing there, Airflow's own command line works on it too.
"""

from __future__ import annotations

import configparser
import io
import json
import os
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import dags
from dags.orchestration import AirflowSettings

USER = "admin"
"""The one user of a local Airflow."""

_DAGS = Path(dags.__file__).parent
_BUNDLE = "sensorloop"
_CONFIGURATION = "airflow.cfg"
_PASSWORDS = "passwords.json"
_SECRETS = "secrets.json"
_LOOPBACK = "127.0.0.1,localhost,::1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Secrets:
    """What must not be guessed, made once for each folder."""

    password: str
    """Of the user :data:`USER`."""
    jwt_secret: str
    """Signs the tokens of users and of tasks."""
    secret_key: str
    """Signs the server's own cookies."""
    fernet_key: str
    """Encrypts connections and variables in Airflow's database."""


def folder(home: Path) -> Path:
    """Where Airflow lives below SENSORLOOP_HOME."""
    return home.absolute() / "airflow"


def database(home: Path) -> Path:
    """Airflow's own SQLite database."""
    return folder(home) / "airflow.db"


def password_file(home: Path) -> Path:
    """Where the password of :data:`USER` is, as Airflow reads it."""
    return folder(home) / _PASSWORDS


def database_url(path: Path) -> str:
    """Its SQLAlchemy URL. Five processes share it: each waits for the others' writing rather than fail after five seconds."""
    return f"sqlite:///{path}?timeout=60"


def environment(home: Path, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of Airflow's processes, and so of the commands that its tasks run.

    Args:
        home: SENSORLOOP_HOME.
        environ: the caller's environment; ``os.environ`` if None. Whatever it says about another Airflow is left out: a
            local one must never touch the database of one that somebody works with.
    """
    environ = os.environ if environ is None else environ
    path = (str(_DAGS.parent), environ.get("PYTHONPATH", ""))
    # The tasks talk to the server on this machine; a proxy would not find it.
    direct = ",".join(filter(None, (environ.get("no_proxy") or environ.get("NO_PROXY"), _LOOPBACK)))
    return {
        **{name: value for name, value in environ.items() if not name.startswith("AIRFLOW")},
        "AIRFLOW_HOME": str(folder(home)),
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        "NO_PROXY": direct,
        "no_proxy": direct,
        # Tasks have another working folder than whoever started Airflow.
        "SENSORLOOP_HOME": str(home.absolute()),
        "SENSORLOOP_CONFIG": _settings_file(environ),
    }


def _settings_file(environ: Mapping[str, str]) -> str:
    """The caller's ``sensorloop.toml``; no file if there is none: to name one that is missing is an error."""
    path = Path(environ.get("SENSORLOOP_CONFIG") or "sensorloop.toml").absolute()
    return str(path) if environ.get("SENSORLOOP_CONFIG") or path.exists() else os.devnull


def write(home: Path, settings: AirflowSettings) -> Secrets:
    """Write the configuration, readable by its owner only; secrets are made the first time and kept.

    Returns:
        The secrets, for whoever wants to log in.
    """
    place = folder(home)
    place.mkdir(parents=True, exist_ok=True)
    known = _secrets(place / _SECRETS)
    # Airflow would make up a password itself, and print it into its log.
    _write_private(place / _PASSWORDS, json.dumps({USER: known.password}) + "\n")
    parser = configparser.ConfigParser(interpolation=None)
    parser.read_dict(_escaped(_options(home, settings, known)))
    text = io.StringIO("# Written at every start by sensorloop; change it in sensorloop.toml, section [airflow].\n")
    text.seek(0, io.SEEK_END)
    parser.write(text)
    _write_private(place / _CONFIGURATION, text.getvalue())
    return known


def read_secrets(home: Path) -> Secrets | None:
    """The secrets of an Airflow that has been set up; None if there is none."""
    path = folder(home) / _SECRETS
    return _secrets(path) if path.exists() else None


def url(settings: AirflowSettings) -> str:
    """Where pages and API are."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{settings.port}"


def _options(home: Path, settings: AirflowSettings, known: Secrets) -> dict[str, dict[str, str]]:
    place = folder(home)
    bundle = {"name": _BUNDLE, "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle", "kwargs": {}}
    return {
        "core": {
            "dags_folder": str(_DAGS),
            "executor": "LocalExecutor",
            "parallelism": str(settings.parallel_tasks),
            "load_examples": "False",
            "dags_are_paused_at_creation": "True",
            "simple_auth_manager_users": f"{USER}:admin",
            "simple_auth_manager_passwords_file": str(place / _PASSWORDS),
            "fernet_key": known.fernet_key,
            "execution_api_server_url": f"{url(settings)}/execution/",
            # The default asks the name server, which takes seconds on a machine without one.
            "hostname_callable": "socket.gethostname",
        },
        "database": {"sql_alchemy_conn": database_url(database(home))},
        "api": {
            "base_url": url(settings),
            "host": settings.host,
            "port": str(settings.port),
            "workers": "1",
            "secret_key": known.secret_key,
            "instance_name": "sensorloop",
        },
        "api_auth": {"jwt_secret": known.jwt_secret},
        "logging": {
            "base_log_folder": str(place / "logs"),
            "dag_processor_child_process_log_directory": str(place / "logs" / "dag_processor"),
        },
        "workers": {
            # A busy machine is slow to answer; tasks that give up after the usual five seconds make it busier.
            "execution_api_timeout": "30",
            # Also how late the end of a task's process may be noticed; the default is five.
            "min_heartbeat_interval": "2",
        },
        "scheduler": {
            # A task whose worker was killed: failed, and tried again, after two minutes instead of five.
            "task_instance_heartbeat_timeout": "120",
        },
        "dag_processor": {
            "dag_bundle_config_list": json.dumps([bundle]),
            "parsing_processes": "1",
            "min_file_process_interval": _seconds(settings.parse_interval),
            "refresh_interval": _seconds(settings.parse_interval),
        },
    }


def _escaped(options: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """A per cent sign would start an interpolation when Airflow reads the file."""
    return {
        section: {name: value.replace("%", "%%") for name, value in values.items()}
        for section, values in options.items()
    }


def _seconds(duration: timedelta) -> str:
    return str(max(1, round(duration.total_seconds())))


def _secrets(path: Path) -> Secrets:
    try:
        return Secrets(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        made = Secrets(
            password=secrets.token_urlsafe(12),
            jwt_secret=secrets.token_urlsafe(48),
            secret_key=secrets.token_urlsafe(32),
            fernet_key=urlsafe_b64encode(secrets.token_bytes(32)).decode("ascii"),
        )
        _write_private(path, json.dumps(asdict(made)) + "\n")
        return made


def _write_private(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.part")
    part.unlink(missing_ok=True)
    with open(part, "w", encoding="utf-8", opener=_private) as file:
        file.write(text)
    part.replace(path)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
