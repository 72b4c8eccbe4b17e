"""One step of the optimizer over some windows: however few of them fit into memory, and however many processes share it.

1. Each process takes its share of the windows, and of those as many at a time as fit. Where the device has not memory enough, that
   number is halved and the step begins anew; it stays so low.
2. What a piece adds to Σ w·ℓ is divided by Σ w of the *whole* step, so that the gradients of the pieces sum up to the step's. (Batch
   norm, where it learns, sees a piece at a time, so that there a step in pieces is only nearly the step as a whole.)
3. Gradients and loss are summed over the processes.
4. If the loss is not finite, the fused optimizer is told so (``found_inf``, as by a gradient scaler) and leaves the parameters as
   they are, from then on, without the host having to ask the device. It asks every so many steps, and stops.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from training.devices import Held, compiled, precision
from training.errors import NonFiniteLoss, OutOfMemory
from training.filterloss import weighted_sum
from training.losses import Loss
from training.network import learned_statistics
from training.ranks import Ranks
from training.settings import ComputeSettings

_LOOK = 50
"""Steps between two looks at whether all losses were finite; on a CPU each is looked at, which costs nothing there."""


class Watch:
    """Sees that every loss is finite before the optimizer steps with it, without the host waiting for the device each time."""

    def __init__(self, optimizer: torch.optim.Optimizer, where: torch.device, section: str) -> None:
        """Nothing has been seen.

        Args:
            optimizer: a fused one.
            where: the device.
            section: of ``sensorloop.toml``, whose learning rate a message names.
        """
        self._where, self._section, self._seen = where, section, 0
        self._broken = torch.zeros((), device=where)
        optimizer.found_inf = self._broken  # type: ignore[attr-defined]  # how torch.amp.GradScaler says it

    def see(self, loss: Tensor) -> None:
        """Take note of a step's loss, before the step; look now and then.

        Raises:
            NonFiniteLoss: this loss, or one since the last look, was NaN or infinite. Nothing was stepped since.
        """
        # In place: the optimizer holds this very tensor. Once broken, it stays so.
        self._broken.logical_or_(~loss.detach().isfinite())
        self._seen += 1
        if self._where.type == "cpu" or self._seen % _LOOK == 0:
            self.look(loss)

    def look(self, loss: Tensor) -> None:
        """See whether every loss so far was finite: the one place where the host waits for the device.

        Raises:
            NonFiniteLoss: one was not.
        """
        if self._broken.item():
            value = loss.item()
            require_finite(value if not math.isfinite(value) else math.nan, self._section)


class Stepper:
    """Steps of one training."""

    def __init__(
        self,
        part: nn.Module,
        held: Held,
        labels: Tensor,
        *,
        where: torch.device,
        loss: Loss,
        pull: float,
        batch: int,
        ranks: Ranks,
        compute: ComputeSettings,
        steps: int,
        whole: bool = False,
        narrow: bool = False,
        change: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Nothing is stepped yet.

        Args:
            part: the trained part, on the device.
            held: its n inputs.
            labels: (n,) scenes, on the device.
            where: the device.
            loss: ℓ, of a window.
            pull: L2-SP's, towards where :meth:`begin` found the parameters.
            batch: windows a step.
            ranks: who shares it.
            compute: precision, and whether to compile.
            steps: how many there will be, about.
            whole: whether the part is a whole network: then its batch norm learns, too, and it is left in training mode.
            narrow: see :func:`training.devices.precision`.
            change: what a step's inputs are changed by, all of them at once, whoever shares them; None: they stay as they are.
        """
        # A new container says that it is in training mode, whatever is in it.
        part.eval()
        self._part, self._held, self._labels = part, held, labels
        self._where, self._loss, self._pull, self._ranks = where, loss, pull, ranks
        self._forward = compiled(part, where, compute, steps=steps)
        self._precision = precision(where, compute, whole=whole, narrow=narrow)
        self._whole, self._change = whole, change
        self._at_once = batch
        self._parameters = list(part.parameters())
        self._learned = list(learned_statistics(part).values()) if whole else []

    def begin(self, learning_rate: float, weights: Tensor) -> None:
        """A new optimizer; from here on the parameters are pulled back to what they are now, and windows have these (n,) weights."""
        self._weights = weights
        self._start = [parameter.detach().clone() for parameter in self._parameters]
        self.optimizer = torch.optim.AdamW(self._parameters, learning_rate, weight_decay=0.0, fused=True)
        self.watch = Watch(self.optimizer, self._where, "finetune")

    def step(self, rows: Tensor, learning_rate: float, shift: Tensor | None) -> Tensor:
        """One step over these rows; returns the loss, on the device.

        Args:
            rows: the step's, of all processes; best where the data lie.
            learning_rate: of this step.
            shift: (scenes, scenes) added to the logits, a row for each label, see :func:`training.filterloss.correction`.

        Raises:
            NonFiniteLoss: the loss of this step, or of one since the last look, was NaN or infinite. Nothing was stepped since.
            OutOfMemory: not one window fits.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        loss = self._gradients(rows, shift)
        self.watch.see(loss)
        self._pull_back()
        self.optimizer.step()
        return loss

    def _gradients(self, rows: Tensor, shift: Tensor | None) -> Tensor:
        """Leave the step's gradients in the parameters, and return its loss."""
        weights = self._weights[rows.to(self._where, non_blocking=True)]
        total = weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)
        mine, loss = self._ranks.share(rows), None
        inputs = self._changed(rows)
        learned = [buffer.clone() for buffer in self._learned]
        while loss is None:
            loss = self._accumulate(mine, inputs, total, shift)
            if loss is None:
                self._halve()
                # What batch norm has learned of what did not fit, it learns again.
                for buffer, before in zip(self._learned, learned, strict=True):
                    buffer.copy_(before)
        if self._ranks.world > 1:
            gradients = [_gradient(parameter) for parameter in self._parameters]
            self._ranks.add_up([*gradients, loss])
        return loss

    def _changed(self, rows: Tensor) -> Tensor | None:
        """This process's inputs; None where they are not changed, and come a piece at a time. Signals are small beside activations."""
        return None if self._change is None else self._ranks.share(self._change(self._held.rows(rows)))

    def _accumulate(self, rows: Tensor, inputs: Tensor | None, total: Tensor, shift: Tensor | None) -> Tensor | None:
        """The sum over the pieces; None if one did not fit."""
        self.optimizer.zero_grad(set_to_none=True)
        # Alike in size, and none where there are no windows: batch norm learns as much from a piece of two as from one of thirty.
        count = math.ceil(len(rows) / self._at_once)
        pieces = torch.tensor_split(rows, count) if count else ()
        fed: Iterable[Tensor] = map(self._held.rows, pieces)
        if inputs is not None and count:
            fed = torch.tensor_split(inputs, count)
        losses = []
        try:
            for piece, signals in zip(pieces, fed, strict=True):
                loss = self._piece(piece, signals, total, shift)
                loss.backward()  # type: ignore[no-untyped-call]  # torch's own annotation is missing
                losses.append(loss.detach())
        except torch.OutOfMemoryError:
            return None
        return torch.stack(losses).sum() if losses else torch.zeros((), device=self._where)

    def _piece(self, rows: Tensor, inputs: Tensor, total: Tensor, shift: Tensor | None) -> Tensor:
        # Of one window there are no statistics.
        learns = self._whole and len(rows) > 1
        if self._part.training != learns:
            self._part.train(learns)
        with torch.autocast(self._where.type, self._precision, enabled=self._precision != torch.float32):
            logits = self._forward(inputs)
        index = rows.to(self._where, non_blocking=True)
        labels = self._labels[index]
        adjustment = None if shift is None else shift[labels]
        summed, _ = weighted_sum(logits.float(), labels, self._weights[index], adjustment=adjustment, loss=self._loss)
        return summed / total

    def _halve(self) -> None:
        if self._at_once == 1:
            msg = (
                f"Not one window fits into the memory of {self._where}: end what else uses it, or set [finetune] trainable to 'block' or "
                "'head'"
            )
            raise OutOfMemory(msg)
        self.optimizer.zero_grad(set_to_none=True)
        self._at_once = math.ceil(self._at_once / 2)
        if self._where.type == "cuda":
            torch.cuda.empty_cache()

    def _pull_back(self) -> None:
        """Add the gradient of pull / 2 · ‖p − p₀‖², by hand: building a graph for it costs as much as the network's own."""
        moved = [(p, start) for p, start in zip(self._parameters, self._start, strict=True) if p.grad is not None]
        away = torch._foreach_sub([p.detach() for p, _ in moved], [start for _, start in moved])  # noqa: SLF001
        torch._foreach_add_([_gradient(p) for p, _ in moved], away, alpha=self._pull)


def require_finite(value: float, section: str) -> None:
    """Let a number pass.

    Raises:
        NonFiniteLoss: it is NaN or infinite.
    """
    if not math.isfinite(value):
        msg = f"The loss became {value}: lower [{section}] learning_rate, or look for values in the signals that no sensor measures"
        raise NonFiniteLoss(msg)


def _gradient(parameter: nn.Parameter) -> Tensor:
    """Its gradient; zeros, of its own, where this process had no window."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad
