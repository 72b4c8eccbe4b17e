"""What is trained of a network, over and over from the original's weights: on these windows, without those people, then on all.

Each training begins with a head that is fitted to its windows. Of a part of the network, everything below is computed once, and batch
norm's statistics are frozen. The whole network is fed signals, changed a little at each step, and its batch norm learns.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.augment import augment
from training.checkpoint import Checkpoint
from training.devices import Held, device, laid_out
from training.filterloss import correction
from training.heads import Head, fit_head
from training.losses import Loss
from training.network import SceneNet, learned_statistics
from training.ranks import ranks
from training.runkey import ASKED_RECIPE, FILTER_RECIPE, RECIPE
from training.schedule import epochs_of, one_cycle
from training.settings import ComputeSettings, FineTuneSettings
from training.step import Stepper, require_finite

Sampler = Callable[[NDArray[np.int64]], NDArray[np.int64]]
"""Labels of the training rows → which of them, by position, make an epoch; a row may come several times or never."""
_BATCH, _JUDGED = 256, 1024
"""Windows at once where nothing is trained: from the frozen part to the head, and when people left out judge."""


class Trainer:
    """The trained part of a network, its optimizer and the original's weights."""

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
        self.head = Head.of(original)
        """The original's."""
        self._held = Held(cached, self._where, compute)
        self._labels, self._label_array = torch.from_numpy(labels), labels
        self.weigh(weights)
        self._net = original.clone().to(self._where).eval()
        _, self._part = self._net.split(settings.trainable)
        for parameter in self._part.parameters():
            parameter.data = laid_out(parameter.data, self._where)
        self._whole = settings.trainable == "all"
        self._statistics = learned_statistics(self._part) if self._whole else {}
        self._moving: dict[str, Tensor] = {**dict(self._part.named_parameters()), **self._statistics}
        self._origin = {name: value.detach().clone() for name, value in self._moving.items()}
        self._changes = torch.Generator(self._where)
        # Below the head nothing has moved yet: its inputs are those of the original model.
        self.features = self._head_inputs() if len(self._part) > 1 else cached.numpy()
        """(n, d) what the head sees of the original."""
        require_finite(float(self.features.sum()), "finetune")
        self._stepper = Stepper(
            self._part, self._held, self._labels.to(self._where), where=self._where, loss=loss,
            pull=settings.pull, batch=settings.batch, ranks=self._ranks, compute=compute,
            whole=self._whole, narrow=original.narrow, change=self._change if self._whole else None,
            steps=epochs_of(len(labels), settings) * math.ceil(len(labels) / settings.batch),
        )  # fmt: skip

    def weigh(self, weights: NDArray[np.floating]) -> None:
        """Give the windows these (n,) weights of the loss, from the next training on."""
        self._weight_array = np.asarray(weights, np.float64)
        self._weights = torch.from_numpy(self._weight_array.astype(np.float32))

    @torch.inference_mode()
    def _head_inputs(self) -> NDArray[np.floating]:
        """(n, d) what the head sees, before anything has moved."""
        found: NDArray[np.floating] = (
            torch.cat([self._part[:-1](part) for part in self._held.batches(_BATCH)]).cpu().numpy()
        )
        return found

    @property
    def head_only(self) -> bool:
        """Whether nothing below the head is trained."""
        return len(self._part) == 1

    def cycle(
        self, rows: NDArray[np.int64], pull: float, passes: int, *, state: Mapping[str, Any], stretch: int
    ) -> Iterator[tuple[int, float]]:
        """A training from the original's weights, and a head of these rows: after each epoch, its number (from 1) and its mean loss.

        The whole cycle or nothing: half way, where the rate is high, a network is worse than before and after.

        Args:
            rows: which windows.
            pull: of that head.
            passes: over them.
            state: of a checkpoint, which may have been left in the middle of it.
            stretch: which training of several it is.
        """
        self.restart(rows, pull)
        for epoch in range(1 + self._resume(state, stretch), passes + 1):
            yield epoch, self._epoch(rows, epoch, passes)

    def restart(self, rows: NDArray[np.int64], pull: float) -> None:
        """Back to the original's weights, with a head fitted on these rows."""
        head = self._ranks.agreed(self.fitted(rows, pull))
        layer = self._net.backbone.fc
        with torch.no_grad():
            for name, value in self._moving.items():
                value.copy_(self._origin[name])
            layer.weight.copy_(torch.from_numpy(head.weight))
            layer.bias.copy_(torch.from_numpy(head.bias))
        self._stepper.begin(self._settings.learning_rate, self._weights.to(self._where))
        self._generator = torch.Generator().manual_seed(self._settings.seed)
        self._changes.manual_seed(self._settings.seed)

    def fitted(self, rows: NDArray[np.int64], pull: float) -> Head:
        """A head, fitted to its optimum or near it: with the weakest pull, 100 iterations leave up to 3 % of predictions other than its."""
        rows = self._sampled(rows)
        labels, weights = self._label_array[rows], self._weight_array[rows]
        by_label = self._correction(torch.from_numpy(labels), torch.from_numpy(weights))
        shift, features = None if by_label is None else by_label.numpy()[labels], self.features[rows]
        return fit_head(features, labels, weights, start=self.head, pull=pull, adjustment=shift, loss=self._loss)

    def _correction(self, labels: Tensor, weights: Tensor) -> Tensor | None:
        """(scenes, scenes) what is added to the logits, a row for each label."""
        scenes, by = len(self._original.scenes), self._settings
        return correction(labels, weights, scenes, kind=by.correction, margin=by.margin) if self._adjust else None

    def _sampled(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return rows if self._sampler is None else rows[self._sampler(self._label_array[rows])]

    def _epoch(self, rows: NDArray[np.int64], number: int, passes: int) -> float:
        """The pass of this number (from 1) over these rows; returns the mean loss."""
        chosen = torch.from_numpy(self._sampled(rows))
        by_label = self._correction(self._labels[chosen], self._weights[chosen])
        # Copied to the device once an epoch, and once back: no step waits for the host, nor the host for a step.
        shift = None if by_label is None else by_label.to(self._where)
        order = chosen[torch.randperm(len(chosen), generator=self._generator)].to(self._held.lies)
        # Alike in size: batch norm would learn as much from a rest of two windows as from a whole step.
        parts = torch.tensor_split(order, math.ceil(len(order) / self._settings.batch))
        losses = []
        for at, part in enumerate(parts):
            rate = self._settings.learning_rate * one_cycle((number - 1 + at / len(parts)) / passes)
            losses.append(self._stepper.step(part, rate, shift))
        self._stepper.watch.look(losses[-1])
        self._part.eval()
        self._agree()
        return float(torch.stack(losses).mean())

    def _change(self, signals: Tensor) -> Tensor:
        """The signals (k, channels, samples) of a step, as another phone in another pocket would have them."""
        by = self._settings
        return augment(
            signals, self._original.channels, rotate=by.rotate, gain=by.gain, sensor_dropout=by.sensor_dropout, generator=self._changes,
        )  # fmt: skip

    def _agree(self) -> None:
        """What batch norm has learned is the mean over the processes: each has seen its share of the windows."""
        learned = list(self._statistics.values())
        if learned and self._ranks.world > 1:
            self._ranks.add_up(learned)
            torch._foreach_div_(learned, self._ranks.world)

    def digest(self, *others: Any) -> str:
        """Of everything that decides what this training does, and of what else does."""
        choices = [
            RECIPE, ASKED_RECIPE, FILTER_RECIPE, self._settings.recipe(), asdict(self._loss), self._adjust, self._original.digest(),
            *(each for each in others if not isinstance(each, np.ndarray)),
        ]  # fmt: skip
        found = hashlib.blake2b(json.dumps(choices, default=str).encode(), digest_size=8)
        rows = self._sampled(np.arange(len(self._label_array)))
        arrays = [self.features, self._label_array, self._weight_array, rows]
        for array in (*arrays, *(each for each in others if isinstance(each, np.ndarray))):
            found.update(np.ascontiguousarray(array).data)
        return found.hexdigest()

    def save(self, kept: Checkpoint, **where: Any) -> None:
        """Keep where the training stands, if it is time to: its stretch, the epochs done of it, and what else was found."""

        def state() -> dict[str, Any]:
            return {
                **where, "values": {name: value.detach().cpu() for name, value in self._moving.items()},
                "optimizer": self._stepper.optimizer.state_dict(), "generator": self._generator.get_state(),
                "changes": self._changes.get_state(),
            }  # fmt: skip

        # What has moved since the last epoch's end is of no use half-way: when told to stop, that end is what is saved.
        if self._ranks.first and not kept.save(state):
            kept.hold(state)

    def _resume(self, state: Mapping[str, Any], stretch: int) -> int:
        """Go on where a checkpoint says, if it is of this stretch; returns how many of its epochs are done."""
        if state.get("stretch") != stretch:
            return 0
        with torch.no_grad():
            for name, value in self._moving.items():
                value.copy_(state["values"][name])
        self._stepper.optimizer.load_state_dict(state["optimizer"])
        self._generator.set_state(state["generator"])
        self._changes.set_state(state["changes"])
        return int(state["epoch"])

    def passes(self, rows: NDArray[np.int64]) -> int:
        """Over so many windows; resampling makes them more or fewer."""
        return epochs_of(len(self._sampled(rows)), self._settings)

    def logits(self, rows: NDArray[np.int64], share: float) -> Tensor:
        """(m, scenes) of these rows, at this share of the way."""
        if not len(rows):
            return torch.empty(0, len(self.head.bias))
        averaged = self._averaged(share)
        which = torch.from_numpy(rows).to(self._held.lies)
        with torch.inference_mode():
            found = [
                torch.func.functional_call(self._part, averaged, (self._held.rows(part),))
                for part in torch.split(which, _JUDGED)
            ]
        return torch.cat(found).cpu()

    def result(self, share: float) -> SceneNet:
        """The network at this share of the way, on the CPU."""
        averaged = self._averaged(share)
        with torch.no_grad():
            for name, value in self._moving.items():
                value.copy_(averaged[name])
            # How many steps batch norm has seen decides nothing, and would make another network of one that went on from a checkpoint.
            before = dict(self._original.split(self._settings.trainable)[1].named_buffers())
            for name, value in self._part.named_buffers():
                if name not in averaged:
                    value.copy_(before[name])
        return self._net.cpu().eval()

    def _averaged(self, share: float) -> dict[str, Tensor]:
        """What is trained, batch norm's statistics with it, at this share of the way from the original's."""
        return {
            name: self._origin[name] + share * (value.detach() - self._origin[name])
            for name, value in self._moving.items()
        }
