"""Pictures of a run, as figures that belong to nobody: no global state, no window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

_GREY = "#888888"
_TIERS = ("#c0392b", "#e6a23c", "#2e7d6b")


def confusion_figure(confusion: NDArray[np.int64], scenes: Sequence[str], title: str) -> Figure:
    """Windows by true and predicted scene; shares of the true scene in colour, counts in the cells."""
    figure = Figure(figsize=(1.5 + 0.7 * len(scenes), 1.2 + 0.6 * len(scenes)), layout="constrained")
    axes = figure.subplots()
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(scenes)), scenes, rotation=45, ha="right")
    axes.set_yticks(range(len(scenes)), scenes)
    axes.set_xlabel("recognised as")
    axes.set_ylabel("was")
    for row in range(len(scenes)):
        for column in range(len(scenes)):
            if confusion[row, column]:
                colour = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, str(confusion[row, column]), ha="center", va="center", color=colour, fontsize=8)
    axes.set_title(title, fontsize=10)
    return figure


def tier_figure(
    score: NDArray[np.floating], labels: NDArray[np.int64], scenes: Sequence[str], thresholds: Sequence[float]
) -> Figure:
    """How the scores of each scene's windows are spread, and where the tiers begin."""
    figure = Figure(figsize=(7, 0.8 + 0.7 * len(scenes)), layout="constrained")
    rows = figure.subplots(len(scenes), 1, sharex=True, squeeze=False)[:, 0]
    edges = np.linspace(0, 1, 41)
    tiers = np.searchsorted(np.asarray(thresholds), (edges[:-1] + edges[1:]) / 2, side="right")
    colours = [_TIERS[min(len(_TIERS) - 1, int(tier) * (len(_TIERS) - 1) // max(1, len(thresholds)))] for tier in tiers]
    for scene, axes in enumerate(rows):
        counts, _ = np.histogram(score[labels == scene], edges)
        axes.bar(edges[:-1], counts, np.diff(edges), align="edge", color=colours)
        for threshold in thresholds:
            axes.axvline(threshold, color=_GREY, linewidth=0.8)
        axes.set_ylabel(f"{scenes[scene]}\n{counts.sum()}", rotation=0, ha="right", va="center", fontsize=8)
        axes.set_yticks([])
    rows[-1].set_xlabel("quality score: left least, right most trusted")
    return figure


def comparison_figure(arms: Mapping[str, Mapping[str, float]], threshold: float) -> Figure:
    """Every arm's accuracy, macro-F1 and recovery ratio, the best recovery on top; one that is undefined (NaN) has no bar."""
    names = sorted(arms, key=lambda name: float(np.nan_to_num(arms[name]["recovery_ratio"], nan=-np.inf)))
    figure = Figure(figsize=(9, 1.2 + 0.45 * len(names)), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    for axes, (key, title) in zip(
        panels, (("accuracy", "accuracy"), ("macro_f1", "macro-F1"), ("recovery_ratio", "recovery ratio")), strict=True
    ):
        values = [arms[name][key] for name in names]
        colours = ["#2e7d6b" if name.startswith("filterloss") else "#9db4c0" for name in names]
        axes.barh(range(len(names)), values, color=colours)
        for at, value in enumerate(values):
            if np.isnan(value):
                continue
            # On white, so that the threshold's line does not cross it out.
            box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
            axes.text(value + 0.015, at, f"{value:.3f}", va="center", fontsize=8, bbox=box, zorder=3)
        axes.set_yticks(range(len(names)), names)
        axes.set_xlim(
            0, 1.2 * max([1.0, *(value for value in values if not np.isnan(value))])
        )  # a recovery ratio may well be above 1; there is room for the number
        axes.set_title(title, fontsize=10)
    panels[2].axvline(threshold, color="#c0392b", linewidth=1, linestyle="--")
    return figure


def transfer_figure(
    values: Mapping[str, tuple[float, float, float]], *, title: str, highlight: str, limit: str
) -> Figure:
    """Arms' macro-F1 with its interval (value, low, high), the best on top; one arm stands out, and a line marks the limit."""
    names = sorted(values, key=lambda name: values[name][0])
    figure = Figure(figsize=(8, 1.2 + 0.27 * len(names)), layout="constrained")
    axes = figure.subplots()
    for at, name in enumerate(names):
        value, low, high = values[name]
        colour = "#2e7d6b" if name.startswith(highlight) else _GREY if name == limit else "#5b7c8d"
        axes.plot([low, high], [at, at], color=colour, linewidth=2, alpha=0.5)
        axes.plot([value], [at], "o", color=colour)
    if limit in values:
        axes.axvline(values[limit][0], color=_GREY, linewidth=0.8, linestyle="--", label=limit)
        axes.legend(loc="lower right", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    known = any(low < high for _, low, high in values.values())
    over = "with its 95 % interval over seeds and people" if known else "too few for an interval"
    axes.set_xlabel(f"macro-F1 on people held out, {over}")
    axes.set_title(title, fontsize=10)
    return figure


def recall_figure(recall: Mapping[str, Mapping[str, float | None]], *, title: str) -> Figure:
    """Arm → scene → recall, as shades with the numbers in them; what is None stays white."""
    names, scenes = list(recall), list(next(iter(recall.values())))
    figure = Figure(figsize=(3 + 0.7 * len(scenes), 1.5 + 0.27 * len(names)), layout="constrained")
    axes = figure.subplots()
    shades = np.array(
        [[np.nan if (value := recall[name][scene]) is None else value for scene in scenes] for name in names]
    )
    axes.imshow(shades, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(scenes)), scenes, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    for (row, column), value in np.ndenumerate(shades):
        if not np.isnan(value):
            colour = "white" if value > 0.5 else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=7)
    axes.set_title(title, fontsize=10)
    return figure
