"""The command ``sensorloop experiment``: arms beside each other on any two lakes, or folders of recordings.

Recordings go the way that phones' data goes: through Kafka, into a lake of their own. The original model is trained on the source
once; what was made is kept below ``SENSORLOOP_HOME/experiments`` and found there again.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dags import commands
from dags.errors import CommandRefused
from dags.local.arms_runs import ArmsRuns
from dags.settings import Settings, external_kafka
from dags.terminal import progress, say, say_some
from dags.whole import whole
from streaming import broker
from training.arm import EVERY, FILTERLOSS, ORACLE, Arm, none_such
from training.errors import DataError, SettingsError
from training.regimes import REGIMES, Regime

if TYPE_CHECKING:
    from training.dataset import WindowSet
    from training.experiment import Pair
    from training.settings import DataSettings
    from training.transfer import Row

_DONE = "done.json"
_NAME = r"[^\W_][\w.-]*"
_Each = TypeVar("_Each", Arm, Regime)


def run(
    settings: Settings,
    *,
    source: str,
    target: str,
    cohorts: tuple[str, str],
    name: str,
    arms: str,
    regimes: str,
    seeds: int,
    minutes: float | None,
) -> dict[str, Any]:
    """Run the cells that are not there yet, and write the table of all.

    Args:
        settings: of this installation; its lake is not touched.
        source: a lake, or a folder of recordings.
        target: likewise; its labels are taken to be right.
        cohorts: of the source's windows and of the target's.
        name: of the pair, for the table and for the folder of the results.
        arms: names with commas between, or patterns (``stopped-*``); ``all`` for every one.
        regimes: likewise.
        seeds: how many.
        minutes: after so many, with what comes before the cells, no further cell is begun; None for no end.

    Raises:
        SettingsError: there is no such arm or regime.
        DataError: the two do not allow it; the message says what is missing.
        CommandRefused: recordings could not be brought into a lake.
    """
    if not re.fullmatch(_NAME, name):
        msg = f"--name is also that of a folder: letters, digits, '.', '_' and '-', the first a letter or digit, not {name!r}."
        raise SettingsError(msg)
    until = None if minutes is None else time.monotonic() + minutes * 60
    chosen = _chosen(arms, EVERY, "arm")
    wanted = _chosen(regimes, REGIMES, "regime")
    place = settings.home / "experiments"
    pair = pair_of(settings, place, (source, target), cohorts, name)

    # After what is refused at once: it takes seconds.
    from training.experiment import Experiment, Recipe
    from training.tables import overview, rests_on, stayed
    from training.transfer import rows

    runs = ArmsRuns(settings)
    experiment = Experiment(
        pair, Recipe(data=settings.data, quality=settings.quality, finetune=settings.finetune, compute=settings.compute),
        place / "cells",
    )  # fmt: skip
    runs.begin(pair)
    cells = []
    with progress("Experiment") as show:
        for cell in experiment.run(
            wanted, range(seeds), list(chosen.values()), progress=show,
            enough=lambda: until is not None and time.monotonic() > until,
        ):  # fmt: skip
            cells.append(cell)
            runs.cell(cell)
    found = rows(cells)
    total = len(wanted) * len(chosen) * seeds
    files = _tables(place / name, pair, cells, found, wanted=total)
    say(overview(found))
    say(rests_on(found))
    say_some(stayed(cells).splitlines())
    if len(cells) < total:
        say("The same command goes on with the other cells.")
    runs.table(found, overview(found), files)
    if runs.url:
        say(f"In MLflow: {runs.url}")
    as_json, as_markdown, *pictures = map(str, files)
    return {
        "cells": len(cells), "wanted": total, "table": as_markdown, "json": as_json, "pictures": pictures, "mlflow_run_id": runs.run_id,
    }  # fmt: skip


def _tables(
    folder: Path, pair: Pair, cells: Sequence[Mapping[str, Any]], found: Sequence[Row], *, wanted: int
) -> list[Path]:
    """Write what the cells come to: as JSON, as Markdown, and two pictures for each regime."""
    from training.tables import explained, how_far, markdown, reasons
    from training.transfer import closed, original_beaten

    folder.mkdir(parents=True, exist_ok=True)
    why = reasons(cells)
    arms = [arm for arm in EVERY if arm in {cell["arm"] for cell in cells}]
    regimes = dict.fromkeys(row.regime for row in found)
    ways = {regime: closed([row for row in found if row.regime == regime]) for regime in regimes}
    summary: dict[str, Any] = {
        "pair": pair.name, "source_accuracy": pair.original.accuracy, "cells": len(cells), "wanted": wanted,
        "rows": [asdict(row) for row in found], "closed": ways, "reasons": why,
        "below_original": {arm: original_beaten(cells, arm) for arm in arms if EVERY[arm].filters},
    }  # fmt: skip
    texts = {
        "transfer.json": json.dumps(summary, indent=1), "transfer.md": "\n".join((markdown(found), explained(), how_far(cells), why)),
    }  # fmt: skip
    for name, text in texts.items():
        with whole(folder / name) as partial:
            partial.write_text(text, encoding="utf-8")
    pictures = [file for regime in regimes for file in _pictures(folder, pair.name, regime, found)]
    return [folder / name for name in texts] + pictures


def _chosen(names: str, known: Mapping[str, _Each], what: str) -> dict[str, _Each]:
    if names == "all":
        return dict(known)
    wanted = set()
    for name in (each.strip() for each in names.split(",")):
        meant = fnmatch.filter(known, name)
        if not meant:
            raise SettingsError(none_such(what, name, known))
        wanted.update(meant)
    return {name: known[name] for name in known if name in wanted}


def pair_of(settings: Settings, place: Path, where: tuple[str, str], cohorts: tuple[str, str], name: str) -> Pair:
    """Source and target, each a lake or a folder of recordings, and the original model; below ``place``, what has been made is found again.

    Raises:
        DataError: they share too few scenes, or there are no recordings.
        CommandRefused: recordings could not be brought into a lake.
    """
    from training.experiment import Pair
    from training.original import OriginalModel, train_original
    from training.runkey import ORIGINAL_RECIPE

    for each in where:
        _require_data(each)
    source, target = (_windows(settings, place, each, cohort) for each, cohort in zip(where, cohorts, strict=True))
    shared = [scene for scene, count in source.counts().items() if count and target.counts().get(scene)]
    if len(shared) < 2:
        msg = (
            f"Source and target share {len(shared)} labelled scenes ({', '.join(shared) or 'none'}); at least 2 are needed. "
            f"The source has {', '.join(source.scene_names)}, the target {', '.join(target.scene_names)}."
        )
        raise DataError(msg)
    source, target = _only(source, shared), _only(target, shared)
    cuts = [(windows.rate_hz, windows.signals.shape[2]) for windows in (source, target)]
    if cuts[0] != cuts[1]:
        told = " and ".join(f"{samples} samples at {rate:g} Hz" for rate, samples in cuts)
        msg = f"Source and target are cut differently ({told}): ingest both with the same [windows], each into a new lake."
        raise DataError(msg)
    # Those of [data] are the installation's; here each seed draws its own, and who verifies cannot be asked about made-up labels.
    data = replace(settings.data, scenes=tuple(shared), holdout_subjects=(), verified_by=())
    _require_people("source", source, data, min_labelled=data.min_labelled, min_train_subjects=1)
    _require_people("target", target, data, min_labelled=0, min_train_subjects=2)
    parts = json.dumps(
        [ORIGINAL_RECIPE, source.digest(), asdict(settings.original), data.recipe(), asdict(settings.spectrogram)], default=str
    )  # fmt: skip
    folder = place / "originals" / hashlib.blake2b(parts.encode(), digest_size=8).hexdigest()
    if (folder / "model.json").exists():
        original = OriginalModel.load(folder)
    else:
        with progress("Training the original model") as show:
            original = train_original(
                source, settings.original, data=data, spectrogram=settings.spectrogram, compute=settings.compute, progress=show,
            )  # fmt: skip
        original.save(folder)
    say(f"{name}: {len(source):,} windows of the source, {len(target):,} of the target; {', '.join(shared)}.")
    say(f"Original model: accuracy {original.accuracy:.3f} at home.")
    return Pair(name=name, original=original, source=source, target=target)


def _require_people(
    which: str, windows: WindowSet, data: DataSettings, *, min_labelled: int, min_train_subjects: int
) -> None:
    """Said of either before the original model takes minutes."""
    from training.folds import split_by_subject

    try:
        split_by_subject(
            windows, share=data.holdout_share, seed=data.seed, min_labelled=min_labelled, min_train_subjects=min_train_subjects,
        )  # fmt: skip
    except DataError as error:
        msg = f"The {which}: {error}"
        raise type(error)(msg) from error


def _only(windows: WindowSet, scenes: Sequence[str]) -> WindowSet:
    numbers = [windows.scene_names.index(scene) for scene in scenes]
    keep = [scene in numbers for scene in windows.scenes.tolist()]
    import numpy as np

    return windows.select(np.array(keep)).with_scenes(scenes)


def _windows(settings: Settings, place: Path, where: str, cohort: str) -> WindowSet:
    from training.lake import from_lake

    lake = where if _is_lake(where) else through_kafka(settings, place, Path(where))
    data = settings.data
    return from_lake(
        lake, cohort=cohort, channels=data.channels, scenes=data.scenes or None, min_coverage=data.min_coverage,
        labelled_only=True,
    )  # fmt: skip


def _is_lake(where: str) -> bool:
    return "://" in where or (Path(where) / "windows" / "_delta_log").is_dir()


def _require_data(where: str) -> None:
    """Said before the other of the two takes minutes."""
    if not _is_lake(where) and _is_lake(inside := str(Path(where) / "lake")):
        msg = f"{where} is neither a lake nor a folder of recordings, but has a lake: did you mean {inside}?"
        raise DataError(msg)
    if not _is_lake(where) and next(Path(where).rglob("*.parquet"), None) is None:
        msg = (
            f"{where} is neither a lake nor a folder of recordings: 'sensorloop import' or 'simulate' makes recordings."
        )
        raise DataError(msg)


def through_kafka(settings: Settings, place: Path, recordings: Path) -> str:
    """A lake of these recordings alone; made once.

    Raises:
        DataError: there are no recordings.
        CommandRefused: one of the commands could not do its work; it has said why.
    """
    _require_data(str(recordings))
    files = sorted(recordings.rglob("*.parquet"))
    # By content: a label that is put right leaves a file as long as it was.
    listed = [(str(file.relative_to(recordings)), _digest(file)) for file in files]
    cut = json.dumps([listed, asdict(settings.windows)], default=str)
    name = hashlib.blake2b(cut.encode(), digest_size=6).hexdigest()
    lake = place / "lakes" / name
    if (lake / _DONE).exists():
        return str(lake)
    kafka = settings.kafka
    # Topics and a group of its own: what else is in this Kafka is not this lake's, and what an interrupted run has sent is read again.
    environ = {
        **os.environ, "SENSORLOOP_LAKE__URI": str(lake), "SENSORLOOP_INGEST__METRICS_PORT": "0",
        **{
            f"SENSORLOOP_KAFKA__{key.upper()}": f"{getattr(kafka, key)}.experiment-{name}"
            for key in ("group_id", "batches_topic", "labels_topic", "deadletter_topic")
        },
    }  # fmt: skip
    ours = external_kafka(settings) is None and broker.status(settings.home) is None
    try:
        if ours:
            broker.start(settings.broker, home=settings.home, die_with_parent=True)
        say(f"{recordings} goes through Kafka into the lake {lake}.")
        sent = _command(environ, "replay", str(recordings))
        _command(environ, "ingest", "--until-caught-up")
    finally:
        if ours:
            broker.stop(settings.home)
    with whole(lake / _DONE) as partial:
        partial.write_text(json.dumps({"recordings": str(recordings), **sent}), encoding="utf-8")
    return str(lake)


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "blake2b").hexdigest()


def _command(environ: Mapping[str, str], *arguments: str) -> dict[str, Any]:
    try:
        return commands.run((sys.executable, "-m", "sensorloop", *arguments), report=say, env=environ)
    except CommandRefused as error:
        msg = f"'sensorloop {' '.join(arguments)}': {error}"
        raise CommandRefused(msg) from error


def _pictures(folder: Path, name: str, regime: str, found: Sequence[Row]) -> list[Path]:
    from training.figures import recall_figure, transfer_figure

    mine = {row.arm: row for row in found if row.regime == regime}
    values = {arm: (row.macro_f1, *(row.interval or (row.macro_f1, row.macro_f1))) for arm, row in mine.items()}
    figures = {
        regime: transfer_figure(values, title=f"{name}, {regime}", highlight=FILTERLOSS, limit=ORACLE),
        f"{regime}-recall": recall_figure(
            {arm: row.recall for arm, row in mine.items()}, title=f"{name}, {regime}: recall of each scene"
        ),
    }
    for what, figure in figures.items():
        with whole(folder / f"{what}.png") as partial:
            figure.savefig(partial, dpi=120, format="png")
    return [folder / f"{what}.png" for what in figures]
