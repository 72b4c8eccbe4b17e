from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from training.dataset import UNLABELLED, WindowSet
from training.errors import MissingScene, ModelError, NonFiniteLoss, TooFewLabels, TooFewSubjects
from training.evaluation import evaluate
from training.network import STATE, infer
from training.original import OriginalModel, train_original
from training.saved import CONFIG
from training.settings import DataSettings, OriginalSettings
from training.tracking import NullRun

from .made import CHANNELS, SMALL, windows

QUICK = OriginalSettings(architecture="resnet18", epochs=1, batch=16, threads=1, device="cpu")
DATA = DataSettings(channels=CHANNELS, min_labelled=10)


class Log(NullRun):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.set: dict[str, Any] = {}
        self.curve: dict[int, dict[str, float]] = {}

    def params(self, values: Any) -> None:
        self.set |= values

    def metrics(self, values: Any, *, step: int = 0) -> None:
        self.curve.setdefault(step, {}).update(values)


def train(made: WindowSet | None = None, settings: OriginalSettings = QUICK, **options: Any) -> OriginalModel:
    made = windows(people=4, each=6) if made is None else made
    return train_original(made, settings, **{"data": DATA, "spectrogram": SMALL, **options})


@pytest.fixture(scope="module")
def log() -> Log:
    return Log()


@pytest.fixture(scope="module")
def original(log: Log) -> OriginalModel:
    """Trained long enough to tell the scenes apart."""
    told: list[tuple[int, int, str]] = []
    found = train(settings=replace(QUICK, epochs=8), run=log, progress=lambda *step: told.append(step))
    assert told[-1] == (24, 24, "original model, epoch 8 of 8")
    return found


def test_it_learns_and_is_measured_on_people_it_has_not_seen(original: OriginalModel, log: Log) -> None:
    made = windows(people=4, each=6)
    assert original.accuracy > 0.8
    assert len(original.holdout_subjects) == 1
    holdout = made.select(np.isin(made.subjects, original.holdout_subjects))
    predicted = infer(original.net, torch.from_numpy(holdout.signals)).argmax(1).numpy()
    found = evaluate(holdout.scenes, predicted, made.scene_names, subjects=holdout.subjects)
    assert (found.accuracy, found.macro_f1) == (original.accuracy, original.macro_f1)
    assert original.evaluation.windows == len(holdout) == log.set["holdout_windows"]
    assert log.set["train_windows"] == len(made) - len(holdout)
    assert log.set["holdout_subjects"] == original.holdout_subjects[0]
    assert sorted(log.curve) == list(range(9)), "a point an epoch, and the result at 0"
    assert log.curve[8]["loss"] < log.curve[1]["loss"]
    assert log.curve[0]["source/accuracy"] == original.accuracy == log.curve[8]["holdout/accuracy"]
    assert original.lake_version == made.version
    assert not original.net.training


def test_it_works_on_phones_that_lack_a_sensor_or_have_none_of_its(original: OriginalModel) -> None:
    signals = torch.from_numpy(windows(people=1, each=1).signals)
    signals[0, 1], signals[1] = torch.nan, torch.nan
    assert torch.isfinite(infer(original.net, signals)).all()


def test_the_same_seed_gives_the_same_model_and_leaves_the_callers_generator_alone() -> None:
    torch.manual_seed(5)
    untouched = torch.rand(2)
    torch.manual_seed(5)
    one = train()
    torch.testing.assert_close(torch.rand(2), untouched)
    torch.manual_seed(6)
    assert train().digest == one.digest
    assert train(settings=replace(QUICK, seed=1)).digest != one.digest
    assert one.digest == one.net.digest()


def test_unlabelled_windows_teach_nothing() -> None:
    made = windows(people=4, each=4)
    some = np.arange(len(made)) % 4 == 0
    left_out = train(made.select(~some))
    unlabelled = train(replace(made, scenes=np.where(some, UNLABELLED, made.scenes)))
    assert unlabelled.evaluation.windows == left_out.evaluation.windows
    assert unlabelled.digest == left_out.digest


def test_scenes_and_channels_are_those_of_the_settings() -> None:
    made = windows(people=4, each=4)
    data = replace(DATA, scenes=("Walk", "Run"), channels=("acc_x", "mag_x"))
    found = train(made.select(made.scenes != 1), data=data)
    assert found.net.scenes == ("Walk", "Run")
    assert found.net.channels == ("acc_x", "mag_x")
    with pytest.raises(MissingScene, match=r"Still \(16 windows, "):
        train(made, data=data)


@pytest.mark.parametrize(("epochs", "batch"), [(1, 200), (2, 28), (4, 54), (1, 13), (1, 10)])
def test_any_number_of_steps_is_a_cycle(epochs: int, batch: int) -> None:
    """Of 54 windows; one step, and 4, which a schedule with a quarter of them going up divides by nothing for."""
    steps: list[int] = []
    settings = replace(QUICK, epochs=epochs, batch=batch)
    train(settings=settings, progress=lambda _done, total, _text: steps.append(total))
    assert set(steps) == {len(steps)}


def test_a_loss_that_is_not_finite_stops_it_before_a_step() -> None:
    made = windows(people=4, each=4)
    signals = made.signals.copy()
    signals[0, 0, 3] = np.inf
    signals[:, 1] = np.inf
    with pytest.raises(NonFiniteLoss, match=r"\[original\] learning_rate"):
        train(replace(made, signals=signals))


@pytest.mark.parametrize(
    ("made", "error", "message"),
    [
        (windows(people=2, each=1), TooFewLabels, r"Too few labels: 6 labelled windows .*\[data\] min_labelled"),
        (windows(people=1, each=8), TooFewSubjects, "of 1 people; at least 2"),
        (windows(people=3, counts=(6, 6, 0)), MissingScene, r"No labelled window of Walk.*\[data\] scenes"),
    ],
)
def test_windows_that_do_not_allow_it_are_refused(made: WindowSet, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        train(made)


def test_a_model_of_one_scene_is_refused() -> None:
    made = windows()
    with pytest.raises(MissingScene, match=r"The only scene is .* \[data\] scenes"):
        train(made.select(made.scenes == 0).with_scenes(made.scene_names[:1]))


def test_what_is_saved_is_loaded(original: OriginalModel, tmp_path: Path) -> None:
    original.save(tmp_path / "original")
    loaded = OriginalModel.load(tmp_path / "original")
    assert loaded.digest == loaded.net.digest() == original.digest
    assert (loaded.holdout_subjects, loaded.lake_version) == (original.holdout_subjects, original.lake_version)
    for name in ("accuracy", "macro_f1", "recall", "confusion", "interval"):
        np.testing.assert_equal(getattr(loaded.evaluation, name), getattr(original.evaluation, name))


def tampered(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    for name, value in changes.items():
        if value is None:
            del config[name]
        else:
            config[name] = value
    (folder / CONFIG).write_text(json.dumps(config), encoding="utf-8")


def test_weights_that_were_changed_are_noticed(original: OriginalModel, tmp_path: Path) -> None:
    original.save(tmp_path)
    state = torch.load(tmp_path / STATE, weights_only=True)
    state["backbone.fc.bias"][0] += 1e-6
    torch.save(state, tmp_path / STATE)
    with pytest.raises(ModelError, match=r"is not the one that was measured: state\.pt and model\.json do not belong"):
        OriginalModel.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"digest": "0" * 16}, "is not the one that was measured"),
        ({"scenes": ["Walk", "Still", "Run"]}, "is not the one that was measured"),
        ({"rate_hz": 49.0}, "is not the one that was measured|cannot be read"),
        ({"evaluation": None}, "is no original model: model.json lacks 'evaluation'"),
        ({"digest": None}, "is no original model: model.json lacks 'digest'"),
        ({"evaluation": {"windows": "many"}}, "is no original model"),
        ({"evaluation": []}, "is no original model"),
    ],
)
def test_a_description_that_was_changed_is_noticed(
    original: OriginalModel, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    original.save(tmp_path)
    tampered(tmp_path, **changes)
    with pytest.raises(ModelError, match=message):
        OriginalModel.load(tmp_path)


def test_a_model_that_is_none(original: OriginalModel, tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=rf"There is no model in {tmp_path}: no model.json. 'sensorloop train original' makes"
    ):
        OriginalModel.load(tmp_path)
    original.net.save(tmp_path)
    with pytest.raises(ModelError, match="is no original model"):
        OriginalModel.load(tmp_path)
