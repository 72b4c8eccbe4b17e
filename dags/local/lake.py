"""The commands ``sensorloop lake …``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from dags import steps, work
from dags.settings import load as load_settings
from dags.terminal import EXIT_FINAL, EXIT_NOTHING, megabytes, result, say, say_refused

if TYPE_CHECKING:
    from streaming.maintenance import Compacted, Vacuumed
    from streaming.verify import Proof

_Done = TypeVar("_Done", "Compacted", "Vacuumed", "Proof")

app = typer.Typer(help="The Parquet lake.", no_args_is_help=True)


@app.command()
def account(
    directories: Annotated[list[Path], typer.Argument(help="Folders of recordings that were replayed.", exists=True)],
) -> None:
    """Hold every sample of these recordings against the lake: how many are lost, how many there twice."""
    from streaming.account import account_of

    settings = load_settings()
    refused: list[str] = []
    sums = account_of(directories, settings.lake, hop_ns=settings.windows.hop_ns, refused=refused.append)
    say_refused(refused, "replay does not send it, and the account is without it.")
    unused = f" ({sums.unused:,} of sensors that [windows] sensors leaves out)" if sums.unused else ""
    say(f"{sums.sent:,} samples sent{unused}: {sums.lost} lost, {sums.doubled} doubled, in {sums.windows} windows.")
    result(**dataclasses.asdict(sums), refused=len(refused))
    if sums.lost or sums.doubled:
        raise typer.Exit(EXIT_FINAL)


@app.command()
def pin(
    *,
    cohort: Annotated[
        list[str] | None,
        typer.Option(
            help="Whom to retrain for; may be given several times: a fleet, a part of one (target/phone_model=NAME, "
            "target/subject_id=NAME), or every part of a kind (target/phone_model=*). [retrain] cohorts if not said."
        ),
    ] = None,
    min_windows: Annotated[int, typer.Option(min=0, help="New labelled windows that make a retraining worth it.")] = 0,
    force: Annotated[bool, typer.Option(help="Retrain whether there is anything new or not.")] = False,
) -> None:
    """Name the newest versions of the lake's windows and labels, and count what is new for each cohort since its last retraining.

    New are labelled windows that no retraining that came to its end has learned from, or only with another label. Exit code 99: not
    enough, for any cohort.
    """
    settings = load_settings()
    found = work.work(settings, cohort or settings.retrain.cohorts, min_windows=min_windows, force=force)
    for sentence in found.lacking:
        say(sentence)
    if not found.pins:
        raise typer.Exit(EXIT_NOTHING)
    for each in found.pins:
        say(
            f"{steps.lake_at(each.lake_version, each.labels_version).capitalize()}: {each.windows} windows of '{each.cohort}', "
            f"{each.labelled} labelled, {each.fresh} new."
        )
    result(cohorts=[dataclasses.asdict(each) for each in found.pins], lacking=found.lacking)


@app.command()
def shards(
    *,
    cohort: Annotated[list[str], typer.Option(help="As of 'lake pin'; may be given several times.")],
    lake_version: Annotated[int, typer.Option(help="Version of the windows table.")],
    labels_version: Annotated[int, typer.Option(help="Version of the labels table; -1: none.")],
) -> None:
    """The shards of the lake, by fleet and event date, whose windows have no embedding yet: 'sensorloop embed' can share them out."""
    found = work.shards(load_settings(), cohort, version=lake_version, labels_version=labels_version)
    say(f"{len(found)} shards.")
    result(shards=found)


@app.command()
def verify(
    *,
    pages: Annotated[bool, typer.Option(help="Read every page of every file, or only where windows came from.")] = True,
) -> None:
    """Prove the lake: files whole, every offset accounted for once, no window or label twice. Exit code 3: it is not, a line a problem."""
    from streaming.verify import verify as run

    def prove(table: str) -> Proof:
        proof = run(load_settings().lake, table, pages=pages)
        for problem in proof.problems:
            say(f"error: {table}: {problem}")
        if proof.orphans:
            say(
                f"note: {table}: {len(proof.orphans)} files that no version names: a writer died before its commit, or is at work. "
                "Harmless; 'sensorloop lake vacuum' removes old ones."
            )
        if proof.absent_offsets:
            say(
                f"note: {table}: at {proof.absent_offsets} offsets Kafka had no record (a transaction's marker, or deleted before it "
                "was read)."
            )
        say(
            f"Version {proof.version}: {proof.rows:,} {table} in {proof.files} files, {proof.partitions} partitions, log since version "
            f"{proof.since_version}: {f'{len(proof.problems)} problems' if proof.problems else 'proven'}."
        )
        return proof

    if any(proof is not None and proof.problems for proof in _both(prove)):
        raise typer.Exit(EXIT_FINAL)


@app.command()
def compact(
    *,
    day: Annotated[str | None, typer.Option(help="An event date, say 2026-01-31; every day if not said.")] = None,
) -> None:
    """Merge small files into files of about file_bytes (a setting of the lake), day by day. Rows stay the same."""
    from streaming.maintenance import compact as run

    def merge(table: str) -> Compacted:
        done = run(load_settings().lake, table, day=day)
        say(
            f"{table}: {done.merged} small files ({megabytes(done.bytes_merged)}) of {done.days} days merged: "
            f"{done.files_before} files before, {done.files_after} now, at version {done.version}."
        )
        return done

    _both(merge)


@app.command()
def vacuum(
    *,
    keep_version: Annotated[
        list[int] | None,
        typer.Option(help="A version that must stay readable however old it is; may be given several times."),
    ] = None,
    keep_labels_version: Annotated[
        list[int] | None, typer.Option(help="Likewise, of the labels that came later.")
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Only say what would be deleted.")] = False,
) -> None:
    """Delete files that no version within vacuum_retention (a setting of the lake) needs. Older versions cannot be read after it."""
    from streaming.maintenance import vacuum as run
    from streaming.tables import WINDOWS

    def clean(table: str) -> Vacuumed:
        keep = keep_version if table == WINDOWS else keep_labels_version
        done = run(load_settings().lake, table, keep_versions=keep or (), dry_run=dry_run)
        verb = "would be deleted" if dry_run else "deleted"
        say(
            f"{table}: {done.deleted} files ({megabytes(done.bytes)}) {verb}; {done.kept} that no version needs stay for now."
        )
        return done

    _both(clean)


@app.command()
def accept(
    topic: Annotated[str, typer.Argument(help="[kafka] batches_topic or labels_topic.")],
    partition: Annotated[int, typer.Argument(min=0, help="One that 'sensorloop status' shows as refused.")],
) -> None:
    """Have a partition be read on whose log has lost its end, from where the lake has read to.

    What has come to the offsets before that, in the places of what was lost, is passed over.
    """
    from registry.environment import user
    from streaming.errors import SettingsError
    from streaming.offsets import TopicPartition
    from streaming.refusals import accept as run
    from streaming.status import Observer
    from streaming.tables import LABELS, WINDOWS

    settings = load_settings()
    kafka, one = settings.kafka, TopicPartition(topic=topic, partition=partition)
    observer = Observer(kafka, settings.lake)
    try:
        now = observer.look()
    finally:
        observer.close()
    found = [each for each in (*now.partitions, *now.labels) if (each.topic, each.partition) == (topic, partition)]
    if not found:
        msg = f"There is no {one}: the topics are {kafka.batches_topic} and {kafka.labels_topic}, see 'sensorloop status'."
        raise SettingsError(msg)
    (each,) = found
    goes_on = each.committed or 0
    if each.other_topic and not settings.ingest.accept_other_topic:
        msg = (
            f"{topic} is another topic than the one of this name that the lake was filled from (its id is another), in all partitions: "
            "accepting one would not have it read. If a mirror keeps every record at its offset, set [ingest] accept_other_topic = true "
            "for one start. Else fill another lake ([lake] uri), or give the new topic a name of its own ([kafka] batches_topic, "
            "labels_topic)."
        )
        raise SettingsError(msg)
    if each.end < goes_on:
        msg = (
            f"{one} ends at offset {each.end}, and the lake has read it to {goes_on}: what comes next takes the places of what was lost, "
            "and would be passed over. Accept it when it has grown as long, or give phones a topic of a new name: then nothing is."
        )
        raise SettingsError(msg)
    run(settings.lake, WINDOWS if topic == kafka.batches_topic else LABELS, one, by=user())
    passed = 0 if each.refused is None else max(0, goes_on - max(each.refused, each.begin))
    say(
        f"{one} is read on from offset {goes_on}, within [ingest] commit_interval. Passed over: {passed} offsets at most before it, "
        "in the places of what was lost."
    )
    result(topic=topic, partition=partition, offset=goes_on, passed_over=passed)


def _both(work: Callable[[str], _Done]) -> tuple[_Done, _Done | None]:
    """Do something with the windows, and with the labels that came later if there are any.

    The command's answer is that of the windows, and below ``labels`` that of the labels.
    """
    from streaming.errors import NoTable
    from streaming.tables import LABELS, WINDOWS

    windows, labels = work(WINDOWS), None
    with suppress(NoTable):
        labels = work(LABELS)
    result(**dataclasses.asdict(windows), labels=None if labels is None else dataclasses.asdict(labels))
    return windows, labels
