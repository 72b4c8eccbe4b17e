"""The command ``sensorloop experiment``: arms beside each other on a pair of fleets (:mod:`dags.local.pair`)."""

from __future__ import annotations

import fnmatch
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dags.local.arms_runs import ArmsRuns
from dags.local.pair import pair_of
from dags.settings import Settings
from dags.terminal import progress, say, say_some
from dags.whole import whole
from training.arm import EVERY, FILTERLOSS, ORACLE, Arm, none_such
from training.errors import SettingsError
from training.regimes import REGIMES, Regime

if TYPE_CHECKING:
    from training.experiment import Pair
    from training.transfer import Row

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
    with _goes_on():
        pair = pair_of(settings, place, (source, target), cohorts, name)

    # After what is refused at once: it takes seconds.
    from training.experiment import Experiment, Recipe
    from training.tables import ended_below, overview, rests_on, stayed
    from training.transfer import rows

    runs = ArmsRuns(settings)
    experiment = Experiment(
        pair, Recipe(data=settings.data, quality=settings.quality, finetune=settings.finetune, compute=settings.compute),
        place / "cells",
    )  # fmt: skip
    runs.begin(pair)
    cells = []
    with _goes_on(), progress("Experiment") as show:
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
    say_some([*stayed(cells).splitlines(), *ended_below(cells).splitlines()])
    if len(cells) < total:
        say("The same command goes on with the other cells.")
    runs.table(found, overview(found), files)
    if runs.url:
        say(f"In MLflow: {runs.url}")
    as_json, as_markdown, *pictures = map(str, files)
    return {
        "cells": len(cells), "wanted": total, "table": as_markdown, "json": as_json, "pictures": pictures, "mlflow_run_id": runs.run_id,
    }  # fmt: skip


@contextmanager
def _goes_on() -> Iterator[None]:
    """Whoever stops it is told that nothing is lost."""
    try:
        yield
    except KeyboardInterrupt:
        say("Stopped. What is done is kept: the same command goes on.")
        raise


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
