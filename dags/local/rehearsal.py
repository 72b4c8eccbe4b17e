"""The cluster of ``docker/compose.yaml``, rehearsed on one machine: what ``make rehearse`` runs.

Everything that the file starts is started here too, without containers: three brokers with TLS, PostgreSQL and Redis from Debian's
packages, an S3 store, MLflow on PostgreSQL, Airflow with Celery and a worker each on the queues ``default`` and ``gpu``, and
several consumers. Then a small fleet is sent, an original model trained, and the DAG ``retrain`` run to its verdict. At the end
everything is stopped, and all but the logs and the summary removed. Prometheus and Grafana are left out.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console

from dags.errors import DagError
from dags.local import compose, debian, kills
from dags.local.airflow_api import AirflowApi
from dags.local.here import REPOSITORY, Here
from dags.local.processes import Processes
from dags.local.stage import COHORTS, DAG, Stage, retrain
from dags.settings import load
from dags.terminal import EXIT_FINAL, fail
from dags.whole import whole
from registry.errors import RegistryError
from streaming import process
from streaming.errors import StreamingError
from streaming.status import Observer
from training.errors import TrainingError

_LEFT_OUT = ("prometheus", "grafana")
_START_TIMEOUT = timedelta(minutes=20)
_INGEST_TIMEOUT = timedelta(minutes=10)
_SAMPLE_S = 10.0
_CONSUMERS = 2
_ADMIN = "admin"


@dataclass(kw_only=True, slots=True)
class _Rehearsal(Stage):
    """One run."""

    processes: Processes | None = None
    most: dict[str, int] = field(default_factory=dict)
    """Memory of each service when all together took the most, in bytes."""
    sampled: float = 0.0

    @property
    def environ(self) -> dict[str, str]:
        """That of a worker: who types a command in the cluster types it there."""
        if self.processes is None:
            return {**os.environ, "SENSORLOOP_CONFIG": os.devnull}
        return self.processes.here.environment(self.processes.services["worker"])

    def sample(self) -> None:
        """Note how much memory is in use, every now and then."""
        if self.processes is not None and time.monotonic() - self.sampled >= _SAMPLE_S:
            self.sampled = time.monotonic()
            now = self.processes.memory_bytes()
            if sum(now.values()) > sum(self.most.values()):
                self.most = now

    def sleep(self, seconds: float) -> None:
        """Wait, and sample."""
        self.sample()
        time.sleep(seconds)


def run(*, home: Path, size: float, arms: tuple[str, ...], kill: bool) -> dict[str, Any]:
    """Rehearse.

    Args:
        home: SENSORLOOP_HOME; the rehearsal is in ``<home>/rehearsal``.
        size: of the simulated fleets.
        arms: which arms are trained.
        kill: whether to go on with kills, see :mod:`dags.local.kills`.

    Returns:
        What came of it; also in ``<home>/rehearsal/summary.json``.

    Raises:
        DagError: something is missing on this machine, or a step did not work.
    """
    stage = _Rehearsal(place=home / "rehearsal", console=Console(stderr=True, highlight=False))
    if any(character.isspace() for character in str(stage.place)):
        msg = f"{stage.place} has blanks in it, which the shell of a health check would not survive: choose another SENSORLOOP_HOME."
        raise DagError(msg)
    begin = time.monotonic()
    with process.exclusive(home / "rehearsal.lock"), _room(stage.place):
        with stage.step("packages", "What is here"):
            programs = debian.find()
            stage.console.print(f"PostgreSQL in {programs.postgres}, run as {programs.user or 'ourselves'}; Redis.")
        with stage.step("fleets", "Phones"):
            folders, careful = _fleets(stage, size)
        with process.stack() as services:
            with stage.step("cluster", "The services of docker/compose.yaml"):
                stage.processes = processes = _processes(stage, programs, careful)
                services.callback(processes.stop)
                processes.start(_START_TIMEOUT)
            with stage.step("ingestion", f"Ingestion, {_CONSUMERS} consumers"):
                account = _ingest(stage, folders)
            with stage.step("original", "Original model"):
                original = stage.command("train", "original", "--cohort", COHORTS[0])
                stage.sample()
            with stage.step("retrain", "Airflow runs the DAG 'retrain' on its workers"):
                answers, tasks = _retrain(stage, processes, arms)
            killed = []
            if kill:
                with stage.step("kills", "kill -9 in the middle of fine-tuning"):
                    killed = _kill(stage, processes, arms, answers, tasks)
            with stage.step("history", "The ledger"):
                ledger = stage.command("registry", "verify")
            stage.console.rule("[bold]Stopping", align="left")
        found = _summary(stage, account, original, answers, tasks) | {"ledger": ledger, "kills": killed}
        found["minutes"] = round((time.monotonic() - begin) / 60, 1)
        with whole(stage.place / "summary.json") as partial:
            partial.write_text(json.dumps(found, indent=2, ensure_ascii=False), encoding="utf-8")
        _show(stage, found)
    return found


@contextmanager
def _room(place: Path) -> Iterator[None]:
    """An empty place; what an earlier one left running is ended, and at the end only logs and summary stay."""
    for left in sorted((place / "pids").glob("*.pid")) if place.exists() else ():
        process.stop(left)
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    try:
        yield
    finally:
        for folder in ("volumes", "secrets", "files", "own", "fleets", "pids"):
            shutil.rmtree(place / folder, ignore_errors=True)
        (place / ".env").unlink(missing_ok=True)


def _fleets(stage: _Rehearsal, size: float) -> tuple[list[Path], list[str]]:
    folders = [stage.place / "fleets" / cohort for cohort in COHORTS]
    made = [
        stage.command("simulate", str(folder), "--fleet", cohort, "--size", str(size))
        for folder, cohort in zip(folders, COHORTS, strict=True)
    ]
    return folders, list(made[1]["careful"])


def _processes(stage: _Rehearsal, programs: debian.Programs, careful: list[str]) -> Processes:
    """The services, with secrets of their own and ports that were free."""
    subprocess.run((str(REPOSITORY / "docker" / "secrets.sh"), str(stage.place)), check=True, stderr=subprocess.DEVNULL)
    lines = (stage.place / ".env").read_text(encoding="utf-8").splitlines()
    variables = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    variables |= {"INGEST_REPLICAS": str(_CONSUMERS)}
    services = {name: each for name, each in compose.read(variables=variables).items() if name not in _LEFT_OUT}
    extra = {
        # The target's careful people are what a fleet's owner would hold out: their labels are right.
        "SENSORLOOP_DATA__HOLDOUT_SUBJECTS": json.dumps(careful),
        "SENSORLOOP_RETRAIN__SCHEDULE": '""',
        # Of what is killed nobody needs to get well first.
        "SENSORLOOP_RETRAIN__RETRY_DELAY": "5",
        # A whole network would take a processor without a GPU several times as long, and rehearse nothing more.
        "SENSORLOOP_FINETUNE__TRAINABLE": os.environ.get("SENSORLOOP_FINETUNE__TRAINABLE", "block"),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }
    here = Here(services, place=stage.place, extra=extra)
    here.lay_out()

    def say(text: str) -> None:
        stage.console.print(f"  {text}")

    return Processes(services=services, here=here, place=stage.place, programs=programs, say=say)


def _ingest(stage: _Rehearsal, folders: list[Path]) -> dict[str, Any]:
    """Send the recordings, wait until the consumers have read them, and account for every sample.

    Raises:
        DagError: they were not read in time, or not all of them arrived.
    """
    for folder in folders:
        stage.command("replay", str(folder))
    settings = load(stage.environ)
    deadline = time.monotonic() + _INGEST_TIMEOUT.total_seconds()
    observer = Observer(settings.kafka, settings.lake)
    try:
        with stage.console.status("The consumers read"):
            while (lag := observer.look().lag) > 0:
                if time.monotonic() > deadline:
                    msg = f"After {_INGEST_TIMEOUT} {lag} records are not in the lake: see {stage.place}/logs/ingest-1.log."
                    raise DagError(msg)
                stage.sleep(1)
    finally:
        observer.close()
    account = stage.command("lake", "account", *map(str, folders))
    if account["lost"] or account["doubled"]:
        msg = f"{account['lost']} samples are lost and {account['doubled']} doubled."
        raise DagError(msg)
    return account


@contextmanager
def _airflow(stage: _Rehearsal, processes: Processes) -> Iterator[tuple[AirflowApi, str]]:
    """Airflow's API, and where it is."""
    url = f"http://127.0.0.1:{processes.here.port('api-server', 8080)}"
    password = (stage.place / "secrets" / "airflow_admin_password").read_text(encoding="utf-8")
    with AirflowApi(url, _ADMIN, password) as api:
        yield api, url


def _conf(arms: tuple[str, ...]) -> dict[str, Any]:
    return {"cohort": COHORTS[1], "force": True, "arms": list(arms)}


def _retrain(
    stage: _Rehearsal, processes: Processes, arms: tuple[str, ...]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    with _airflow(stage, processes) as (api, url):
        api.wait_for_dag(DAG)
        api.unpause(DAG)
        return retrain(stage, api, url, conf=_conf(arms), note="Triggered by the rehearsal.", sleep=stage.sleep)


def _kill(
    stage: _Rehearsal,
    processes: Processes,
    arms: tuple[str, ...],
    answers: dict[str, Any],
    tasks: list[dict[str, Any]],
) -> list[dict[str, Any]]:
    folder = Path(answers["finetune"]["results"]).parent
    with _airflow(stage, processes) as (api, url):
        found = kills.rehearse(
            stage, processes, api, url, conf=_conf(arms), undisturbed=(folder, tasks), sleep=stage.sleep
        )
    return [dataclasses.asdict(each) for each in found]


def _summary(
    stage: _Rehearsal,
    account: dict[str, Any],
    original: dict[str, Any],
    answers: dict[str, Any],
    tasks: list[dict[str, Any]],
) -> dict[str, Any]:
    promoted = answers["promote"]
    return {
        "samples": {name: account[name] for name in ("sent", "lost", "doubled")},
        "source_accuracy": original["source_accuracy"],
        "tasks": [
            {name: task[name] for name in ("task_id", "queue", "state", "try_number", "hostname")} for task in tasks
        ],
        "verdict": {"passed": promoted["passed"], "reasons": promoted["reasons"], "champion": promoted["champion"]},
        "seconds": dict(stage.seconds),
        "memory_mib": {name: round(size / 2**20) for name, size in stage.most.items()},
    }


def _show(stage: _Rehearsal, found: dict[str, Any]) -> None:
    say = stage.console.print
    stage.console.rule("[bold]Summary", align="left")
    samples, verdict = found["samples"], found["verdict"]
    say(f"Samples   {samples['sent']:,} sent, {samples['lost']} lost, {samples['doubled']} doubled")
    for task in found["tasks"]:
        say(f"Task      {task['task_id']} on queue {task['queue']}: {task['state']}")
    for each in found["kills"]:
        say(
            f"Killed    {each['victim']}: {each['tries']} tries, {each['arms']} arms with the same weights as undisturbed"
        )
    say(f"Verdict   [bold]{'passed' if verdict['passed'] else 'refused'}")
    for reason in verdict["reasons"]:
        say(f"          {reason}")
    say(f"Champion  {verdict['champion'] or '–'}")
    memory = found["memory_mib"]
    say(f"Memory    {sum(memory.values()) / 1024:.1f} GiB: {', '.join(f'{k} {v}' for k, v in memory.items())} MiB")
    say(f"Seconds   {', '.join(f'{name} {value:.0f}' for name, value in found['seconds'].items())}")
    say(f"Minutes   {found['minutes']}")
    say(f"All of it is in {stage.place / 'summary.json'}; the logs are in {stage.place / 'logs'}")


def main(arguments: list[str]) -> None:
    """``python -m dags.local.rehearsal``: errors of ours become a sentence and an exit code."""
    parser = argparse.ArgumentParser(prog="make rehearse", description="The cluster, rehearsed on this machine.")
    parser.add_argument("--size", type=float, default=0.5, help="size of the simulated fleets (default 0.5)")
    parser.add_argument("--arms", default="filterloss", help="arms to train, comma-separated (default filterloss)")
    parser.add_argument("--kill", action="store_true", help="go on with kill -9 of trainer, worker and scheduler")
    options = parser.parse_args(arguments)
    home = Path(os.environ.get("SENSORLOOP_HOME", "var")).absolute()
    try:
        run(home=home, size=options.size, arms=tuple(options.arms.split(",")), kill=options.kill)
    except KeyboardInterrupt:
        fail("stopped; everything has been ended.", 130)
    except (DagError, StreamingError, RegistryError, TrainingError) as error:
        fail(str(error), EXIT_FINAL)


if __name__ == "__main__":
    main(sys.argv[1:])
