"""What an experiment's cells come to: means, and how sure one can be, over seeds and people.

Intervals are percentiles of a bootstrap: people are drawn, each with all their windows in every seed that holds them out, since asking
the same person twice is no second opinion; and seeds. Of n people or seeds n - 1 are drawn, which makes the standard error that of the
n: drawing n makes it too small, by a fifth where n is 3 (McCarthy & Snowden, 1985, "The bootstrap and finite population sampling"). Of
few seeds it stays a range of what was seen: three of them have no fortieth on either side. A draw of people that loses a scene in any
seed is another question and is not counted. Of fewer than five people, all seeds together, there is no interval. Arms that are compared
are drawn alike, so that what they share does not blur their difference.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.arm import CONVENTIONAL, EVERY, FREE, ORACLE, ORIGINAL, PRUNED, SAME_RECIPE

Array = NDArray[np.float64]
Interval = tuple[float, float]
_DRAWS, _MOST_DRAWS, _LEAST_DRAWS = 1000, 4000, 200
"""How many draws count, how many are made for them, and with how few there is no interval."""
_LEAST_PEOPLE = 5
_PLAIN = FREE + "plain"
_WORTH = "With one seed, differences of five points mean nothing, with three, of one or two."
_PLACE = {arm: at for at, arm in enumerate(EVERY)}
_COLUMNS = (
    "arm", "macro-F1", "95 %", "accuracy", "recovery", "to plain", "to the best conventional", "to the best of the same recipe", "spread",
    "seconds",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """An arm in one pair and regime."""

    pair: str
    regime: str
    arm: str
    seeds: int
    labels: int
    """To learn from, of the first seed, like the next three."""
    labels_by_seed: tuple[int, int]
    """Fewest and most: in an imbalanced regime a scene with few windows that is drawn as a common one makes all labels few."""
    wrong: int
    """Of them."""
    people: int
    """Held out."""
    windows: int
    """Of the people held out."""
    macro_f1: float
    interval: Interval | None
    """95 %, of the macro-F1; None where too few people are held out."""
    accuracy: float
    recovery_ratio: float
    recall: dict[str, float | None]
    """Mean over the seeds."""
    to_plain: float | None
    """Mean difference of macro-F1 to plain fine-tuning as people run it, seed by seed; None without it."""
    to_plain_interval: Interval | None
    to_best: float | None
    """The same to the best of the usual arms (:data:`training.arm.CONVENTIONAL`, by its mean)."""
    to_best_interval: Interval | None
    to_same: float | None
    """The same to the best arm of the same recipe (:data:`training.arm.SAME_RECIPE`): what the weights give."""
    to_same_interval: Interval | None
    spread: float | None
    """Of balanced accuracy over the last epochs, among people left out; None where no epochs were trained."""
    seconds: float
    """Median."""


def rows(cells: Iterable[Mapping[str, Any]], *, seed: int = 0) -> list[Row]:
    """A row for each pair, regime and arm, arms in the order of :data:`training.arm.EVERY`.

    Only seeds that all of a pair's arms have in a regime count, except that slow ones (:attr:`training.arm.Arm.slow`) may have fewer:
    they are compared with the others on those that they have.

    Args:
        cells: of :meth:`training.experiment.Experiment.run`.
        seed: of the bootstrap.
    """
    groups: dict[tuple[str, str], dict[str, dict[int, Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(dict))
    for cell in cells:
        groups[cell["pair"], cell["regime"]][cell["arm"]][cell["seed"]] = cell
    found: list[Row] = []
    for (pair, regime), arms in groups.items():
        others = {arm: each for arm, each in arms.items() if not EVERY[arm].slow} or arms
        seeds = sorted(set.intersection(*(set(each) for each in others.values())))
        if not seeds:
            continue
        mine = _group(pair, regime, {arm: [each[s] for s in seeds] for arm, each in others.items()}, seed)
        for arm in arms.keys() - others.keys():
            if its := [s for s in seeds if s in arms[arm]]:
                beside = {name: [each[s] for s in its] for name, each in {**others, arm: arms[arm]}.items()}
                mine += [row for row in _group(pair, regime, beside, seed) if row.arm == arm]
        found += sorted(mine, key=lambda row: _PLACE[row.arm])
    return found


def _group(pair: str, regime: str, arms: Mapping[str, Sequence[Mapping[str, Any]]], seed: int) -> list[Row]:
    draws = {arm: _drawn_f1(cells, seed) for arm, cells in arms.items()}
    means = {arm: float(np.mean([cell["macro_f1"] for cell in cells])) for arm, cells in arms.items()}
    best, same = (
        max((arm for arm in names if arm in arms), key=means.__getitem__, default=None)
        for names in (CONVENTIONAL, [arm.name for arm in SAME_RECIPE])
    )

    def to(arm: str, other: str | None) -> tuple[float | None, Interval | None]:
        if other is None or other not in arms:
            return None, None
        return means[arm] - means[other], _interval(draws[arm] - draws[other])

    made = []
    for arm, cells in arms.items():
        to_plain, to_best, to_same = to(arm, _PLAIN), to(arm, best), to(arm, same)
        spreads = [cell["spread"] for cell in cells if cell["spread"] is not None]
        recall = {scene: _mean([cell["recall"][scene] for cell in cells]) for scene in cells[0]["recall"]}
        made.append(
            Row(
                pair=pair, regime=regime, arm=arm, seeds=len(cells), labels=cells[0]["train_windows"],
                labels_by_seed=_range_of([cell["train_windows"] for cell in cells]), wrong=cells[0]["wrong"],
                people=len(set(cells[0]["subjects"])), windows=len(cells[0]["truth"]), macro_f1=means[arm], interval=_interval(draws[arm]),
                accuracy=float(np.mean([cell["accuracy"] for cell in cells])),
                recovery_ratio=float(np.mean([cell["recovery_ratio"] for cell in cells])), recall=recall,
                to_plain=to_plain[0], to_plain_interval=to_plain[1], to_best=to_best[0], to_best_interval=to_best[1],
                to_same=to_same[0], to_same_interval=to_same[1],
                spread=float(np.mean(spreads)) if spreads else None,
                seconds=float(np.median([cell["seconds"] for cell in cells])),
            )
        )  # fmt: skip
    return made


def closed(found: Sequence[Row]) -> dict[str, float]:
    """Arm → share of the way from the best conventional arm to the oracle that it goes, over all pairs of one regime that have both.

    Sums are divided, not shares averaged: where the oracle is hardly ahead, the share of one pair is chance. An arm of fewer seeds than
    the oracle's is left out: it is compared on those alone.
    """
    limits = {row.pair: row for row in found if row.arm == ORACLE and row.to_best is not None}
    ways: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in found:
        limit = limits.get(row.pair)
        if limit is not None and limit.to_best is not None and row.to_best is not None and row.seeds == limit.seeds:
            ways[row.arm].append((row.to_best, limit.to_best))
    sums = {arm: np.sum(each, axis=0) for arm, each in ways.items()}
    return {arm: float(gained / possible) for arm, (gained, possible) in sums.items() if possible > 0}


def overview(found: Sequence[Row]) -> str:
    """A table for each regime: macro-F1 of each arm in each pair that has all of the regime's arms, and the means over these pairs.

    Of a regime of which no pair has all arms, as after a bench that was stopped early, there is none.
    """
    lines = []
    for regime in dict.fromkeys(row.regime for row in found):
        table = _by_arm(found, regime)
        if not table:
            continue
        pairs = [row.pair for row in next(iter(table.values()))]
        most = [max(each[at].seeds for each in table.values()) for at in range(len(pairs))]
        values = {arm: _means(each) for arm, each in table.items()}
        top = max((f1 for arm, (f1, _) in values.items() if arm != ORACLE), default=None)
        lines += [
            f"### {regime}: macro-F1 in each pair, and the means of macro-F1 and of the recovery ratio",
            "",
            f"| arm | {' | '.join(pairs)} | mean | recovery |",
            f"|---|{'---|' * len(pairs)}---|---|",
        ]
        for arm, (f1, recovery) in values.items():
            each = " | ".join(f"{row.macro_f1:.3f}" for row in table[arm])
            mean = f"**{f1:.3f}**" if f1 == top else f"{f1:.3f}"
            seeds = {_fewer(row, mine) for row, mine in zip(table[arm], most, strict=True)} - {""}
            lines.append(f"| {arm}{max(seeds, default='')} | {each} | {mean} | {recovery:.3f} |")
        lines.append("")
    return "\n".join(lines)


def aims(found: Sequence[Row], arm: str) -> dict[str, dict[str, Any]]:
    """Regime → how far an arm is ahead of what it is to be ahead of, in means of macro-F1 over the pairs.

    ``conventional``: the best single arm as people run it, and the lead over it; ``conventional_of_each_pair``: the lead over each pair's
    own best, which nobody knows beforehand; ``same_recipe``: likewise the best single arm that has all but the weights; ``pruned``: over
    pruning with the same recipe; ``closed``: the share of the way from the best of each pair to the oracle; ``behind``: pair → how far its
    best arm, of all with as many seeds but the oracle, is ahead of this one. What an experiment has no arms for is None. ``pairs`` are
    those that have all of the regime's arms: the others are in no mean.
    """
    result = {}
    for regime in dict.fromkeys(row.regime for row in found):
        table = _by_arm(found, regime)
        if arm not in table:
            continue
        values = {name: _means(each)[0] for name, each in table.items()}
        same = [each.name for each in SAME_RECIPE if each.name != PRUNED]
        best = {
            what: max((name for name in names if name in values), key=values.__getitem__, default=None)
            for what, names in (("conventional", CONVENTIONAL), ("same_recipe", same))
        }
        leads = [row.to_best for row in table[arm] if row.to_best is not None]
        result[regime] = {
            "pairs": [row.pair for row in table[arm]],
            **{what: None if name is None else {"arm": name, "lead": values[arm] - values[name]} for what, name in best.items()},
            "conventional_of_each_pair": float(np.mean(leads)) if leads else None,
            "pruned": values[arm] - values[PRUNED] if PRUNED in values else None,
            "closed": closed([row for each in table.values() for row in each]).get(arm),
            "behind": {
                row.pair: max(
                    each[at].macro_f1 for name, each in table.items() if name != ORACLE and each[at].seeds == row.seeds
                ) - row.macro_f1
                for at, row in enumerate(table[arm])
            },
        }  # fmt: skip
    return result


def _by_arm(found: Sequence[Row], regime: str) -> dict[str, list[Row]]:
    """Arm → its rows, in one order of pairs: those that have every arm but slow ones, and what arms they all have."""
    at = {(row.pair, row.arm): row for row in found if row.regime == regime}
    named = list(dict.fromkeys(pair for pair, _ in at))
    usual = [arm for arm in EVERY if not EVERY[arm].slow and any((pair, arm) in at for pair in named)]
    pairs = [pair for pair in named if all((pair, arm) in at for arm in usual)]
    return (
        {arm: [at[pair, arm] for pair in pairs] for arm in EVERY if all((pair, arm) in at for pair in pairs)}
        if pairs
        else {}
    )


def _means(each: Sequence[Row]) -> tuple[float, float]:
    return float(np.mean([row.macro_f1 for row in each])), float(np.mean([row.recovery_ratio for row in each]))


def markdown(found: Sequence[Row]) -> str:
    """A table for each pair and regime, the arms as they come."""
    lines = []
    for pair, regime in dict.fromkeys((row.pair, row.regime) for row in found):
        mine = [row for row in found if (row.pair, row.regime) == (pair, regime)]
        top = max((row.macro_f1 for row in mine if row.arm != ORACLE), default=None)
        most = max(row.seeds for row in mine)
        lines += [
            f"### {pair}, {regime} ({_seeds(most)})",
            "",
            _measured_on(mine[0]),
            "",
            f"| {' | '.join(_COLUMNS)} |",
            f"|{'---|' * len(_COLUMNS)}",
        ]
        for row in mine:
            value = f"**{row.macro_f1:.3f}**" if row.macro_f1 == top else f"{row.macro_f1:.3f}"
            lines.append(
                f"| {row.arm}{_fewer(row, most)} | {value} | {_range(row.interval)} | {row.accuracy:.3f} | {row.recovery_ratio:.3f} | "
                f"{_difference(row.to_plain, row.to_plain_interval)} | {_difference(row.to_best, row.to_best_interval)} | "
                f"{_difference(row.to_same, row.to_same_interval)} | "
                f"{'–' if row.spread is None else f'{row.spread:.3f}'} | {row.seconds:.0f} |"
            )
        lines.append("")
    return "\n".join(lines)


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
        "Macro-F1 and accuracy are of people held out, means over the seeds; bold: the best arm but the oracle, which knows what labels\n"
        "are wrong. 95 %: by a bootstrap over people and seeds; – where all seeds together hold out fewer than five people, or draws of\n"
        "them lose a scene.\n"
        "Recovery: accuracy ÷ the original's at home. Differences are of macro-F1, on the same people and seeds: to free-plain; to the\n"
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


def original_beaten(cells: Iterable[Mapping[str, Any]], arm: str) -> list[tuple[str, str, int, float]]:
    """Where an arm ended below the original as it is: pair, regime, seed, difference of macro-F1."""
    found: dict[tuple[str, str, int], dict[str, float]] = defaultdict(dict)
    for cell in cells:
        found[cell["pair"], cell["regime"], cell["seed"]][cell["arm"]] = cell["macro_f1"]
    return [
        (*key, each[arm] - each[ORIGINAL])
        for key, each in found.items()
        if {arm, ORIGINAL} <= each.keys() and each[arm] < each[ORIGINAL]
    ]


def _drawn_f1(cells: Sequence[Mapping[str, Any]], seed: int) -> Array:
    """(draws,) mean macro-F1 of drawn seeds with drawn people; the same draws for every arm, since they have the same holdouts."""
    rng = np.random.default_rng(seed)
    names = np.unique(np.concatenate([np.array(cell["subjects"]) for cell in cells]))
    if len(names) < _LEAST_PEOPLE:
        return np.empty(0)
    times = rng.multinomial(len(names) - 1, np.full(len(names), 1 / len(names)), size=_MOST_DRAWS)
    picked = rng.integers(len(cells), size=(_MOST_DRAWS, max(1, len(cells) - 1)))
    values = np.stack([_f1_of_drawn(_people(cell, names), times) for cell in cells], axis=1)
    # All seeds, not those picked: a seed in which a scene is easily lost would be picked less often otherwise.
    whole = ~np.isnan(values).any(1)
    means: Array = np.take_along_axis(values[whole], picked[whole], axis=1).mean(1)
    return means[:_DRAWS] if len(means) >= _LEAST_DRAWS else np.empty(0)


def _f1_of_drawn(confusions: NDArray[np.int64], times: NDArray[np.int64]) -> Array:
    """(people, scenes, scenes), (draws, people) how often each person is drawn → (draws,) macro-F1; NaN where a scene is lost."""
    drawn = np.einsum("dp,pij->dij", times, confusions)
    there = confusions.sum((0, 2)) > 0
    whole = (drawn.sum(2) > 0)[:, there].all(1)
    values = np.full(len(times), np.nan)
    values[whole] = _f1(drawn[whole])
    return values


def _people(cell: Mapping[str, Any], names: NDArray[np.str_]) -> NDArray[np.int64]:
    """(people, scenes, scenes) confusion matrices of a cell's holdout; nothing of those who are not in it."""
    scenes = len(cell["scenes"])
    found = np.zeros((len(names), scenes, scenes), np.int64)
    person = np.searchsorted(names, np.array(cell["subjects"]))
    np.add.at(found, (person, np.array(cell["truth"]), np.array(cell["predicted"])), 1)
    return found


def _f1(confusion: NDArray[np.int64]) -> Array:
    """(…, scenes, scenes) → (…) mean F1 over the scenes that occur."""
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    true, said = confusion.sum(-1), confusion.sum(-2)
    f1 = np.where(true > 0, 2 * right / np.maximum(true + said, 1), np.nan)
    return np.asarray(np.nanmean(f1, axis=-1), np.float64)


def _interval(values: Array) -> Interval | None:
    if not len(values):
        return None
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _measured_on(row: Row) -> str:
    fewest, most = row.labels_by_seed
    others = "" if fewest == most else f"; {fewest:,} to {most:,} labels by seed"
    return (
        f"{row.labels:,} labels to learn from, {row.wrong:,} of them wrong; {row.people} people held out, with {row.windows:,} windows "
        f"(first seed{others})."
    )


def _range_of(counts: Sequence[int]) -> tuple[int, int]:
    return min(counts), max(counts)


def _seeds(count: int) -> str:
    return f"{count} seed{'' if count == 1 else 's'}"


def _fewer(row: Row, most: int) -> str:
    """How many seeds a row has, where others have more."""
    return f" ({_seeds(row.seeds)})" if row.seeds < most else ""


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _range(interval: Interval | None) -> str:
    return "–" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"


def _difference(value: float | None, interval: Interval | None) -> str:
    if value is None:
        return "–"
    return f"{value:+.3f}" + ("" if interval is None else f" ({interval[0]:+.3f} to {interval[1]:+.3f})")
