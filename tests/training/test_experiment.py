from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.made import network, windows
from training import experiment as module
from training.arm import EVERY, SOONEST, Arm
from training.arms import tune
from training.dataset import WindowSet
from training.evaluation import evaluate
from training.experiment import Experiment, Pair, Recipe
from training.network import SceneNet, infer
from training.original import OriginalModel, fit_network
from training.policies import Labelled
from training.regimes import Regime
from training.settings import DataSettings, FineTuneSettings, OriginalSettings, QualitySettings

RECIPE = Recipe(
    data=DataSettings(),
    quality=QualitySettings(pulls=(1e-3,)),
    finetune=FineTuneSettings(trainable="block", epochs=2, threads=1, device="cpu", head_pulls=(1e-3,), shares=(1.0,)),
)
REGIME = {"some": Regime(labels=0.5, wrong=0.2)}


@pytest.fixture(scope="module")
def pair() -> Pair:
    target, net = windows(people=6, each=8), network()
    found = evaluate(target.scenes, target.scenes, target.scene_names)
    original = OriginalModel(net=net, evaluation=found, holdout_subjects=(), lake_version=None, digest=net.digest())
    return Pair(name="made", original=original, source=windows(people=2, each=6, seed=9), target=target)


def test_every_arm_runs_on_the_same_people_and_a_cell_is_never_run_twice(pair: Pair, tmp_path: Path) -> None:
    experiment = Experiment(pair, RECIPE, tmp_path)
    told: list[str] = []
    cells = list(
        experiment.run(REGIME, [0], list(EVERY.values()), progress=lambda done, total, text: told.append(text))
    )
    last = ["free-scratch", "free-pooled"]
    assert [cell["arm"] for cell in cells] == [
        *SOONEST, *(name for name in EVERY if name not in {*SOONEST, *last}), *last
    ]  # fmt: skip
    assert len({tuple(cell["subjects"]) for cell in cells}) == 1
    assert len({cell["train_windows"] for cell in cells}) == 1
    assert all(len(cell["predicted"]) == len(cell["truth"]) for cell in cells)
    assert any("focal" in text for text in told)
    original = cells[0]
    assert original["details"] == {}
    assert original["recovery_ratio"] == pytest.approx(original["accuracy"])
    by_name = {cell["arm"]: cell for cell in cells}
    assert by_name["free-plain"]["details"]["share"] == 1
    assert by_name["free-plain"]["details"]["epochs"] == 2, "as people run it nobody asks whether it is worth it"
    assert by_name["free-linear-probe"]["details"]["epochs"] == 0
    curve = by_name["free-plain"]["curves"]
    assert [step for step, values in curve if "train/loss" in values] == [1, 2]
    assert len({cell["key"] for cell in cells}) == len(cells)
    assert "why" in by_name["filterloss-auto"]["details"]

    def never() -> bool:
        pytest.fail("a cell that is there was to be trained again")

    again = list(Experiment(pair, RECIPE, tmp_path).run(REGIME, [0], list(EVERY.values()), enough=never))
    assert again == json.loads(json.dumps(cells))


def test_it_ends_when_it_is_enough_and_goes_on_where_it_was(pair: Pair, tmp_path: Path) -> None:
    arms = [EVERY[name] for name in ("original", "free-linear-probe", "free-focal")]
    list(Experiment(pair, RECIPE, tmp_path).run(REGIME, [0], arms[2:]))
    answers = iter([False, True])
    first = list(Experiment(pair, RECIPE, tmp_path).run(REGIME, [0], arms, enough=lambda: next(answers)))
    assert [cell["arm"] for cell in first] == ["original", "free-focal"], "what is there already is in the table"
    assert len(list(Experiment(pair, RECIPE, tmp_path).run(REGIME, [0], arms))) == 3
    assert len(list(tmp_path.glob("*.json"))) == 3


def test_what_answers_the_question_comes_first_and_what_takes_longest_last(pair: Pair, tmp_path: Path) -> None:
    """A table that is stopped early lacks the slow arms, and neither FilterLoss nor a seed."""
    named_so = ("original", "free-scratch", "free-linear-probe", "free-pooled", "focal", "filterloss-auto", "oracle")
    arms = [EVERY[name] for name in named_so]
    told: list[str] = []
    cells = Experiment(pair, RECIPE, tmp_path).run(
        REGIME, [0, 1], arms, progress=lambda done, total, text: told.append(text), enough=lambda: True
    )
    assert not list(cells)
    named = [(int(text.split("seed ")[1].split(":")[0]), text.split(": ")[1]) for text in told[:-1]]
    fast = ["original", "filterloss-auto", "oracle", "focal", "free-linear-probe"]
    assert named == [(seed, arm) for some in (fast, ["free-scratch", "free-pooled"]) for seed in (0, 1) for arm in some]


def test_pooled_trains_on_the_sources_windows_beside_the_targets(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed: list[tuple[torch.Tensor, Labelled]] = []

    def keep(net: SceneNet, arm: Arm, cached: torch.Tensor, data: Labelled, **others: Any) -> Any:
        handed.append((cached, data))
        return tune(net, arm, cached, data, **others)

    monkeypatch.setattr(module, "tune", keep)
    list(Experiment(pair, RECIPE, tmp_path).run(REGIME, [0], [EVERY["free-plain"], EVERY["free-pooled"]]))
    (alone, target), (together, both) = handed
    ours, theirs = len(target.labels), len(pair.source)
    assert len(both.labels) == len(together) == ours + theirs
    assert (both.labels == np.concatenate([target.labels, pair.source.scenes])).all()
    assert not set(both.groups[:ours]) & set(both.groups[ours:]), "no person of the one is taken for one of the other"
    torch.testing.assert_close(together[:ours], alone)
    frozen, _ = pair.original.net.split(RECIPE.finetune.trainable)
    torch.testing.assert_close(together[ours:], infer(frozen, torch.from_numpy(pair.source.signals)))


def test_scratch_knows_nothing_of_the_original(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another network, of what is left of the target's labels alone; and it is that network that is measured."""
    trained: list[tuple[WindowSet, SceneNet]] = []

    def keep(windows: WindowSet, settings: OriginalSettings, **others: Any) -> SceneNet:
        trained.append((windows, fit_network(windows, settings, **others)))
        return trained[-1][1]

    monkeypatch.setattr(module, "fit_network", keep)
    (cell,) = Experiment(pair, RECIPE, tmp_path).run(REGIME, [0], [EVERY["free-scratch"]])
    ((windows, net),) = trained
    assert len(windows) == cell["train_windows"]
    held_out = np.isin(pair.target.subjects, cell["subjects"])
    assert not set(windows.subjects) & set(cell["subjects"])
    said = infer(net, torch.from_numpy(pair.target.signals[held_out])).argmax(1)
    assert cell["predicted"] == said.tolist()
    other = pair.original.net.clone()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.01)
    elsewhere = replace(pair, original=replace(pair.original, net=other, digest=other.digest()))
    (again,) = Experiment(elsewhere, RECIPE, tmp_path).run(REGIME, [0], [EVERY["free-scratch"]])
    assert again["key"] != cell["key"]
    assert again["predicted"] == cell["predicted"], "whatever the original is"


def test_filterlosss_cells_say_how_many_windows_each_scene_comes_to(pair: Pair, tmp_path: Path) -> None:
    (cell,) = Experiment(pair, RECIPE, tmp_path).run(REGIME, [0], [EVERY["filterloss-per_sample"]])
    assert list(cell["details"]["effective_size"]) == list(pair.target.scene_names)


def test_everything_that_decides_a_cell_is_in_its_key(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def key(
        data: Pair = pair,
        recipe: Recipe = RECIPE,
        regime: Regime = REGIME["some"],
        seed: int = 0,
        arm: str = "free-plain",
    ) -> str:
        return Experiment(data, recipe, Path())._key(regime, seed, EVERY[arm])

    wider = replace(pair, source=windows(people=2, each=7, seed=9))
    others = [
        key(replace(pair, original=replace(pair.original, digest="another"))),
        key(replace(pair, target=windows(people=6, each=8, seed=1))),
        key(recipe=replace(RECIPE, quality=replace(RECIPE.quality, floor=0.1))),
        key(recipe=replace(RECIPE, data=replace(RECIPE.data, holdout_share=0.5))),
        key(recipe=replace(RECIPE, finetune=replace(RECIPE.finetune, trainable="head"))),
        key(recipe=replace(RECIPE, finetune=replace(RECIPE.finetune, epochs=3))),
        key(regime=Regime(labels=0.5, wrong=0.1)),
        key(seed=1),
        key(arm="free-focal"),
        key(arm="free-pooled"),
        key(wider, arm="free-pooled"),
    ]
    assert len({key(), *others}) == 1 + len(others)
    assert key(wider) == key(), "the source's windows go into no other arm"
    assert key(recipe=replace(RECIPE, finetune=replace(RECIPE.finetune, threads=3))) == key()
    arms = (
        "original",
        "free-plain",
        "stopped-plain",
        "logit-adjusted",
        "oracle",
        "filterloss-auto",
        "filterloss-tiers",
    )
    before = [key(arm=arm) for arm in arms]

    def changed_by(recipe: str) -> list[bool]:
        with monkeypatch.context() as patched:
            patched.setattr(f"training.experiment.{recipe}", 99)
            return [one != key(arm=arm) for one, arm in zip(before, arms, strict=True)]

    # How people left out are asked is nothing to arms that do not ask; another FilterLoss is no other way to go without it.
    assert changed_by("ASKED_RECIPE") == [False, False, True, True, True, True, True]
    assert changed_by("FILTER_RECIPE") == [False, False, False, False, False, True, True]
    assert changed_by("RECIPE") == [True] * 7


def test_the_labels_of_the_people_held_out_change_no_prediction(pair: Pair, tmp_path: Path) -> None:
    arms = [EVERY[name] for name in ("free-plain", "logit-adjusted", "filterloss-auto")]
    before = list(Experiment(pair, RECIPE, tmp_path / "a").run(REGIME, [0], arms))
    scenes = pair.target.scenes.copy()
    # Shuffled within each person, so that the same people are drawn.
    for person in set(before[0]["subjects"]):
        theirs = np.flatnonzero(pair.target.subjects == person)
        scenes[theirs] = np.roll(scenes[theirs], 5)
    after = list(
        Experiment(replace(pair, target=replace(pair.target, scenes=scenes)), RECIPE, tmp_path / "b").run(
            REGIME, [0], arms
        )
    )
    for one, two in zip(before, after, strict=True):
        assert one["subjects"] == two["subjects"]
        assert one["truth"] != two["truth"]
        assert one["predicted"] == two["predicted"]


def test_another_recipe_target_or_seed_is_another_cell(pair: Pair, tmp_path: Path) -> None:
    arm = [EVERY["original"]]
    pull = replace(RECIPE, finetune=replace(RECIPE.finetune, pull=1e-3))
    fewer = replace(pair, target=pair.target.select(np.arange(len(pair.target) - 1)))
    threads = replace(RECIPE, finetune=replace(RECIPE.finetune, threads=2))
    for number, (data, recipe, seed) in enumerate(
        [(pair, RECIPE, 0), (pair, pull, 0), (fewer, RECIPE, 0), (pair, RECIPE, 1)], start=1
    ):
        list(Experiment(data, recipe, tmp_path).run(REGIME, [seed], arm))
        assert len(list(tmp_path.glob("*.json"))) == number
    list(Experiment(replace(pair, name="other"), threads, tmp_path).run(REGIME, [0], arm))
    assert len(list(tmp_path.glob("*.json"))) == 4, "neither a name nor a number of threads makes another result"
