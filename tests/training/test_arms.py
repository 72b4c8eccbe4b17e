from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from tests.training.made import network, windows
from training import arms as module
from training import asked
from training import finetune as module_of_training
from training.arm import ARMS, EVERY, Choice
from training.arms import Bench, labelled, run_arms
from training.choosing import People
from training.embeddings import features_of
from training.errors import NonFiniteLoss, SettingsError
from training.evaluation import evaluate
from training.finetune import FineTuned, finetune
from training.folds import split_by_subject
from training.heads import Head
from training.losses import Loss
from training.network import infer
from training.original import OriginalModel
from training.policies import Labelled
from training.quality import score_quality
from training.schedule import tried_of
from training.settings import FineTuneSettings, QualitySettings
from training.tracking import NullRun, NullTracker, RunLog

QUICK = FineTuneSettings(epochs=3, learning_rate=1e-3, threads=1, device="cpu", trainable="block")


def small_bench() -> Bench:
    """Six people, and an original that nobody has trained."""
    made, net = windows(people=6, each=6), network()
    split = split_by_subject(made, share=0.3)
    features = features_of(net, made)
    evaluation = evaluate(made.scenes, made.scenes, made.scene_names, subjects=made.subjects)
    original = OriginalModel(
        net=net, evaluation=evaluation, holdout_subjects=("p",), lake_version=1, digest=net.digest()
    )
    quality = score_quality(made, features, Head.of(net), train=split.train)
    return Bench(
        windows=made, train=split.train, holdout=split.holdout, features=features, quality=quality, original=original,
        settings=QUICK, quality_settings=QualitySettings(),
    )  # fmt: skip


@pytest.fixture(scope="module")
def bench() -> Bench:
    return small_bench()


class Pictures(NullRun):
    """Remembers what it was shown."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.curves: list[int] = []
        self.set: dict[str, object] = {}

    def params(self, values: Mapping[str, str | float | bool]) -> None:
        self.set.update(values)

    def figure(self, figure: object, name: str) -> None:
        del figure
        self.names.append(name)

    def metrics(self, values: object, *, step: int = 0) -> None:
        del values
        self.curves.append(step)


class Tracking(NullTracker):
    """Remembers its runs."""

    def __init__(self) -> None:
        self.runs: dict[str, Pictures] = {}

    @contextmanager
    def run(self, name: str, *, parent: RunLog | None = None, tags: object = None) -> Iterator[RunLog]:
        del parent, tags
        self.runs[name] = Pictures()
        yield self.runs[name]


def test_every_arm_is_measured_on_the_same_holdout_and_has_its_pictures(bench: Bench, tmp_path: Path) -> None:
    tracking, parent = Tracking(), Pictures()
    results = run_arms(bench, tmp_path, tracker=tracking, parent=parent)
    assert tuple(results) == ARMS
    assert {result.evaluation.windows for result in results.values()} == {int(bench.holdout.sum())}
    for name, result in results.items():
        assert {"confusion.png", "tiers.png"} <= set(tracking.runs[name].names)
        assert result.recovery_ratio == pytest.approx(result.evaluation.accuracy)
    assert {"comparison.png", "tiers.png"} <= set(parent.names)
    assert max(tracking.runs["plain"].curves) == tried_of(QUICK.epochs, 4) == 2
    assert {"epochs", "head_pull", "share"} <= set(tracking.runs["plain"].set)
    assert results["filterloss"].details["share"] > 0, "the original knows nothing here, and people left out see it"
    again = run_arms(bench, tmp_path, tracker=Tracking(), parent=Pictures())
    for name, result in results.items():
        assert again[name].seconds == result.seconds, "trained twice"
        assert again[name].net.digest() == result.net.digest()


def test_an_unknown_arm_is_named(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no arm 'magic'"):
        run_arms(bench, tmp_path, tracker=NullTracker(), parent=NullRun(), arms=("magic",))


def tune(bench: Bench, **changes: object) -> object:
    labelled = bench.windows.select(bench.train)
    frozen, _ = bench.original.net.split(QUICK.trainable)
    ones = np.ones(len(labelled))
    arguments = {
        "weights": ones, "believed": ones, "adjust": True, "shares": (0.5, 1.0), "settings": QUICK,
        "cached": infer(frozen, torch.from_numpy(labelled.signals)), **changes,
    }  # fmt: skip
    cached, weights = arguments.pop("cached"), arguments.pop("weights")
    return finetune(bench.original.net, cached, labelled.scenes, weights, labelled.groups(), **arguments)  # type: ignore[arg-type]


def test_the_same_seed_gives_the_same_model_and_the_original_is_left_alone(bench: Bench) -> None:
    before = bench.original.net.digest()
    one, two = tune(bench), tune(bench)
    assert one.net.digest() == two.net.digest() != before  # type: ignore[attr-defined]
    assert bench.original.net.digest() == before


class Handed(Exception):
    """What fine-tuning was given, in place of doing it."""


def given(bench: Bench, arm: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What an arm has fine-tuning do, with one label in five wrong."""
    data = labelled(bench)
    wrong = np.random.default_rng(3).random(len(data.labels)) < 0.2
    data = replace(
        data,
        labels=np.where(wrong, (data.labels + 1) % 3, data.labels),
        worth=np.where(wrong, 0.1, 0.9),
        score=np.where(wrong, 0.1, 0.9),
        wrong=wrong,
    )

    def hand_over(original: object, cached: object, labels: Any, weights: Any, groups: object, **others: Any) -> None:
        del original, cached, groups
        raise Handed({"labels": labels, "weights": weights, "wrong": wrong, "worth": data.worth, **others})

    net, quality = bench.original.net, QualitySettings()
    monkeypatch.setattr(module, "finetune", hand_over)
    with pytest.raises(Handed) as caught:
        module.tune(net, EVERY[arm], torch.empty(0), data, settings=QUICK, quality=quality, run=NullRun())
    return dict(caught.value.args[0])


NET = [name for name, arm in EVERY.items() if name != "original" and arm.start != "scratch"]


@pytest.mark.parametrize("name", NET)
def test_an_arm_does_what_its_name_says(bench: Bench, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if EVERY[name].sampler:
        pytest.importorskip("imblearn")
    if EVERY[name].weights == "pruned":
        pytest.importorskip("cleanlab")
    found = given(bench, name, monkeypatch)
    labels, weights, wrong = found["labels"], found["weights"], found["wrong"]
    remedy = name.removeprefix("free-").removeprefix("stopped-")
    asked = "nothing" if name.startswith("free-") else "whether" if name.startswith("stopped-") else "how_far"
    assert found["choice"] == asked, "as people run it nobody looks back"
    assert found["adjust"] == (remedy in {name, "logit-adjusted"}), "the same recipe is corrected for imbalance"
    loss = found["loss"]
    assert (loss.kind, loss.smoothing) == {
        "focal": ("focal", 0.0), "generalised-cross-entropy": ("generalised", 0.0), "label-smoothing": ("cross_entropy", 0.1),
    }.get(remedy, ("cross_entropy", 0.0))  # fmt: skip
    counts = np.bincount(labels)
    if remedy.endswith("sampling"):
        size = counts.max() if remedy == "oversampling" else counts.min()
        assert np.bincount(labels[found["sampler"](labels)]).tolist() == [size] * 3
    else:
        assert found["sampler"] is None
    if remedy == "oracle":
        assert ((weights == 0) == wrong).all()
    elif remedy == "pruned":
        assert 0 < np.count_nonzero(weights == 0) < len(weights)
    elif remedy == "class-balanced":
        sums = np.bincount(labels, weights=weights)
        np.testing.assert_allclose(sums, sums.mean())
    elif EVERY[name].filters:
        assert weights[wrong].mean() < 0.5 * weights[~wrong].mean(), "what is doubted counts less"
    else:
        assert (weights == weights[0]).all()


def test_with_the_stopping_rule_it_is_the_same_training_cut_short_where_people_left_out_see_no_gain(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit what comes of it as people run it, its head alone, or the original."""
    right, net = labelled(bench), bench.original.net
    cached = infer(net.split("block")[0], torch.from_numpy(bench.windows.select(bench.train).signals))
    quality, run = QualitySettings(), NullRun()

    def tuned(arm: str, data: Labelled, settings: FineTuneSettings = QUICK) -> FineTuned:
        return module.tune(net, EVERY[arm], cached, data, settings=settings, quality=quality, run=run)[0]

    free, head = tuned("free-plain", right), tuned("stopped-plain", right)
    assert (head.share, head.epochs, head.head_pull) == (1.0, 0, free.head_pull)
    below = {name for name, _ in net.named_parameters() if not name.startswith("backbone.fc")}
    moved = {
        name for name, parameter in head.net.named_parameters() if not torch.equal(parameter, net.get_parameter(name))
    }
    assert moved
    assert not moved & below
    # Whatever training below the head comes to is taken for a gain.
    stopped = tuned("stopped-plain", right, replace(QUICK, worth=-1.0))
    assert (stopped.share, stopped.epochs) == (1.0, QUICK.epochs)
    assert free.net.digest() == stopped.net.digest() != net.digest()
    mixed = replace(right, labels=np.random.default_rng(0).permutation(right.labels))
    assert tuned("stopped-plain", mixed).net.digest() == net.digest() != tuned("free-plain", mixed).net.digest()


def test_the_key_of_a_cell_is_that_of_when_arms_had_two_choices() -> None:
    assert EVERY["focal"].recipe() == {
        "name": "focal", "weights": "equal", "sampler": "", "loss": asdict(Loss(kind="focal")), "adjust": True,
        "near": True, "head_only": False, "start": "original",
    }  # fmt: skip
    assert EVERY["free-focal"].recipe()["near"] is False
    assert EVERY["stopped-focal"].recipe()["choice"] == "whether"
    assert len({json.dumps(arm.recipe()) for arm in EVERY.values()}) == len(EVERY)


def test_what_an_arm_asks_for_reaches_the_network_and_not_the_head_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head stays the original's here: what moves below it is the loop's doing."""
    monkeypatch.setattr(module_of_training.Trainer, "fitted", lambda self, rows, pull: self.head)

    def moved(**changes: Any) -> bytes:
        tuned = tune(bench, choice="nothing", **{"adjust": False, **changes})
        name = next(n for n, _ in bench.original.net.named_parameters() if n.startswith("backbone.layer4.1"))
        return bytes(tuned.net.get_parameter(name).detach().numpy().tobytes())  # type: ignore[attr-defined]

    plain, uneven = moved(), np.where(bench.windows.scenes[bench.train] == 0, 1.0, 0.1)
    assert plain == moved()
    others = {
        "weights": moved(weights=uneven), "adjust": moved(weights=uneven, adjust=True), "loss": moved(loss=Loss(kind="focal")),
        "sampler": moved(sampler=np.flatnonzero),
        "margins": moved(weights=uneven, adjust=True, settings=replace(QUICK, correction="margins")),
    }  # fmt: skip
    assert len({plain, *others.values()}) == 1 + len(others)


def test_how_many_windows_each_scene_comes_to_is_said_of_filterloss(bench: Bench) -> None:
    data = labelled(bench)
    half = np.arange(len(data.labels)) % 2 == 0
    data = replace(data, worth=np.where(half, 0.9, 0.1))
    frozen, _ = bench.original.net.split("head")  # no network that would look at these labels again, which are right
    cached = infer(frozen, torch.from_numpy(bench.windows.select(bench.train).signals))
    settings, quality, run = replace(QUICK, trainable="head"), QualitySettings(), NullRun()
    tuned, weighed = module.tune(
        bench.original.net, EVERY["filterloss-auto"], cached, data, settings=settings, quality=quality, run=run
    )
    del tuned
    sizes = weighed.details["effective_size"]
    assert list(sizes) == list(bench.windows.scene_names)
    for at, scene in enumerate(sizes):
        mine = weighed.weights[data.labels == at]
        assert sizes[scene] == pytest.approx(mine.sum() ** 2 / (mine**2).sum(), abs=0.1)
        assert sizes[scene] < len(mine)


def test_people_left_out_choose_how_far_to_go(bench: Bench) -> None:
    """Labels that nobody can learn anything from leave the original as it is, however many epochs there are."""
    labelled = bench.windows.select(bench.train)
    mixed = np.random.default_rng(0).permutation(labelled.scenes)
    net = bench.original.net
    frozen, _ = net.split("block")
    cached = infer(frozen, torch.from_numpy(labelled.signals))
    right = infer(net, torch.from_numpy(labelled.signals)).argmax(1).numpy()
    ones = np.ones(len(labelled))
    # The original is right by definition here, so nothing can be better than it.
    tuned = finetune(
        net, cached, right, ones, labelled.groups(), believed=ones, adjust=False, shares=(1.0,), settings=QUICK
    )
    assert (tuned.share, tuned.validation, tuned.validation_original) == (0.0, 1.0, 1.0)
    assert tuned.net.digest() == net.digest()
    noisy = finetune(
        net, cached, mixed, ones, labelled.groups(), believed=ones, adjust=True, shares=(1.0,), settings=QUICK
    )
    assert noisy.share == 0
    assert noisy.net.digest() == net.digest()


def test_where_one_person_has_labelled_all_nothing_is_trained_that_nobody_could_judge(bench: Bench) -> None:
    """People left out say whether what is below the head is worth it; an arm that asks nobody trains it all the same."""
    labelled = bench.windows.select(bench.train)
    cached = infer(bench.original.net.split("block")[0], torch.from_numpy(labelled.signals))
    ones, alone = np.ones(len(labelled)), np.zeros(len(labelled), np.int64)
    said, choices = Pictures(), get_args(Choice)[::-1]
    tuned = {
        choice: finetune(
            bench.original.net, cached, labelled.scenes, ones, alone, believed=ones, adjust=True, shares=(0.5, 0.75, 1.0),
            choice=choice, settings=QUICK, run=said if choice == "how_far" else None,
        )
        for choice in choices
    }  # fmt: skip
    assert [(tuned[choice].share, tuned[choice].epochs) for choice in choices] == [
        (0.75, 0),
        (1.0, 0),
        (1.0, QUICK.epochs),
    ]
    assert max(said.curves) == 0


def test_of_very_many_windows_some_choose_the_head_whoever_is_among_them(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person with one window may not be: then those judge who are, and nobody is asked for folds that nobody is in."""
    labelled = bench.windows.select(bench.train)
    monkeypatch.setattr(asked, "_ASKED", len(labelled) // 2)
    monkeypatch.setattr(asked, "_OF_A_SCENE", 5)
    whole = tune(bench)
    assert whole.share > 0  # type: ignore[attr-defined]
    settings, ones = replace(QUICK, trainable="head"), np.ones(len(labelled))
    inputs = infer(bench.original.net.split("head")[0], torch.from_numpy(labelled.signals))
    one_alone = (np.arange(len(labelled)) == 0).astype(np.int64)
    for seed in range(6):
        tuned = finetune(
            bench.original.net, inputs, labelled.scenes, ones, one_alone, believed=ones, adjust=True, shares=(0.5, 1.0),
            settings=replace(settings, seed=seed),
        )  # fmt: skip
        assert np.isfinite(tuned.validation)


def test_a_gain_that_could_be_chance_leaves_the_original(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """People left out see that a head is better than this untrained network; whether by chance is what decides."""
    tuned = tune(bench)
    assert tuned.share > 0  # type: ignore[attr-defined]
    assert tuned.validation > tuned.validation_original  # type: ignore[attr-defined]
    monkeypatch.setattr(People, "as_good_as_the_best", lambda _, judged: [True] * len(judged))
    stays = tune(bench)
    assert (stays.share, stays.validation) == (0.0, tuned.validation_original)  # type: ignore[attr-defined]
    assert stays.net.digest() == bench.original.net.digest()  # type: ignore[attr-defined]


def test_resampling_changes_what_an_epoch_is_and_not_how_many_steps_there_are(bench: Bench) -> None:
    """An arm that draws ten times the windows has a tenth of the passes."""
    settings = replace(QUICK, epochs=1000, max_steps=40, batch=8, worth=-1.0)
    whole = tune(bench, settings=settings)
    often = tune(bench, settings=settings, sampler=lambda labels: np.repeat(np.arange(len(labels)), 10))
    n = int(bench.train.sum())
    assert whole.epochs == 40 // -(-n // 8)  # type: ignore[attr-defined]
    assert often.epochs == max(1, 40 // -(-10 * n // 8))  # type: ignore[attr-defined]


def test_training_below_the_head_must_be_worth_it(bench: Bench) -> None:
    below = [n for n, _ in bench.original.net.named_parameters() if n.startswith("backbone.layer4")]
    dear, free = tune(bench, settings=replace(QUICK, worth=1.0)), tune(bench, settings=replace(QUICK, worth=-1.0))
    assert dear.epochs == 0  # type: ignore[attr-defined]
    assert free.epochs > 0  # type: ignore[attr-defined]
    for name in below:
        torch.testing.assert_close(dear.net.get_parameter(name), bench.original.net.get_parameter(name))  # type: ignore[attr-defined]
    assert any(not torch.equal(free.net.get_parameter(n), bench.original.net.get_parameter(n)) for n in below)  # type: ignore[attr-defined]


def test_batch_norms_statistics_are_frozen(bench: Bench) -> None:
    tuned = tune(bench)
    for name, buffer in tuned.net.named_buffers():  # type: ignore[attr-defined]
        if "running" in name:
            torch.testing.assert_close(buffer, dict(bench.original.net.named_buffers())[name])


def test_a_loss_that_is_not_finite_stops_it(bench: Bench) -> None:
    labelled = bench.windows.select(bench.train)
    frozen, _ = bench.original.net.split(QUICK.trainable)
    cached = infer(frozen, torch.from_numpy(labelled.signals)).clone()
    cached[:] = torch.inf
    with pytest.raises(NonFiniteLoss, match=r"\[finetune\] learning_rate"):
        tune(bench, cached=cached)
