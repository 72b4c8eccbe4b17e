"""The command line: the one place that wires streaming, training and registry together.

Progress goes to stderr. The last line of stdout is the result as one JSON object, for scripts and for Airflow's tasks.
Exit codes: 0 done, 2 wrong usage, 3 cannot be done as things are (trying again is useless), 4 may work later, 99 nothing to do.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

HELP = "Keeps phone-sensor scene recognition models fresh: Kafka → windows → quality → FilterLoss → a gated champion."
EXIT_FINAL, EXIT_RETRIABLE, EXIT_NOTHING = 3, 4, 99

app = typer.Typer(help=HELP, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
kafka_app = typer.Typer(
    help="A real Apache Kafka on this machine, without Java, Maven or Docker.", no_args_is_help=True
)
lake_app = typer.Typer(help="The Parquet lake.", no_args_is_help=True)
train_app = typer.Typer(help="Models that are trained from nothing.", no_args_is_help=True)
registry_app = typer.Typer(help="Versions, the champion, and the account of how it came to be.", no_args_is_help=True)
app.add_typer(kafka_app, name="kafka")
app.add_typer(lake_app, name="lake")
app.add_typer(train_app, name="train")
app.add_typer(registry_app, name="registry")

Cohort = Annotated[str, typer.Option(help="Which fleet: the recordings' and windows' cohort.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same result.")]
RunKey = Annotated[str, typer.Option(help="What 'sensorloop rescore' printed.")]


class Fleet(StrEnum):
    """The two simulated fleets."""

    SOURCE = "source"
    TARGET = "target"


@kafka_app.command("start")
def kafka_start() -> None:
    """Start the local broker and wait until it answers. The first time, 44 MB are fetched and checked against pinned sums.

    It keeps its data in SENSORLOOP_HOME/kafka and runs until 'sensorloop kafka stop'. KAFKA_HOME names a Kafka that is
    installed already; with KAFKA_BOOTSTRAP_SERVERS set, yours is used and none is started.
    """
    from dags.settings import external_kafka
    from streaming import broker

    settings = _settings()
    external = external_kafka(settings)
    if external:
        _say(f"Kafka at {external} is used; none is started.")
        return _result(bootstrap_servers=external, started=False)
    with _progress("Fetching Kafka") as progress:
        status, started = broker.start(settings.broker, home=settings.home, progress=progress)
    _say(
        f"{'Kafka runs' if started else 'Kafka was running already'} at {status.bootstrap_servers} (pid {status.pid})."
    )
    return _result(bootstrap_servers=status.bootstrap_servers, pid=status.pid, started=started)


@kafka_app.command("stop")
def kafka_stop() -> None:
    """Stop the local broker; its data stays."""
    from streaming import broker

    stopped = broker.stop(_settings().home)
    _say("Kafka stopped." if stopped else "Kafka was not running.")
    _result(stopped=stopped)


@kafka_app.command("status")
def kafka_status() -> None:
    """Say whether the local broker runs, where, since when, and with how much memory."""
    from streaming import broker

    status = broker.status(_settings().home)
    if status is None:
        _say("Kafka is not running. Start it with 'sensorloop kafka start'.")
        return _result(running=False)
    _say(f"Kafka {'answers' if status.answers else 'does not answer'} at {status.bootstrap_servers}: pid {status.pid}, "
         f"up {status.uptime}, {status.memory_bytes / 2**20:.0f} MiB, cluster {status.cluster_id}.")  # fmt: skip
    return _result(running=True, **dataclasses.asdict(status))


@app.command()
def simulate(
    dest: Annotated[Path, typer.Argument(help="Folder for the recordings.")],
    fleet: Annotated[Fleet, typer.Option(help="source: even scenes, right labels; target: other phones and people.")],
    seed: Seed = 1,
    size: Annotated[float, typer.Option(help="1 is about 4400 windows (source) or 2500 (target).")] = 1.0,
    wrong_labels: Annotated[
        float | None, typer.Option(help="Share of the target's sessions labelled wrongly; 0.2 if not said.")
    ] = None,
) -> None:
    """Make up a fleet of phones: recordings of eight scenes, with the mess of real life. The same seed gives the same bytes."""
    from streaming.fleet import simulate as run
    from streaming.fleet import source_fleet, target_fleet

    fleet_settings = (source_fleet if fleet is Fleet.SOURCE else target_fleet)(seed=seed, size=size)
    if wrong_labels is not None:
        fleet_settings = dataclasses.replace(fleet_settings, wrong_labels=wrong_labels)
    with _progress(f"Simulating the {fleet} fleet") as progress:
        manifest = run(fleet_settings, dest, progress=progress)
    careful = sorted(person.subject_id for person in manifest.people if person.careful)
    _say(f"{len(manifest.sessions)} recordings of {len(manifest.people)} people in {dest}.")
    _result(recordings=len(manifest.sessions), people=len(manifest.people), careful=careful)


@app.command("import")
def import_(
    format_name: Annotated[str, typer.Argument(metavar="FORMAT", help="shl2018, motionsense, hapt, tmd or qrowd.")],
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Folder of the unpacked data set.", exists=True)],
    dest: Annotated[Path, typer.Argument(help="Folder for the recordings.")],
    cohort: Cohort,
    every_subject: Annotated[int, typer.Option(min=1, help="Take every k-th subject only.")] = 1,
    limit: Annotated[int | None, typer.Option(min=1, help="Sessions per subject, at most.")] = None,
) -> None:
    """Turn a published data set into recordings. docs/data.md says where to get each, and what is converted."""
    from streaming.importers import ImportOptions, import_dataset

    options = ImportOptions(every_subject=every_subject, limit=limit)
    with _progress(f"Importing {format_name}") as progress:
        report = import_dataset(format_name, source, dest, cohort=cohort, options=options, progress=progress)
    for refusal in report.refused:
        _say(f"refused: {refusal.file}{f':{refusal.row}' if refusal.row else ''}: {refusal.reason}")
    minutes = ", ".join(f"{scene} {value:.0f} min" for scene, value in report.minutes.items())
    _say(f"{report.written} recordings of {len(report.subjects)} people in {dest}: {minutes}.")
    _result(
        recordings=report.written,
        subjects=len(report.subjects),
        minutes=dict(report.minutes),
        refused=len(report.refused),
    )


@app.command()
def replay(
    directory: Annotated[Path, typer.Argument(help="Folder of recordings.", exists=True, file_okay=False)],
    speed: Annotated[str, typer.Option(help="How many times faster than life, or 'max'.")] = "max",
    seed: Seed = 1,
) -> None:
    """Send recordings to Kafka as the phones would: in batches of a second, some repeated, some late, some after hours offline."""
    from streaming.delivery import DeliverySettings
    from streaming.replay import make_producer
    from streaming.replay import replay as run

    from streaming.topics import create_topics

    factor = None if speed == "max" else _number(speed, "--speed")
    kafka = _settings().kafka
    create_topics(kafka.bootstrap_servers, {kafka.batches_topic: kafka.partitions, kafka.deadletter_topic: 1})
    with _progress(f"Replaying {directory.name}") as progress:
        report = run(
            directory, make_producer(kafka.bootstrap_servers), kafka.batches_topic, speed=factor,
            delivery=DeliverySettings(seed=seed), progress=progress,
        )  # fmt: skip
    for path, reason in report.refused:
        _say(f"refused: {path}: {reason}")
    _say(
        f"{report.samples:,} samples in {report.batches:,} batches of {report.sessions} sessions; {report.repeats} repeated."
    )
    _result(
        batches=report.batches,
        samples=report.samples,
        sessions=report.sessions,
        repeats=report.repeats,
        refused=len(report.refused),
    )


@app.command()
def ingest(
    until_caught_up: Annotated[
        bool, typer.Option(help="Stop when everything that is in Kafka now has been read.")
    ] = False,
) -> None:
    """Cut what comes in into windows in the lake, exactly once, until Ctrl-C (or SIGTERM): what has closed is then published."""
    from streaming.client import KafkaDeadLetters, KafkaSource
    from streaming.ingest import Ingest
    from streaming.lake import WindowsTable
    from streaming.topics import create_topics

    settings = _settings()
    kafka = settings.kafka
    create_topics(kafka.bootstrap_servers, {kafka.batches_topic: kafka.partitions, kafka.deadletter_topic: 1})
    table = WindowsTable(settings.lake, settings.windows.sensors)
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    dead_letters = KafkaDeadLetters(kafka)
    source = KafkaSource(kafka, settings.ingest)
    loop = Ingest(
        source=source, table=table, dead_letters=dead_letters, windows=settings.windows, settings=settings.ingest
    )
    try:
        with _counters() as show:
            loop.run(stop=lambda: stopping.is_set() or (until_caught_up and loop.caught_up()), report=show)
    finally:
        source.close()
        dead_letters.close()
    _result(**loop.counters(), lake_version=table.version)


@lake_app.command("account")
def lake_account(
    directories: Annotated[list[Path], typer.Argument(help="Folders of recordings that were replayed.", exists=True)],
) -> None:
    """Hold every sample of these recordings against the lake: how many are lost, how many there twice."""
    import polars as pl
    from streaming.replay import expected_samples

    from streaming.account import account
    from streaming.lake import scan_windows

    settings = _settings()
    sent = pl.concat(expected_samples(directory, hop_ns=settings.windows.hop_ns) for directory in directories)
    result = account(sent, scan_windows(settings.lake.uri))
    _say(f"{result.sent:,} samples sent: {result.lost} lost, {result.doubled} doubled, in {result.windows} windows.")
    _result(**dataclasses.asdict(result))
    if result.lost or result.doubled:
        raise typer.Exit(EXIT_FINAL)


@lake_app.command("pin")
def lake_pin(
    cohort: Cohort = "target",
    min_windows: Annotated[int, typer.Option(min=0, help="New labelled windows that make a retraining worth it.")] = 0,
    force: Annotated[bool, typer.Option(help="Retrain whether there is anything new or not.")] = False,
) -> None:
    """Name the lake's newest version and count what is new in it since the last retraining. Exit code 99: not enough."""
    from dags import steps

    pin = steps.pin(_settings(), cohort)
    if pin.fresh < min_windows and not force:
        _say(
            f"{pin.fresh} labelled windows of cohort '{cohort}' are new since lake version {pin.since}; {min_windows - pin.fresh} more are needed."
        )
        raise typer.Exit(EXIT_NOTHING)
    _say(
        f"Lake version {pin.lake_version}: {pin.windows} windows of cohort '{cohort}', {pin.labelled} labelled, {pin.fresh} of them new."
    )
    _result(**dataclasses.asdict(pin))


@train_app.command("original")
def train_original(cohort: Cohort = "source", seed: Seed = 0) -> None:
    """Train the original model, a ResNet-34, on the source fleet's windows, and register it with its accuracy at home."""
    from dags import steps

    with _progress("Training the original model") as progress:
        result = steps.train_original(_settings(), cohort=cohort, seed=seed, progress=progress)
    _say(
        f"Original model: accuracy {result['source_accuracy']:.3f} on the source holdout; version {result['version']} in MLflow."
    )
    _result(**result)


@app.command()
def rescore(
    cohort: Cohort = "target",
    lake_version: Annotated[
        int | None, typer.Option(help="Version of the windows table; the newest if not said.")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Score the quality of every labelled window, out of fold, into the lake's quality table."""
    from dags import steps

    with _progress("Scoring quality") as progress:
        result = steps.rescore(_settings(), cohort=cohort, lake_version=lake_version, seed=seed, progress=progress)
    _say(f"{result['scored']} windows scored, tiers {result['tiers']}; run key {result['run_key']}.")
    _result(**result)


@app.command()
def finetune(
    run_key: RunKey,
    arms: Annotated[str, typer.Option(help="Comma-separated; 'all' for every arm.")] = "all",
) -> None:
    """Fine-tune with FilterLoss, beside what people would use instead, on one split and one budget."""
    from dags import steps

    chosen = None if arms == "all" else tuple(arms.split(","))
    with _progress("Fine-tuning") as progress:
        result = steps.finetune(_settings(), run_key=run_key, arms=chosen, progress=progress)
    _result(**result)


@app.command()
def promote(run_key: RunKey, arm: Annotated[str, typer.Option(help="Which arm's model.")] = "filterloss") -> None:
    """Register the fine-tuned model and let the gate decide whether it becomes champion."""
    from dags import steps

    result = steps.promote(_settings(), run_key=run_key, arm=arm)
    for reason in result["reasons"]:
        _say(reason)
    _say(f"Version {result['version']} is {'champion' if result['passed'] else 'refused'}.")
    _result(**result)


@app.command()
def demo(
    source: Annotated[
        Path | None, typer.Option(help="Recordings of the source fleet; simulated if not said.", exists=True)
    ] = None,
    target: Annotated[
        Path | None, typer.Option(help="Recordings of the target fleet; simulated if not said.", exists=True)
    ] = None,
    once: Annotated[bool, typer.Option(help="Stop everything after the summary.")] = False,
    size: Annotated[float, typer.Option(help="Size of the simulated fleets.")] = 1.0,
) -> None:
    """The whole loop on this machine, with a real Kafka, MLflow and Airflow."""
    from dags.local.demo import run

    if (source is None) != (target is None):
        _fail("Give both --source and --target, or neither.", 2)
    run(
        home=Path(os.environ.get("SENSORLOOP_HOME", "var")).absolute(),
        source=source,
        target=target,
        once=once,
        size=size,
    )


def main() -> None:
    """Entry point of ``sensorloop``: errors of ours become a sentence and an exit code."""
    from registry.errors import RegistryError
    from streaming.errors import StreamingError
    from training.errors import TrainingError

    try:
        app()
    except (StreamingError, TrainingError, RegistryError) as error:
        _fail(str(error), EXIT_RETRIABLE if error.retriable else EXIT_FINAL)


def _settings() -> Any:
    from dags.settings import load

    return load()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _result(**values: Any) -> None:
    sys.stdout.write(json.dumps(values, default=str, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def _fail(text: str, code: int) -> NoReturn:
    _say(f"error: {text}")
    sys.exit(code)


def _number(text: str, option: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        _fail(f"{option} is a number above 0, or 'max', not '{text}'.", 2)
    return value


@contextmanager
def _progress(title: str) -> Iterator[Callable[..., None]]:
    """A progress bar on stderr: called with done, total and, if there is one, what is being done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None)

        def show(done: int, total: int, text: str = "") -> None:
            bar.update(task, completed=done, total=total, description=f"{title}: {text}" if text else title)

        yield show


@contextmanager
def _counters() -> Iterator[Callable[[Mapping[str, int]], None]]:
    """The counters, live on a terminal and once at the end."""
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

    def table(counters: Mapping[str, int]) -> Table:
        shown = Table("ingested", "count", box=None)
        for name, count in sorted(counters.items()):
            shown.add_row(name.replace("_", " "), f"{count:,}")
        return shown

    with Live(console=Console(stderr=True), refresh_per_second=2) as live:
        yield lambda counters: live.update(table(counters))


if __name__ == "__main__":
    main()
