from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest

from training import runkey
from training.runkey import changed, decisive, run_key
from training.settings import DataSettings, FineTuneSettings, QualitySettings

KNOWN: dict[str, Any] = {
    "cohort": "target", "lake_version": 3, "labels_version": 2, "original": "abc", "data": DataSettings(), "quality": QualitySettings(),
    "finetune": FineTuneSettings(), "holdout": "f1",
}  # fmt: skip
WHERE = {"device", "threads"}
"""Settings that say where a training runs."""


CHOICES = {"trainable": "head", "device": "cpu", "correction": "margins"}
"""Another choice than the default."""


def other(value: Any, name: str = "") -> Any:
    """Another value of the same kind, which its section allows, too."""
    if name in CHOICES:
        return CHOICES[name]
    if isinstance(value, bool):
        return not value
    if isinstance(value, tuple):
        return value[:-1] if len(value) > 1 else ("p9",)
    if isinstance(value, str):
        return f"{value}!"
    return value + 1 if isinstance(value, int) else value / 2 or 0.1


def changes() -> list[tuple[str, str, Any]]:
    """Every input, and every field of every section."""
    single = [
        (name, "", other(KNOWN[name])) for name in ("cohort", "lake_version", "labels_version", "original", "holdout")
    ]
    sections = [
        (name, field.name, replace(KNOWN[name], **{field.name: other(getattr(KNOWN[name], field.name), field.name)}))
        for name in ("data", "quality", "finetune")
        for field in fields(KNOWN[name])
    ]
    return single + sections


@pytest.mark.parametrize(("name", "field", "value"), changes())
def test_everything_that_decides_the_result_is_in_the_key(name: str, field: str, value: Any) -> None:
    same = field in WHERE and name == "finetune"
    assert (run_key(**{**KNOWN, name: value}) == run_key(**KNOWN)) == same


@pytest.mark.parametrize(("name", "field", "value"), [each for each in changes() if each[1] and each[1] not in WHERE])
def test_which_setting_has_changed_is_said_even_after_json(name: str, field: str, value: Any) -> None:
    sections = {each: KNOWN[each] for each in ("data", "quality", "finetune")}
    before = json.loads(json.dumps(decisive(**sections)))
    assert changed(before, decisive(**sections)) == []
    (said,) = changed(before, decisive(**{**sections, name: value}))
    assert said.startswith(f"[{name}] {field} (")
    assert ", now " in said


def test_another_version_of_the_code_is_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    sections = {each: KNOWN[each] for each in ("data", "quality", "finetune")}
    monkeypatch.setattr(runkey, "RECIPE", 4)
    monkeypatch.setattr(runkey, "ASKED_RECIPE", 2)
    monkeypatch.setattr(runkey, "FILTER_RECIPE", 7)
    before = decisive(**sections)
    monkeypatch.setattr(runkey, "RECIPE", 5)
    assert changed(before, decisive(**sections)) == ["the version of sensorloop (recipe 4.2.7, now 5.2.7)"]
    monkeypatch.setattr(runkey, "ASKED_RECIPE", 3)
    monkeypatch.setattr(runkey, "FILTER_RECIPE", 8)
    assert changed(before, decisive(**sections)) == ["the version of sensorloop (recipe 4.2.7, now 5.3.8)"]
    assert changed({**before, "recipe": 4}, decisive(**sections)) == [
        "the version of sensorloop (recipe 4, now 5.3.8)"
    ], "as it was said before what asks and FilterLoss had versions of their own"


def test_values_are_said_so_that_they_can_be_read() -> None:
    sections = {each: KNOWN[each] for each in ("data", "quality", "finetune")}
    people = replace(KNOWN["data"], holdout_subjects=tuple(f"Zoë{n}" for n in range(90)), verified_by=("Jürgen",))
    named, verified = changed(decisive(**sections), decisive(**{**sections, "data": people}))
    assert named.startswith('[data] holdout_subjects ([], now ["Zoë0", "Zoë1", ')
    assert named.endswith(" …)")
    assert len(named) < 150
    assert verified == '[data] verified_by ([], now ["Jürgen"])'


def test_no_two_of_them_are_alike() -> None:
    keys = [run_key(**{**KNOWN, name: value}) for name, field, value in changes() if field not in WHERE]
    assert len(set(keys)) == len(keys)


def test_a_key_is_short_and_stays_the_same() -> None:
    key = run_key(**KNOWN)
    assert key == run_key(**KNOWN)
    assert len(key) == 16
    assert set(key) <= set("0123456789abcdef")


def test_without_labels_that_came_later_nothing_is_said_of_them() -> None:
    """So runs from before there was a table of labels keep their keys."""
    bare = {name: value for name, value in KNOWN.items() if name != "labels_version"}
    assert run_key(**bare) == run_key(**bare, labels_version=None) != run_key(**KNOWN)


def test_nobody_verified_is_as_before_there_was_such_a_thing_and_their_order_is_none() -> None:
    assert "verified_by" not in DataSettings().recipe()
    assert DataSettings(verified_by=("bo", "ana")).recipe() == DataSettings(verified_by=("ana", "bo")).recipe()
