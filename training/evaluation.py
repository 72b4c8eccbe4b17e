"""What a model gets right: accuracy, macro-F1, recall of each scene, and how sure one can be with so few people.

A scene that does not occur in the truth has no recall and no F1: they are NaN, and left out of averages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_DRAWS = 1000


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Evaluation:
    """How predictions compare with the truth."""

    windows: int
    """How many windows were compared."""
    accuracy: float
    """Share of the windows that are right; NaN without windows."""
    macro_f1: float
    """Mean F1 over the scenes that occur in the truth."""
    balanced_accuracy: float
    """Mean recall over the scenes that occur in the truth."""
    recall: dict[str, float]
    """Share of a scene's windows that are right; NaN for a scene that does not occur."""
    confusion: NDArray[np.int64]
    """(scenes, scenes) windows by true scene (rows) and predicted scene (columns)."""
    scene_names: tuple[str, ...]
    """Names of the rows and columns."""
    interval: tuple[float, float]
    """95 % interval of the accuracy over people; NaN with fewer than two."""
    people: tuple[tuple[int, int], ...] = ()
    """(right, windows) of each person; empty where nobody said whose the windows are."""

    def metrics(self) -> dict[str, float]:
        """Flat numbers for a tracker; undefined ones are left out."""
        low, high = self.interval
        values = {
            "accuracy": self.accuracy,
            "macro_f1": self.macro_f1,
            "balanced_accuracy": self.balanced_accuracy,
            "accuracy_low": low,
            "accuracy_high": high,
            **{f"recall/{scene}": value for scene, value in self.recall.items()},
        }
        return {name: value for name, value in values.items() if np.isfinite(value)}

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; NaN becomes null."""
        return {
            "windows": self.windows,
            "accuracy": _plain(self.accuracy),
            "macro_f1": _plain(self.macro_f1),
            "balanced_accuracy": _plain(self.balanced_accuracy),
            "recall": {scene: _plain(value) for scene, value in self.recall.items()},
            "confusion": self.confusion.tolist(),
            "scene_names": list(self.scene_names),
            "interval": [_plain(value) for value in self.interval],
            "people": [list(person) for person in self.people],
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Evaluation:
        """The inverse of :meth:`to_json`."""
        return cls(
            windows=int(values["windows"]),
            accuracy=_number(values["accuracy"]),
            macro_f1=_number(values["macro_f1"]),
            balanced_accuracy=_number(values["balanced_accuracy"]),
            recall={scene: _number(value) for scene, value in values["recall"].items()},
            confusion=np.array(values["confusion"], np.int64),
            scene_names=tuple(values["scene_names"]),
            interval=(_number(values["interval"][0]), _number(values["interval"][1])),
            people=tuple((int(right), int(windows)) for right, windows in values.get("people", ())),
        )


def confusion_matrix(truth: NDArray[np.int64], predicted: NDArray[np.int64], scenes: int) -> NDArray[np.int64]:
    """(scenes, scenes) counts by true scene (rows) and predicted scene (columns)."""
    return np.bincount(truth * scenes + predicted, minlength=scenes * scenes).reshape(scenes, scenes).astype(np.int64)


def recalls(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """(scenes,) recall of each scene; NaN for one that does not occur."""
    return _ratio(np.diag(confusion), confusion.sum(1))


def f1_scores(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """(scenes,) F1 of each scene; 0 for one that is never right, NaN for one that does not occur."""
    occurs = confusion.sum(1)
    f1 = _ratio(2 * np.diag(confusion), occurs + confusion.sum(0))
    return np.where(occurs > 0, f1, np.nan)


def evaluate(
    truth: NDArray[np.int64],
    predicted: NDArray[np.int64],
    scene_names: Sequence[str],
    *,
    subjects: NDArray[Any] | None = None,
    seed: int = 0,
) -> Evaluation:
    """Compare predictions with the truth.

    Args:
        truth: (n,) indices into ``scene_names``.
        predicted: (n,) likewise.
        scene_names: all scenes that the model knows.
        subjects: (n,) who each window is of; for the interval, which is over people: one person's windows resemble each other, and
            an interval over windows would be far too narrow.
        seed: of the interval's draws.
    """
    confusion = confusion_matrix(truth, predicted, len(scene_names))
    right = truth == predicted
    return Evaluation(
        windows=len(truth),
        accuracy=float(right.mean()) if len(right) else np.nan,
        macro_f1=_mean(f1_scores(confusion)),
        balanced_accuracy=_mean(recalls(confusion)),
        recall=dict(zip(scene_names, map(float, recalls(confusion)), strict=True)),
        confusion=confusion,
        scene_names=tuple(scene_names),
        interval=(np.nan, np.nan) if subjects is None else accuracy_interval(right, subjects, seed=seed),
        people=() if subjects is None else _people(right, subjects),
    )


def accuracy_interval(
    right: NDArray[np.bool_], subjects: NDArray[Any], *, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap over people (Efron & Tibshirani, 1993): people are drawn with replacement, with all their windows.

    Args:
        right: (n,) whether a window was right.
        subjects: (n,) who it is of.
        seed: of the draws.
        level: share of the draws within the interval.

    Returns:
        Lower and upper end; NaN with fewer than two people, of whom nothing can be said.
    """
    names, person = np.unique(subjects, return_inverse=True)
    if len(names) < 2:
        return np.nan, np.nan
    hits, sizes = np.bincount(person, weights=right), np.bincount(person)
    draws = np.random.default_rng(seed).integers(len(names), size=(_DRAWS, len(names)))
    accuracies = hits[draws].sum(1) / sizes[draws].sum(1)
    low, high = np.quantile(accuracies, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _people(right: NDArray[np.bool_], subjects: NDArray[Any]) -> tuple[tuple[int, int], ...]:
    names, person = np.unique(subjects, return_inverse=True)
    hits, sizes = np.bincount(person, weights=right, minlength=len(names)), np.bincount(person, minlength=len(names))
    return tuple((int(hit), int(size)) for hit, size in zip(hits, sizes, strict=True))


def recovery_ratio(target_accuracy: float, source_accuracy: float) -> float:
    """Accuracy of a transferred model on the target holdout ÷ accuracy of the original on the source holdout.

    NaN where the original got nothing right: then there is nothing to recover.
    """
    return target_accuracy / source_accuracy if source_accuracy > 0 else np.nan


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    ratio: NDArray[np.float64] = np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
    return ratio


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else np.nan


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else value


def _number(value: float | None) -> float:
    return np.nan if value is None else float(value)
