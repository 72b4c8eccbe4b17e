"""Whether two folders of a run key hold the same models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dags.errors import DagError
from dags.local.kills import _same


def _folder(place: Path, **weights: float) -> Path:
    for arm, weight in weights.items():
        (place / arm).mkdir(parents=True)
        torch.save({"fc.weight": torch.tensor([weight, 1.0]), "fc.bias": torch.zeros(1)}, place / arm / "state.pt")
    return place


def test_the_same(tmp_path: Path) -> None:
    assert (
        _same(_folder(tmp_path / "a", plain=0.5, filterloss=0.25), _folder(tmp_path / "b", plain=0.5, filterloss=0.25))
        == 2
    )


def test_the_original_as_it_is_says_nothing(tmp_path: Path) -> None:
    assert (
        _same(_folder(tmp_path / "a", original=0.5, plain=0.5), _folder(tmp_path / "b", original=0.5, plain=0.5)) == 1
    )


def test_another_weight(tmp_path: Path) -> None:
    with pytest.raises(
        DagError, match=r"b/plain/state\.pt is another model than .*a/plain/state\.pt: 1 of 2 tensors differ"
    ):
        _same(_folder(tmp_path / "a", plain=0.5), _folder(tmp_path / "b", plain=0.5000001))


def test_an_arm_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DagError, match=r"b/filterloss/state\.pt is missing"):
        _same(_folder(tmp_path / "a", plain=0.5, filterloss=0.25), _folder(tmp_path / "b", plain=0.5))
