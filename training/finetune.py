"""Fine-tuning: from the original model towards the new phones, and no further than their labels can carry.

Reads top to bottom: who judges; fit a head to the features as they are, pulled to the original's (L2-SP: Li et al., 2018) and
averaged with it (WiSE-FT: Wortsman et al., 2022), how much of both being chosen on people left out: that may be "not at all", and
then the original stays as it is; train the layers below it as well, if people left out say that it is worth it; then the same
with everybody. The head comes first, so that a bad one does not bend what is below it (Kumar et al., 2022, "Fine-tuning can
distort pretrained features").

What else keeps a ResNet-34 from getting worse on a few hundred windows: batch norm's statistics are frozen, everything below the
trained part is computed once, and the learning rate goes through one whole cycle of a bounded number of steps (Smith & Topin, 2018).

How a step uses the machine is :mod:`training.step`; several processes that ``torchrun`` started train one model.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.arm import Choice
from training.asked import as_they_come
from training.checkpoint import Checkpoint
from training.choosing import People
from training.devices import Held, device, laid_out, reproducible, seeded, threads
from training.filterloss import correction
from training.folds import grouped_folds
from training.heads import Head, fit_head
from training.losses import CROSS_ENTROPY, Loss
from training.network import SceneNet, Trainable
from training.ranks import ranks
from training.runkey import RECIPE
from training.schedule import epochs_of, one_cycle
from training.settings import ComputeSettings, FineTuneSettings
from training.step import Stepper, require_finite
from training.tracking import NullRun, Progress, RunLog, no_progress
from training.weights import weighted_balanced_accuracy

Sampler = Callable[[NDArray[np.int64]], NDArray[np.int64]]
"""Labels of the training rows → which of them, by position, make an epoch; a row may come several times or never."""
_BATCH, _JUDGED = 256, 4096
"""Windows at once where nothing is trained: from the frozen part to the head, and when people left out judge."""


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
    """The original's: on the same people, or on the whole training part where nobody chose."""


def trainable(settings: FineTuneSettings) -> Trainable:
    """Which part is trained, with ``auto`` decided."""
    if settings.trainable == "auto":
        return "all" if device(settings.device).type == "cuda" else "block"
    return cast("Trainable", settings.trainable)


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
    choice: Choice = "how_far",
    settings: FineTuneSettings | None = None,
    compute: ComputeSettings | None = None,
    checkpoint: Path | None = None,
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
        adjust: whether to correct for imbalance.
        shares: what may be chosen, of the way from the original's weights to the trained ones; to stay is always allowed.
        sampler: resamples an epoch; None for every row once.
        loss: of a window.
        choice: what people who were left out choose: how far to go, whether to go at all, or nothing. Where they do not choose how
            far, it is the whole way with the weakest pull; where nothing, with all epochs, as one would without them.
        settings: the recipe, the same for every arm.
        compute: how the machine is used.
        checkpoint: where to keep how far it is; a call with the same arguments goes on from there, to the same result. None: nowhere.
        run: gets the epochs' curves.
        progress: told after each epoch.

    Raises:
        NonFiniteLoss: the loss became NaN or infinite; nothing was stepped after it.
        OutOfMemory: the device has not memory enough for one window.
    """
    settings, compute, run = settings or FineTuneSettings(), compute or ComputeSettings(), run or NullRun()
    fold = grouped_folds(groups, labels, settings.validation_folds, rng=np.random.default_rng(settings.seed))
    judges = fold == 0 if fold.max() else np.zeros(len(labels), bool)
    everything = np.arange(len(labels))
    with threads(settings.threads), seeded(settings.seed), reproducible(wanted=compute.deterministic), ExitStack() as end:  # fmt: skip
        trainer = _Trainer(
            original, cached, labels, weights, adjust=adjust, sampler=sampler, loss=loss, settings=settings, compute=compute
        )  # fmt: skip
        asks = choice != "nothing"
        ways = ((1.0,), (min(settings.head_pulls),)) if choice == "whether" else (shares, settings.head_pulls)
        head = trainer.choose_head(groups, believed, *ways) if asks else trainer.whole_way(believed)
        head = ranks().agreed(head)
        # Where the original stays as it is, nothing below the head is worth a try; and a head is at its optimum already.
        # Nor is anything where nobody is left out who could say so.
        worth_a_try = bool(head.share) and not trainer.head_only and (bool(judges.any()) or not asks)
        passes = epochs_of(trainer.rows_per_epoch(), settings) if worth_a_try else 0
        total = max(1, 2 * passes)
        training = trainer.digest(groups, believed, head, choice) if checkpoint else ""
        kept = Checkpoint(checkpoint, training, every=compute.checkpoint_every)
        end.enter_context(kept.saved_when_stopped())
        state = ranks().agreed(kept.load())
        trainer.restart(np.flatnonzero(~judges), head.pull)
        reached = trainer.validate(head.share, judges, believed)
        run.metrics(trainer.curves(head.share, judges, believed), step=0)
        found = state.get("found", reached)
        done = passes if "final" in state else trainer.resume(state, "judged")
        for epoch in range(done + 1, passes + 1):
            mean = trainer.epoch(np.flatnonzero(~judges), epoch, passes)
            found = trainer.validate(head.share, judges, believed)
            run.metrics({"train/loss": mean, **trainer.curves(head.share, judges, believed)}, step=epoch)
            trainer.save(kept, judged=epoch, found=found)
            progress(epoch, total, f"epoch {epoch} of {passes}")
        # The whole cycle or nothing: half way, where the rate is high, a network is worse than before and after.
        best = passes if ranks().agreed(found > reached + settings.worth) or not asks else 0
        trainer.restart(everything, head.pull)
        for epoch in range(1 + trainer.resume(state, "final"), best + 1):
            run.metrics({"train/final_loss": trainer.epoch(everything, epoch, passes)}, step=epoch)
            trainer.save(kept, final=epoch, found=found)
            progress(passes + epoch, total, f"final epoch {epoch} of {best}")
    progress(total, total, "done")
    return FineTuned(
        net=trainer.result(head.share), epochs=best, head_pull=head.pull, share=head.share,
        validation=head.value if asks else found,
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
        compute: ComputeSettings,
    ) -> None:
        self._where, self._loss, self._ranks = device(settings.device), loss, ranks()
        self._original, self._settings, self._sampler, self._adjust = original, settings, sampler, adjust
        self._held = Held(cached, self._where, compute)
        self._labels, self._weights = torch.from_numpy(labels), torch.from_numpy(np.asarray(weights, np.float32))
        self._label_array, self._weight_array = labels, np.asarray(weights, np.float64)
        self._net = original.clone().to(self._where).eval()
        _, self._part = self._net.split(trainable(settings))
        for parameter in self._part.parameters():
            parameter.data = laid_out(parameter.data, self._where)
        self._origin = [parameter.detach().clone() for parameter in self._part.parameters()]
        # Below the head nothing has moved yet: its inputs are those of the original model.
        self._features = self._head_inputs() if len(self._part) > 1 else cached.numpy()
        self._head = Head.of(original)
        require_finite(float(self._features.sum()), "finetune")
        self._stepper = Stepper(
            self._part, self._held, self._labels.to(self._where), self._weights.to(self._where), where=self._where, loss=loss,
            pull=settings.pull, batch=settings.batch, ranks=self._ranks, compute=compute,
            steps=2 * epochs_of(len(labels), settings) * math.ceil(len(labels) / settings.batch),
        )  # fmt: skip

    @torch.inference_mode()
    def _head_inputs(self) -> NDArray[np.floating]:
        """(n, d) what the head sees, before anything has moved."""
        found: NDArray[np.floating] = (
            torch.cat([self._part[:-1](part) for part in self._held.batches(_BATCH)]).cpu().numpy()
        )
        return found

    def choose_head(
        self,
        groups: NDArray[np.int64],
        believed: NDArray[np.floating],
        shares: Sequence[float],
        pulls: Sequence[float],
    ) -> _ChosenHead:
        """The pull and the share of the way by people left out, each fold in turn; of very many windows, by some.

        If the original is as good as the best, it stays: a gain that these people cannot tell from chance is no reason to leave what
        is known to work. Otherwise, of those that are as good as the best, the farthest from it: the heads that are judged have seen
        fewer people than the one that will be used, and so look best nearer to the original than it will.
        """
        seed = self._settings.seed
        asked = as_they_come(self._label_array, seed)
        labels, features, groups = self._label_array[asked], self._features[asked], groups[asked]
        fold = grouped_folds(groups, labels, self._settings.validation_folds, rng=np.random.default_rng(seed))
        origin = self._head.logits(features)
        people = People(labels, groups, np.asarray(believed, np.float64)[asked], seed=seed)
        stays = people.judge(origin.argmax(1))
        pulls = sorted(pulls, reverse=True)
        chosen = _ChosenHead(pull=pulls[0], share=0.0, value=float(stays[0]), original=float(stays[0]))
        if not fold.max():  # one person only: nobody is left to judge, so the middle of what is sensible
            return replace(chosen, share=sorted(shares)[len(shares) // 2])
        tried, judged = [chosen], [stays]
        for pull in pulls:
            fitted = np.empty_like(origin)
            for number in range(int(fold.max()) + 1):
                head = self._fitted(asked[fold != number], pull)
                fitted[fold == number] = head.logits(features[fold == number])
            for share in shares:
                judged.append(people.judge(((1 - share) * origin + share * fitted).argmax(1)))
                tried.append(replace(chosen, pull=pull, share=share, value=float(judged[-1][0])))
        stays_fine, *fine = people.as_good_as_the_best(judged)
        if stays_fine:
            return chosen
        good = [each for each, enough in zip(tried[1:], fine, strict=True) if enough and each.value > each.original]
        return max(good, key=lambda each: (each.share, -each.pull))

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
        head = self._ranks.agreed(self._fitted(rows, pull))
        layer = self._net.backbone.fc
        with torch.no_grad():
            for parameter, start in zip(self._part.parameters(), self._origin, strict=True):
                parameter.copy_(start)
            layer.weight.copy_(torch.from_numpy(head.weight))
            layer.bias.copy_(torch.from_numpy(head.bias))
        self._stepper.begin(self._settings.learning_rate)
        self._generator = torch.Generator().manual_seed(self._settings.seed)

    def _fitted(self, rows: NDArray[np.int64], pull: float) -> Head:
        """A head, fitted to its optimum or near it: with the weakest pull, 100 iterations leave up to 3 % of predictions other than its."""
        rows = self._sampled(rows)
        labels, weights = self._label_array[rows], self._weight_array[rows]
        by_label = self._correction(torch.from_numpy(labels), torch.from_numpy(weights))
        shift, features = None if by_label is None else by_label.numpy()[labels], self._features[rows]
        return fit_head(features, labels, weights, start=self._head, pull=pull, adjustment=shift, loss=self._loss)

    def _correction(self, labels: Tensor, weights: Tensor) -> Tensor | None:
        """(scenes, scenes) what is added to the logits, a row for each label."""
        scenes, by = len(self._original.scenes), self._settings
        return correction(labels, weights, scenes, kind=by.correction, margin=by.margin) if self._adjust else None

    def _sampled(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return rows if self._sampler is None else rows[self._sampler(self._label_array[rows])]

    def epoch(self, rows: NDArray[np.int64], number: int, passes: int) -> float:
        """The pass of this number (from 1) over these rows; returns the mean loss."""
        chosen = torch.from_numpy(self._sampled(rows))
        by_label = self._correction(self._labels[chosen], self._weights[chosen])
        # Copied to the device once an epoch, and once back: no step waits for the host, nor the host for a step.
        shift = None if by_label is None else by_label.to(self._where)
        order = chosen[torch.randperm(len(chosen), generator=self._generator)].to(self._held.lies)
        parts = torch.split(order, self._settings.batch)
        losses = []
        for at, part in enumerate(parts):
            rate = self._settings.learning_rate * one_cycle((number - 1 + at / len(parts)) / passes)
            losses.append(self._stepper.step(part, rate, shift))
        self._stepper.watch.look(losses[-1])
        return float(torch.stack(losses).mean())

    def digest(
        self, groups: NDArray[np.int64], believed: NDArray[np.floating], head: _ChosenHead, choice: Choice
    ) -> str:
        """Of everything that decides what this training does."""
        choices = [
            RECIPE, self._settings.recipe(), asdict(head), asdict(self._loss), self._adjust, choice, trainable(self._settings),
            self._original.digest(),
        ]  # fmt: skip
        found = hashlib.blake2b(json.dumps(choices, default=str).encode(), digest_size=8)
        rows = self._sampled(np.arange(len(self._label_array)))
        for array in (self._features, self._label_array, self._weight_array, groups, believed, rows):
            found.update(np.ascontiguousarray(array).data)
        return found.hexdigest()

    def save(self, kept: Checkpoint, **where: float) -> None:
        """Keep where the training stands, if it is time to: epochs done of this stretch, and what else was found."""

        def state() -> dict[str, Any]:
            return {
                **where, "parameters": [parameter.detach().cpu() for parameter in self._part.parameters()],
                "optimizer": self._stepper.optimizer.state_dict(), "generator": self._generator.get_state(),
            }  # fmt: skip

        # What has moved since the last epoch's end is of no use half-way: when told to stop, that end is what is saved.
        if self._ranks.first and not kept.save(state):
            kept.hold(state)

    def resume(self, state: dict[str, Any], stretch: str) -> int:
        """Go on where a checkpoint says, if it is of this stretch; returns how many of its epochs are done."""
        if stretch not in state:
            return 0
        with torch.no_grad():
            for parameter, value in zip(self._part.parameters(), state["parameters"], strict=True):
                parameter.copy_(value)
        self._stepper.optimizer.load_state_dict(state["optimizer"])
        self._generator.set_state(state["generator"])
        return int(state[stretch])

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
        which = torch.from_numpy(np.flatnonzero(rows)).to(self._held.lies)
        averaged = self._averaged(share)
        with torch.inference_mode():
            found = [
                torch.func.functional_call(self._part, averaged, (self._held.rows(part),)).argmax(1)
                for part in torch.split(which, _JUDGED)
            ]
        predicted = torch.cat(found).cpu().numpy()
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
