"""The commands ``sensorloop label …``."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dags.settings import Settings
from dags.settings import load as load_settings
from dags.terminal import EXIT_FINAL, fail, listed, result, say, say_some

if TYPE_CHECKING:
    from streaming.label_wire import SceneLabel

app = typer.Typer(help="Labels that come later than what they are about.", no_args_is_help=True)

_By = Annotated[
    str | None, typer.Option(help="Who says so; your user name if not said, or your number if you have none.")
]


@app.command()
def send(
    *,
    device: Annotated[str, typer.Option(help="The phone: a device_id.")],
    from_: Annotated[str, typer.Option("--from", help="2026-01-31T08:00:00+01:00, or ns since 1970.")],
    to: Annotated[str, typer.Option(help="Likewise; excluded.")],
    scene: Annotated[str | None, typer.Option(help="What it was doing: Walk, Bus, …")] = None,
    withdraw: Annotated[bool, typer.Option(help="Instead of a scene: take back what was said of this time.")] = False,
    session: Annotated[
        str | None, typer.Option(help="Only this session; every session of the phone if not said.")
    ] = None,
    by: _By = None,
    said: Annotated[
        str | None, typer.Option(help="When it was said, if not now: of two labels the newer counts.")
    ] = None,
) -> None:
    """Say what a phone was doing from here to there, however long ago. The newest label counts, from the next rescoring on."""
    from registry.environment import user
    from streaming.label_wire import SceneLabel
    from streaming.labelling import checked, parse_time

    if bool(scene) == withdraw:
        fail("Give a --scene, or --withdraw what was said.", 2)
    settings, now = load_settings(), datetime.now(UTC)
    label = SceneLabel(
        device_id=device, session_id=session, start_ns=parse_time(from_), end_ns=parse_time(to), scene=scene,
        said_by=by or user(), said_ns=parse_time(said or now),
    )  # fmt: skip
    label = checked(label, max_ahead=settings.windows.max_ahead, now=now)
    _send(settings, [label])
    say(f"Sent to {settings.kafka.labels_topic}: {_line(dataclasses.asdict(label))}")
    result(sent=1, topic=settings.kafka.labels_topic)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="CSV or Parquet.", exists=True, dir_okay=False)],
    *,
    by: _By = None,
) -> None:
    """Send a file of labels: columns device_id, start, end, scene and, if you like, session_id, said_by, said; an empty scene withdraws.

    A row that is no label is named, and then none is sent. docs/data.md has an example.
    """
    from registry.environment import user
    from streaming.labelling import read_labels

    settings = load_settings()
    labels, refused = read_labels(
        file, said_by=by or user(), max_ahead=settings.windows.max_ahead, now=datetime.now(UTC)
    )
    say_some([f"refused: {line}" for line in refused])
    if refused:
        fail(f"{len(refused)} of {len(refused) + len(labels)} rows of {file} are no labels; none was sent.", EXIT_FINAL)
    if labels:
        _send(settings, labels)
    say(f"{len(labels)} labels sent to {settings.kafka.labels_topic}.")
    result(sent=len(labels), topic=settings.kafka.labels_topic)


@app.command("list")
def list_(
    *,
    device: Annotated[str | None, typer.Option(help="Of this phone only.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest first.")] = 100,
    labels_version: Annotated[
        int | None, typer.Option(help="Version of the labels table; the newest if not said.")
    ] = None,
) -> None:
    """Say which labels are in the lake, the newest first: revised and withdrawn ones too."""
    import polars as pl

    from streaming.lake import labels_version as newest
    from streaming.lake import scan_labels

    lake = load_settings().lake
    version = newest(lake) if labels_version is None else labels_version
    found = scan_labels(lake, version)
    found = found if device is None else found.filter(pl.col("device_id") == device)
    labels = found.drop("said_date", "ingested_at").sort("said_ns", "kafka_offset", descending=True).collect()
    shown = labels.head(limit).to_dicts()
    for row in shown:
        say(_line(row))
    say(
        f"{labels.height} labels{f', the newest {limit} shown' if labels.height > limit else ''}, at version {version}."
    )
    listed(total=labels.height, labels_version=version, labels=shown)


def _send(settings: Settings, labels: list[SceneLabel]) -> None:
    from streaming.labelling import send_labels
    from streaming.replay import make_producer
    from streaming.topics import create_topics

    kafka = settings.kafka
    create_topics(kafka, {kafka.labels_topic: kafka.partitions})
    producer = make_producer(kafka)
    try:
        send_labels(producer, kafka.labels_topic, labels)
    finally:
        producer.close()


def _line(label: dict[str, object]) -> str:
    session = f", session {label['session_id']}" if label["session_id"] else ""
    what = label["scene"] or "withdrawn"
    return (
        f"{label['device_id']}{session}: {_time(label['start_ns'])} to {_time(label['end_ns'])} {what}, "
        f"said by {label['said_by']} at {_time(label['said_ns'])}"
    )


def _time(ns: object) -> str:
    return f"{datetime.fromtimestamp(int(str(ns)) / 1e9, UTC):%Y-%m-%d %H:%M:%S}"
