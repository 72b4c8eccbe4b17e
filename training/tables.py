"""An experiment's rows as Markdown, for a terminal, a file or MLflow's page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from training.arm import CONVENTIONAL, EVERY, ORACLE
from training.transfer import Interval, Row, means

_WORTH = "With one seed, differences of five points mean nothing, with three, of one or two."
_COLUMNS = (
    "arm", "macro-F1", "95 %", "accuracy", "recovery", "to plain", "to the best conventional", "to the best of the same recipe", "spread",
    "seconds",
)  # fmt: skip


def overview(found: Sequence[Row]) -> str:
    """A table for each regime: macro-F1 of each arm in each pair, and the means over the pairs.

    An arm that a pair lacks, as after a bench that was stopped early, has no mean: all means are of the same pairs.
    """
    lines = []
    for regime in dict.fromkeys(row.regime for row in found):
        mine = [row for row in found if row.regime == regime]
        pairs = list(dict.fromkeys(row.pair for row in mine))
        lines += [
            f"### {regime}: macro-F1 in each pair, and the means of macro-F1 and of the recovery ratio",
            "",
            f"| arm | {' | '.join(pairs)} | mean | recovery |",
            f"|---|{'---|' * len(pairs)}---|---|",
            *_beside(mine, pairs),
            "",
        ]
    return "\n".join(lines)


def _beside(mine: Sequence[Row], pairs: Sequence[str]) -> list[str]:
    """A line for each arm of a regime, the pairs beside each other."""
    at = {(row.arm, row.pair): row for row in mine}
    most = {pair: max(row.seeds for row in mine if row.pair == pair) for pair in pairs}
    table = {arm: [row for pair in pairs if (row := at.get((arm, pair)))] for arm in EVERY}
    fewer = {arm: max((_fewer(row, most[row.pair]) for row in some), default="") for arm, some in table.items()}
    of_all = {arm: means(some) for arm, some in table.items() if len(some) == len(pairs)}
    top = max((f1 for arm, (f1, _) in of_all.items() if arm != ORACLE and not fewer[arm]), default=0.0)
    lines = []
    for arm in (arm for arm, some in table.items() if some):
        cells = [f"{at[arm, pair].macro_f1:.3f}" if (arm, pair) in at else "–" for pair in pairs]
        f1, recovery = of_all.get(arm, (None, None))
        cells += ["–", "–"] if f1 is None else [_bold(arm, f1, top), f"{recovery:.3f}"]
        lines.append(f"| {arm}{fewer[arm]} | {' | '.join(cells)} |")
    return lines


def markdown(found: Sequence[Row]) -> str:
    """Two tables for each pair and regime, the arms as they come: what each comes to, and its recall of each scene."""
    lines = []
    for pair, regime in dict.fromkeys((row.pair, row.regime) for row in found):
        mine = [row for row in found if (row.pair, row.regime) == (pair, regime)]
        most = max(row.seeds for row in mine)
        top = max((row.macro_f1 for row in mine if row.arm != ORACLE and row.seeds == most), default=0.0)
        lines += [
            f"### {pair}, {regime} ({_seeds(most)})",
            "",
            _measured_on(mine[0]),
            "",
            f"| {' | '.join(_COLUMNS)} |",
            f"|{'---|' * len(_COLUMNS)}",
        ]
        for row in mine:
            lines.append(
                f"| {row.arm}{_fewer(row, most)} | {_bold(row.arm, row.macro_f1, top)} | {_range(row.interval)} | {row.accuracy:.3f} | "
                f"{_recovery(row)} | {_difference(row.to_plain, row.to_plain_interval)} | "
                f"{_difference(row.to_best, row.to_best_interval)} | {_difference(row.to_same, row.to_same_interval)} | "
                f"{'–' if row.spread is None else f'{row.spread:.3f}'} | {row.seconds:.0f} |"
            )
        lines += ["", *_recalls(mine), ""]
    return "\n".join(lines)


def _recalls(mine: Sequence[Row]) -> list[str]:
    """A table of one pair and regime."""
    scenes = list(mine[0].recall)
    most = max(row.seeds for row in mine)
    rivals = [row for row in mine if row.arm != ORACLE and row.seeds == most]
    tops = {scene: max((row.recall[scene] or 0.0 for row in rivals), default=0.0) for scene in scenes}
    lines = [f"| recall | {' | '.join(scenes)} |", f"|---|{'---|' * len(scenes)}"]
    for row in mine:
        values = ("–" if value is None else _bold(row.arm, value, tops[scene]) for scene, value in row.recall.items())
        lines.append(f"| {row.arm}{_fewer(row, most)} | {' | '.join(values)} |")
    return lines


def rests_on(found: Sequence[Row]) -> str:
    """How little a table may rest on: a line for each pair and regime, and what seeds are worth."""
    first = {(row.pair, row.regime): row for row in reversed(found)}
    lines = [
        f"{pair}, {regime}, {_seeds(row.seeds)}: {_measured_on(row)}" for (pair, regime), row in reversed(first.items())
    ]
    return "\n".join([*lines, _WORTH]) if lines else ""


def explained() -> str:
    """What the columns of :func:`markdown` say."""
    usual = ", ".join(CONVENTIONAL)
    return (
        "Macro-F1 and accuracy are of people held out, means over the seeds; bold: the best arm of all seeds but the oracle, which\n"
        "knows what labels are wrong. 95 %: by a bootstrap over people and seeds; – where all seeds together hold out fewer than five\n"
        "people, or draws of them lose a scene.\n"
        "Recovery: accuracy ÷ the original's at home (taken as it is), with its 95 %. Recall: the share of a scene's windows that is\n"
        "recognised (its 95 % is in transfer.json). Differences are of macro-F1, on the same people and seeds: to free-plain; to the\n"
        f"best of the conventional arms ({usual});\n"
        "to the best of the same recipe (all that FilterLoss has but its weights). Spread: of balanced accuracy over the last epochs.\n"
        f"{_WORTH} Of so few seeds an\ninterval is the range of what was seen, and too narrow.\n"
    )


def reasons(cells: Iterable[Mapping[str, Any]]) -> str:
    """A line for each cell whose arm says what it chose, and why."""
    lines = [
        f"- {cell['arm']}, {cell['pair']}, {cell['regime']}, seed {cell['seed']}: {cell['details']['policy']}, {cell['details']['why']}"
        for cell in cells
        if "why" in cell.get("details", {})
    ]
    return "\n".join(["What was chosen, and why:", "", *lines, ""]) if lines else ""


def _measured_on(row: Row) -> str:
    fewest, most = row.labels_by_seed
    others = "" if fewest == most else f"; {fewest:,} to {most:,} labels by seed"
    return (
        f"{row.labels:,} labels to learn from, {row.wrong:,} of them wrong; {row.people} people held out, with {row.windows:,} windows "
        f"(first seed{others})."
    )


def _seeds(count: int) -> str:
    return f"{count} seed{'' if count == 1 else 's'}"


def _fewer(row: Row, most: int) -> str:
    """How many seeds a row has, where others have more."""
    return f" ({_seeds(row.seeds)})" if row.seeds < most else ""


def _bold(arm: str, value: float, top: float) -> str:
    """The best stands out, but neither the oracle nor what all get wrong."""
    return f"**{value:.3f}**" if value == top > 0 and arm != ORACLE else f"{value:.3f}"


def _recovery(row: Row) -> str:
    interval = row.recovery_interval
    return f"{row.recovery_ratio:.3f}" + ("" if interval is None else f" ({_range(interval)})")


def _range(interval: Interval | None) -> str:
    return "–" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"


def _difference(value: float | None, interval: Interval | None) -> str:
    if value is None:
        return "–"
    return f"{value:+.3f}" + ("" if interval is None else f" ({interval[0]:+.3f} to {interval[1]:+.3f})")
