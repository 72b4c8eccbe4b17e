"""Fine-tuning: from the original model towards the new phones, and no further than their labels can carry.

Reads top to bottom: who judges; fit a head to the features as they are, pulled to the original's (L2-SP: Li et al., 2018) and
averaged with it (WiSE-FT: Wortsman et al., 2022), how much of both being chosen on people left out: that may be "not at all"; train
the layers below it as well, without each of them in turn; weigh the windows again by what those networks see; go as far as people say,
of all that, which may be nowhere; and that with everybody. The head comes first, so that a bad one does not bend what is below it
(Kumar et al., 2022, "Fine-tuning can distort pretrained features").

What else keeps a ResNet-34 from getting worse on a few hundred windows: the learning rate goes through one whole cycle of a bounded
number of steps (Smith & Topin, 2018), and where the whole network is trained no step sees a window as another did.

How far to go is :mod:`training.reach`, what is trained :mod:`training.trainer`, how a step uses the machine :mod:`training.step`;
several processes that ``torchrun`` started train one model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.arm import Choice
from training.checkpoint import Checkpoint
from training.devices import reproducible, seeded, threads
from training.losses import CROSS_ENTROPY, Loss
from training.network import SceneNet
from training.ranks import ranks
from training.reach import Judges, Reach, choose_below, choose_head, whole_way
from training.schedule import tried_of
from training.settings import ComputeSettings, FineTuneSettings
from training.tracking import NullRun, Progress, RunLog, no_progress
from training.trainer import Sampler, Trainer
from training.weights import weighted_balanced_accuracy

__all__ = ["FineTuned", "Sampler", "SecondLook", "finetune"]

Numbers = NDArray[np.floating]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SecondLook:
    """How windows are weighed and believed once networks have looked at them."""

    look: Callable[[NDArray[np.int64], Numbers], tuple[Numbers, Numbers] | None]
    """(m,) rows and their (m, scenes) logits, of networks that have not seen their people → (n,) weights, beliefs; None: as they were."""
    decided_by: Sequence[Any]
    """What else decides it: arrays, and what JSON can say. A checkpoint is gone on with if it is the same."""


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
    """Balanced accuracy among people left out, of what was chosen, trained without them (and, below the head, for fewer epochs); where
    nobody chose, among the first fold of them."""
    validation_original: float
    """The original's: on the same people, or on the whole training part where nobody chose."""
    validation_below: float | None
    """That of the network trained below the head, chosen or not; None: none was tried, or nobody asked."""


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
    second_look: SecondLook | None = None,
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
        second_look: how windows are weighed and believed once networks have looked at them; None: as before.
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
    asks, everybody = choice != "nothing", np.arange(len(labels))
    shares, pulls = (shares, settings.head_pulls) if choice == "how_far" else ((1.0,), (min(settings.head_pulls),))
    judges = Judges.of(labels, groups, believed, folds=settings.validation_folds, seed=settings.seed)
    with threads(settings.threads), seeded(settings.seed), reproducible(wanted=compute.deterministic), ExitStack() as end:  # fmt: skip
        trainer = Trainer(
            original, cached, labels, weights, adjust=adjust, sampler=sampler, loss=loss, settings=settings, compute=compute
        )  # fmt: skip
        if asks:
            head, by_head = choose_head(
                judges, trainer.features, trainer.head, trainer.fitted, shares=shares, pulls=pulls
            )
        else:
            as_it_is = trainer.head.logits(trainer.features).argmax(1)
            head, by_head = whole_way(weighted_balanced_accuracy(labels, as_it_is, believed), pulls[0]), np.zeros(0)
        head, by_head = ranks().agreed((head, by_head))
        # A head is at its optimum already. Nor is anything below it worth a try where nobody is left out who could say so.
        below = not trainer.head_only and (bool(judges.folds) or not asks)
        passes = trainer.passes(judges.rows) if below else 0
        if asks:
            folds, passes = judges.folds, tried_of(passes, len(judges.folds))
        else:  # The first fold is left out all the same, for the curve: of a training as long as the one that is kept.
            folds = judges.folds[:1]
        decided = second_look.decided_by if second_look else ()
        training = trainer.digest(asdict(head), choice, list(shares), groups, believed, *decided) if checkpoint else ""
        kept = Checkpoint(checkpoint, training, every=compute.checkpoint_every)
        end.enter_context(kept.saved_when_stopped())
        trainings = _Trainings(
            trainer=trainer, kept=kept, state=ranks().agreed(kept.load()), run=run, progress=progress, rows=judges.rows, folds=folds,
            passes=passes, final=trainer.passes(everybody) if below else 0,
            judged=(max(shares), head.begins) if below else (head.share, head.pull), labels=labels, believed=believed,
        )  # fmt: skip
        left_out = trainings.without_each_fold()
        reach, best = head, None
        if not asks:
            _, reached = trainings.judged_first(left_out[trainings.first])
            reach = replace(head, below=below, value=reached)
        elif below:
            looked = ranks().agreed(second_look.look(judges.rows, left_out)) if second_look else None
            if looked:
                weights, believed = looked
                trainer.weigh(weights)
                judges = judges.believing(believed)
                again = choose_head(judges, trainer.features, trainer.head, trainer.fitted, shares=shares, pulls=pulls)
                head, by_head = ranks().agreed(again)
            origin = trainer.head.logits(trainer.features[judges.rows])
            reach, best = choose_below(judges, head, by_head, origin, left_out, share=max(shares), worth=settings.worth)
            reach, best = ranks().agreed((reach, best))
        trainings.with_everybody(everybody, reach)
    return FineTuned(
        net=trainer.result(reach.share), epochs=trainings.final if reach.below else 0, head_pull=reach.pull, share=reach.share,
        validation=reach.value, validation_original=reach.original, validation_below=best,
    )  # fmt: skip


@dataclass(kw_only=True, slots=True, eq=False)
class _Trainings:
    """One training without each fold of people, then one with everybody; both go on where a checkpoint says."""

    trainer: Trainer
    kept: Checkpoint
    state: Mapping[str, Any]
    """What the checkpoint had."""
    run: RunLog
    progress: Progress
    rows: NDArray[np.int64]
    """(m,) windows of the people who are asked."""
    folds: Sequence[NDArray[np.bool_]]
    """(m,) masks of those who are left out, one after the other."""
    passes: int
    """Over the windows of those who are not; 0: the head is fitted, and nothing below it."""
    final: int
    """With everybody."""
    judged: tuple[float, float]
    """How far of the way the curve is drawn, and how strongly the head is pulled there, or that what is below it begins with."""
    labels: NDArray[np.int64]
    """(n,)"""
    believed: NDArray[np.floating]
    """(n,)"""
    found: Tensor | None = None
    """What :meth:`without_each_fold` has found."""

    @property
    def first(self) -> NDArray[np.bool_]:
        """(m,) mask of those who are left out first, by whom the curve is drawn; of nobody, where there is one person."""
        return self.folds[0] if self.folds else np.zeros(len(self.rows), bool)

    def without_each_fold(self) -> NDArray[np.floating]:
        """(m, scenes) logits of everybody, by what was trained without him."""
        trainer, (share, pull) = self.trainer, self.judged
        found = torch.zeros(len(self.rows), len(trainer.head.bias))
        if "found" in self.state:
            found = self.state["found"]
        trainer.restart(self.rows[~self.first], pull)
        begins = trainer.logits(self.rows[self.first], share)
        self._curve(0, begins)
        if not self.passes:
            found[self.first] = begins
        for number, fold in enumerate(self.folds if self.passes else ()):
            if number < self.state.get("stretch", 0):
                continue
            for epoch, mean in trainer.cycle(self.rows[~fold], pull, self.passes, state=self.state, stretch=number):
                if number == 0:
                    self._curve(epoch, trainer.logits(self.rows[fold], share), mean)
                trainer.save(self.kept, stretch=number, epoch=epoch, found=found)
                told = f"without fold {number + 1} of {len(self.folds)}, epoch {epoch} of {self.passes}"
                self.progress(number * self.passes + epoch, self._total, told)
            found[fold] = trainer.logits(self.rows[fold], share)
        self.found = found
        return found.numpy()

    def with_everybody(self, everybody: NDArray[np.int64], reach: Reach) -> None:
        """The training that is kept: as far as was chosen."""
        trainer, before, stretch = self.trainer, len(self.folds) * self.passes, len(self.folds)
        if reach.below:
            for epoch, mean in trainer.cycle(everybody, reach.pull, self.final, state=self.state, stretch=stretch):
                self.run.metrics({"train/final_loss": mean}, step=epoch)
                trainer.save(self.kept, stretch=stretch, epoch=epoch, found=self.found)
                self.progress(before + epoch, self._total, f"final epoch {epoch} of {self.final}")
        else:
            trainer.restart(everybody, reach.pull)
        self.progress(self._total, self._total, "done")

    @property
    def _total(self) -> int:
        return max(1, len(self.folds) * self.passes + self.final)

    def _curve(self, epoch: int, logits: Tensor, loss: float | None = None) -> None:
        """What is drawn of each epoch, of those left out first: under the same name, the same quantity in every arm."""
        plain, believed = self.judged_first(logits.numpy())
        loss_too = {} if loss is None else {"train/loss": loss}
        names = ("validation/balanced_accuracy", "validation/believed_balanced_accuracy")
        self.run.metrics({**loss_too, **dict(zip(names, (plain, believed), strict=True))}, step=epoch)

    def judged_first(self, logits: NDArray[np.floating]) -> tuple[float, float]:
        """Balanced accuracy of those left out first: windows counting alike, and by the belief in them; 0 where nobody is.

        Args:
            logits: (k, scenes) of theirs.
        """
        rows = self.rows[self.first]
        if not len(rows):
            return 0.0, 0.0
        predicted = logits.argmax(1)
        return (
            weighted_balanced_accuracy(self.labels[rows], predicted, np.ones(len(rows))),
            weighted_balanced_accuracy(self.labels[rows], predicted, self.believed[rows]),
        )
