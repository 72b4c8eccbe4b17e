"""Labels that networks look at again which have not seen the person: what is believed, weighed and trained then."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.made import network, windows
from tests.training.test_arms import QUICK as BLOCK
from tests.training.test_arms import small_bench
from tests.training.test_finetune import QUICK, Killed, tune
from tests.training.test_policies import QUALITY
from tests.training.test_policies import labelled as labelled_by_six
from training import arms as module
from training.arm import EVERY
from training.arms import Bench, labelled
from training.errors import SettingsError
from training.finetune import FineTuned, SecondLook
from training.network import infer
from training.policies import Weighed
from training.settings import ComputeSettings, QualitySettings
from training.tracking import NullRun


@pytest.fixture(scope="module")
def bench() -> Bench:
    return small_bench()


def test_a_network_that_has_looked_changes_what_is_believed_and_not_what_the_signal_leaves_of_it() -> None:
    data, bad = labelled_by_six()
    verified, signal = np.arange(120) % 5 == 0, np.where(np.arange(120) % 2, 1.0, 0.3)
    mixed = np.full((120, 3), 1 / 3)  # judges who see nothing
    data = replace(data, worth=signal, signal=signal, mixed=mixed, runs=np.arange(120), verified=verified)
    logits = 5 * np.eye(3)[np.where(bad, (data.labels + 2) % 3, data.labels)]
    rows = np.arange(120)[::-1]
    found, trust = data.seen_by(rows, logits[rows], QUALITY)
    assert 0.5 < trust <= 1
    belief = found.worth / signal
    assert (belief[verified] == 1).all()
    assert belief[bad & ~verified].max() < 0.5 < belief[~bad].min()
    assert (found.worth <= signal).all(), "a poor signal is no better for being recognised"
    with pytest.raises(SettingsError, match=r"Labelled\.of"):
        labelled_by_six()[0].seen_by(rows, logits[rows], QUALITY)


@pytest.mark.parametrize("dies_after", [None, 2, 12, 14])
def test_the_last_training_has_the_weights_of_a_second_look(tmp_path: Path, dies_after: int | None) -> None:
    """By networks that have not seen the person; killed before it or after it, it comes to the same."""
    looked, others = list[np.ndarray](), np.linspace(1, 0.1, 60)

    def look(rows: np.ndarray, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        looked.append(logits)
        np.testing.assert_array_equal(np.sort(rows), np.arange(60))
        return others, np.ones(60)

    given = {
        "second_look": SecondLook(look=look, decided_by=("others",)),
        "settings": replace(QUICK, head_pulls=(1e-4,)),
    }
    if dies_after is not None:
        with pytest.raises(Killed):
            tune(tmp_path / "checkpoint.pt", dies_after=dies_after, **given)
    done = tune(tmp_path / "checkpoint.pt", **given)
    assert len(looked) == (2 if dies_after and dies_after > 12 else 1)
    np.testing.assert_array_equal(looked[0], looked[-1])
    # Each training begins at the original, so the last is that of somebody who had those weights from the start.
    assert done.net.digest() == tune(settings=given["settings"], weights=others).net.digest()
    assert done.net.digest() != tune(settings=given["settings"]).net.digest()


def test_a_checkpoint_of_another_second_look_is_not_gone_on_with(tmp_path: Path) -> None:
    one, other = (SecondLook(look=lambda *_: None, decided_by=(np.arange(3), name)) for name in ("one", "other"))
    with pytest.raises(Killed):
        tune(tmp_path / "checkpoint.pt", dies_after=4, second_look=one)
    told = list[int]()
    tune(tmp_path / "checkpoint.pt", second_look=other, told=told)
    assert told[0] == 1
    with pytest.raises(Killed):
        tune(tmp_path / "another.pt", dies_after=4, second_look=other)
    told.clear()
    tune(tmp_path / "another.pt", second_look=other, told=told)
    assert told[0] == 5


def test_what_is_believed_after_a_second_look_decides_how_far_to_go() -> None:
    """The original is right about half of the labels: who believes just these stays with it."""
    made, net = windows(people=4, each=5), network()
    seen = infer(net, torch.from_numpy(made.signals)).argmax(1).numpy()
    labels = np.where(np.arange(60) % 2, seen, made.scenes)
    believed = (labels == seen).astype(float)

    def look(rows: np.ndarray, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        del rows, logits
        return np.ones(60), believed

    gone, stays = tune(labels=labels), tune(labels=labels, second_look=SecondLook(look=look, decided_by=()))
    assert gone.epochs > 0
    assert gone.validation_original < 1
    assert (stays.epochs, stays.share, stays.validation_original) == (0, 0.0, 1.0), "nor does a head leave it"
    assert stays.net.digest() == net.digest()
    kept = tune(labels=labels, second_look=SecondLook(look=lambda *_: None, decided_by=()))
    assert kept.net.digest() == gone.net.digest(), "where nothing is looked at again all is as it was"


@pytest.mark.parametrize(
    ("arm", "doubted", "looks"), [("auto", 0.3, True), ("auto", 0.0, False), ("tiers", 0.3, False)]
)
def test_filterloss_looks_again_at_what_it_doubts(bench: Bench, arm: str, doubted: float, looks: bool) -> None:
    data = labelled(bench)
    data = replace(data, worth=np.where(np.arange(len(data.labels)) % 2, 1 - 2 * doubted, 1.0), verified=None)
    frozen, _ = bench.original.net.split("block")
    cached = infer(frozen, torch.from_numpy(bench.windows.select(bench.train).signals))
    settings, quality, run = replace(BLOCK, epochs=1), QualitySettings(), NullRun()
    tuned, weighed = module.tune(
        bench.original.net, EVERY[f"filterloss-{arm}"], cached, data, settings=settings, quality=quality, run=run
    )
    del tuned
    assert ("second_look" in weighed.details) == looks
    if looks:
        before, after = weighed.details["second_look"]["believed"]
        assert before == pytest.approx(data.worth.mean(), abs=1e-3)
        assert after == pytest.approx(weighed.believed.mean(), abs=1e-3) != before


def test_filterloss_killed_in_its_last_training_looks_again_and_comes_to_the_same(bench: Bench, tmp_path: Path) -> None:
    data = labelled(bench)
    data = replace(data, worth=np.where(np.arange(len(data.labels)) % 2, 0.4, 1.0), verified=None)
    frozen, _ = bench.original.net.split("block")
    cached = infer(frozen, torch.from_numpy(bench.windows.select(bench.train).signals))
    settings, quality = replace(BLOCK, epochs=2, worth=-1.0), QualitySettings()

    def last(done: int, total: int, text: str) -> None:
        del done, total
        if text == "final epoch 1 of 2":
            raise Killed

    def tuned(**more: Any) -> tuple[FineTuned, Weighed]:
        return module.tune(
            bench.original.net, EVERY["filterloss-auto"], cached, data, settings=settings, quality=quality, run=NullRun(),
            compute=ComputeSettings(checkpoint_every=timedelta(0)), **more,
        )  # fmt: skip

    with pytest.raises(Killed):
        tuned(checkpoint=tmp_path / "checkpoint.pt", progress=last)
    (never, weighed), (done, again) = tuned(), tuned(checkpoint=tmp_path / "checkpoint.pt")
    assert done.net.digest() == never.net.digest() != bench.original.net.digest()
    assert weighed.details == again.details
    np.testing.assert_array_equal(weighed.weights, again.weights)
