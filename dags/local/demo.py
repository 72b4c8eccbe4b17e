"""The whole loop on one machine: what ``make demo`` runs.

Each step is a ``sensorloop`` command that anybody could type, run as a process of its own; this module starts the services
around them, watches the DAG, and adds up.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from dags.errors import DagError
from dags.local import standalone, summary
from dags.local.stage import COHORTS, DAG, Stage, retrain
from dags.settings import Settings, external_kafka, load
from dags.whole import whole
from registry import server
from streaming import broker, ports, process
from streaming.recording import scenes as recorded_scenes


@dataclass(kw_only=True, slots=True)
class _Demo(Stage):
    """One run; ``place`` is SENSORLOOP_HOME of its commands."""

    settings: Settings | None = None
    name: str = field(default_factory=lambda: f"demo-{secrets.token_hex(4)}")
    """Ends the names of its topics in a Kafka that is not its own."""

    @property
    def environ(self) -> dict[str, str]:
        config = self.place / "sensorloop.toml"
        # Before it is written, no file: to name one that is missing is an error.
        path = str(config) if config.exists() else os.devnull
        return {**os.environ, "SENSORLOOP_HOME": str(self.place), "SENSORLOOP_CONFIG": path}


def run(*, home: Path, source: Path | None, target: Path | None, once: bool, size: float) -> None:
    """Run the demo; MLflow and Airflow stay up until Ctrl-C unless ``once``.

    Args:
        home: SENSORLOOP_HOME; the demo is in ``<home>/demo``, the one before in ``<home>/demo-previous``.
        source: recordings of the source fleet; simulated if None.
        target: likewise of the target fleet.
        once: stop everything after the summary.
        size: of the simulated fleets.

    Raises:
        DagError: a step did not work.
    """
    demo = _Demo(place=home / "demo", console=Console(stderr=True, highlight=False))
    with process.exclusive(home / "demo.lock"), process.stack() as services:
        _make_room(demo.place)
        folders = _recordings(demo, source, target, size)
        kafka = _broker(demo, services)
        with demo.step("ingestion", "Ingestion"):
            replayed = [demo.command("replay", str(folder)) for folder in folders]
            demo.command("ingest", "--until-caught-up")
            account = demo.command("lake", "account", *map(str, folders))
        _mlflow(demo, services)
        with demo.step("original", "Original model"):
            original = demo.command("train", "original", "--cohort", COHORTS[0])
        airflow = _airflow(demo, services)
        with demo.step("retrain", "Airflow runs the DAG 'retrain'"):
            conf = {"cohort": COHORTS[1], "force": True, "arms": ["all"]}  # what it shows is their comparison
            answers, _ = retrain(demo, airflow.api, airflow.url, conf=conf, note="Triggered by the demo.")
        settings = _settings(demo)
        found = summary.collect(settings, account=account, original=original, answers=answers, seconds=demo.seconds)
        if sum(each["samples"] for each in replayed) != account["sent"] + account["unused"]:
            msg = (
                "The samples that were sent and those of the recordings differ: the account above is not to be trusted."
            )
            raise DagError(msg)
        with whole(demo.place / "summary.json") as partial:
            partial.write_text(json.dumps(found, indent=2, ensure_ascii=False), encoding="utf-8")
        summary.show(demo.console, found, file=demo.place / "summary.json")
        _where_to_look(demo, settings, airflow, kafka, once=once)
        if not once:
            _wait_for_ctrl_c(demo.console)


def _make_room(place: Path) -> None:
    """A demo that was killed may have left services; the one before is kept aside, and the one before that is not."""
    if place.exists():
        standalone.stop(place)
        process.stop(place / "mlflow.pid")
        broker.stop(place)
        previous = place.with_name(f"{place.name}-previous")
        shutil.rmtree(previous, ignore_errors=True)
        place.rename(previous)
    place.mkdir(parents=True)


def _recordings(demo: _Demo, source: Path | None, target: Path | None, size: float) -> tuple[Path, Path]:
    """The two fleets' recordings, and the settings that go with them."""
    with demo.step("fleets", "Phones"):
        if source is not None and target is not None:
            folders = (source.absolute(), target.absolute())
            scenes = sorted(recorded_scenes(folders[0]) & recorded_scenes(folders[1]))
            demo.console.print(f"Recordings of {source} and {target}; the scenes they share: {', '.join(scenes)}.")
            _configure(demo, scenes=scenes, holdout=())
            return folders
        _configure(demo, scenes=(), holdout=())
        folders = (demo.place / "fleets" / "source", demo.place / "fleets" / "target")
        made = [
            demo.command("simulate", str(folder), "--fleet", cohort, "--size", str(size))
            for folder, cohort in zip(folders, COHORTS, strict=True)
        ]
        # The target's careful people are what a fleet's owner would hold out: their labels are right.
        _configure(demo, scenes=(), holdout=made[1]["careful"])
        return folders


def _configure(demo: _Demo, *, scenes: Any, holdout: Any) -> None:
    """Write the demo's ``sensorloop.toml``: free ports, what it holds out. It can be used by hand afterwards."""
    usual = load({"SENSORLOOP_HOME": str(demo.place), "SENSORLOOP_CONFIG": os.devnull})
    wanted = [usual.broker.port, usual.broker.controller_port, usual.registry.port, usual.airflow.port]
    if demo.settings is None:
        spare = ports.free_ports(len(wanted))
        kafka, controller, mlflow, airflow = (
            port if ports.is_free("127.0.0.1", port) else other for port, other in zip(wanted, spare, strict=True)
        )
    else:
        known = demo.settings
        kafka, controller = known.broker.port, known.broker.controller_port
        mlflow, airflow = known.registry.port, known.airflow.port
    topics: list[str] = []
    if external_kafka(load({**demo.environ, "SENSORLOOP_CONFIG": os.devnull})) is not None:
        # A Kafka that outlives the demo: the batches of an earlier one would come in again.
        names = ("group_id", "batches_topic", "labels_topic", "deadletter_topic")
        topics = ["[kafka]", *(f'{each} = "{getattr(usual.kafka, each)}.{demo.name}"' for each in names)]
    lines = [
        "# Written by the demo; SENSORLOOP_HOME and SENSORLOOP_CONFIG pointing here, every command works on it.",
        *topics,
        "[broker]", f"port = {kafka}", f"controller_port = {controller}",
        "[registry]", f"port = {mlflow}",
        "[airflow]", f"port = {airflow}",
        "[retrain]", 'schedule = ""  # the demo triggers it', 'look_every = ""', "min_windows = 1",
        "[data]", f"scenes = {json.dumps(list(scenes))}", f"holdout_subjects = {json.dumps(list(holdout))}",
        "[finetune]", 'trainable = "block"  # minutes without a GPU; the default, the whole network, takes several times as long',
    ]  # fmt: skip
    (demo.place / "sensorloop.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    demo.settings = load(demo.environ)


def _settings(demo: _Demo) -> Settings:
    return load(demo.environ)


def _broker(demo: _Demo, services: process.Stack) -> str:
    settings = _settings(demo)
    with demo.step("broker", "Kafka"):
        external = external_kafka(settings)
        if external is None:
            services.callback(broker.stop, demo.place)
            with demo.console.status("Starting (the first time, 44 MB are fetched)"):
                broker.start(settings.broker, home=demo.place, die_with_parent=True)
        demo.console.print(f"Kafka is at {settings.kafka.bootstrap_servers}.")
    return settings.kafka.bootstrap_servers


def _mlflow(demo: _Demo, services: process.Stack) -> None:
    settings = _settings(demo)
    with demo.step("mlflow", "MLflow"), demo.console.status("Starting"):
        if settings.registry.is_local:
            server.check_port(settings.registry)
            command = server.server_command(demo.place, settings.registry, os.environ)
            service = process.Service(
                name="MLflow", argv=command.argv, env=command.env, cwd=command.home, die_with_parent=True,
                log=demo.place / "mlflow" / "server.log", pid_file=demo.place / "mlflow.pid",
            )  # fmt: skip
            ready = partial(server.ready, command.url)
            services.start(service, ready=ready, timeout=settings.registry.startup_timeout)
    demo.console.print(f"MLflow is at {settings.registry.tracking_uri}.")


def _airflow(demo: _Demo, services: process.Stack) -> standalone.LocalAirflow:
    with demo.step("airflow", "Airflow"), demo.console.status("Starting; the first time its database is made"):
        services.callback(standalone.stop, demo.place)
        airflow = standalone.start(_settings(demo).airflow, home=demo.place, environ=demo.environ, die_with_parent=True)
        airflow.api.wait_for_dag(DAG, since=airflow.since)
        airflow.api.unpause(DAG)
    demo.console.print(f"Airflow is at {airflow.url}.")
    return airflow


def _where_to_look(
    demo: _Demo, settings: Settings, airflow: standalone.LocalAirflow, kafka: str, *, once: bool
) -> None:
    print_ = demo.console.print
    program = Path(sys.executable).with_name("sensorloop")
    shown = program.relative_to(Path.cwd()) if program.is_relative_to(Path.cwd()) else program
    by_hand = f"SENSORLOOP_HOME={demo.place} SENSORLOOP_CONFIG={demo.place}/sensorloop.toml {shown}"
    print_("")
    if not once:
        print_(f"MLflow   {settings.registry.tracking_uri}")
        print_(f"Airflow  {airflow.url}  (user {airflow.user}, password in {airflow.password_file})")
        print_(f"Kafka    {kafka}")
        print_(f"By hand  {by_hand} registry history", soft_wrap=True)
    print_(f"Labels   {by_hand} quality", soft_wrap=True)  # to be copied as one line


def _wait_for_ctrl_c(console: Console) -> None:
    console.print("\nAll of it stays up until Ctrl-C.")
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        console.print("Stopping.")
