"""What the demo found, as numbers and as a table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dags.settings import Settings

ORIGINAL = "original"
"""The arm that is the original model as it is."""


def collect(
    settings: Settings,
    *,
    account: Mapping[str, Any],
    original: Mapping[str, Any],
    answers: Mapping[str, Any],
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """The summary.

    Args:
        settings: of the demo.
        account: answer of ``lake account``.
        original: answer of ``train original``.
        answers: the DAG's tasks' answers.
        seconds: how long each step took.
    """
    import polars as pl

    from streaming.lake import scan_windows

    counts = dict(scan_windows(settings.lake).group_by("cohort").agg(pl.len()).collect().iter_rows())
    results = json.loads(Path(answers["finetune"]["results"]).read_text(encoding="utf-8"))
    arms: dict[str, Any] = results["arms"]
    promoted = answers["promote"]
    return {
        "windows": {cohort: counts.get(cohort, 0) for cohort in sorted(counts)},
        "samples": {"sent": account["sent"], "lost": account["lost"], "doubled": account["doubled"]},
        "original": {
            "source_accuracy": original["source_accuracy"],
            "target_accuracy": arms[ORIGINAL]["accuracy"],
            "target_macro_f1": arms[ORIGINAL]["macro_f1"],
        },
        "arms": {
            name: {key: arm[key] for key in ("accuracy", "macro_f1", "recovery_ratio")}
            for name, arm in arms.items()
            if name != ORIGINAL
        },
        "verdict": {"passed": promoted["passed"], "reasons": promoted["reasons"]},
        "champion": {"name": settings.registry.model_name, "version": promoted["champion"]},
        "seconds": dict(seconds),
    }


def arms_table(arms: Mapping[str, Mapping[str, Any]]) -> Table:
    """What each arm came to, the original model first if it is there, then the best first."""
    table = Table("arm", "accuracy", "macro-F1", "recovery ratio", box=None)
    for name, arm in sorted(arms.items(), key=lambda item: (item[0] != ORIGINAL, -item[1]["accuracy"])):
        title = "original, as it is" if name == ORIGINAL else name
        table.add_row(title, *(f"{arm[key]:.3f}" for key in ("accuracy", "macro_f1", "recovery_ratio")))
    return table


def show(console: Console, found: Mapping[str, Any], *, file: Path) -> None:
    """The summary for people."""
    console.rule("[bold]Summary", align="left")
    windows = ", ".join(f"{count:,} of {cohort}" for cohort, count in found["windows"].items())
    samples, original = found["samples"], found["original"]
    console.print(f"Windows   {windows}")
    console.print(f"Samples   {samples['sent']:,} sent, {samples['lost']} lost, {samples['doubled']} doubled")
    console.print(
        f"Original  accuracy {original['source_accuracy']:.3f} at home, {original['target_accuracy']:.3f} on the new phones as it is"
    )
    as_it_is = (
        original["target_accuracy"] / original["source_accuracy"] if original["source_accuracy"] else float("nan")
    )
    frozen = {
        "accuracy": original["target_accuracy"], "macro_f1": original["target_macro_f1"], "recovery_ratio": as_it_is,
    }  # fmt: skip
    console.print(arms_table({ORIGINAL: frozen, **found["arms"]}))
    verdict, champion = found["verdict"], found["champion"]
    console.print(f"Verdict   [bold]{'passed' if verdict['passed'] else 'refused'}")
    for reason in verdict["reasons"]:
        console.print(f"          {reason}")
    console.print(f"Champion  {champion['name']} version {champion['version'] or '–'}")
    console.print(f"Seconds   {', '.join(f'{name} {value:.0f}' for name, value in found['seconds'].items())}")
    console.print(f"All of it is in {file}")
