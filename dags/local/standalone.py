"""Airflow on this machine: scheduler, DAG processor and API server, each a process of its own.

``airflow standalone`` would start the same from one process, and a triggerer besides, that nothing here needs; but it passes
on no signals, prints its password and says that it is ready by the clock. The protocol of :func:`start`, and the failure each
step prevents:

1. One starts at a time; a half-dead Airflow is ended first.
2. The database is made (or brought up to date) under another name and renamed when it is whole: a first start that is
   interrupted leaves nothing that the next would stumble over.
3. All processes start together, since each spends its first seconds importing.
4. It is ready when the API server says that scheduler and DAG processor are alive, and the pool ``gpu`` is there. If one of
   them ends before, that is the error, with the end of its log.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.metadata import version
from pathlib import Path

from dags.errors import AirflowError
from dags.local import configuration
from dags.local.airflow_api import AirflowApi
from dags.orchestration import AirflowSettings
from streaming import guard, ports, process
from streaming.errors import ServiceError

POOL = "gpu"
"""The pool whose slots are the fine-tuning runs at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Component:
    """A process of Airflow's."""

    name: str
    """Airflow's command."""
    options: tuple[str, ...] = ()
    """The command's."""
    grace: timedelta
    """Between SIGTERM and SIGKILL."""


_COMPONENTS = (
    # It would serve the tasks' logs on every network of this machine; the API server reads the files themselves.
    # Told to stop, it waits for running tasks, which may be hours: they are ended after the grace.
    _Component(name="scheduler", options=("--skip-serve-logs",), grace=timedelta(seconds=6)),
    _Component(name="dag-processor", grace=timedelta(seconds=6)),
    # Last, because it is asked whether all are well, and because tasks report to it when they end. It is done within a second;
    # what then takes five more is Python's tidying up.
    _Component(name="api-server", grace=timedelta(seconds=2)),
)
_API_SERVER = _COMPONENTS[-1]
_MIGRATION_TIMEOUT_S = 600
_MIGRATED = "airflow.db.version"


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalAirflow:
    """An Airflow that runs here."""

    url: str
    """Pages and API."""
    user: str
    """Who may log in."""
    password_file: Path
    """Where that user's password is; readable by its owner only."""
    started: bool
    """Whether it was started just now; False if it ran already."""
    since: datetime
    """When it was asked to start. What it says about a DAG from before that may be stale."""
    api: AirflowApi
    """A client that has logged in."""

    def memory_bytes(self) -> dict[str, int]:
        """Resident memory of each component with all it started, in bytes."""
        place = self.password_file.parent
        found = {part.name: process.find(_pid_file(place, part.name)) for part in _COMPONENTS}
        return {name: process.memory_bytes(running) for name, running in found.items() if running is not None}


def start(
    settings: AirflowSettings,
    *,
    home: Path,
    environ: Mapping[str, str] | None = None,
    die_with_parent: bool = False,
) -> LocalAirflow:
    """Start Airflow and wait until it is healthy; see the module.

    Args:
        settings: where it listens, how patient we are.
        home: SENSORLOOP_HOME; it lives in ``<home>/airflow``.
        environ: what its tasks inherit, see :func:`dags.local.configuration.environment`; ``os.environ`` if None.
        die_with_parent: whether it ends with the calling process.

    Raises:
        PortTaken: somebody else listens on its port.
        ServiceError: a component ended, or was not healthy in time; the message has the last lines of its log.
        AirflowError: its database cannot be made.
    """
    place = configuration.folder(home)
    since = datetime.now(UTC)
    with process.exclusive(place / "start.lock"):
        known = configuration.read_secrets(home)
        api = AirflowApi(configuration.url(settings), configuration.USER, known.password if known else "")
        running = [process.find(_pid_file(place, part.name)) is not None for part in _COMPONENTS]
        started = not (all(running) and api.healthy())
        if started:
            api.close()
            stop(home)
            ports.require_free(
                settings.host, settings.port, what="Airflow", setting="[airflow] port in sensorloop.toml"
            )
            prepare(settings, home=home, environ=environ)
            known = configuration.write(home, settings)
            api = AirflowApi(configuration.url(settings), configuration.USER, known.password)
            _start_all(settings, api, home=home, environ=environ, die_with_parent=die_with_parent, since=since)
        return LocalAirflow(
            url=configuration.url(settings),
            user=configuration.USER,
            password_file=configuration.password_file(home),
            started=started,
            since=since,
            api=api,
        )


def stop(home: Path) -> bool:
    """Stop Airflow with every task it runs.

    Returns:
        Whether any of it was running.
    """
    place = configuration.folder(home)
    stopped = [process.stop(_pid_file(place, part.name)) for part in _COMPONENTS]
    return any(stopped)


def prepare(settings: AirflowSettings, *, home: Path, environ: Mapping[str, str] | None = None) -> bool:
    """Write the configuration, and make the database or bring it up to date.

    :func:`start` does this, too; done beforehand, beside something else, it saves that time.

    Returns:
        Whether there was anything to do to the database.

    Raises:
        AirflowError: the database cannot be made.
    """
    configuration.write(home, settings)
    place, database = configuration.folder(home), configuration.database(home)
    marker, current = place / _MIGRATED, version("apache-airflow-core")
    if database.exists() and marker.exists() and marker.read_text(encoding="ascii") == current:
        return False
    part = database.with_name(f"{database.name}.part")
    part.unlink(missing_ok=True)
    if database.exists():
        with closing(sqlite3.connect(database)) as old, closing(sqlite3.connect(part)) as new:
            old.backup(new)
    env = configuration.environment(home, environ)
    _migrate({**env, "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": configuration.database_url(part)}, place / "migrate.log")
    with closing(sqlite3.connect(part)) as new:
        new.execute("PRAGMA journal_mode=WAL")  # readers and a writer do not wait for each other; the file remembers it
    for leftover in ("-wal", "-shm"):
        database.with_name(database.name + leftover).unlink(missing_ok=True)
    part.replace(database)
    marker.write_text(current, encoding="ascii")
    return True


def _start_all(
    settings: AirflowSettings,
    api: AirflowApi,
    *,
    home: Path,
    environ: Mapping[str, str] | None,
    die_with_parent: bool,
    since: datetime,
) -> None:
    place = configuration.folder(home)
    env = configuration.environment(home, environ)
    with ExitStack() as undo:
        for part in _COMPONENTS:
            service = process.Service(
                name=f"Airflow's {part.name}",
                argv=(sys.executable, "-m", "airflow", part.name, *part.options),
                log=_log(place, part.name),
                pid_file=_pid_file(place, part.name),
                env=env,
                cwd=place,
                grace=part.grace,
                die_with_parent=die_with_parent,
            )
            ready = partial(_all_healthy, api, place, since) if part is _API_SERVER else _at_once
            process.start(service, ready=ready, timeout=settings.startup_timeout)
            undo.callback(process.stop, service.pid_file)
        api.set_pool(POOL, settings.gpu_slots, "Fine-tuning runs at a time.")
        undo.pop_all()


def _at_once() -> bool:
    return True


def _all_healthy(api: AirflowApi, place: Path, since: datetime) -> bool:
    for part in _COMPONENTS[:-1]:
        if process.find(_pid_file(place, part.name)) is None:
            log = _log(place, part.name)
            msg = f"Airflow's {part.name} ended before it was healthy. The end of {log}:\n{process.log_tail(log)}"
            raise ServiceError(msg)
    return api.healthy(since) and api.serves_tasks()


def _pid_file(place: Path, name: str) -> Path:
    return place / f"{name}.pid"


def _log(place: Path, name: str) -> Path:
    return place / "logs" / f"{name}.log"


def _migrate(env: Mapping[str, str], log: Path) -> None:
    guarded = (sys.executable, "-P", guard.__file__, str(os.getpid()), "5", "--")
    with log.open("wb") as file:
        done = subprocess.run(
            (*guarded, sys.executable, "-m", "airflow", "db", "migrate"),
            env=dict(env),
            cwd=log.parent,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            timeout=_MIGRATION_TIMEOUT_S,
            check=False,
        )
    if done.returncode:
        msg = f"Airflow's database cannot be set up. The end of {log}:\n{process.log_tail(log)}"
        raise AirflowError(msg)
