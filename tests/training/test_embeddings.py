from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.lakes import publish
from tests.training.made import network, windows
from training.dataset import WindowSet
from training.embeddings import BATCH, LakeStore, contents, embed, embed_days, features_of, forward
from training.errors import ModelError
from training.lake import from_lake


class Counting(LakeStore):
    """The lake's table, and how many windows it was given."""

    kept = 0

    def keep(self, model: str, window_ids: np.ndarray, contents: np.ndarray, features: np.ndarray) -> None:
        self.kept += len(window_ids)
        super().keep(model, window_ids, contents, features)


@pytest.fixture
def store(tmp_path: Path) -> Counting:
    return Counting(str(tmp_path / "lake"))


def test_only_windows_that_are_new_are_fed_to_the_network_and_the_result_is_that_from_scratch(store: Counting) -> None:
    net, made = network(), windows(people=6, each=8)
    scratch = forward(net.split("head")[0], made.signals)
    first = embed(net, "m", made.select(np.arange(0, len(made), 3)), store)
    assert first.fresh == store.kept == len(made) // 3
    second = embed(net, "m", made, store)
    assert second.fresh == len(made) - first.fresh
    np.testing.assert_array_equal(second.features, scratch)
    again = embed(net, "m", made, store)
    assert (again.fresh, store.kept) == (0, len(made))
    np.testing.assert_array_equal(again.features, scratch)


def test_another_model_and_another_content_are_embedded_anew(store: Counting) -> None:
    net, made = network(), windows(people=2, each=4)
    embed(net, "m", made, store)
    assert embed(net, "another", made, store).fresh == len(made)
    signals = made.signals.copy()
    signals[3] += 1
    changed = embed(net, "m", replace(made, signals=signals), store)
    assert changed.fresh == 1
    np.testing.assert_array_equal(changed.features, forward(net.split("head")[0], signals))
    assert embed(net, "m", made, store).fresh == 0, "the window as it was is still known"


def test_days_that_are_cut_otherwise_than_the_network_knows_are_refused(store: Counting) -> None:
    slower = replace(windows(people=1, each=2), rate_hz=25.0)
    with pytest.raises(ModelError, match="100 samples at 25 Hz, those that this model has learned from 100 at 50 Hz"):
        embed_days(network(), "m", lambda _: slower, [date(2024, 5, 1)], store)
    assert store.kept == 0


def test_a_relabelled_window_is_not_embedded_again(store: Counting) -> None:
    net, made = network(), windows(people=2, each=4)
    embed(net, "m", made, store)
    assert embed(net, "m", replace(made, scenes=(made.scenes + 1) % 3), store).fresh == 0


def test_a_windows_embedding_does_not_depend_on_its_neighbours() -> None:
    net, made = network(), windows(people=6, each=8)
    frozen = net.split("head")[0]
    whole = forward(frozen, made.signals)
    assert len(made) > BATCH
    for at in (0, 17, len(made) - 1):
        np.testing.assert_array_equal(forward(frozen, made.signals[at : at + 1])[0], whole[at])
    torch.testing.assert_close(torch.from_numpy(whole), torch.from_numpy(features_of(net, made)))


def test_contents_tell_windows_apart() -> None:
    made = windows(people=1, each=2)
    digests = contents(made.signals)
    assert len(set(digests.tolist())) == len(made)
    assert contents(made.signals[2:3])[0] == digests[2]
    gap = made.signals.copy()
    gap[0, 0, 5] = np.nan
    assert contents(gap)[0] != digests[0]


def test_day_by_day_a_lake_is_embedded_as_at_once(store: Counting, tmp_path: Path) -> None:
    net, made = network(), windows(people=2, each=4)
    days = made.start_ns + np.arange(len(made)) % 3 * 86_400 * 10**9
    version = publish(tmp_path / "lake", replace(made, start_ns=days))

    def read(day: date | None) -> WindowSet:
        return from_lake(str(tmp_path / "lake"), version, cohort="target", channels=made.channels, day=day)

    dates = [date(1970, 1, day) for day in (1, 2, 3)]
    assert [len(read(day)) for day in dates] == [8, 8, 8]
    assert embed_days(net, "m", read, dates, store) == (24, 24)
    assert embed_days(net, "m", read, dates, store) == (24, 0)
    together = embed(net, "m", read(None), store)
    assert together.fresh == 0
    np.testing.assert_array_equal(together.features, forward(net.split("head")[0], read(None).signals))
