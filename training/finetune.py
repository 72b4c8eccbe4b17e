"""Fine-tuning: from the original model towards the new phones, and no further than their labels can carry.

Reads top to bottom: who judges; fit a head to the features as they are, pulled to the original's (L2-SP: Li et al., 2018) and
averaged with it (WiSE-FT: Wortsman et al., 2022), how much of both being chosen on people left out: that may be "not at all", and
then the original stays as it is; train the layers below it as well, if people left out say that it is worth it; then the same
with everybody. The head comes first, so that a bad one does not bend what is below it (Kumar et al., 2022, "Fine-tuning can
distort pretrained features").

What else keeps a ResNet-34 from getting worse on a few hundred windows: batch norm's statistics are frozen, everything below the
trained part is computed once, and the learning rate goes through one whole cycle of a bounded number of steps (Smith & Topin, 2018).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.devices import device, seeded, threads
from training.errors import NonFiniteLoss
from training.filterloss import filter_loss, logit_adjustment
from training.folds import grouped_folds
from training.heads import Head, fit_head
from training.losses import CROSS_ENTROPY, Loss
from training.network import SceneNet, Trainable, infer
from training.quality import adjustment
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
    """Passes over the data; 0: the head alone was fitted."""
    head_pull: float
    """How strongly the head was pulled to the original's."""
    share: float
    """How far from the original's weights (0: it stays as it is) to the trained ones (1)."""
    validation: float
    """Balanced accuracy among people left out, of the head that was chosen; of the network, where nobody chose."""
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
    loss: Loss = CROSS_ENTROPY,
    near: bool = True,
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
        believed: (n,) how much a window counts when people who were left out choose.
        adjust: whether to correct for imbalance by logit adjustment.
        shares: what may be chosen, of the way from the original's weights to the trained ones; to stay is always allowed.
        sampler: resamples an epoch; None for every row once.
        loss: of a window.
        near: whether people who were left out choose how near to the original to stay, and whether to train below the head. If not,
            the whole way is gone with the weakest pull and all epochs, as one would without them.
        settings: the recipe, the same for every arm.
        run: gets the epochs' curves.
        progress: told after each epoch.

    Raises:
        NonFiniteLoss: the loss became NaN or infinite; nothing was stepped after it.
    """
    settings, run = settings or FineTuneSettings(), run or NullRun()
    fold = grouped_folds(groups, labels, settings.validation_folds, rng=np.random.default_rng(settings.seed))
    judges = fold == 0 if fold.max() else np.zeros(len(labels), bool)
    with threads(settings.threads), seeded(settings.seed):
        trainer = _Trainer(
            original, cached, labels, weights, adjust=adjust, sampler=sampler, loss=loss, settings=settings
        )
        head = trainer.choose_head(fold, believed, shares) if near else trainer.whole_way(believed)
        # Where the original stays as it is, nothing below the head is worth a try; and a head is at its optimum already.
        passes = epochs_of(trainer.rows_per_epoch(), settings) if head.share and not trainer.head_only else 0
        total = max(1, 2 * passes)
        trainer.restart(np.flatnonzero(~judges), head.pull)
        found = reached = trainer.validate(head.share, judges, believed)
        run.metrics(trainer.curves(head.share, judges, believed), step=0)
        for epoch in range(1, passes + 1):
            mean = trainer.epoch(np.flatnonzero(~judges), epoch, passes)
            found = trainer.validate(head.share, judges, believed)
            run.metrics({"train/loss": mean, **trainer.curves(head.share, judges, believed)}, step=epoch)
            progress(epoch, total, f"epoch {epoch} of {passes}")
        # The whole cycle or nothing: half way, where the rate is high, a network is worse than before and after.
        best = passes if found > reached + settings.worth or not near else 0
        everything = np.arange(len(labels))
        trainer.restart(everything, head.pull)
        for epoch in range(1, best + 1):
            run.metrics({"train/final_loss": trainer.epoch(everything, epoch, passes)}, step=epoch)
            progress(passes + epoch, total, f"final epoch {epoch} of {best}")
    progress(total, total, "done")
    return FineTuned(
        net=trainer.result(head.share), epochs=best, head_pull=head.pull, share=head.share,
        validation=head.value if near else found,
        validation_original=head.original,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class _ChosenHead:
    """How far the head goes, and what it reaches among people left out."""

    pull: float
    share: float
    value: float
    original: float


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
        loss: Loss,
        settings: FineTuneSettings,
    ) -> None:
        self._where, self._loss = device(settings.device), loss
        self._original, self._settings, self._sampler, self._adjust = original, settings, sampler, adjust
        self._cached = cached.clone().to(self._where)  # what inference made, autograd refuses: a copy is ours
        self._labels = torch.from_numpy(labels).to(self._where)
        self._weights = torch.from_numpy(np.asarray(weights, np.float32)).to(self._where)
        self._label_array, self._weight_array = labels, np.asarray(weights, np.float64)
        self._net = original.clone().to(self._where).eval()
        _, self._part = self._net.split(trainable(settings))
        self._origin = [parameter.detach().clone() for parameter in self._part.parameters()]
        # Below the head nothing has moved yet: its inputs are those of the original model.
        self._features = infer(self._part[:-1], self._cached).cpu().numpy() if len(self._part) > 1 else cached.numpy()
        self._head = Head.of(original)
        _require_finite(float(self._features.sum()))

    def choose_head(
        self, fold: NDArray[np.int64], believed: NDArray[np.floating], shares: Sequence[float]
    ) -> _ChosenHead:
        """The pull and the share of the way that do best on people left out, each fold in turn; the least change of equals."""
        labels, origin = self._label_array, self._head.logits(self._features)
        original = weighted_balanced_accuracy(labels, origin.argmax(1), believed)
        pulls = sorted(self._settings.head_pulls, reverse=True)
        best = _ChosenHead(pull=pulls[0], share=0.0, value=original, original=original)
        if not fold.max():  # one person only: nobody is left to judge, so the middle of what is sensible
            return replace(best, share=sorted(shares)[len(shares) // 2])
        for pull in pulls:
            fitted = np.empty_like(origin)
            for number in range(int(fold.max()) + 1):
                head = self._fitted(np.flatnonzero(fold != number), pull)
                fitted[fold == number] = head.logits(self._features[fold == number])
            for share in sorted(shares):
                predicted = ((1 - share) * origin + share * fitted).argmax(1)
                value = weighted_balanced_accuracy(labels, predicted, believed)
                if value > best.value + 1e-9:
                    best = replace(best, pull=pull, share=share, value=value)
        return best

    @property
    def head_only(self) -> bool:
        """Whether nothing below the head is trained."""
        return len(self._part) == 1

    def whole_way(self, believed: NDArray[np.floating]) -> _ChosenHead:
        """The weakest pull and the whole way, nobody being asked."""
        origin = self._head.logits(self._features).argmax(1)
        original = weighted_balanced_accuracy(self._label_array, origin, believed)
        return _ChosenHead(pull=min(self._settings.head_pulls), share=1.0, value=original, original=original)

    def restart(self, rows: NDArray[np.int64], pull: float) -> None:
        """Back to the original's weights, with a head fitted on these rows."""
        head = self._fitted(rows, pull)
        layer = self._net.backbone.fc
        with torch.no_grad():
            for parameter, start in zip(self._part.parameters(), self._origin, strict=True):
                parameter.copy_(start)
            layer.weight.copy_(torch.from_numpy(head.weight))
            layer.bias.copy_(torch.from_numpy(head.bias))
        self._start = [parameter.detach().clone() for parameter in self._part.parameters()]
        self._optimizer = torch.optim.AdamW(
            self._part.parameters(), self._settings.learning_rate, weight_decay=0.0, fused=True
        )
        self._generator = torch.Generator().manual_seed(self._settings.seed)

    def _fitted(self, rows: NDArray[np.int64], pull: float) -> Head:
        """A head, fitted to its optimum; the original's where there is only one scene to learn."""
        rows = self._sampled(rows)
        labels, weights = self._label_array[rows], self._weight_array[rows]
        shift = adjustment(labels, weights, len(self._original.scenes)) if self._adjust else None
        return fit_head(
            self._features[rows], labels, weights, start=self._head, pull=pull, adjustment=shift, loss=self._loss
        )

    def _sampled(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return rows if self._sampler is None else rows[self._sampler(self._label_array[rows])]

    def epoch(self, rows: NDArray[np.int64], number: int, passes: int) -> float:
        """The pass of this number (from 1) over these rows; returns the mean loss."""
        rows = self._sampled(rows)
        chosen = torch.from_numpy(rows)
        shift = None
        if self._adjust:
            scenes = len(self._original.scenes)
            shift = logit_adjustment(self._labels[chosen].cpu(), self._weights[chosen].cpu(), scenes).to(self._where)
        order = chosen[torch.randperm(len(chosen), generator=self._generator)]
        parts = torch.split(order, self._settings.batch)
        losses = []
        for at, part in enumerate(parts):
            self._rate((number - 1 + at / len(parts)) / passes)
            losses.append(self._step(part, shift))
        return float(torch.stack(losses).mean())

    def _rate(self, done: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = self._settings.learning_rate * one_cycle(done)

    def _step(self, rows: Tensor, shift: Tensor | None) -> Tensor:
        self._optimizer.zero_grad(set_to_none=True)
        # Always in evaluation mode: a batch of 64 windows of few people says nothing about a channel's mean.
        loss = filter_loss(
            self._part(self._cached[rows]), self._labels[rows], self._weights[rows], adjustment=shift, loss=self._loss
        )
        _require_finite(loss.item())
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own annotation is missing
        # The gradient of pull / 2 · ‖p − p₀‖², added by hand: building a graph for it costs as much as the network's own.
        for parameter, start in zip(self._part.parameters(), self._start, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - start, alpha=self._settings.pull)
        self._optimizer.step()
        return loss.detach()

    def rows_per_epoch(self) -> int:
        """How many windows an epoch has: resampling makes them more or fewer."""
        return len(self._sampled(np.arange(len(self._label_array))))

    def curves(self, share: float, rows: NDArray[np.bool_], believed: NDArray[np.floating]) -> dict[str, float]:
        """What is drawn of each epoch: under the same name, the same quantity in every arm."""
        return {
            "validation/balanced_accuracy": self.validate(share, rows, np.ones(len(rows))),
            "validation/believed_balanced_accuracy": self.validate(share, rows, believed),
        }

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
            name: origin + share * (parameter.detach() - origin)
            for (name, parameter), origin in zip(self._part.named_parameters(), self._origin, strict=True)
        }


def _require_finite(value: float) -> None:
    if not math.isfinite(value):
        msg = f"The loss became {value}: lower [finetune] learning_rate, or look for infinite values in the signals"
        raise NonFiniteLoss(msg)
