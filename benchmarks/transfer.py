"""``make bench-transfer``: every arm of an experiment on pairs of data sets, the hard regime first, into ``var/bench/transfer.json``.

The simulated fleets are always a pair; ``PAIRS="name=SOURCE,TARGET …"`` adds others (lakes, or folders of recordings). Each pair is a
``sensorloop experiment``, whose cells are kept: the bench goes on where it was stopped. ``QUICK=1`` ends after about 30 minutes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.arm import FILTERLOSS
from training.tables import explained, markdown, overview
from training.transfer import Row, aims

_ROUNDS = (("hard", 3), ("hard,few-imbalanced,few,every-label", 3), ("all", 5))
"""Regimes and seeds, in the order in which a table is wanted; cells that are there already cost nothing."""
_QUICK_MINUTES = 28.0
"""No cell begins later: the last, a training from scratch, takes two more, and then there is the table."""


def main() -> None:
    """Run; arguments are in the environment."""
    begin = time.monotonic()
    home = Path(os.environ.get("SENSORLOOP_HOME", "var")).absolute() / "bench"
    home.mkdir(parents=True, exist_ok=True)
    environ = {**os.environ, "SENSORLOOP_HOME": str(home)}
    pairs = {"simulated": _fleets(home, environ), **_named(os.environ.get("PAIRS", ""))}
    quick = bool(os.environ.get("QUICK"))
    for regimes, seeds in _ROUNDS[:1] if quick else _ROUNDS:
        found: dict[str, Any] = {}
        for done, (name, (source, target)) in enumerate(pairs.items()):
            left = _QUICK_MINUTES - (time.monotonic() - begin) / 60
            limit = ("--minutes", f"{max(left, 0) / (len(pairs) - done):g}") if quick else ()
            command = ("experiment", "--source", source, "--target", target, "--name", name, "--regimes", regimes)
            _sensorloop(environ, *command, "--seeds", str(seeds), *limit)
            found[name] = json.loads((home / "experiments" / name / "transfer.json").read_text(encoding="utf-8"))
        _write(home, found, regimes)


def _fleets(home: Path, environ: Mapping[str, str]) -> tuple[str, str]:
    """Simulated recordings; the labels of all of the target's people are right, since experiments make them wrong themselves."""
    folders = (home / "fleets" / "source", home / "fleets" / "target")
    for folder in folders:
        if not folder.exists():
            right = ("--wrong-labels", "0") if folder.name == "target" else ()
            _sensorloop(environ, "simulate", str(folder), "--fleet", folder.name, *right)
    return str(folders[0]), str(folders[1])


def _named(pairs: str) -> dict[str, tuple[str, str]]:
    found = {}
    for each in pairs.split():
        name, _, where = each.partition("=")
        source, comma, target = where.partition(",")
        if not (name and source and comma and target):
            sys.exit(f"error: PAIRS has '{each}': write name=SOURCE,TARGET, blanks between pairs.")
        found[name] = (source, target)
    return found


def _sensorloop(environ: Mapping[str, str], *arguments: str) -> None:
    done = subprocess.run(
        (sys.executable, "-m", "sensorloop", *arguments), env=dict(environ), stdout=subprocess.DEVNULL, check=False
    )
    if done.returncode:
        sys.exit(done.returncode)


def _write(home: Path, found: Mapping[str, Any], regimes: str) -> None:
    """Whole or not at all; the round before stays until this one is there."""
    rows = [Row(**row) for each in found.values() for row in each["rows"]]
    result = {"regimes": regimes, "aims": aims(rows, f"{FILTERLOSS}-auto"), "pairs": found}
    for file, text in (
        ("transfer.json", json.dumps(result, indent=1)),
        (
            "transfer.md",
            "\n".join([overview(rows), markdown(rows), explained(), *(each["reasons"] for each in found.values())]),
        ),
    ):
        partial = home / f".{file}"
        partial.write_text(text, encoding="utf-8")
        partial.replace(home / file)
    print(f"{home / 'transfer.json'}: {sum(each['cells'] for each in found.values())} cells.")


if __name__ == "__main__":
    main()
