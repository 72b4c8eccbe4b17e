"""Fine-tuning: from the original model towards the new phones, and no further than their labels can carry.

Reads top to bottom: who judges, train on the others, choose how many epochs and how far to go, train on all.

What keeps a ResNet-34 from getting worse on a few hundred windows: batch norm's statistics are frozen, everything below the
trained part is computed once, the learning rate goes through one cycle of a bounded number of steps (Smith & Topin, 2018), the
weights are pulled to the original's (L2-SP: Li et al., 2018) and at the end averaged with them (WiSE-FT: Wortsman et al.,
2022), by a share that may be 0: then the original stays as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.devices import device, seeded, threads
from training.errors import NonFiniteLoss
from training.filterloss import filter_loss, logit_adjustment
from training.folds import grouped_folds
from training.network import SceneNet, Trainable
from training.settings import FineTuneSettings
from training.tracking import NullRun, Progress, RunLog, no_progress
from training.weights import weighted_balanced_accuracy

Sampler = Callable[[NDArray[np.int64]], NDArray[np.int64]]
"""Labels of the training rows → which of them, by position, make an epoch; a row may come several times or never."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FineTuned:
    """What came of it."""

    net: SceneNet
    """On the CPU, in evaluation mode."""
    epochs: int
    """Passes over the data; 0: the original as it is."""
    share: float
    """How far from the original's weights (0) to the trained ones (1)."""
    validation: float
    """Balanced accuracy on the people who chose both."""
    validation_original: float
    """The original's, on the same."""


def trainable(settings: FineTuneSettings) -> Trainable:
    """Which part is trained, with ``auto`` decided."""
    if settings.trainable == "auto":
        return "all" if device(settings.device).type == "cuda" else "block"
    return cast("Trainable", settings.trainable)


def epochs_of(windows: int, settings: FineTuneSettings) -> int:
    """Passes over so many windows: as many as are set, within the steps that are set."""
    steps_per_epoch = math.ceil(windows / settings.batch)
    return max(1, min(settings.epochs, settings.max_steps // steps_per_epoch))


def one_cycle(done: float) -> float:
    """Learning rate at a share (0 to 1) of the training, relative to its highest: up within a fifth, then down to nothing, by cosines."""
    rise = 0.2
    if done < rise:
        return 0.04 + 0.96 * (1 - math.cos(math.pi * done / rise)) / 2
    return (1 + math.cos(math.pi * (done - rise) / (1 - rise))) / 2


def finetune(
    original: SceneNet,
    cached: Tensor,
    labels: NDArray[np.int64],
    weights: NDArray[np.floating],
    groups: NDArray[np.int64],
    *,
    believed: NDArray[np.floating],
    adjust: bool,
    shares: Sequence[float],
    sampler: Sampler | None = None,
    settings: FineTuneSettings | None = None,
    run: RunLog | None = None,
    progress: Progress = no_progress,
) -> FineTuned:
    """Fine-tune the original on n windows.

    Args:
        original: where to start, and what to stay near.
        cached: (n, …) outputs of its frozen part, see :meth:`SceneNet.split`.
        labels: (n,) their scenes.
        weights: (n,) of the loss.
        groups: (n,) their people.
        believed: (n,) how much a window counts when people who were left out choose epochs and share.
        adjust: whether to correct for imbalance by logit adjustment.
        shares: what may be chosen, of the way from the original to the trained weights.
        sampler: resamples an epoch; None for every row once.
        settings: the recipe, the same for every arm.
        run: gets the epochs' curves.
        progress: told after each epoch.

    Raises:
        NonFiniteLoss: the loss became NaN or infinite; nothing was stepped after it.
    """
    settings, run = settings or FineTuneSettings(), run or NullRun()
    fold = grouped_folds(groups, labels, settings.validation_folds, rng=np.random.default_rng(settings.seed))
    judges = fold == 0 if fold.max() else np.zeros(len(labels), bool)
    passes = epochs_of(len(labels), settings)
    total = 2 * passes
    with threads(settings.threads), seeded(settings.seed):
        trainer = _Trainer(original, cached, labels, weights, adjust=adjust, sampler=sampler, settings=settings)
        start = trainer.validate(0.0, judges, believed)
        best = (start, 0, 0.0)
        for epoch in range(1, passes + 1):
            loss = trainer.epoch(np.flatnonzero(~judges), begin=(epoch - 1) / passes, end=epoch / passes)
            found = {share: trainer.validate(share, judges, believed) for share in shares}
            # The least change that does as well: strictly better only.
            best = max(
                best, *((value, epoch, share) for share, value in found.items()), key=lambda each: round(each[0], 9)
            )
            run.metrics({"loss": loss, "validation/balanced_accuracy": max(found.values())}, step=epoch)
            progress(epoch, total, f"epoch {epoch}")
        value, epochs, share = best
        trainer.restart()
        everything = np.arange(len(labels))
        for epoch in range(1, epochs + 1):
            loss = trainer.epoch(everything, begin=(epoch - 1) / passes, end=epoch / passes)
            run.metrics({"final/loss": loss}, step=epoch)
            progress(passes + epoch, total, f"final epoch {epoch} of {epochs}")
    progress(total, total, "done")
    return FineTuned(net=trainer.result(share), epochs=epochs, share=share, validation=value, validation_original=start)


class _Trainer:
    """The trained part, its optimizer and the original's weights."""

    def __init__(
        self,
        original: SceneNet,
        cached: Tensor,
        labels: NDArray[np.int64],
        weights: NDArray[np.floating],
        *,
        adjust: bool,
        sampler: Sampler | None,
        settings: FineTuneSettings,
    ) -> None:
        self._where = device(settings.device)
        self._original, self._settings, self._sampler, self._adjust = original, settings, sampler, adjust
        self._cached = cached.clone().to(self._where)  # what inference made, autograd refuses: a copy is ours
        self._labels = torch.from_numpy(labels).to(self._where)
        self._weights = torch.from_numpy(np.asarray(weights, np.float32)).to(self._where)
        self._label_array = labels
        self.restart()

    def restart(self) -> None:
        """Back to the original's weights."""
        self._net = self._original.clone().to(self._where).eval()
        _, self._part = self._net.split(trainable(self._settings))
        self._start = [parameter.detach().clone() for parameter in self._part.parameters()]
        self._optimizer = torch.optim.AdamW(
            self._part.parameters(), self._settings.learning_rate, weight_decay=0.0, fused=True
        )
        self._generator = torch.Generator().manual_seed(self._settings.seed)

    def epoch(self, rows: NDArray[np.int64], *, begin: float, end: float) -> float:
        """One pass over these rows, from one share of the training to another; returns the mean loss."""
        if self._sampler is not None:
            rows = rows[self._sampler(self._label_array[rows])]
        chosen = torch.from_numpy(rows)
        shift = None
        if self._adjust:
            scenes = len(self._original.scenes)
            shift = logit_adjustment(self._labels[chosen].cpu(), self._weights[chosen].cpu(), scenes).to(self._where)
        order = chosen[torch.randperm(len(chosen), generator=self._generator)]
        parts = torch.split(order, self._settings.batch)
        losses = []
        for number, part in enumerate(parts):
            self._rate(begin + (end - begin) * number / len(parts))
            losses.append(self._step(part, shift))
        return float(torch.stack(losses).mean())

    def _rate(self, done: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = self._settings.learning_rate * one_cycle(done)

    def _step(self, rows: Tensor, shift: Tensor | None) -> Tensor:
        self._optimizer.zero_grad(set_to_none=True)
        # Always in evaluation mode: a batch of 64 windows of few people says nothing about a channel's mean.
        loss = filter_loss(self._part(self._cached[rows]), self._labels[rows], self._weights[rows], adjustment=shift)
        if not torch.isfinite(loss):
            msg = f"The loss became {loss.item()}: lower [finetune] learning_rate, or look for infinite values in the signals"
            raise NonFiniteLoss(msg)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own annotation is missing
        # The gradient of pull / 2 · ‖p − p₀‖², added by hand: building a graph for it costs as much as the network's own.
        for parameter, start in zip(self._part.parameters(), self._start, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - start, alpha=self._settings.pull)
        self._optimizer.step()
        return loss.detach()

    def validate(self, share: float, rows: NDArray[np.bool_], believed: NDArray[np.floating]) -> float:
        """Balanced accuracy on the people left out, at this share of the way."""
        if not rows.any():
            return 0.0
        inputs = self._cached[torch.from_numpy(np.flatnonzero(rows))]
        with torch.inference_mode():
            logits = torch.func.functional_call(self._part, self._averaged(share), (inputs,))
        predicted = logits.argmax(1).cpu().numpy()
        return weighted_balanced_accuracy(self._label_array[rows], predicted, believed[rows])

    def result(self, share: float) -> SceneNet:
        """The network at this share of the way, on the CPU."""
        averaged = self._averaged(share)
        with torch.no_grad():
            for name, parameter in self._part.named_parameters():
                parameter.copy_(averaged[name])
        return self._net.cpu().eval()

    def _averaged(self, share: float) -> dict[str, Tensor]:
        """The trained part's parameters at this share of the way from the original's."""
        return {
            name: start + share * (parameter.detach() - start)
            for (name, parameter), start in zip(self._part.named_parameters(), self._start, strict=True)
        }
