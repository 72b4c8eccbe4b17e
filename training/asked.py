"""Of very many labelled windows, those that are asked: beyond some thousands nobody knows more, and to ask all takes hours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_ASKED = 20_000
"""Windows at most that vote, that teach the heads or trees of a fold, or that a choice is made by. Everybody's votes of everybody would
take the square of a million, and a choice some dozens of fits."""
_OF_A_SCENE = 500
"""Windows of a rare scene that a choice is made by, if it has so many."""


def as_many_of_each(rows: NDArray[np.int64], labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """These rows, or of very many as many as can be asked in minutes: of each scene the same number, of rare ones all.

    Args:
        rows: (m,) which of the windows.
        labels: (n,) scenes of all windows.
        seed: which are taken.
    """
    if len(rows) <= _ASKED:
        return rows
    order = np.random.default_rng(seed).permutation(rows)
    return np.sort(order[np.argsort(_within(labels[order]), kind="stable")[:_ASKED]])


def as_they_come(labels: NDArray[np.int64], seed: int, *, first: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
    """(m,) rows, all or of very many a sample of each scene, as common as it is; of rare scenes some hundreds if there are so many.

    Args:
        labels: (n,) scenes of the windows.
        seed: which are taken.
        first: (n,) which of a scene's are taken before any other; None: as it is drawn.
    """
    if len(labels) <= _ASKED:
        return np.arange(len(labels))
    order = np.random.default_rng(seed).permutation(len(labels))
    if first is not None:
        order = order[np.argsort(~first[order], kind="stable")]
    scene = labels[order]
    counts = np.bincount(scene)
    scenes = int((counts > 0).sum())
    least = min(_OF_A_SCENE, _ASKED // (2 * scenes))
    wanted = np.maximum(counts * (_ASKED - least * scenes) // len(labels), least)
    return np.sort(order[_within(scene) < wanted[scene]])


def _within(scene: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) how many of the same scene stand before each."""
    within = np.empty(len(scene), np.int64)
    for each in np.unique(scene):
        mine = np.flatnonzero(scene == each)
        within[mine] = np.arange(len(mine))
    return within
