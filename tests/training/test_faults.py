from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from tests.training.made import network, windows
from training.arm import Weights
from training.dataset import WindowSet
from training.embeddings import features_of
from training.errors import DataError, SettingsError
from training.faults import KINDS, Faulty, look_alikes, plant_faults
from training.heads import Head
from training.policies import Labelled, weigh
from training.quality import score_quality
from training.settings import QualitySettings


def clean(*, people: int = 10, each: int = 8) -> WindowSet:
    made = windows(people=people, each=each)
    sessions = np.array(
        [
            f"{subject}-{scene}-{at % 2}"
            for at, (subject, scene) in enumerate(zip(made.subjects, made.scenes, strict=True))
        ]
    )
    return replace(made, sessions=sessions)


def planted(kind: str, share: float, *, people: int = 10, each: int = 8) -> Faulty:
    made = clean(people=people, each=each)
    return plant_faults(made, kind, share, features=features_of(network(), made))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.05, 0.2, 0.4])
def test_so_many_windows_have_a_fault_and_the_others_none(kind: str, share: float) -> None:
    before, found = clean(), planted(kind, share)
    size = {"subject": 1 / 10, "session": 4 / 240}.get(kind, 1 / 240)
    assert found.faulty.mean() == pytest.approx(share, abs=size)
    right = ~found.faulty
    np.testing.assert_array_equal(found.windows.scenes[right], before.scenes[right])
    np.testing.assert_array_equal(found.windows.signals[right], before.signals[right])
    if kind == "signal":
        np.testing.assert_array_equal(found.windows.scenes, before.scenes)
        assert all(
            not np.array_equal(found.windows.signals[at], before.signals[at]) for at in np.flatnonzero(found.faulty)
        )
    else:
        assert (found.windows.scenes[found.faulty] != before.scenes[found.faulty]).all()


def test_whole_sessions_and_people_are_wrong_together() -> None:
    for kind, name in (("session", "sessions"), ("subject", "subjects")):
        found = planted(kind, 0.2)
        groups = getattr(found.windows, name)
        for group in np.unique(groups):
            assert found.faulty[groups == group].all() or not found.faulty[groups == group].any()


def test_of_few_people_one_at_least_is_mislabelled() -> None:
    made = clean(people=3, each=4)
    found = plant_faults(made, "subject", 0.05, features=np.ones((len(made), 2)))
    assert found.faulty.mean() == pytest.approx(1 / 3)


def test_scenes_that_look_alike_are_those_whose_features_are_near() -> None:
    made = clean()
    centres = np.array([[1.0, 0.0], [0.0, 1.0], [0.1, 1.0]])
    features = centres[made.scenes] + np.random.default_rng(0).normal(0, 0.01, (len(made), 2))
    assert look_alikes(made, features).tolist() == [2, 2, 1]


def test_what_cannot_be_planted_is_said() -> None:
    made = clean()
    features = np.ones((len(made), 2))
    with pytest.raises(DataError, match="at least two scenes"):
        plant_faults(replace(made, scenes=np.zeros(len(made), np.int64)), "uniform", 0.2, features=features)
    with pytest.raises(SettingsError, match="a share from 0 to 1"):
        plant_faults(made, "uniform", 1.5, features=features)


@pytest.mark.parametrize("kind", ["uniform", "look_alike", "session", "signal"])
def test_planted_faults_score_lower(kind: str) -> None:
    found, net = planted(kind, 0.2), network()
    features = features_of(net, found.windows)
    quality = score_quality(found.windows, features, Head.of(net), train=np.ones(len(found.windows), bool))
    assert roc_auc_score(~found.faulty, quality.score) >= 0.95


@pytest.mark.parametrize("policy", ["per_sample", "learned", "tiers"])
def test_no_scene_loses_more_than_a_third_of_the_weight_of_its_right_labels(policy: Weights) -> None:
    """With 20 % of the labels wrong between look-alikes; a scene that lost all of it would be unlearned."""
    # Of six windows of each scene and person, trees repeat such labels (docs/choices.md), and tiers let them be.
    found, net = planted("look_alike", 0.2, people=6, each=10), network()
    features, settings = features_of(net, found.windows), QualitySettings(folds=2)
    quality = score_quality(
        found.windows, features, Head.of(net), train=np.ones(len(found.windows), bool), settings=settings
    )
    data = Labelled.of(found.windows, features, quality, Head.of(net))
    weights = weigh(policy, data, settings, seed=0).weights
    assert weights.min() < weights.max(), "nothing was distrusted"
    for scene in range(3):
        right = (found.windows.scenes == scene) & ~found.faulty
        assert weights[right].mean() > 2 / 3 * weights.max()
