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

from training.arm import CONVENTIONAL, CONVENTIONAL_STOPPED, EVERY, FREE, ORACLE, ORIGINAL, PRUNED, SAME_RECIPE

Array = NDArray[np.float64]
Interval = tuple[float, float]
_DRAWS, _MOST_DRAWS, _LEAST_DRAWS = 1000, 4000, 200
"""How many draws count, how many are made for them, and with how few there is no interval."""
_LEAST_PEOPLE = 5
_PLAIN = FREE + "plain"
_PLACE = {arm: at for at, arm in enumerate(EVERY)}


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
    recovery_interval: Interval | None
    """That of the accuracy is the same, times the original's accuracy at home."""
    recall: dict[str, float | None]
    """Scene → mean over the seeds whose people show it; None where none does."""
    recall_intervals: dict[str, Interval | None]
    """None also where a draw may be of seeds alone whose people do not show the scene."""
    to_plain: float | None
    """Mean difference of macro-F1 to plain fine-tuning as people run it, seed by seed; None without it."""
    to_plain_interval: Interval | None
    best: str | None
    """The best of the usual arms that were run (:data:`training.arm.CONVENTIONAL`), by its mean."""
    to_best: float | None
    """The mean difference to that."""
    to_best_interval: Interval | None
    stopped: str | None
    """The best of the usual arms with the stopping rule (:data:`training.arm.CONVENTIONAL_STOPPED`) that was run."""
    to_stopped: float | None
    """The mean difference to that."""
    to_stopped_interval: Interval | None
    same: str | None
    """The best arm of the same recipe (:data:`training.arm.SAME_RECIPE`) that was run."""
    to_same: float | None
    """The mean difference to that: what the weights give."""
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
    draws = {arm: _drawn(cells, seed) for arm, cells in arms.items()}
    f1 = {arm: float(np.mean([cell["macro_f1"] for cell in cells])) for arm, cells in arms.items()}
    best, stopped, same = (
        max((arm for arm in names if arm in arms), key=f1.__getitem__, default=None)
        for names in (CONVENTIONAL, CONVENTIONAL_STOPPED, [arm.name for arm in SAME_RECIPE])
    )

    def to(arm: str, other: str | None) -> tuple[float | None, Interval | None]:
        if other is None or other not in arms:
            return None, None
        return f1[arm] - f1[other], _interval(draws[arm].macro_f1 - draws[other].macro_f1)

    made = []
    for arm, cells in arms.items():
        to_plain, to_best, to_stopped, to_same = (to(arm, other) for other in (_PLAIN, best, stopped, same))
        spreads = [cell["spread"] for cell in cells if cell["spread"] is not None]
        scenes = cells[0]["scenes"]
        made.append(
            Row(
                pair=pair, regime=regime, arm=arm, seeds=len(cells), labels=cells[0]["train_windows"],
                labels_by_seed=_range_of([cell["train_windows"] for cell in cells]), wrong=cells[0]["wrong"],
                people=len(set(cells[0]["subjects"])), windows=len(cells[0]["truth"]), macro_f1=f1[arm],
                interval=_interval(draws[arm].macro_f1),
                accuracy=float(np.mean([cell["accuracy"] for cell in cells])),
                recovery_ratio=float(np.mean([cell["recovery_ratio"] for cell in cells])),
                recovery_interval=_interval(draws[arm].recovery),
                recall={scene: _mean([cell["recall"][scene] for cell in cells]) for scene in scenes},
                recall_intervals={scene: _interval(draws[arm].recall[:, at]) for at, scene in enumerate(scenes)},
                to_plain=to_plain[0], to_plain_interval=to_plain[1], best=best, to_best=to_best[0], to_best_interval=to_best[1],
                stopped=stopped, to_stopped=to_stopped[0], to_stopped_interval=to_stopped[1],
                same=same, to_same=to_same[0], to_same_interval=to_same[1],
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


def aims(found: Sequence[Row], arm: str) -> dict[str, dict[str, Any]]:
    """Regime → how far an arm is ahead of what it is to be ahead of, in means of macro-F1 over the pairs.

    ``conventional``: the best single arm as people run it, and the lead over it; ``conventional_of_each_pair``: the lead over each pair's
    own best, which nobody knows beforehand; ``stopped``, ``stopped_of_each_pair``: likewise over these with the stopping rule;
    ``same_recipe``: the best single one that has all but the weights; ``pruned``: over pruning with the same recipe; ``closed``: the
    share of the way from the best of each pair to the oracle; ``behind``: pair → how far its best arm, of all with as many seeds but the
    oracle, is ahead of this one. What an experiment has no arms for is None. ``pairs`` are those that have all of the regime's arms: the
    others are in no mean.
    """
    result = {}
    for regime in dict.fromkeys(row.regime for row in found):
        table = _by_arm(found, regime)
        if arm not in table:
            continue
        values = {name: means(each)[0] for name, each in table.items()}
        same = [each.name for each in SAME_RECIPE if each.name != PRUNED]
        best = {
            what: max((name for name in names if name in values), key=values.__getitem__, default=None)
            for what, names in (
                ("conventional", CONVENTIONAL),
                ("stopped", CONVENTIONAL_STOPPED),
                ("same_recipe", same),
            )
        }
        leads = [row.to_best for row in table[arm] if row.to_best is not None]
        over_stopped = [row.to_stopped for row in table[arm] if row.to_stopped is not None]
        result[regime] = {
            "pairs": [row.pair for row in table[arm]],
            **{what: None if name is None else {"arm": name, "lead": values[arm] - values[name]} for what, name in best.items()},
            "conventional_of_each_pair": float(np.mean(leads)) if leads else None,
            "stopped_of_each_pair": float(np.mean(over_stopped)) if over_stopped else None,
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


def means(each: Sequence[Row]) -> tuple[float, float]:
    """Of macro-F1 and of the recovery ratio, each row counting alike."""
    return float(np.mean([row.macro_f1 for row in each])), float(np.mean([row.recovery_ratio for row in each]))


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


@dataclass(frozen=True, slots=True)
class _Drawn:
    """Means of drawn seeds with drawn people; no draws where there are too few."""

    macro_f1: Array
    """(draws,), as the next."""
    recovery: Array
    recall: Array
    """(draws, scenes), NaN where no seed that was drawn has the scene."""


def _drawn(cells: Sequence[Mapping[str, Any]], seed: int) -> _Drawn:
    """The same draws for every arm, since they have the same holdouts."""
    rng = np.random.default_rng(seed)
    names = np.unique(np.concatenate([np.array(cell["subjects"]) for cell in cells]))
    none = _Drawn(np.empty(0), np.empty(0), np.empty((0, len(cells[0]["scenes"]))))
    if len(names) < _LEAST_PEOPLE:
        return none
    times = rng.multinomial(len(names) - 1, np.full(len(names), 1 / len(names)), size=_MOST_DRAWS)
    picked = rng.integers(len(cells), size=(_MOST_DRAWS, max(1, len(cells) - 1)))
    people = [_people(cell, names) for cell in cells]
    drawn = np.stack([np.einsum("dp,pij->dij", times, each) for each in people], axis=1)
    there = np.stack([each.sum((0, 2)) > 0 for each in people])
    # All seeds, not those picked: a seed in which a scene is easily lost would be picked less often otherwise.
    whole = ((drawn.sum(3) > 0) | ~there).all((1, 2))
    if np.count_nonzero(whole) < _LEAST_DRAWS:
        return none
    drawn, picked = drawn[whole][:_DRAWS], picked[whole][:_DRAWS]
    right, true = np.diagonal(drawn, axis1=-2, axis2=-1), drawn.sum(-1)
    # One number, since the cells of a pair have one original.
    per_accuracy = next((cell["recovery_ratio"] / cell["accuracy"] for cell in cells if cell["accuracy"]), np.nan)
    seeds = np.arange(len(drawn))[:, None], picked
    shown = (true > 0)[seeds]
    recall = np.where(shown, (right / np.maximum(true, 1))[seeds], 0.0).sum(1)
    return _Drawn(
        _f1(drawn)[seeds].mean(1),
        per_accuracy * (right.sum(-1) / true.sum(-1))[seeds].mean(1),
        np.where(shown.any(1), recall / np.maximum(shown.sum(1), 1), np.nan),
    )


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
    if not len(values) or np.isnan(values).any():
        return None
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _range_of(counts: Sequence[int]) -> tuple[int, int]:
    return min(counts), max(counts)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
