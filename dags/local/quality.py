"""The commands ``sensorloop quality`` and ``sensorloop embed``."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Annotated

import typer

from dags import runs, scoring
from dags.settings import load as load_settings
from dags.terminal import listed, progress, result, say


def show(
    run_key: Annotated[
        str | None, typer.Option(help="What 'sensorloop rescore' printed; the last rescoring if not said.")
    ] = None,
    most: Annotated[int, typer.Option(min=1, help="How many windows to show.")] = 20,
    scene: Annotated[str | None, typer.Option(help="Only windows with this label.")] = None,
    subject: Annotated[str | None, typer.Option(help="Only this person's windows.")] = None,
) -> None:
    """The labels that a rescoring distrusts most, the lowest score first, and what speaks against each.

    A number behind a reason is the look's, from 0 (against the label) to 1. The weight is FilterLoss's, with which networks are
    trained that then look at the labels again; – where a person is held out and trains nothing. Windows that were too sparse to be
    scored come last.
    """
    settings = load_settings()
    run_key = runs.newest(settings) if run_key is None else run_key
    found, count = scoring.most_distrusted(settings, run_key=run_key, most=most, scene=scene, subject=subject)
    for each in found:
        weight = "–" if each.weight is None else f"{each.weight:.2f}"
        say(
            f"{each.score:.3f}  weight {weight}  {each.label}, {each.subject_id}, {each.device_id} session {each.session_id}, "
            f"{each.start}: {each.reasons or 'nothing speaks against it'}"
        )
    say(
        "To say what it was: sensorloop label send --device DEVICE --session SESSION --from START --to END --scene SCENE"
    )
    say(f"{len(found)} of {count:,} windows of rescoring {run_key}; the score is from 0 to 1, higher is cleaner.")
    listed(run_key=run_key, windows=count, shown=[asdict(each) for each in found])


def embed(
    cohort: Annotated[str, typer.Option(help="Which fleet: the recordings' and windows' cohort.")] = "target",
    lake_version: Annotated[
        int | None, typer.Option(help="Version of the windows table; the newest if not said.")
    ] = None,
    labels_version: Annotated[
        int | None, typer.Option(help="Version of the labels table; the newest if not said, -1: none.")
    ] = None,
    day: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="An event date, UTC; every day if not said.")
    ] = None,
) -> None:
    """Compute the original model's embeddings of labelled windows that have none yet, into the lake, for a rescoring to find.

    'sensorloop rescore' does it by itself; this is for doing it day by day, on several machines at once.
    """
    with progress("Embedding windows") as told:
        done = scoring.embed_days(
            load_settings(), cohort=cohort, lake_version=lake_version, labels_version=labels_version,
            day=None if day is None else day.date(), progress=told,
        )  # fmt: skip
    say(f"{done['embedded']:,} of {done['windows']:,} windows embedded; the lake had the others.")
    result(**done)
