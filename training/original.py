"""The original model: ResNet-34 trained on the source's windows, and measured on people of the source it has not seen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from training.augment import augment
from training.dataset import WindowSet
from training.devices import Held, device, laid_out, precision, reproducible, seeded, threads
from training.errors import MissingScene, ModelError
from training.evaluation import Evaluation, evaluate
from training.folds import split_by_subject
from training.network import SceneNet, infer
from training.saved import read_config
from training.settings import ComputeSettings, DataSettings, OriginalSettings, SpectrogramSettings
from training.step import Watch
from training.tracking import NullRun, Progress, RunLog, log_data, no_progress

_FIT_WINDOWS = 2000
"""Enough to measure the channels' means and scales by."""
_CLIP = 5.0
"""Largest norm of a gradient: a net without a past can meet one batch that throws it far out."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class OriginalModel:
    """A trained network and what it can do at home, against which recovery is measured."""

    net: SceneNet
    """In evaluation mode, on the CPU."""
    evaluation: Evaluation
    """On the source's holdout."""
    holdout_subjects: tuple[str, ...]
    """Who that was."""
    lake_version: int | None
    """What it was trained on."""
    digest: str
    """Of the network; part of every run key that builds on it."""

    @property
    def accuracy(self) -> float:
        """On the source's holdout."""
        return self.evaluation.accuracy

    @property
    def macro_f1(self) -> float:
        """On the source's holdout."""
        return self.evaluation.macro_f1

    def save(self, folder: Path) -> None:
        """Write ``state.pt`` (loadable with ``weights_only=True``) and ``model.json``."""
        self.net.save(
            folder,
            {
                "kind": "original",
                "evaluation": self.evaluation.to_json(),
                "holdout_subjects": list(self.holdout_subjects),
                "lake_version": self.lake_version,
                "digest": self.digest,
            },
        )

    @classmethod
    def load(cls, folder: Path) -> OriginalModel:
        """Read what :meth:`save` wrote.

        Raises:
            ModelError: there is no original model, or its files do not belong together.
        """
        config = read_config(folder)
        net = SceneNet.load(folder)
        try:
            original = cls(
                net=net,
                evaluation=Evaluation.from_json(config["evaluation"]),
                holdout_subjects=tuple(config["holdout_subjects"]),
                lake_version=config["lake_version"],
                digest=config["digest"],
            )
        except KeyError as error:
            msg = f"The model in {folder} is no original model: model.json lacks {error}"
            raise ModelError(msg) from error
        except (TypeError, ValueError) as error:
            msg = f"The model in {folder} is no original model: its model.json cannot be understood: {error}"
            raise ModelError(msg) from error
        if net.digest() != original.digest:
            msg = f"The model in {folder} is not the one that was measured: state.pt and model.json do not belong together"
            raise ModelError(msg)
        return original


def train_original(
    windows: WindowSet,
    settings: OriginalSettings | None = None,
    *,
    data: DataSettings | None = None,
    spectrogram: SpectrogramSettings | None = None,
    compute: ComputeSettings | None = None,
    run: RunLog | None = None,
    progress: Progress = no_progress,
) -> OriginalModel:
    """Train on some people of the source, measure on the others.

    Args:
        windows: the source's windows; those without a label are left aside.
        settings: of the training.
        data: channels, scenes, who is held out.
        spectrogram: how images are made.
        compute: how the machine is used.
        run: gets the epochs' curves and the result.
        progress: told after every step.

    Returns:
        The model after the last epoch. The holdout chose nothing; with the same settings, windows and number of threads it is the same
        bit for bit on a CPU.

    Raises:
        TooFewLabels, TooFewSubjects, MissingScene: the windows do not allow it; of one scene only, too.
        NonFiniteLoss: the training diverged.
    """
    settings, data, run = settings or OriginalSettings(), data or DataSettings(), run or NullRun()
    windows = windows.with_channels(data.channels)
    if data.scenes:
        windows = windows.with_scenes(data.scenes)
    if len(windows.scene_names) == 1:
        only = windows.scene_names[0]
        msg = f"The only scene is {only}: a model tells scenes apart. Label another, or name more than one in [data] scenes."
        raise MissingScene(msg)
    # The people of [data] holdout_subjects are the target's: here it is always a share.
    split = split_by_subject(windows, share=data.holdout_share, seed=data.seed, min_labelled=data.min_labelled)
    train, holdout = windows.select(split.train), windows.select(split.holdout)
    log_data(run, training=train, holdout=holdout)
    run.params(
        {
            "train_windows": len(train),
            "holdout_windows": len(holdout),
            "holdout_subjects": ", ".join(split.holdout_subjects),
        }
    )
    with threads(settings.threads):
        net = fit_network(
            train, settings, spectrogram=spectrogram, compute=compute, holdout=holdout, run=run, progress=progress,
        )  # fmt: skip
        result = evaluate(holdout.scenes, _predict(net, holdout), windows.scene_names, subjects=holdout.subjects)
    run.metrics({f"source/{name}": value for name, value in result.metrics().items()})
    return OriginalModel(
        net=net,
        evaluation=result,
        holdout_subjects=split.holdout_subjects,
        lake_version=windows.version,
        digest=net.digest(),
    )


def fit_network(
    train: WindowSet,
    settings: OriginalSettings,
    *,
    spectrogram: SpectrogramSettings | None = None,
    compute: ComputeSettings | None = None,
    holdout: WindowSet | None = None,
    run: RunLog | None = None,
    progress: Progress = no_progress,
) -> SceneNet:
    """Train a network from nothing; the same windows and settings give the same one, bit for bit on a CPU.

    Args:
        train: labelled windows.
        settings: of the training.
        spectrogram: how images are made.
        compute: how the machine is used.
        holdout: what is measured after each epoch, for the curves and nothing else.
        run: gets the curves.
        progress: told after every step.

    Raises:
        NonFiniteLoss: the training diverged.
    """
    compute = compute or ComputeSettings()
    with threads(settings.threads), seeded(settings.seed), reproducible(wanted=compute.deterministic):
        net = SceneNet(
            channels=train.channels, scenes=train.scene_names, rate_hz=train.rate_hz, samples=train.signals.shape[2],
            spectrogram=spectrogram, architecture=settings.architecture,
        )  # fmt: skip
        _train(net, train, holdout, settings, compute, run or NullRun(), progress)
    return net.cpu().eval()


def _train(
    net: SceneNet,
    train: WindowSet,
    holdout: WindowSet | None,
    settings: OriginalSettings,
    compute: ComputeSettings,
    run: RunLog,
    progress: Progress,
) -> None:
    where = device(settings.device)
    generator = torch.Generator().manual_seed(settings.seed)
    signals, labels = torch.from_numpy(train.signals), torch.from_numpy(train.scenes)
    net.spectrogram.fit(signals[torch.randperm(len(signals), generator=generator)[:_FIT_WINDOWS]])
    net.to(where)
    for parameter in net.parameters():
        parameter.data = laid_out(parameter.data, where)
    held, truth = Held(signals, where, compute), labels.to(where)
    # Batch norm cannot learn from a batch of one: the last batch is dropped with the rest of a division, unless it is all there is.
    batch = min(settings.batch, len(signals))
    steps_per_epoch = len(signals) // batch
    steps = settings.epochs * steps_per_epoch
    optimizer = torch.optim.AdamW(
        net.parameters(), settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    watch, dtype = Watch(optimizer, where, "original"), precision(where, compute, narrow=net.narrow)
    # One cycle: Smith & Topin, 2018, "Super-convergence". Of four steps a quarter is one, and torch divides by one less than that.
    rise = 0.25 if steps != 4 else 0.3
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, total_steps=steps, pct_start=rise)
    for epoch in range(settings.epochs):
        net.train()
        losses = []
        order = torch.randperm(len(signals), generator=generator).to(held.lies)
        for step in range(steps_per_epoch):
            rows = order[step * batch : (step + 1) * batch]
            inputs = augment(
                held.rows(rows),
                train.channels,
                rotate=settings.rotate,
                gain=settings.gain,
                sensor_dropout=settings.sensor_dropout,
                generator=generator,
            )
            losses.append(_train_step(net, inputs, truth[rows.to(where)], optimizer, watch, dtype))
            schedule.step()
            progress(
                epoch * steps_per_epoch + step + 1, steps, f"original model, epoch {epoch + 1} of {settings.epochs}"
            )
        watch.look(losses[-1])
        curves = {"loss": torch.stack(losses).mean().item()}
        if holdout is not None:
            result = evaluate(holdout.scenes, _predict(net, holdout), train.scene_names)
            curves |= {"holdout/accuracy": result.accuracy, "holdout/macro_f1": result.macro_f1}
        run.metrics(curves, step=epoch + 1)


def _train_step(
    net: SceneNet,
    signals: Tensor,
    labels: Tensor,
    optimizer: torch.optim.Optimizer,
    watch: Watch,
    dtype: torch.dtype,
) -> Tensor:
    optimizer.zero_grad(set_to_none=True)
    # Spectrograms stay float32: a logarithm of powers has more digits than bfloat16.
    images = laid_out(net.spectrogram(signals), signals.device)
    with torch.autocast(signals.device.type, dtype, enabled=dtype != torch.float32):
        logits = net.backbone(images)
    loss = functional.cross_entropy(logits.float(), labels)
    watch.see(loss)
    loss.backward()  # type: ignore[no-untyped-call]  # torch's own annotation is missing
    torch.nn.utils.clip_grad_norm_(net.parameters(), _CLIP)
    optimizer.step()
    return loss.detach()


def _predict(net: SceneNet, windows: WindowSet) -> NDArray[np.int64]:
    predicted: NDArray[np.int64] = infer(net, torch.from_numpy(windows.signals)).argmax(1).numpy()
    return predicted
