"""Arms: FilterLoss and what it is compared with, on one split and one budget.

Every arm of a retraining starts at the original model, sees the same people, chooses how near it stays to the original among the same
pulls and shares, and is measured once on the same holdout. An epoch has as many windows as the arm draws: oversampling draws more,
undersampling fewer. :func:`tune` also serves the arms of an experiment.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from training.arm import ARMS, ORIGINAL, RETRAINING, Arm, check_arms
from training.dataset import WindowSet
from training.devices import device, precision
from training.evaluation import Evaluation, evaluate, recovery_ratio
from training.finetune import FineTuned, Numbers, SecondLook, finetune
from training.heads import Head
from training.network import SceneNet, infer
from training.original import OriginalModel
from training.policies import Labelled, Weighed, weigh
from training.quality import Quality
from training.ranks import ranks
from training.settings import ComputeSettings, FineTuneSettings, QualitySettings
from training.tracking import Progress, RunLog, Tracker, as_params, no_progress
from training.weights import effective_size

__all__ = ["ArmResult", "Bench", "labelled", "run_arms", "tune"]

_RESULT, _CHECKPOINT = "result.json", "checkpoint.pt"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ArmResult:
    """What an arm came to."""

    name: str
    evaluation: Evaluation
    """On the target holdout."""
    recovery_ratio: float
    net: SceneNet
    details: dict[str, Any]
    """Epochs, share, weights: whatever the arm chose."""
    seconds: float
    run_id: str
    kept: bool = False
    """Whether an earlier call has trained it."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Bench:
    """What all arms share."""

    windows: WindowSet
    """Labelled windows of the target."""
    train: NDArray[np.bool_]
    holdout: NDArray[np.bool_]
    features: NDArray[np.floating]
    """(n, d) of the original model."""
    quality: Quality
    original: OriginalModel
    settings: FineTuneSettings
    quality_settings: QualitySettings
    compute: ComputeSettings = field(default_factory=ComputeSettings)


def labelled(bench: Bench) -> Labelled:
    """The training windows as policies see them."""
    return Labelled.of(bench.windows, bench.features, bench.quality, Head.of(bench.original.net), rows=bench.train)


def run_arms(
    bench: Bench,
    folder: Path,
    *,
    tracker: Tracker,
    parent: RunLog,
    arms: Sequence[str] = ARMS,
    run_key: str = "",
    threshold: float = 0.9,
    progress: Progress = no_progress,
) -> dict[str, ArmResult]:
    """Run arms; one that has a result in ``folder`` already is not trained again.

    Args:
        bench: what they share.
        folder: results go to ``<folder>/<arm>``.
        tracker: gets a run for each arm.
        parent: the run they belong to; gets the pictures of them together.
        arms: which; the original as it is always comes along.
        run_key: makes an arm's run one.
        threshold: of the recovery ratio, for the picture.
        progress: told (done, total, what).

    Raises:
        SettingsError: there is no such arm.
        TrainingError: an arm failed.
    """
    from training.figures import comparison_figure, tier_figure  # noqa: PLC0415  (the core draws nothing)

    check_arms(arms)
    wanted = [arm for arm in ARMS if arm in {*arms, ORIGINAL}]
    frozen, _ = bench.original.net.split(bench.settings.trainable)
    where = device(bench.settings.device)
    cached = infer(frozen.eval(), torch.from_numpy(bench.windows.signals[bench.train]), where=where)
    results: dict[str, ArmResult] = {}
    for number, arm in enumerate(wanted):
        told = partial(_within, progress, number, len(wanted), arm)
        with tracker.run(arm, parent=parent, tags={"run_key": run_key, "arm": arm}) as run:
            result = _load(folder / arm, arm, run)
            if result is None:
                result = _run(bench, arm, cached, run, told, checkpoint=folder / arm / _CHECKPOINT)
                if ranks().first:
                    _save(folder / arm, result)
            _log(run, bench, result)
        results[arm] = result
    numbers = {
        name: {"accuracy": r.evaluation.accuracy, "macro_f1": r.evaluation.macro_f1, "recovery_ratio": r.recovery_ratio}
        for name, r in results.items()
    }
    parent.figure(comparison_figure(numbers, threshold), "comparison.png")
    scenes, train = bench.windows.scene_names, bench.train
    tiers = tier_figure(
        bench.quality.score[train], bench.windows.scenes[train], scenes, bench.quality_settings.thresholds
    )
    parent.figure(tiers, "tiers.png")
    parent.metrics({f"{name}/{key}": value for name, each in numbers.items() for key, value in each.items()})
    return results


def _within(progress: Progress, number: int, arms: int, arm: str, done: int, total: int, text: str) -> None:
    progress(round(100 * (number + done / max(1, total))), 100 * arms, f"{arm}: {text}")


def _run(
    bench: Bench, arm: str, cached: torch.Tensor, run: RunLog, progress: Progress, *, checkpoint: Path
) -> ArmResult:
    begin = time.perf_counter()
    details: dict[str, Any] = {}
    net = bench.original.net
    if arm != ORIGINAL:
        tuned, details = _tune(bench, arm, cached, run, progress, checkpoint)
        net = tuned.net
        details |= {
            "epochs": tuned.epochs, "head_pull": tuned.head_pull, "share": tuned.share, "validation": tuned.validation,
            "validation_original": tuned.validation_original,
            **({} if tuned.validation_below is None else {"validation_below": tuned.validation_below}),
        }  # fmt: skip
    holdout = bench.windows.select(bench.holdout)
    where = device(bench.settings.device)
    predicted = infer(net, torch.from_numpy(holdout.signals), where=where).argmax(1).numpy()
    found = evaluate(holdout.scenes, predicted, holdout.scene_names, subjects=holdout.subjects)
    return ArmResult(
        name=arm, evaluation=found, recovery_ratio=recovery_ratio(found.accuracy, bench.original.accuracy), net=net,
        details=details, seconds=time.perf_counter() - begin, run_id=run.run_id,
    )  # fmt: skip


def _tune(
    bench: Bench, arm: str, cached: torch.Tensor, run: RunLog, progress: Progress, checkpoint: Path
) -> tuple[FineTuned, dict[str, Any]]:
    data = labelled(bench)
    tuned, weighed = tune(
        bench.original.net, RETRAINING[arm], cached, data, settings=bench.settings, quality=bench.quality_settings, run=run,
        compute=bench.compute, checkpoint=checkpoint, progress=progress,
    )  # fmt: skip
    part = bench.settings.trainable
    computed = precision(
        device(bench.settings.device), bench.compute, whole=part == "all", narrow=bench.original.net.narrow
    )
    return tuned, {**weighed.details, "trainable": part, "precision": str(computed).removeprefix("torch.")}


def tune(
    original: SceneNet,
    arm: Arm,
    cached: torch.Tensor,
    data: Labelled,
    *,
    settings: FineTuneSettings,
    quality: QualitySettings,
    run: RunLog,
    compute: ComputeSettings | None = None,
    checkpoint: Path | None = None,
    progress: Progress = no_progress,
) -> tuple[FineTuned, Weighed]:
    """Weigh the windows and fine-tune the original, as an arm says; of FilterLoss's, the details have each scene's effective sample size.

    Args:
        original: where to start.
        arm: how; it starts at the original model.
        cached: (n, …) outputs of the frozen part.
        data: the same n windows, as policies see them.
        settings: the recipe.
        quality: how windows are weighed.
        run: gets the epochs' curves.
        compute: how the machine is used.
        checkpoint: where the training keeps how far it is; None: nowhere.
        progress: told after each epoch.
    """
    weighing = _Weighing(arm=arm, data=data, quality=quality, seed=settings.seed)
    first = weighing.weighed
    tuned = finetune(
        original, cached, data.labels, first.weights, data.groups, believed=first.believed, adjust=arm.adjust,
        shares=settings.shares, sampler=_sampler(arm.sampler, settings.seed), loss=arm.loss, choice=arm.choice,
        second_look=weighing.second_look(), settings=settings, compute=compute, checkpoint=checkpoint, run=run,
        progress=progress,
    )  # fmt: skip
    last = weighing.weighed
    if arm.filters:
        sizes = {
            scene: round(effective_size(last.weights[data.labels == at]), 1) for at, scene in enumerate(original.scenes)
        }
        last = replace(last, details={**last.details, "effective_size": sizes})
    return tuned, last


class _Weighing:
    """How an arm weighs its windows: before anything is trained, and again once networks have looked at their labels."""

    def __init__(self, *, arm: Arm, data: Labelled, quality: QualitySettings, seed: int) -> None:
        self._arm, self._data, self._quality, self._seed = arm, data, quality, seed
        self.weighed: Weighed = ranks().agreed(weigh(arm.weights, data, quality, seed=seed))
        """As they are weighed now; the second time, each process does it for itself, alike."""

    def second_look(self) -> SecondLook | None:
        """For :func:`training.finetune.finetune`; None where the arm looks once."""
        if not self._arm.looks_again:
            return None
        data = self._data
        verified = () if data.verified is None else (data.verified,)
        return SecondLook(look=self._again, decided_by=(asdict(self._quality), *data.looked_at(), *verified))

    def _again(self, rows: NDArray[np.int64], logits: Numbers) -> tuple[Numbers, Numbers] | None:
        """See :attr:`training.finetune.SecondLook.look`."""
        before = self.weighed.believed
        if (before == 1).all():  # nothing was doubted, so there is nothing to look at again
            return None
        looked_at, trust = self._data.seen_by(rows, logits, self._quality)
        now = weigh(self._arm.weights, looked_at, self._quality, seed=self._seed)
        changed = int(((before >= 0.5) != (now.believed >= 0.5)).sum())
        means = [round(float(each.mean()), 3) for each in (before, now.believed)]
        looks = {"trust": round(trust, 3), "believed": means, "changed": changed}
        self.weighed = replace(now, details={**now.details, "second_look": looks})
        return now.weights, now.believed


def _sampler(kind: str, seed: int) -> Callable[[NDArray[np.int64]], NDArray[np.int64]] | None:
    if not kind:
        return None
    from imblearn.over_sampling import RandomOverSampler  # noqa: PLC0415  (not on every GPU node, and few arms resample)
    from imblearn.under_sampling import RandomUnderSampler  # noqa: PLC0415

    sampler = RandomOverSampler if kind == "oversampling" else RandomUnderSampler

    def sample(labels: NDArray[np.int64]) -> NDArray[np.int64]:
        if len(np.unique(labels)) < 2:
            return np.arange(len(labels))
        rows = np.arange(len(labels))[:, None]
        resampled: NDArray[np.int64] = sampler(random_state=seed).fit_resample(rows, labels)[0][:, 0]
        return resampled

    return sample


def _log(run: RunLog, bench: Bench, result: ArmResult) -> None:
    from training.figures import confusion_figure, tier_figure  # noqa: PLC0415

    run.params(as_params(result.details))
    run.metrics(
        {
            **{f"target/{name}": value for name, value in result.evaluation.metrics().items()},
            "recovery_ratio": result.recovery_ratio,
            "seconds": result.seconds,
        }
    )
    run.json(result.details, "choices.json")
    title = f"{result.name}: accuracy {result.evaluation.accuracy:.3f}, macro-F1 {result.evaluation.macro_f1:.3f}"
    run.figure(confusion_figure(result.evaluation.confusion, result.evaluation.scene_names, title), "confusion.png")
    train = bench.train
    tiers = tier_figure(
        bench.quality.score[train],
        bench.windows.scenes[train],
        bench.windows.scene_names,
        bench.quality_settings.thresholds,
    )
    run.figure(tiers, "tiers.png")


def _save(folder: Path, result: ArmResult) -> None:
    """The model first, the result last: a result is there when all of the arm is."""
    (folder / _RESULT).unlink(missing_ok=True)
    result.net.save(folder, {"kind": result.name})
    values = {
        "name": result.name, "evaluation": result.evaluation.to_json(), "recovery_ratio": result.recovery_ratio,
        "details": result.details, "seconds": result.seconds, "run_id": result.run_id,
    }  # fmt: skip
    partial_file = folder / f".{_RESULT}.{os.getpid()}"
    partial_file.write_text(json.dumps(values, indent=1), encoding="utf-8")
    partial_file.replace(folder / _RESULT)
    (folder / _CHECKPOINT).unlink(missing_ok=True)


def _load(folder: Path, arm: str, run: RunLog) -> ArmResult | None:
    """What an earlier call trained, if it did."""
    if not (folder / _RESULT).exists():
        return None
    values = json.loads((folder / _RESULT).read_text(encoding="utf-8"))
    return ArmResult(
        name=arm, evaluation=Evaluation.from_json(values["evaluation"]), recovery_ratio=values["recovery_ratio"],
        net=SceneNet.load(folder), details=values["details"], seconds=values["seconds"], run_id=run.run_id, kept=True,
    )  # fmt: skip
