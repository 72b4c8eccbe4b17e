"""The command line: the one place that wires streaming, training and registry together.

Progress goes to stderr. The last line of stdout is the result as one JSON object, for scripts and for Airflow's tasks.
Exit codes: 0 done, 2 wrong usage, 3 cannot be done as things are (trying again is useless), 4 may work later, 99 nothing to do.
"""

from __future__ import annotations

import dataclasses
import os
from datetime import timedelta
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from dags import retraining, steps
from dags.local import deadletter, judging, label, lake, quality, registry, setting, tracking
from dags.settings import load as load_settings
from dags.stopping import stop_by_exception
from dags.terminal import (
    EXIT_FINAL,
    EXIT_RETRIABLE,
    fail,
    number,
    progress,
    result,
    say,
    say_arms,
    say_import,
    say_refused,
    say_some,
)
from dags.verified import verified_lines

# Before torch is loaded: its threads would spin while they wait, and two programs that do so slow each other down tenfold.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

HELP = "Keeps phone-sensor scene recognition models fresh: Kafka → windows → quality → FilterLoss → a gated champion."

app = typer.Typer(help=HELP, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
kafka_app = typer.Typer(help="A real Kafka on this machine, without Java, Maven or Docker.", no_args_is_help=True)
train_app = typer.Typer(help="Models that are trained from nothing.", no_args_is_help=True)
app.add_typer(kafka_app, name="kafka")
app.add_typer(lake.app, name="lake")
app.add_typer(label.app, name="label")
app.add_typer(deadletter.app, name="deadletter")
app.add_typer(train_app, name="train")
app.add_typer(registry.app, name="registry")
app.add_typer(judging.scratch_app, name="scratch")
app.add_typer(tracking.app, name="track")
app.command("quality")(quality.show)
app.command("embed")(quality.embed)

Cohort = Annotated[str, typer.Option(help="Which fleet: the recordings' and windows' cohort.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same result.")]
RunKey = Annotated[str, typer.Option(help="What 'sensorloop rescore' printed.")]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"sensorloop {metadata.version('sensorloop')}")
        raise typer.Exit


@app.callback(help=HELP)
def _of_all(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Say which version this is.")
    ] = False,
) -> None:
    del version


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
    from dags.local import kafka

    result(**kafka.start(load_settings()))


@kafka_app.command("stop")
def kafka_stop() -> None:
    """Stop the local broker; its data stays."""
    from dags.local import kafka

    result(**kafka.stop(load_settings()))


@kafka_app.command("status")
def kafka_status() -> None:
    """Say whether the broker that is used runs, and of the local one where, since when, and with how much memory."""
    from dags.local import kafka

    result(**kafka.status(load_settings()))


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
    with progress(f"Simulating the {fleet} fleet") as show:
        manifest = run(fleet_settings, dest, progress=show)
    careful = sorted(person.subject_id for person in manifest.people if person.careful)
    say(f"{len(manifest.sessions)} recordings of {len(manifest.people)} people in {dest}.")
    if careful and not fleet_settings.wrong_labels:
        say("All labels are right.")
    elif careful:
        held_out = ", ".join(f'"{subject}"' for subject in careful)
        say(
            f"The labels of some are all right. To measure on them, put into sensorloop.toml:\n[data]\nholdout_subjects = [{held_out}]\n"
            "For 'sensorloop experiment', which makes labels wrong itself: --wrong-labels 0."
        )
    result(recordings=len(manifest.sessions), people=len(manifest.people), careful=careful)


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
    with progress(f"Importing {format_name}") as show:
        report = import_dataset(format_name, source, dest, cohort=cohort, options=options, progress=show)
    say_import(report)
    minutes = ", ".join(f"{scene} {value:.0f} min" for scene, value in report.minutes.items())
    say(f"{report.written} recordings of {len(report.subjects)} people in {dest}: {minutes}.")
    result(
        recordings=report.written,
        subjects=len(report.subjects),
        minutes=dict(report.minutes),
        refused=len(report.refused),
        notes=dict(report.notes),
    )


@app.command()
def replay(
    directory: Annotated[Path, typer.Argument(help="Folder of recordings.", exists=True, file_okay=False)],
    speed: Annotated[str, typer.Option(help="How many times faster than life, or 'max'.")] = "max",
    longest_pause: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=86_400,
            help="Seconds of real time that are left of a silence in which no phone sends, as the nights between sessions; "
            "10 if not said. Nothing to wait for at speed 'max'.",
        ),
    ] = None,
    seed: Seed = 1,
) -> None:
    """Send recordings to Kafka as the phones would: in batches of a second, some repeated, some late, some after hours offline."""
    from streaming.delivery import DeliverySettings
    from streaming.replay import Pace, make_producer
    from streaming.replay import replay as run
    from streaming.topics import create_topics

    pace = Pace(speed=None if speed == "max" else number(speed, "--speed"))
    if longest_pause is not None:
        pace = dataclasses.replace(pace, longest_pause=timedelta(seconds=longest_pause))
    kafka = load_settings().kafka
    create_topics(kafka, {kafka.batches_topic: kafka.partitions, kafka.deadletter_topic: 1})
    with progress(f"Replaying {directory.name}") as show:
        report = run(
            directory, make_producer(kafka), kafka.batches_topic, pace=pace,
            delivery=DeliverySettings(seed=seed), progress=show,
        )  # fmt: skip
    say_refused([reason for _, reason in report.refused], "not sent.")
    say(
        f"{report.samples:,} samples in {report.batches:,} batches of {report.sessions} sessions; {report.repeats} repeated."
    )
    result(
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
    workers: Annotated[
        int, typer.Option(min=1, help="Consumers of the group, each a process; one that dies is started again.")
    ] = 1,
    worker: Annotated[int, typer.Option(min=0, hidden=True)] = 0,
) -> None:
    """Cut what comes in into windows in the lake, exactly once, and keep labels that come later, until Ctrl-C (or SIGTERM).

    What has closed is then published.
    """
    from dags.local.ingesting import ingest as run
    from dags.local.ingesting import ingest_many

    settings = load_settings()
    if workers > 1:
        result(**ingest_many(settings, workers=workers, until_caught_up=until_caught_up))
    else:
        result(**run(settings, until_caught_up=until_caught_up, worker=worker))


@app.command()
def status(
    once: Annotated[bool, typer.Option(help="Look once and end, for scripts.")] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 2.0,
) -> None:
    """How far ingestion is: lag, rates, and until when the lake is complete, partition by partition. Until Ctrl-C."""
    from dags.local.status import status as run

    result(**run(load_settings(), once=once, every=every))


@train_app.command("original")
def train_original(cohort: Cohort = "source", seed: Seed = 0) -> None:
    """Train the original model, a ResNet-34, on the source fleet's windows, and register it with its accuracy at home."""
    with progress("Training the original model") as show:
        done = steps.train_original(load_settings(), cohort=cohort, seed=seed, progress=show)
    say(
        f"Original model: accuracy {done['source_accuracy']:.3f} on the source holdout; version {done['version']} in MLflow."
    )
    result(**done)


@app.command()
def rescore(
    cohort: Cohort = "target",
    lake_version: Annotated[
        int | None, typer.Option(min=0, help="Version of the windows table; the newest if not said.")
    ] = None,
    labels_version: Annotated[
        int | None,
        typer.Option(
            min=-1, help="Version of the labels table; the newest if not said, -1: no labels that came later."
        ),
    ] = None,
    seed: Seed = 0,
) -> None:
    """Score the quality of every labelled window, out of fold, into the lake's quality table."""
    with progress("Scoring quality") as show:
        done = retraining.rescore(
            load_settings(), cohort=cohort, lake_version=lake_version, labels_version=labels_version, seed=seed, progress=show
        )  # fmt: skip
    say(f"{done['scored']} windows scored, tiers {done['tiers']} (0: least trusted); run key {done['run_key']}.")
    say_some(verified_lines(done))
    result(**done)


@app.command()
def finetune(
    run_key: RunKey,
    arms: Annotated[
        str,
        typer.Option(help="Comma-separated: original, plain, oversampling, undersampling, filterloss; 'all' for all."),
    ] = "all",
    below: Annotated[
        str, typer.Option(help="What 'sensorloop track open' answered: MLflow's run of the DAG run that asks for this.")
    ] = "",
) -> None:
    """Fine-tune with FilterLoss, beside what people would use instead, on one split and one budget."""
    chosen = None if arms == "all" else tuple(arms.split(","))
    with progress("Fine-tuning") as show:
        done = retraining.finetune(
            load_settings(), run_key=run_key, arms=chosen, below=below, progress=show,
            waits=lambda who: say(f"Another fine-tuning of this run key is at work ({who}); waiting for it."),
        )  # fmt: skip
    say_arms(done["results"])
    say_some([f"Trained by an earlier call, and not again: {', '.join(done['kept'])}."] if done["kept"] else [])
    result(**done)


@app.command()
def experiment(
    source: Annotated[str, typer.Option(help="Lake, or folder of recordings, that the original model learns from.")],
    target: Annotated[
        str, typer.Option(help="Lake, or folder of recordings, of the new phones; its labels must be right.")
    ],
    name: Annotated[
        str,
        typer.Option(
            help="Of the pair, and of its table's folder (this call's arms) below SENSORLOOP_HOME/experiments."
        ),
    ] = "pair",
    arms: Annotated[
        str,
        typer.Option(help="Names or patterns ('stopped-*', all) with commas between, see docs/transfer.md."),
    ] = "all",
    regimes: Annotated[str, typer.Option(help="Likewise: hard, few-imbalanced, few, every-label; or all.")] = "hard",
    seeds: Annotated[int, typer.Option(min=1, help="Splits, labels and trainings of each arm.")] = 3,
    minutes: Annotated[
        float | None,
        typer.Option(min=0, help="Begin no cell after so many minutes from the start; the next call goes on."),
    ] = None,
    source_cohort: Cohort = "source",
    target_cohort: Cohort = "target",
) -> None:
    """Compare FilterLoss with what people use instead, where labels are few, rare and wrong: a table with intervals.

    Labels are taken away and made wrong on purpose. Arms: free-… as people run them; stopped-… if people left out see a gain; by their
    bare names all but FilterLoss's weights; filterloss-…; oracle. A cell (regime, seed, arm) is kept: with 200 labels up to 2
    minutes, with 400 up to 5; all 36 arms of a seed one to two hours.
    First: --seeds 1 --arms original,free-plain,class-balanced,filterloss-auto,oracle
    """
    from dags.local.experiment import run

    done = run(
        load_settings(), source=source, target=target, cohorts=(source_cohort, target_cohort), name=name, arms=arms,
        regimes=regimes, seeds=seeds, minutes=minutes,
    )  # fmt: skip
    say(f"{done['cells']} of {done['wanted']} cells; the table is in {done['table']}.")
    result(**done)


for step in (judging.evaluate, judging.gate, judging.promote, judging.watch):
    app.command()(step)
app.command("settings")(setting.show)


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
        fail("Give both --source and --target, or neither.", 2)
    run(
        home=Path(os.environ.get("SENSORLOOP_HOME", "var")).absolute(),
        source=source,
        target=target,
        once=once,
        size=size,
    )


def main() -> None:
    """Entry point of ``sensorloop``: errors of ours become a sentence and an exit code."""
    from dags.errors import DagError
    from registry.errors import RegistryError
    from streaming.errors import StreamingError
    from training.errors import TrainingError

    stop_by_exception()
    try:
        app()
    except (StreamingError, TrainingError, RegistryError, DagError) as error:
        fail(str(error), EXIT_RETRIABLE if error.retriable else EXIT_FINAL)


if __name__ == "__main__":
    main()
