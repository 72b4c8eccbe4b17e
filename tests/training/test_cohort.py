"""Whom a model is for, as text and as rows of the lake."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.lakes import of_people, publish
from tests.training.made import CHANNELS, windows
from training.cohort import PARTS, Cohort
from training.errors import DataError, SettingsError
from training.folds import split_by_subject
from training.lake import from_lake

NAMES = st.text(min_size=1, max_size=12)


@given(fleet=NAMES.filter(lambda name: "=" not in name), column=st.sampled_from(PARTS), value=NAMES)
def test_a_part_of_a_fleet_as_text_and_back(fleet: str, column: str, value: str) -> None:
    part = Cohort(fleet=fleet, column=column, value=value)
    assert Cohort.parse(str(part)) == part


@pytest.mark.parametrize("text", ["target", "a city/of two words", "iPhone14,2", "="])
def test_everything_else_is_a_fleet(text: str) -> None:
    assert Cohort.parse(text) == Cohort(fleet=text)
    assert str(Cohort.parse(text)) == text


def test_what_is_no_cohort() -> None:
    with pytest.raises(SettingsError, match="divided by phone_model or subject_id, not by 'phone'"):
        Cohort.parse("target/phone=Pixel 8")
    with pytest.raises(SettingsError, match="needs a name"):
        Cohort.parse("")


def test_the_parts_of_a_fleet_in_the_lake(tmp_path: Path) -> None:
    pixels, others = of_people("a", windows(people=2, each=2)), of_people("b", windows(people=3, each=2))
    publish(tmp_path, pixels, phone="Pixel 8")
    publish(tmp_path, others, phone="iPhone14,2")
    publish(tmp_path, of_people("c", windows(people=1, each=2)), phone="Pixel 8", cohort="elsewhere")

    def people(cohort: str) -> set[str]:
        return set(from_lake(str(tmp_path), cohort=cohort, channels=CHANNELS).subjects.tolist())

    assert people("target/phone_model=Pixel 8") == set(pixels.subjects)
    assert people("target/phone_model=iPhone14,2") == set(others.subjects)
    assert people("target") == set(pixels.subjects) | set(others.subjects)
    with pytest.raises(DataError, match="no window of cohort 'target/phone_model=Pixel 9'"):
        people("target/phone_model=Pixel 9")


def test_a_persons_model_is_tried_on_sessions_it_has_not_seen(tmp_path: Path) -> None:
    made = windows(people=2, each=6)
    sessions = np.array([f"day{at % 3}" for at in range(len(made))])
    publish(tmp_path, replace(made, sessions=sessions))
    found = from_lake(str(tmp_path), cohort="target/subject_id=p0", channels=CHANNELS)
    assert len(found) == 18
    assert set(found.subjects.tolist()) == {"p0/d-p0/day0", "p0/d-p0/day1", "p0/d-p0/day2"}
    split = split_by_subject(found, share=0.3, min_train_subjects=2)
    assert not set(found.sessions[split.train]) & set(found.sessions[split.holdout])
    assert set(from_lake(str(tmp_path), cohort="target", channels=CHANNELS).subjects.tolist()) == {"p0", "p1"}
