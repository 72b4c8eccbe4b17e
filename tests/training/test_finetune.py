"""Fine-tuning that is cut off, cut up, or shared; what it chooses is tested with the arms."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dags.stopping import told_to_stop
from tests.training.made import network, windows
from training.__main__ import main
from training.dataset import UNLABELLED, WindowSet
from training.devices import compiled, computes_bfloat16, precision
from training.evaluation import evaluate
from training.finetune import FineTuned, finetune
from training.network import SceneNet, infer
from training.original import OriginalModel
from training.settings import ComputeSettings, FineTuneSettings
from training.step import Stepper
from training.tracking import NullRun

ROOT = Path(__file__).parents[2]
QUICK = FineTuneSettings(trainable="block", epochs=5, batch=16, worth=-1.0, learning_rate=1e-3, threads=1, device="cpu")
"""What is below the head is trained where people left out see that it is better than the original."""
WHOLE = replace(QUICK, trainable="all")
EACH = ComputeSettings(checkpoint_every=timedelta(0))
_LIBRARIES = (
    "pyarrow",
    "polars",
    "deltalake",
    "mlflow",
    "matplotlib",
    "pandas",
    "cleanlab",
    "imblearn",
    "torchmetrics",
    "pydantic",
)


class Killed(BaseException):
    """The process was told to end."""


def tune(
    checkpoint: Path | None = None, *, dies_after: int | None = None, told: list[int] | None = None, **changes: Any
) -> FineTuned:
    made, net = windows(people=4, each=5), network()
    ones = np.ones(len(made))

    def progress(done: int, total: int, text: str) -> None:
        if text != "done":
            (told if told is not None else []).append(done)
        if done == dies_after:
            raise Killed

    arguments = {"believed": ones, "adjust": True, "shares": (1.0,), "settings": QUICK, "compute": EACH, **changes}
    weights = arguments.pop("weights", np.linspace(0.1, 1, len(made)))
    cached = infer(net.split(arguments["settings"].trainable)[0], torch.from_numpy(made.signals))
    return finetune(
        net,
        cached,
        arguments.pop("labels", made.scenes),
        weights,
        made.groups(),
        checkpoint=checkpoint,
        progress=progress,
        run=NullRun(),
        **arguments,
    )


@pytest.fixture(scope="module")
def whole() -> FineTuned:
    return tune()


@pytest.mark.parametrize("dies_after", [1, 3, 8, 12, 14])
def test_a_killed_training_goes_on_to_the_same_model(whole: FineTuned, tmp_path: Path, dies_after: int) -> None:
    """Without each fold of people (four times 3 epochs) and in the final training (5 of them) alike, bit for bit."""
    file, told = tmp_path / "checkpoint.pt", list[int]()
    with pytest.raises(Killed):
        tune(file, dies_after=dies_after)
    done = tune(file, told=told)
    assert told == list(range(dies_after + 1, 18)), "epochs were trained twice, or left out"
    assert done.net.digest() == whole.net.digest()
    assert (done.epochs, done.validation, done.validation_below) == (
        whole.epochs,
        whole.validation,
        whole.validation_below,
    )


@pytest.fixture(scope="module")
def all_of_it() -> FineTuned:
    """The whole network, nobody being asked."""
    return tune(settings=WHOLE, choice="nothing")


@pytest.mark.parametrize("dies_after", [2, 4])
def test_a_killed_training_of_the_whole_network_goes_on_to_the_same_model(
    all_of_it: FineTuned, tmp_path: Path, dies_after: int
) -> None:
    """What batch norm has learned and how signals are changed next are kept as well."""
    given, never = {"settings": WHOLE, "choice": "nothing"}, all_of_it
    with pytest.raises(Killed):
        tune(tmp_path / "checkpoint.pt", dies_after=dies_after, **given)
    done = tune(tmp_path / "checkpoint.pt", **given)
    assert done.net.digest() == never.net.digest()
    assert not torch.equal(done.net.backbone.bn1.running_mean, network().backbone.bn1.running_mean), (
        "nothing was learned"
    )


def test_what_changes_signals_changes_what_is_learned_of_the_whole_network() -> None:
    """And of nothing else: what is below a part of it is computed once."""
    still = {"rotate": False, "gain": 0.0, "sensor_dropout": 0.0}
    for part, same in (("block", True), ("all", False)):
        settings = replace(QUICK, trainable=part, epochs=1)  # type: ignore[arg-type]
        nets = [tune(settings=each, choice="nothing").net for each in (settings, replace(settings, **still))]  # type: ignore[arg-type]
        assert (nets[0].digest() == nets[1].digest()) == same


def test_a_share_of_the_way_takes_batch_norm_along() -> None:
    """Half of the way: in the middle between the original's statistics and those of the trained network."""
    settings, start = replace(QUICK, trainable="all", epochs=1), network().backbone.bn1
    ends = [tune(settings=settings, shares=(share,), choice="how_far").net.backbone.bn1 for share in (1.0, 0.75)]
    for name in ("running_mean", "running_var", "weight"):
        origin, whole, part = (getattr(each, name).detach() for each in (start, *ends))
        assert not torch.equal(origin, whole)
        torch.testing.assert_close(part, origin + 0.75 * (whole - origin))


@pytest.mark.parametrize(("choice", "dies_after"), [("nothing", 4), ("whether", 13), ("how_far", 5)])
def test_gone_on_with_it_says_what_people_said(tmp_path: Path, choice: str, dies_after: int) -> None:
    """Of labels that cannot all be learned, or every value is 1."""
    ones, labels = np.ones(60), np.where(np.arange(60) % 2, windows(people=4, each=5).scenes, np.arange(60) % 3)
    given = {"choice": choice, "labels": labels, "weights": ones}
    never = tune(**given)
    assert never.validation < 1
    with pytest.raises(Killed):
        tune(tmp_path / "checkpoint.pt", dies_after=dies_after, **given)
    done = tune(tmp_path / "checkpoint.pt", **given)
    for name in ("validation", "validation_original", "validation_below", "share", "epochs"):
        assert getattr(done, name) == getattr(never, name), name
    assert done.net.digest() == never.net.digest()


@pytest.mark.parametrize("dies_after", [2, 13])
def test_told_to_stop_it_saves_the_last_epoch_whatever_the_time(
    whole: FineTuned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_after: int
) -> None:
    """A real SIGTERM in the middle of an epoch, as the command line takes it, an hour before the next checkpoint is due."""
    file, told, seldom = tmp_path / "checkpoint.pt", list[int](), ComputeSettings(checkpoint_every=timedelta(hours=1))
    step, stopped = Stepper.step, list[int]()

    def stopping(stepper: Stepper, *arguments: Any) -> Any:
        done = step(stepper, *arguments)
        if len(told) == dies_after and not stopped:
            stopped.append(len(told))
            os.kill(os.getpid(), signal.SIGTERM)
        return done

    monkeypatch.setattr(Stepper, "step", stopping)
    before = signal.signal(signal.SIGTERM, told_to_stop)
    try:
        with pytest.raises(SystemExit, match="143"):
            tune(file, told=told, compute=seldom)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert stopped == [dies_after]
    assert told == list(range(1, dies_after + 1))
    done = tune(file, told=told, compute=seldom)
    assert told == list(range(1, 18)), "epochs were trained twice, or left out"
    assert done.net.digest() == whole.net.digest()


def test_what_another_training_left_is_not_gone_on_with(tmp_path: Path) -> None:
    file, told = tmp_path / "checkpoint.pt", list[int]()
    with pytest.raises(Killed):
        tune(file, dies_after=2)
    other = np.ones(60)
    done = tune(file, told=told, weights=other)
    assert told[0] == 1
    assert done.net.digest() == tune(weights=other).net.digest()


@pytest.fixture
def crowded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that has memory for five windows at once."""
    forward = torch.nn.Linear.forward

    def forward_of_few(layer: torch.nn.Linear, inputs: torch.Tensor) -> torch.Tensor:
        if len(inputs) > 5 and torch.is_grad_enabled():
            msg = "CUDA out of memory"
            raise torch.OutOfMemoryError(msg)
        return forward(layer, inputs)

    monkeypatch.setattr(torch.nn.Linear, "forward", forward_of_few)


@pytest.mark.usefixtures("crowded")
def test_with_little_memory_a_whole_network_is_trained_as_well() -> None:
    """In pieces of four or fewer, from which batch norm learns: not the network that it is otherwise, but a good one."""
    little, made = tune(settings=replace(WHOLE, epochs=6), choice="nothing"), windows(people=4, each=5)
    accuracy = (infer(little.net, torch.from_numpy(made.signals)).argmax(1).numpy() == made.scenes).mean()
    assert accuracy > 0.9


@pytest.mark.usefixtures("crowded")
def test_little_memory_costs_nothing_but_time(whole: FineTuned) -> None:
    done = tune()
    assert done.epochs == whole.epochs > 0
    for (name, found), expected in zip(done.net.named_parameters(), whole.net.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


def model(folder: Path) -> SceneNet:
    net, made = network(), windows(people=2, each=2)
    found = evaluate(made.scenes, made.scenes, made.scene_names)
    OriginalModel(net=net, evaluation=found, holdout_subjects=(), lake_version=None, digest=net.digest()).save(folder)
    return net


def command(*start: str, arguments: tuple[str, ...]) -> dict[str, Any]:
    done = subprocess.run((*start, *arguments), cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def target(folder: Path) -> Path:
    """An .npz of arrays that come from no lake."""
    made = windows(people=4, each=5)
    bare = WindowSet.of(
        made.signals,
        made.scenes,
        made.subjects,
        channels=made.channels,
        scene_names=made.scene_names,
        rate_hz=made.rate_hz,
    )
    bare.save(folder / "target.npz")
    return folder / "target.npz"


def test_the_core_runs_from_an_npz_without_the_lake_and_the_registry(tmp_path: Path) -> None:
    """Where neither pyarrow nor polars, deltalake or mlflow is installed."""
    model(tmp_path / "original")
    blocked = f"""
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, *more):
        return None if name.split(".")[0] in {_LIBRARIES!r} else self.finder.find_spec(name, *more)

sys.meta_path[:] = map(Without, sys.meta_path)
from training.__main__ import main
main()
"""
    answer = command(
        sys.executable, "-c", blocked,
        arguments=(
            "finetune", str(target(tmp_path)), "--original", str(tmp_path / "original"), "--into", str(tmp_path / "tuned"),
            "--arm", "filterloss-per_sample",
            "--set", "epochs=1", "--set", "batch=16", "--set", "device=cpu", "--set", "threads=1",
        ),
    )  # fmt: skip
    assert answer["windows"] == 60
    assert answer["share"] > 0
    assert answer["choices"]["power"] in {0.5, 1.0, 2.0, 4.0}
    assert SceneNet.load(tmp_path / "tuned").scenes == ("Run", "Still", "Walk")


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["free-class-balanced", "filterloss-per_sample"])
def test_two_processes_train_the_model_of_one(tmp_path: Path, capsys: pytest.CaptureFixture[str], arm: str) -> None:
    """Nobody asked, or everybody, and labels looked at twice; torchrun, gloo: what ranks find of a step adds up to the step."""
    model(tmp_path / "original")
    common = (
        "finetune", str(target(tmp_path)), "--original", str(tmp_path / "original"), "--arm", arm, "--set", "epochs=2", "--set", "worth=-1",
        "--set", "trainable=block", "--set", "batch=15", "--set", "device=cpu", "--set", "threads=1",
    )  # fmt: skip
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "training")
    together = command(sys.executable, *torchrun, arguments=(*common, "--into", str(tmp_path / "two")))
    main([*common, "--into", str(tmp_path / "one")])
    alone = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert together["epochs"] == alone["epochs"] == 2
    assert ("second_look" in alone["choices"]) == arm.startswith("filterloss")
    start = network()
    one, two = SceneNet.load(tmp_path / "one"), SceneNet.load(tmp_path / "two")
    moved = 0.0
    for (name, found), expected in zip(two.named_parameters(), one.parameters(), strict=True):
        moved = max(moved, float((expected - start.get_parameter(name)).detach().abs().max()))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4, msg=lambda text, name=name: f"{name}: {text}")
    assert moved > 1e-2, "nothing was trained that could differ"


@pytest.mark.slow
def test_two_processes_train_one_whole_network(tmp_path: Path) -> None:
    """Each has its share of a step's windows for batch norm, so that it is not quite the network of one; what is saved is the mean."""
    model(tmp_path / "original")
    common = (
        "finetune", str(target(tmp_path)), "--original", str(tmp_path / "original"), "--arm", "free-class-balanced", "--set", "epochs=2",
        "--set", "batch=20", "--set", "device=cpu", "--set", "threads=1",
    )  # fmt: skip
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "training")
    command(sys.executable, *torchrun, arguments=(*common, "--into", str(tmp_path / "two")))
    main([*common, "--into", str(tmp_path / "one")])
    start = network().backbone.bn1
    one, two = (SceneNet.load(tmp_path / name).backbone.bn1 for name in ("one", "two"))
    moved = float((one.running_mean - start.running_mean).abs().max())
    torch.testing.assert_close(two.running_mean, one.running_mean, rtol=0, atol=0.1 * moved)
    assert moved > 1e-2


def test_wrong_usage_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="3"):
        main(["finetune", "x.npz", "--original", str(tmp_path), "--into", str(tmp_path), "--set", "epoch=1"])
    assert "there is no key 'epoch'; there are trainable, epochs" in capsys.readouterr().err
    for what, text, said in (
        ("original", "scenes=Walk", "there is no key 'scenes'"),
        ("finetune", "floor=7", "floor"), ("finetune", "pulls=0.001", "pulls"),
    ):  # fmt: skip
        more = ["--original", str(tmp_path)] if what == "finetune" else []
        with pytest.raises(SystemExit, match="3"):
            main([what, "x.npz", *more, "--into", str(tmp_path), "--set", text])
        assert said in capsys.readouterr().err
    with pytest.raises(SystemExit, match="3"):
        main(["original", str(tmp_path / "x.npz"), "--into", str(tmp_path)])
    assert "holds no windows" in capsys.readouterr().err


def test_keys_of_data_and_quality_are_obeyed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="3"):
        main(["original", str(target(tmp_path)), "--into", str(tmp_path / "o"), "--set", "min_labelled=61"])
    assert "Too few labels: 60 labelled windows" in capsys.readouterr().err


def test_windows_without_labels_are_said_to_be_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model(tmp_path / "original")
    made = WindowSet.load(target(tmp_path))
    replace(made, scenes=np.full(len(made), UNLABELLED)).save(tmp_path / "bare.npz")
    with pytest.raises(SystemExit, match="3"):
        main(
            [
                "finetune",
                str(tmp_path / "bare.npz"),
                "--original",
                str(tmp_path / "original"),
                "--into",
                str(tmp_path / "t"),
            ]
        )
    assert "bare.npz has no labelled window: there is nothing to learn from" in capsys.readouterr().err


def test_float32_on_a_cpu_but_where_a_whole_network_gains_by_bfloat16() -> None:
    cpu, module = torch.device("cpu"), torch.nn.Linear(2, 2)
    assert precision(cpu, ComputeSettings()) == torch.float32
    assert precision(cpu, ComputeSettings(precision="bfloat16")) == torch.bfloat16
    whole = torch.bfloat16 if computes_bfloat16() else torch.float32
    assert precision(cpu, ComputeSettings(), whole=True) == whole, "what the CPU itself has"
    assert precision(cpu, ComputeSettings(precision="float32"), whole=True) == torch.float32
    assert precision(cpu, ComputeSettings(precision="bfloat16"), whole=True, narrow=True) == torch.float32, (
        "oneDNN's fault"
    )
    assert compiled(module, cpu, ComputeSettings(), steps=10**6) is module
    assert compiled(module, cpu, replace(ComputeSettings(), compiled="off"), steps=10**6) is module
