"""Arms beside each other on a pair of data sets, in regimes of labels, over seeds: a cell each, kept, and never run twice.

A cell is one (pair, regime, seed, arm). Its seed draws who is held out, which labels are left, and which of them are wrong, so that all
arms of one seed see the same. What they share (the original's features, the frozen part's outputs, the quality of the labels) is made
once. The holdout's labels are right, and nothing is chosen by them.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from training.arm import ORIGINAL, SOONEST, Arm
from training.arms import tune
from training.dataset import WindowSet
from training.devices import device
from training.evaluation import evaluate, recovery_ratio
from training.folds import split_by_subject
from training.heads import Head
from training.network import SceneNet, infer
from training.original import OriginalModel, fit_network
from training.policies import Labelled
from training.quality import Quality, score_quality
from training.regimes import Planted, Regime, plant, relabelled
from training.runkey import ASKED_RECIPE, FILTER_RECIPE, RECIPE
from training.settings import (
    Architecture,
    ComputeSettings,
    DataSettings,
    FineTuneSettings,
    OriginalSettings,
    QualitySettings,
)
from training.tracking import NullRun, Progress, no_progress

_LAST = 4
"""The last epochs are the last of so many parts of a training."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Pair:
    """A source, by the model trained on it, and a target."""

    name: str
    """For tables; nothing depends on it."""
    original: OriginalModel
    source: WindowSet
    """Labelled; for the arm that pools, and no other."""
    target: WindowSet
    """Labelled rightly."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """The settings of all arms."""

    data: DataSettings
    quality: QualitySettings
    finetune: FineTuneSettings
    compute: ComputeSettings = field(default_factory=ComputeSettings)
    """How the machine is used; not what a cell is known by, as for a retraining."""


class Experiment:
    """Cells of one pair."""

    def __init__(self, pair: Pair, recipe: Recipe, folder: Path) -> None:
        """Nothing is computed yet.

        Args:
            pair: the data.
            recipe: settings.
            folder: where cells are kept, of this pair and of others.
        """
        net = pair.original.net
        self._pair, self._recipe, self._folder = pair, recipe, folder
        self._target = net.aligned(pair.target).labelled()

    def run(
        self,
        regimes: Mapping[str, Regime],
        seeds: Sequence[int],
        arms: Sequence[Arm],
        *,
        progress: Progress = no_progress,
        enough: Callable[[], bool] = lambda: False,
    ) -> Iterator[dict[str, Any]]:
        """Each cell's result with its ``key``, as it is there: from an earlier run, or trained now.

        Time may be up before all are there. So all arms of a (regime, seed) come together, those first that answer the question
        (:data:`training.arm.SOONEST`), but the slow ones, each of which takes as long as many others, after the regime's other cells.

        Args:
            regimes: name → what is left of the labels.
            seeds: of splits, labels and training.
            arms: which.
            progress: told how many cells are done.
            enough: asked before each cell that would be trained; True leaves it out.
        """
        total, done = len(regimes) * len(seeds) * len(arms), 0
        arms = sorted(arms, key=lambda arm: SOONEST.index(arm.name) if arm.name in SOONEST else len(SOONEST))
        for regime_name, regime in regimes.items():
            draws = {
                seed: _Draw(self._pair, self._target, self._recipe, regime, seed, lambda: self._cached)
                for seed in seeds
            }
            turns = [(seed, arm) for last in (False, True) for seed in seeds for arm in arms if arm.slow == last]
            for seed, arm in turns:
                progress(done, total, f"{self._pair.name}, {regime_name}, seed {seed}: {arm.name}")
                named = {"pair": self._pair.name, "regime": regime_name, "seed": seed, "arm": arm.name}
                key = self._key(regime, seed, arm)
                file = self._folder / f"{key}.json"
                if file.exists():
                    cell = json.loads(file.read_text(encoding="utf-8"))
                elif enough():
                    continue
                else:
                    cell = draws[seed].train(arm)
                    _write(file, {**named, **cell})
                done += 1
                yield {**cell, **named, "key": key}
        progress(done, total, "done")

    def _key(self, regime: Regime, seed: int, arm: Arm) -> str:
        # Each cell's seed is its own.
        finetune = {key: value for key, value in self._recipe.finetune.recipe().items() if key != "seed"}
        parts = {
            "recipe": RECIPE, "original": self._pair.original.digest, "target": self._digest, "regime": asdict(regime),
            "seed": seed, "arm": arm.recipe(), "quality": asdict(self._recipe.quality), "finetune": finetune,
            "holdout_share": self._recipe.data.holdout_share,
            "source": self._pair.source.digest() if arm.start == "pooled" else "",
            **({"asked": ASKED_RECIPE} if arm.asks else {}),
            **({"filterloss": FILTER_RECIPE} if arm.filters else {}),
        }  # fmt: skip
        return hashlib.blake2b(json.dumps(parts, sort_keys=True, default=str).encode(), digest_size=8).hexdigest()

    @cached_property
    def _digest(self) -> str:
        return self._target.digest()

    @cached_property
    def _cached(self) -> _Cached:
        return _Cached.of(self._pair.original.net, self._target, self._recipe.finetune)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Cached:
    """What the original makes of all target windows."""

    features: NDArray[np.floating]
    """(n, d)"""
    inputs: torch.Tensor
    """(n, …) of the trained part."""
    head_inputs: torch.Tensor
    """(n, d) the same of the head."""

    @classmethod
    def of(cls, net: SceneNet, windows: WindowSet, settings: FineTuneSettings) -> _Cached:
        frozen, part = net.split(settings.trainable)
        where = device(settings.device)
        inputs = infer(frozen, torch.from_numpy(windows.signals), where=where)
        head_inputs = infer(part[:-1], inputs, where=where)
        return cls(features=head_inputs.numpy(), inputs=inputs, head_inputs=head_inputs)


class _Draw:
    """What all arms of one (regime, seed) share."""

    def __init__(
        self, pair: Pair, target: WindowSet, recipe: Recipe, regime: Regime, seed: int, cached: Callable[[], _Cached]
    ) -> None:
        self._pair, self._target, self._recipe, self._seed, self._get = pair, target, recipe, seed, cached
        self._split = split_by_subject(target, share=recipe.data.holdout_share, seed=seed, min_train_subjects=2)
        self._planted: Planted = plant(target, np.flatnonzero(self._split.train), regime, seed=seed)

    @property
    def _cached(self) -> _Cached:
        """Asked for when something is trained, and not before: it takes half a minute."""
        return self._get()

    @cached_property
    def _windows(self) -> WindowSet:
        return relabelled(self._target, self._planted)

    @cached_property
    def _features(self) -> NDArray[np.floating]:
        return self._cached.features[self._planted.rows]

    @cached_property
    def _quality(self) -> Quality:
        return score_quality(
            self._windows, self._features, Head.of(self._pair.original.net), train=np.ones(len(self._windows), bool),
            settings=self._recipe.quality, seed=self._seed,
        )  # fmt: skip

    @cached_property
    def _labelled(self) -> Labelled:
        head = Head.of(self._pair.original.net)
        return Labelled.of(self._windows, self._features, self._quality, head, wrong=self._planted.wrong)

    def train(self, arm: Arm) -> dict[str, Any]:
        """A cell."""
        data = self._labelled  # outside the arm's time: a retraining has it before
        begin = time.perf_counter()
        curves = _Curves()
        net, details = self._tuned(arm, data, curves)
        seconds = time.perf_counter() - begin
        holdout = self._target.select(self._split.holdout)
        predicted = self._predicted(net, arm)
        found = evaluate(holdout.scenes, predicted, holdout.scene_names, subjects=holdout.subjects)
        wrong = self._planted.wrong
        return {
            "accuracy": found.accuracy, "macro_f1": found.macro_f1, "recall": found.to_json()["recall"],
            "recovery_ratio": recovery_ratio(found.accuracy, self._pair.original.accuracy), "seconds": round(seconds, 2),
            "spread": curves.spread, "curves": curves.said, "train_windows": len(wrong), "wrong": int(wrong.sum()),
            "auroc": _auroc(self._quality.belief, ~wrong), "details": details,
            # So that intervals over people can be had later.
            "scenes": list(holdout.scene_names), "truth": holdout.scenes.tolist(), "predicted": predicted.tolist(),
            "subjects": holdout.subjects.tolist(),
        }  # fmt: skip

    def _predicted(self, net: SceneNet, arm: Arm) -> NDArray[np.int64]:
        """(n,) scenes of the holdout; where the frozen part is the original's, from what that made of it already."""
        where = device(self._recipe.finetune.device)
        if arm.start == "scratch":
            logits = infer(net, torch.from_numpy(self._target.signals[self._split.holdout]), where=where)
        else:
            _, part = net.split(self._recipe.finetune.trainable)
            held_out = torch.from_numpy(np.flatnonzero(self._split.holdout))
            logits = infer(part, self._cached.inputs[held_out], where=where)
        predicted: NDArray[np.int64] = logits.argmax(1).numpy()
        return predicted

    def _tuned(self, arm: Arm, data: Labelled, curves: _Curves) -> tuple[SceneNet, dict[str, Any]]:
        original, rows = self._pair.original.net, self._planted.rows
        if arm.name == ORIGINAL:
            return original, {}
        settings = replace(self._recipe.finetune, seed=self._seed)
        if arm.start == "scratch":
            train = OriginalSettings(
                architecture=cast("Architecture", original.architecture), epochs=settings.epochs, batch=settings.batch, seed=self._seed,
                rotate=settings.rotate, gain=settings.gain, sensor_dropout=settings.sensor_dropout, threads=settings.threads,
                device=settings.device,
            )  # fmt: skip
            return fit_network(
                self._windows, train, spectrogram=original.spectrogram.settings, compute=self._recipe.compute
            ), {}
        if arm.head_only:
            settings = replace(settings, trainable="head")
        cached = (self._cached.head_inputs if arm.head_only else self._cached.inputs)[torch.from_numpy(rows)]
        if arm.start == "pooled":
            data, cached = self._pooled(data, cached, settings)
        tuned, weighed = tune(
            original, arm, cached, data, settings=settings, quality=self._recipe.quality, run=curves, compute=self._recipe.compute,
        )  # fmt: skip
        details = {
            **weighed.details, "epochs": tuned.epochs, "head_pull": tuned.head_pull, "share": tuned.share, "validation": tuned.validation,
            "validation_original": tuned.validation_original,
            **({} if tuned.validation_below is None else {"validation_below": tuned.validation_below}),
        }  # fmt: skip
        return tuned.net, details

    def _pooled(
        self, data: Labelled, cached: torch.Tensor, settings: FineTuneSettings
    ) -> tuple[Labelled, torch.Tensor]:
        net = self._pair.original.net
        source = net.aligned(self._pair.source).labelled()
        theirs = _Cached.of(net, source, settings)
        ones = np.ones(len(source))
        both = Labelled(
            features=np.concatenate([data.features, theirs.features]),
            labels=np.concatenate([data.labels, source.scenes]),
            groups=np.concatenate([data.groups, data.groups.max() + 1 + source.groups()]),
            score=np.concatenate([data.score, ones]), worth=np.concatenate([data.worth, ones]), head=data.head,
        )  # fmt: skip
        return both, torch.cat([cached, theirs.inputs])


class _Curves(NullRun):
    """Remembers what a training says of its epochs."""

    def __init__(self) -> None:
        self.said: list[tuple[int, dict[str, float]]] = []

    def metrics(self, values: Mapping[str, float], *, step: int = 0) -> None:
        self.said.append((step, dict(values)))

    @property
    def spread(self) -> float | None:
        """Largest less smallest balanced accuracy over the last epochs, on people left out; None where no epoch was trained."""
        curve = "validation/balanced_accuracy"
        judged = [values[curve] for _, values in self.said if curve in values]
        # A training that only judges may have fewer epochs: in the same part of it the learning rate is the same.
        last = judged[-max(2, (len(judged) - 1) // _LAST) :]
        return None if len(judged) < 2 else round(max(last) - min(last), 4)


def _auroc(belief: NDArray[np.floating], right: NDArray[np.bool_]) -> float | None:
    """Probability that a right label is believed more than a wrong one; None where there is none of either."""
    from scipy.stats import rankdata  # noqa: PLC0415

    good, bad = int(right.sum()), int((~right).sum())
    if not good or not bad:
        return None
    return float((rankdata(belief)[right].sum() - good * (good + 1) / 2) / (good * bad))


def _write(file: Path, cell: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".part")
    partial.write_text(json.dumps(cell), encoding="utf-8")
    partial.replace(file)
