"""One step: however it is cut up, it is the step; and nothing is stepped after a loss that is not finite."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.training.made import network, windows
from training.augment import augment
from training.devices import Held
from training.errors import NonFiniteLoss, OutOfMemory
from training.filterloss import filter_loss
from training.losses import CROSS_ENTROPY
from training.ranks import Ranks
from training.settings import ComputeSettings
from training.step import Stepper

CPU, SETTINGS = torch.device("cpu"), ComputeSettings()
WINDOWS, PULL, RATE = 12, 0.3, 0.01


class Small(nn.Module):
    """A linear layer whose device has memory for so many windows at once."""

    def __init__(self, fits: int = WINDOWS) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.fits, self.sizes = nn.Linear(5, 3), fits, list[int]()

    def forward(self, inputs: Tensor) -> Tensor:
        self.sizes.append(len(inputs))
        if len(inputs) > self.fits:
            msg = "CUDA out of memory. Tried to allocate 2.00 GiB"
            raise torch.OutOfMemoryError(msg)
        return cast("Tensor", self.layer(inputs))


def data() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(WINDOWS, 5, generator=generator)
    return inputs, torch.arange(WINDOWS) % 3, torch.rand(WINDOWS, generator=generator) + 0.1


def stepper(part: nn.Module, inputs: Tensor | None = None, ranks: Ranks | None = None) -> Stepper:
    features, labels, weights = data()
    made = Stepper(
        part, Held(features if inputs is None else inputs, CPU, SETTINGS), labels, where=CPU, loss=CROSS_ENTROPY,
        pull=PULL, batch=WINDOWS, ranks=ranks or Ranks(), compute=SETTINGS, steps=1,
    )  # fmt: skip
    made.begin(RATE, weights)
    return made


def by_hand() -> tuple[nn.Module, Tensor]:
    """The same step in plain torch: Σ w·ℓ / Σ w and L2-SP as a part of the loss."""
    part, (inputs, labels, weights) = Small(), data()
    optimizer = torch.optim.AdamW(part.parameters(), RATE, weight_decay=0.0)
    loss = filter_loss(part(inputs), labels, weights)
    away = sum(((p - p.detach().clone()) ** 2).sum() for p in part.parameters())
    (loss + PULL / 2 * away).backward()
    optimizer.step()
    return part, loss.detach()


def same(one: nn.Module, other: nn.Module) -> None:
    for p, q in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q)
        if q.grad is not None:
            torch.testing.assert_close(p.grad, q.grad)


def test_a_step_is_that_of_plain_torch() -> None:
    part = Small()
    loss = stepper(part).step(torch.arange(WINDOWS), RATE, None)
    expected, its_loss = by_hand()
    same(part, expected)
    torch.testing.assert_close(loss, its_loss)


def test_the_pull_leads_back() -> None:
    part, (inputs, _, _) = Small(), data()
    made = stepper(part, torch.zeros_like(inputs))
    with torch.no_grad():
        part.layer.weight += 1.0  # without inputs, nothing but the pull moves the weights
    before = part.layer.weight.detach().clone()
    made.step(torch.arange(WINDOWS), RATE, None)
    assert part.layer.weight.grad is not None
    torch.testing.assert_close(part.layer.weight.grad, torch.full_like(before, PULL))
    assert (part.layer.weight < before).all()


@pytest.mark.parametrize(("fits", "sizes"), [(6, [12, 6, 6]), (3, [12, 6, 3, 3, 3, 3]), (1, [12, 6, 3, 2] + [1] * 12)])
def test_too_little_memory_halves_what_is_computed_at_once_and_changes_nothing(fits: int, sizes: list[int]) -> None:
    part = Small(fits)
    made = stepper(part)
    loss = made.step(torch.arange(WINDOWS), RATE, None)
    assert part.sizes == sizes
    expected, its_loss = by_hand()
    same(part, expected)
    torch.testing.assert_close(loss, its_loss)
    part.sizes.clear()
    made.step(torch.arange(WINDOWS), RATE, None)
    assert max(part.sizes) == fits, "what did not fit once is not tried again"


def test_not_even_one_window_fits() -> None:
    with pytest.raises(OutOfMemory, match=r"\[finetune\] trainable"):
        stepper(Small(0)).step(torch.arange(WINDOWS), RATE, None)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nothing_is_stepped_with_a_loss_that_is_not_finite(bad: float) -> None:
    inputs, _, _ = data()
    inputs[7] = bad
    part = Small()
    made = stepper(part, inputs)
    good = torch.tensor([0, 1, 2])
    made.step(good, RATE, None)
    before = [p.detach().clone() for p in part.parameters()]
    with pytest.raises(NonFiniteLoss, match=r"\[finetune\] learning_rate"):
        made.step(torch.tensor([6, 7, 8]), RATE, None)
    for p, q in zip(part.parameters(), before, strict=True):
        torch.testing.assert_close(p.detach(), q)


def test_a_device_that_nobody_asks_still_steps_nothing_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: the host looks only now and then, and the optimizer must leave the parameters alone by itself."""
    inputs, _, _ = data()
    inputs[7] = np.nan
    part = Small()
    made = stepper(part, inputs)
    monkeypatch.setattr(made.watch, "look", lambda loss: None)
    made.step(torch.tensor([0, 1]), RATE, None)
    before = [p.detach().clone() for p in part.parameters()]
    made.step(torch.tensor([6, 7]), RATE, None)
    last = made.step(torch.tensor([0, 1]), RATE, None)  # finite again, and too late
    for p, q in zip(part.parameters(), before, strict=True):
        assert torch.equal(p, q)
    monkeypatch.undo()
    with pytest.raises(NonFiniteLoss):
        made.watch.look(last)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Gathering(Ranks):
    """One process of several, whose messages are kept instead of sent."""

    sent: list[Tensor]

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        self.sent.extend(tensor.clone() for tensor in tensors)


@pytest.mark.parametrize("world", [2, 5, 20])
def test_the_parts_of_all_processes_sum_up_to_the_step(world: int) -> None:
    """Σ w is that of all of them, so the sum of their gradients is the gradient; with more processes than windows, too."""
    parts = []
    for rank in range(world):
        sent: list[Tensor] = []
        stepper(Small(), ranks=_Gathering(rank=rank, world=world, sent=sent)).step(torch.arange(WINDOWS), RATE, None)
        parts.append(sent)
    expected, loss = by_hand()
    summed = [torch.stack(each).sum(0) for each in zip(*parts, strict=True)]
    for found, parameter in zip(summed[:-1], expected.parameters(), strict=True):
        torch.testing.assert_close(found, parameter.grad)
    torch.testing.assert_close(summed[-1], loss)


def test_bfloat16_computes_and_float32_remembers() -> None:
    inputs, labels, weights = data()
    part = Small()
    made = Stepper(
        part, Held(inputs, CPU, SETTINGS), labels, where=CPU, loss=CROSS_ENTROPY, pull=PULL, batch=WINDOWS,
        ranks=Ranks(), compute=ComputeSettings(precision="bfloat16"), steps=1,
    )  # fmt: skip
    made.begin(RATE, weights)
    loss = made.step(torch.arange(WINDOWS), RATE, None)
    _, exact = by_hand()
    assert loss.dtype == part.layer.weight.dtype == torch.float32
    torch.testing.assert_close(loss, exact, rtol=0.02, atol=0.02)
    assert not torch.equal(loss, exact)


class Normed(nn.Module):
    """With batch norm, as a whole network has it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.small = nn.BatchNorm1d(5), Small()

    def forward(self, inputs: Tensor) -> Tensor:
        scores: Tensor = self.small(self.norm(inputs))
        return scores


def whole_stepper(
    part: nn.Module, change: Callable[[Tensor], Tensor] | None = None, ranks: Ranks | None = None
) -> Stepper:
    inputs, labels, weights = data()
    made = Stepper(
        part, Held(inputs, CPU, SETTINGS), labels, where=CPU, loss=CROSS_ENTROPY, pull=PULL, batch=WINDOWS,
        ranks=ranks or Ranks(), compute=ComputeSettings(precision="float32"), steps=1, whole=True, change=change,
    )  # fmt: skip
    made.begin(RATE, weights)
    return made


def test_batch_norm_of_a_whole_network_learns() -> None:
    """Of the first step on, and in a container that is made anew and does not know in which mode its modules are."""
    (inputs, _, _), (normed, small) = data(), (nn.BatchNorm1d(5).eval(), Small().eval())
    whole_stepper(nn.Sequential(normed, small)).step(torch.arange(WINDOWS), RATE, None)
    torch.testing.assert_close(normed.running_mean, 0.1 * inputs.mean(0))


def test_of_one_window_batch_norm_learns_nothing() -> None:
    part = Normed().eval()
    loss = whole_stepper(part).step(torch.arange(1), RATE, None)
    assert torch.isfinite(loss)
    assert torch.equal(part.norm.running_mean, torch.zeros(5))


def test_what_did_not_fit_teaches_batch_norm_nothing_and_pieces_are_alike() -> None:
    """Of twelve windows five fit at once: three pieces of four, and not six, three, …, with a rest."""
    (inputs, _, _), normed, small = data(), nn.BatchNorm1d(5).eval(), Small(fits=5)
    whole_stepper(nn.Sequential(normed, small)).step(torch.arange(WINDOWS), RATE, None)
    assert small.sizes == [12, 6, 3, 3, 3, 3]
    expected = torch.zeros(5)
    for piece in inputs.split(3):
        expected += 0.1 * (piece.mean(0) - expected)
    torch.testing.assert_close(normed.running_mean, expected)


def test_steps_that_do_not_divide_are_cut_into_pieces_alike_in_size() -> None:
    small = Small(fits=5)
    made = whole_stepper(nn.Sequential(nn.BatchNorm1d(5), small))
    made.step(torch.arange(WINDOWS), RATE, None)
    small.sizes.clear()
    made.step(torch.arange(7), RATE, None)
    assert small.sizes == [3, 2, 2]


def test_a_process_without_a_window_of_the_step_feeds_a_network_nothing() -> None:
    """A spectrogram of no windows is an error of the library for Fourier transforms."""
    net, made = network(), windows(people=1, each=1)
    part = net.split("all")[1]

    class Alone(Ranks):
        def add_up(self, tensors: Sequence[Tensor]) -> None:
            """Nobody is there."""

    step = Stepper(
        part, Held(torch.from_numpy(made.signals), CPU, SETTINGS), torch.from_numpy(made.scenes), where=CPU,
        loss=CROSS_ENTROPY, pull=PULL, batch=4, ranks=Alone(rank=3, world=4), compute=SETTINGS, steps=1, whole=True, narrow=net.narrow,
        change=lambda signals: signals,
    )  # fmt: skip
    step.begin(RATE, torch.ones(3))
    assert step.step(torch.arange(3), RATE, None) == 0


@pytest.mark.parametrize("rank", [0, 1])
def test_a_step_is_changed_as_one_whoever_shares_it(rank: int) -> None:
    """Two processes draw the same for all of it, and each takes its part."""
    seen, fed, (inputs, _, _) = list[Tensor](), list[Tensor](), data()

    class Seeing(Normed):
        def forward(self, given: Tensor) -> Tensor:
            fed.append(given)
            return super().forward(given)

    class Alone(Ranks):
        def add_up(self, tensors: Sequence[Tensor]) -> None:
            """Nobody is there."""

    def change(given: Tensor) -> Tensor:
        seen.append(given)
        return given + torch.arange(len(given))[:, None]

    whole_stepper(Seeing(), change, Alone(rank=rank, world=2)).step(torch.arange(WINDOWS), RATE, None)
    assert torch.equal(seen[0], inputs)
    assert torch.equal(fed[0], (inputs + torch.arange(WINDOWS)[:, None])[rank::2])


def waits_for_nothing(made: Stepper, rows: Tensor) -> None:
    """From the second step on: the first makes the optimizer's state."""
    made.step(rows, RATE, None)
    torch.cuda.set_sync_debug_mode("error")
    try:
        made.step(rows, RATE, None)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_step_of_a_whole_network_on_a_gpu_waits_for_nothing() -> None:
    """Signals are changed, and their spectrograms made, there."""
    where, made, net = torch.device("cuda"), windows(people=2, each=4), network()
    change = functools.partial(
        augment, channels=net.channels, rotate=True, gain=0.1, sensor_dropout=0.1, generator=torch.Generator(where).manual_seed(0)
    )  # fmt: skip
    held = Held(torch.from_numpy(made.signals), where, SETTINGS)
    step = Stepper(
        net.to(where).split("all")[1], held, torch.from_numpy(made.scenes).to(where), where=where,
        loss=CROSS_ENTROPY, pull=PULL, batch=16, ranks=Ranks(), compute=SETTINGS, steps=1, whole=True, change=change,
    )  # fmt: skip
    step.begin(RATE, torch.ones(len(made), device=where))
    waits_for_nothing(step, torch.arange(16, device=where))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_step_on_a_gpu_waits_for_nothing() -> None:
    where = torch.device("cuda")
    part, (features, labels, weights) = Small().to(where), data()
    made = Stepper(
        part, Held(features, where, SETTINGS), labels.to(where), where=where, loss=CROSS_ENTROPY, pull=PULL,
        batch=WINDOWS, ranks=Ranks(), compute=SETTINGS, steps=1,
    )  # fmt: skip
    made.begin(RATE, weights.to(where))
    waits_for_nothing(made, torch.arange(WINDOWS, device=where))
