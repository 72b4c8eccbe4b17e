"""``make bench-train``: samples a second of our training loop beside a plain one → ``var/bench/train.json``.

Plain is what torchvision's reference does: a ``DataLoader`` with workers that make each window's spectrogram, float32, the network in
training mode, ``loss.item()`` after each step. Ours is :mod:`training.step` over what the frozen part was made to say once; that time is
in ours. Of the whole network nothing is frozen: ours also changes signals at each step, and makes their spectrograms there. Both in
turns, the same windows, batch, passes and optimizer; on a GPU as well as without one. On a CPU that computes in bfloat16 a third is ours
in float32. *Bare* is forward and backward of ours over one batch that lies on the device, again and again: its time ÷ ours is the share
of the model's own kernels.
``QUICK=1``: fewer windows and passes.
"""

from __future__ import annotations

import functools
import json
import math
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.images import network, noise
from benchmarks.machine import machine, versions, write
from training.augment import augment
from training.dataset import WindowSet
from training.devices import Held, computes_bfloat16, device, laid_out, precision
from training.losses import CROSS_ENTROPY
from training.network import SceneNet, infer
from training.ranks import Ranks
from training.settings import ComputeSettings, FineTuneSettings, Trainable
from training.step import Stepper

QUICK = bool(os.environ.get("QUICK"))
WHERE = device("auto")
CPU = WHERE.type == "cpu"
WINDOWS = (256 if QUICK else 1024) if CPU else (16_384 if QUICK else 65_536)
PASSES = 2 if QUICK else 5
TURNS = 1 if QUICK else 3
WORKERS = 2 if CPU else min(16, os.cpu_count() or 1)
WANTED = 1.2 if CPU else 3.0
SETTINGS, COMPUTE = FineTuneSettings(), ComputeSettings()
OURS = {"ours": COMPUTE}
if CPU and computes_bfloat16():
    OURS["ours_float32"] = replace(COMPUTE, precision="float32")
_BARE = 4 if CPU else 100
"""Steps of the bare forward and backward."""


class _Images(Dataset[tuple[Tensor, int]]):
    """A window's spectrogram, made when it is asked for, in a worker."""

    def __init__(self, net: SceneNet, windows: WindowSet) -> None:
        self._spectrogram, self._windows = net.clone().spectrogram, windows

    def __len__(self) -> int:
        return len(self._windows)

    @torch.inference_mode()
    def __getitem__(self, at: int) -> tuple[Tensor, int]:
        torch.set_num_threads(1)
        image = self._spectrogram(torch.from_numpy(self._windows.signals[at : at + 1]))[0]
        return image.clone(), int(self._windows.scenes[at])


def main() -> None:
    """Run, write, print."""
    home = Path(os.environ.get("SENSORLOOP_HOME", "var")).absolute() / "bench"
    home.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(os.cpu_count() or 1)
    net, windows = network(), noise(WINDOWS)
    parts: tuple[Trainable, ...] = ("block", "layer4", "all")
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if not CPU else "cpu, no GPU found", "windows": WINDOWS, "passes": PASSES,
        "batch": SETTINGS.batch, "workers": WORKERS, "precision": str(precision(WHERE, COMPUTE, whole=True)), "wanted": WANTED,
        "recipe_trains": SETTINGS.trainable, "parts": {part: _compared(net, windows, part) for part in parts},
        "quick": QUICK, "when": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine(),
        "versions": versions("torch", "torchvision"),
    }  # fmt: skip
    write(home / "train.json", result)
    print(json.dumps(result, indent=2))
    print(f"\n{home / 'train.json'}")
    if CPU:
        print("There is no GPU here: on a machine that has one the same command measures it.")


def _compared(net: SceneNet, windows: WindowSet, part: Trainable) -> dict[str, float]:
    plain: list[float] = []
    ours: dict[str, list[float]] = {name: [] for name in OURS}
    for _ in range(TURNS):
        plain.append(_timed(lambda: _plain(net, windows, part)))
        for name, compute in OURS.items():
            ours[name].append(_timed(functools.partial(_ours, net, windows, part, compute)))
    rate = WINDOWS * PASSES / statistics.median(plain)
    found = {"plain_per_second": round(rate, 1)}
    for name, compute in OURS.items():
        own = WINDOWS * PASSES / statistics.median(ours[name])
        found |= {
            f"{name}_per_second": round(own, 1), f"{name}_to_plain": round(own / rate, 2),
            f"{name.replace('ours', 'kernels')}_share": round(own / _bare(net, windows, part, compute), 2),
        }  # fmt: skip
    return found


def _timed(work: Callable[[], None]) -> float:
    _wait()
    begin = time.perf_counter()
    work()
    _wait()
    return time.perf_counter() - begin


def _wait() -> None:
    if not CPU:
        torch.cuda.synchronize()


def _plain(net: SceneNet, windows: WindowSet, part: Trainable) -> None:
    model = net.clone()
    _, trained = model.split(part)
    model.backbone.requires_grad_(False)  # noqa: FBT003  (torch's signature)
    trained.requires_grad_(True)  # noqa: FBT003
    backbone = model.backbone.to(WHERE).train()
    loader = DataLoader(
        _Images(net, windows), batch_size=SETTINGS.batch, shuffle=True, num_workers=WORKERS, persistent_workers=True,
        pin_memory=not CPU,
    )  # fmt: skip
    optimizer = torch.optim.AdamW(list(trained.parameters()), SETTINGS.learning_rate)
    criterion = torch.nn.CrossEntropyLoss()
    for _ in range(PASSES):
        for images, labels in loader:
            loss = criterion(backbone(images.to(WHERE, non_blocking=True)), labels.to(WHERE, non_blocking=True))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()


def _ours(net: SceneNet, windows: WindowSet, part: Trainable, compute: ComputeSettings) -> None:
    frozen, _ = net.split(part)
    cached = infer(frozen.eval(), torch.from_numpy(windows.signals), where=WHERE)
    stepper, held = _stepper(net, cached, windows, part, compute)
    stepper.begin(SETTINGS.learning_rate, torch.ones(WINDOWS, device=WHERE))
    generator = torch.Generator().manual_seed(0)
    for _ in range(PASSES):
        order = torch.randperm(len(windows), generator=generator).to(held.lies)
        steps = torch.tensor_split(order, math.ceil(len(order) / SETTINGS.batch))
        losses = [stepper.step(rows, SETTINGS.learning_rate, None) for rows in steps]
        stepper.watch.look(losses[-1])


def _bare(net: SceneNet, windows: WindowSet, part: Trainable, compute: ComputeSettings) -> float:
    """Windows a second of forward and backward alone, over one batch that lies on the device."""
    frozen, _ = net.split(part)
    cached = infer(frozen.eval(), torch.from_numpy(windows.signals[: SETTINGS.batch]))
    trained = net.clone().to(WHERE).eval().split(part)[1].train(part == "all")
    for parameter in trained.parameters():
        parameter.data = laid_out(parameter.data, WHERE)
    inputs, labels = (
        Held(cached, WHERE, COMPUTE).rows(torch.arange(SETTINGS.batch)),
        torch.zeros(SETTINGS.batch, dtype=torch.int64),
    )
    labels = labels.to(WHERE)
    dtype = precision(WHERE, compute, whole=part == "all", narrow=net.narrow)

    def step() -> None:
        with torch.autocast(WHERE.type, dtype, enabled=dtype != torch.float32):
            logits = trained(inputs)
        torch.nn.functional.cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]

    def steps() -> None:
        for _ in range(_BARE):
            step()

    step()
    seconds = _timed(steps)
    return SETTINGS.batch * _BARE / seconds


def _stepper(
    net: SceneNet, cached: Tensor, windows: WindowSet, part: Trainable, compute: ComputeSettings
) -> tuple[Stepper, Held]:
    trained = net.clone().to(WHERE).eval().split(part)[1]
    for parameter in trained.parameters():
        parameter.data = laid_out(parameter.data, WHERE)
    held = Held(cached, WHERE, COMPUTE)
    labels = torch.from_numpy(windows.scenes).to(WHERE)
    change = functools.partial(
        augment, channels=net.channels, rotate=SETTINGS.rotate, gain=SETTINGS.gain, sensor_dropout=SETTINGS.sensor_dropout,
        generator=torch.Generator(WHERE),
    )  # fmt: skip
    made = Stepper(
        trained, held, labels, where=WHERE, loss=CROSS_ENTROPY, pull=SETTINGS.pull, batch=SETTINGS.batch,
        ranks=Ranks(), compute=compute, steps=PASSES * WINDOWS // SETTINGS.batch, whole=part == "all",
        narrow=net.narrow, change=change if part == "all" else None,
    )  # fmt: skip
    return made, held


if __name__ == "__main__":
    main()
