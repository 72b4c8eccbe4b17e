"""An experiment's rows as Markdown, for a terminal, a file or MLflow's page."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from training.arm import CONVENTIONAL, CONVENTIONAL_STOPPED, EVERY, ORACLE, ORIGINAL, SAME_RECIPE
from training.transfer import Interval, Row, means, original_beaten

_WORTH = "With one seed, differences of five points mean nothing, with three, of one or two."
_COLUMNS = (
    "arm", "macro-F1", "95 %", "accuracy", "recovery", "to plain", "to the best conventional", "to the best stopped",
    "to the best of the same recipe", "spread", "seconds",
)  # fmt: skip

_BAR = r"\|"
"""A bar within a cell."""
_WAYS = ("the original stays", "its head alone is trained", "what is below it, too")


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
            f"| arm | {' | '.join(_heads(mine, pairs))} | mean | recovery |",
            f"|---|{'---|' * len(pairs)}---|---|",
            *_beside(mine, pairs),
            "",
        ]
    return "\n".join(lines)


def _heads(mine: Sequence[Row], pairs: Sequence[str]) -> list[str]:
    """The pairs, and of how many seeds they are, where they differ."""
    most = {pair: max(row.seeds for row in mine if row.pair == pair) for pair in pairs}
    return [f"{pair} ({_seeds(most[pair])})" if len(set(most.values())) > 1 else pair for pair in pairs]


def _beside(mine: Sequence[Row], pairs: Sequence[str]) -> list[str]:
    """A line for each arm of a regime, the pairs beside each other."""
    at = {(row.arm, row.pair): row for row in mine}
    table = {arm: [row for pair in pairs if (row := at.get((arm, pair)))] for arm in EVERY}
    fewest = {
        arm: min(row.seeds for row in some) for arm, some in table.items() if any(_lacks_seeds(r, mine) for r in some)
    }
    of_all = {arm: means(some) for arm, some in table.items() if len(some) == len(pairs)}
    top = max((f1 for arm, (f1, _) in of_all.items() if arm != ORACLE and arm not in fewest), default=0.0)
    lines = []
    for arm in (arm for arm, some in table.items() if some):
        cells = [f"{at[arm, pair].macro_f1:.3f}" if (arm, pair) in at else "–" for pair in pairs]
        f1, recovery = of_all.get(arm, (None, None))
        best = f1 == top and arm != ORACLE and arm not in fewest
        cells += ["–", "–"] if f1 is None else [_bold(f1, best=best), f"{recovery:.3f}"]
        seeds = f" ({_seeds(fewest[arm])})" if arm in fewest else ""
        lines.append(f"| {arm}{seeds} | {' | '.join(cells)} |")
    return lines


def markdown(found: Sequence[Row]) -> str:
    """Two tables for each pair and regime, the arms as they come: what each comes to, and its recall of each scene."""
    lines = []
    for pair, regime in dict.fromkeys((row.pair, row.regime) for row in found):
        mine = [row for row in found if (row.pair, row.regime) == (pair, regime)]
        lines += [
            f"### {pair}, {regime} ({_seeds(max(row.seeds for row in mine))})",
            "",
            _measured_on(mine[0]),
            _held_against(mine),
            "",
            f"| {' | '.join(_COLUMNS)} |",
            f"|{'---|' * len(_COLUMNS)}",
        ]
        for row in mine:
            lines.append(
                f"| {_named(row, mine)} | {_bold(row.macro_f1, best=_best(row, mine, _f1))} | {_range(row.interval)} | "
                f"{row.accuracy:.3f} | {_recovery(row)} | {_difference(row.to_plain, row.to_plain_interval)} | "
                f"{_difference(row.to_best, row.to_best_interval)} | "
                f"{_difference(row.to_stopped, row.to_stopped_interval)} | {_difference(row.to_same, row.to_same_interval)} | "
                f"{'–' if row.spread is None else f'{row.spread:.3f}'} | {row.seconds:.0f} |"
            )
        lines += ["", *_recalls(mine), ""]
    return "\n".join(lines)


def _recalls(mine: Sequence[Row]) -> list[str]:
    """A table of one pair and regime."""
    scenes = list(mine[0].recall)
    lines = [f"| recall | {' | '.join(scene.replace('|', _BAR) for scene in scenes)} |", f"|---|{'---|' * len(scenes)}"]
    for row in mine:
        values = (
            "–"
            if (value := row.recall[scene]) is None
            else _bold(value, best=_best(row, mine, partial(_recall, scene)))
            for scene in scenes
        )
        lines.append(f"| {_named(row, mine)} | {' | '.join(values)} |")
    return lines


def _f1(row: Row) -> float:
    return row.macro_f1


def _recall(scene: str, row: Row) -> float:
    return row.recall[scene] or 0.0


def _best(row: Row, mine: Sequence[Row], value: Callable[[Row], float]) -> bool:
    """Whether it stands out in its pair and regime: not the oracle, not one of fewer seeds, and not what all get wrong."""
    rivals = [each for each in mine if each.arm != ORACLE and not _lacks_seeds(each, mine)]
    return row in rivals and value(row) == max(map(value, rivals)) > 0


def _lacks_seeds(row: Row, others: Sequence[Row]) -> bool:
    return row.seeds < max(each.seeds for each in others if each.pair == row.pair)


def _named(row: Row, mine: Sequence[Row]) -> str:
    """The arm, and how many seeds it has, where others have more."""
    return f"{row.arm} ({_seeds(row.seeds)})" if _lacks_seeds(row, mine) else row.arm


def _held_against(mine: Sequence[Row]) -> str:
    """Which arms the differences are to: of those that were run, which may not be all yet."""
    ran = {row.arm for row in mine}
    told = []
    for what, name, names in (
        ("of the conventional arms", mine[0].best, CONVENTIONAL),
        ("of the conventional arms with the stopping rule", mine[0].stopped, CONVENTIONAL_STOPPED),
        ("of those of the same recipe", mine[0].same, [arm.name for arm in SAME_RECIPE]),
    ):
        if name is not None:
            missing = len(names) - len(ran.intersection(names))
            told.append(f"{what}: {name}" + (f" ({missing} of {len(names)} were not run)" if missing else ""))
    return f"The best {'; '.join(told)}." if told else ""


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
        "Macro-F1 and accuracy are of people held out, means over the seeds; bold: the best arm among those run with every seed, the\n"
        "oracle aside, which knows what labels are wrong. 95 %: by a bootstrap over people and seeds; – where all seeds together hold\n"
        "out fewer than five people, or draws of them lose a scene.\n"
        "Recovery: accuracy ÷ the original's at home (taken as it is), with its 95 %. Recall: the share of a scene's windows that is\n"
        "recognised (its 95 % is in transfer.json). Differences are of macro-F1, on the same people and seeds: to free-plain; to the\n"
        f"best of the conventional arms ({usual});\n"
        "to the best of these with the stopping rule (people left out say whether to begin: stopped-…);\n"
        "to the best of the same recipe (all that FilterLoss has but its weights). Spread: of balanced accuracy over the last\n"
        "quarter of the epochs, of the first training without some people, also where only a head was taken of it in the end.\n"
        "Seconds: of a cell, on whatever else the machine had to do; what people left out judge is in it, and, of the free-… arms,\n"
        "the training that their curve is drawn of, which people would not pay for (three sevenths).\n"
        f"{_WORTH} Of so few seeds an\ninterval is the range of what was seen, and too narrow.\n"
    )


def stayed(cells: Iterable[Mapping[str, Any]]) -> str:
    """Which arms are the original as it is, since people left out saw no gain, and in how many seeds; empty if none is."""
    found = {where: each for where, each in _how_far(cells).items() if each[_WAYS[0]]}
    lines = []
    for pair, regime in dict.fromkeys(where[:2] for where in found):
        mine = {arm: each for (*place, arm), each in found.items() if place == [pair, regime]}
        told = (
            arm if each[_WAYS[0]] == each.total() else f"{arm} ({each[_WAYS[0]]} of {_seeds(each.total())})"
            for arm, each in mine.items()
        )
        lines.append(
            f"{pair}, {regime}: people left out saw no gain, and the original stays as it is, in {', '.join(told)}."
        )
    return "\n".join(lines)


def ended_below(cells: Iterable[Mapping[str, Any]]) -> str:
    """Which of FilterLoss's arms ended below the original as it is, in how many seeds and by how much; empty if none did."""
    every = list(cells)
    lines = []
    for arm in (name for name, arm in EVERY.items() if arm.filters):
        both = Counter((cell["pair"], cell["regime"], cell["seed"]) for cell in every if cell["arm"] in {arm, ORIGINAL})
        seeds = Counter(where[:2] for where, arms in both.items() if arms == 2)
        found: dict[tuple[str, str], list[float]] = defaultdict(list)
        for pair, regime, _, by in original_beaten(every, arm):
            found[pair, regime].append(-by)
        lines += [
            f"{pair}, {regime}: {arm} ended below the original as it is in {len(by)} of {_seeds(seeds[pair, regime])}, by {max(by):.3f} "
            "at most: people left out had seen a gain that those held out do not have."
            for (pair, regime), by in found.items()
        ]
    return "\n".join(lines)


def how_far(cells: Iterable[Mapping[str, Any]]) -> str:
    """A table of how far people left out let each arm go, in how many seeds; empty where they were not asked."""
    found = _how_far(cells)
    lines = [
        f"| {pair}, {regime} | {arm} | {' | '.join(str(each[way]) for way in _WAYS)} |"
        for (pair, regime, arm), each in found.items()
    ]
    head = [
        "How far people left out let each arm go, in seeds:",
        "",
        f"| | arm | {' | '.join(_WAYS)} |",
        "|---|---|---|---|---|",
    ]
    return "\n".join([*head, *lines, ""]) if lines else ""


def _how_far(cells: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str, str], Counter[str]]:
    """(Pair, regime, arm) → what came of it, for arms whose way is chosen; in the order of the arms."""
    found: dict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
    for cell in cells:
        details = cell.get("details", {})
        if EVERY[cell["arm"]].choice != "nothing" and "share" in details:
            stays, alone = not details["share"], not details["epochs"]
            way = _WAYS[0] if stays else _WAYS[1] if alone else _WAYS[2]
            found[cell["pair"], cell["regime"], cell["arm"]][way] += 1
    order = list(EVERY)
    return dict(sorted(found.items(), key=lambda each: (*each[0][:2], order.index(each[0][2]))))


def reasons(cells: Iterable[Mapping[str, Any]]) -> str:
    """A line for each cell whose arm says what it chose, and why."""
    lines = [
        f"- {cell['arm']}, {cell['pair']}, {cell['regime']}, seed {cell['seed']}: {cell['details']['policy']}, {cell['details']['why']}"
        + _looked_again(cell["details"])
        + _judged(cell["details"])
        for cell in cells
        if "why" in cell.get("details", {})
    ]
    return "\n".join(["What was chosen, and why:", "", *lines, ""]) if lines else ""


def _looked_again(details: Mapping[str, Any]) -> str:
    """What networks have changed about the belief in labels, of those that have not seen the person."""
    if "second_look" not in details:
        return ""
    look = details["second_look"]
    before, after = look["believed"]
    return (
        f"; after a second look at the labels, by the networks (trusted {look['trust']:.2f} of 1): mean belief {before:.3f} → {after:.3f}, "
        f"labels that are believed and were not, or no longer are: {look['changed']}"
    )


def _judged(details: Mapping[str, Any]) -> str:
    """What people left out gave to what might have been taken: the original, a head, and what is trained below it, too."""
    if "validation_below" not in details:
        return ""
    below, taken = details["validation_below"], bool(details["epochs"])
    head = f"the head {details['validation']:.3f}, " if details["share"] and not taken else ""
    return (
        f"; people left out gave the original {details['validation_original']:.3f}, {head}what is trained below the head, too, "
        f"{below:.3f}: {'taken' if taken else 'not taken'}"
    )


def _measured_on(row: Row) -> str:
    fewest, most = row.labels_by_seed
    others = "" if fewest == most else f"; {fewest:,} to {most:,} labels by seed"
    people = "1 person" if row.people == 1 else f"{row.people} people"
    alone = " One person says nothing of others." if row.people == 1 else ""
    return (
        f"{row.labels:,} labels to learn from, {row.wrong:,} of them made wrong; {people} held out, with {row.windows:,} "
        f"windows (first seed{others}).{alone}"
    )


def _seeds(count: int) -> str:
    return f"{count} seed{'' if count == 1 else 's'}"


def _bold(value: float, *, best: bool) -> str:
    return f"**{value:.3f}**" if best else f"{value:.3f}"


def _recovery(row: Row) -> str:
    interval = row.recovery_interval
    return f"{row.recovery_ratio:.3f}" + ("" if interval is None else f" ({_range(interval)})")


def _range(interval: Interval | None) -> str:
    return "–" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"


def _difference(value: float | None, interval: Interval | None) -> str:
    if value is None:
        return "–"
    return f"{value:+.3f}" + ("" if interval is None else f" ({interval[0]:+.3f} to {interval[1]:+.3f})")
