"""What there is to do, by the lake and by the runs that came to their end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dags import retraining, runs, scoring, steps, work
from dags.settings import Settings
from streaming.lake import write_quality
from streaming.tables import QUALITY_SCHEMA
from tests.dags.places import Place, make
from tests.fixtures.tracking import own_tracking_uri
from tests.training.lakes import of_people
from tests.training.made import windows
from training.dataset import WindowSet
from training.errors import DataError, SettingsError
from training.saved import CONFIG, read_config
from training.tracking import no_progress

OWN = "[retrain]\nown_windows = 20"


@pytest.fixture
def place(tmp_path: Path, empty_database: Path, trained: tuple[Place, dict[str, Any]]) -> Any:
    """An installation of the test's own, with the session's original model."""
    with own_tracking_uri():
        made = make(tmp_path / "home", empty_database)
        made.settings().original_folder.symlink_to(trained[0].settings().original_folder)
        yield made


def learn(settings: Settings, pin: work.Pin, *, ends: bool = True) -> str:
    """Stands for a retraining: a run that has scored what was pinned, and has come to its end or has not. Returns its key."""
    key = f"{len(list(settings.runs.glob('*'))):016x}"
    found = steps.load_windows(settings, cohort=pin.cohort, version=pin.lake_version, labels_version=pin.labels_version)
    count = len(found)
    columns: dict[str, Any] = {
        "run_key": [key] * count, "window_id": found.window_ids.tolist(),
        "label": [found.scene_names[scene] for scene in found.scenes], "subject_id": found.subjects.tolist(),
        **{name: np.ones(count, np.float32) for name in ("margin", "neighbours", "original", "physical", "belief", "score")},
        "tier": np.zeros(count, np.int16), "reasons": [""] * count, "model": ["m"] * count,
        "lake_version": [pin.lake_version] * count, "labels_version": [pin.labels_version] * count,
    }  # fmt: skip
    arrays = [pa.array(columns.get(f.name, [None] * count), f.type) for f in QUALITY_SCHEMA]
    write_quality(settings.lake, pa.table(arrays, schema=QUALITY_SCHEMA))
    folder = settings.runs / key
    folder.mkdir(parents=True)
    (folder / runs.RUN).write_text(json.dumps({"cohort": pin.cohort}), encoding="utf-8")
    if ends:
        runs.judge(folder, "filterloss", passed=True)
    return key


def there_is(settings: Settings, *cohorts: str, least: int = 1, force: bool = False) -> tuple[list[str], Sequence[str]]:
    found = work.work(settings, cohorts or ("target",), min_windows=least, force=force)
    return [pin.cohort for pin in found.pins], found.lacking


def test_what_a_run_has_seen_stays_new_until_it_has_come_to_its_end(place: Place) -> None:
    """A fine-tuning that fails for good must be asked for again: with the rescoring's word alone it never was."""
    settings = place.settings()
    done = retraining.rescore(settings, cohort="target", lake_version=None, seed=0, progress=no_progress)
    assert work.pin(settings, "target").fresh == 108, "scored, but nobody has learned from it"
    again = retraining.rescore(settings, cohort="target", lake_version=None, seed=0, progress=no_progress)
    assert again["run_key"] == done["run_key"], "and asked for again, it is the same run"
    runs.judge(settings.runs / done["run_key"], "filterloss", passed=False)
    assert work.pin(settings, "target").fresh == 0, "a refusal is an end"


def test_too_little_says_how_much_is_missing_and_force_does_not_ask(place: Place) -> None:
    settings = place.settings()
    assert there_is(settings, least=108) == (["target"], ())
    lacking = ("108 labelled windows of cohort 'target' are new; 92 more are needed.",)
    assert there_is(settings, least=200) == ([], lacking)
    assert there_is(settings, least=200, force=True) == (["target"], ())


def test_one_cohorts_run_is_not_anothers(place: Place) -> None:
    settings = place.settings()
    learn(settings, work.pin(settings, "target"))
    assert there_is(settings, "target", "source") == (
        ["source"], ("0 labelled windows of cohort 'target' are new; 1 more are needed.",)
    )  # fmt: skip


ARRIVALS = tuple(of_people(name, windows(people=1, each=2, seed=seed)) for seed, name in enumerate("abc"))


@pytest.mark.parametrize(
    "story",
    [
        "a! b! c!",  # an event for each arrival
        "a! ! b!!! c!!",  # doubled
        "a b c!",  # merged, or all but the last one lost
        "! a b! c !",  # early, late
        "a!x b c! !",  # a retraining fails on its way
        "a!x b!x c!x !",  # each but the last
    ],
)
def test_events_lost_doubled_merged_or_late_come_to_the_same(place: Place, story: str) -> None:
    """``!`` wakes; ``!x`` wakes a retraining that fails. In the end everything has been learned from, no version of the lake twice."""
    settings, ended = place.settings(), []
    for at, letter in enumerate(story):
        if letter in "abc":
            place.publish(ARRIVALS["abc".index(letter)], cohort="story")
        elif letter == "!":
            for pin in work.work(settings, ["story"], min_windows=1).pins:
                fails = story[at + 1 :].startswith("x")
                learn(settings, pin, ends=not fails)
                ended += [] if fails else [pin.lake_version]
    assert work.pin(settings, "story").fresh == 0
    assert ended == sorted(set(ended)), "no version of the lake twice"
    assert work.pin(settings, "story").labelled == sum(map(len, ARRIVALS))


def with_days(made: WindowSet, days: int) -> WindowSet:
    """The same windows, spread over so many days, a session each."""
    day = np.arange(len(made)) % days
    return replace(made, start_ns=made.start_ns + day * 86_400 * 10**9)


def test_every_part_that_has_data_enough_has_a_model_of_its_own(place: Place) -> None:
    settings = place.settings(OWN)
    place.publish(of_people("pixel", windows(people=4, each=3)), phone="Pixel 8", cohort="city")
    place.publish(of_people("alone", windows(people=1, each=9)), phone="One 2", cohort="city")
    place.publish(of_people("few", windows(people=3, each=1)), phone="Few", cohort="city")
    cohorts, lacking = there_is(settings, "city", "city/phone_model=*", "city/phone_model=Pixel 8")
    assert cohorts == ["city", "city/phone_model=Pixel 8"]
    few, alone = lacking
    assert few == (
        "Cohort 'city/phone_model=Few' has no model of its own: 9 labelled windows, and [retrain] own_windows asks for 20. "
        "Everybody's serves it."
    )
    assert alone.startswith(
        "Cohort 'city/phone_model=One 2' has no model of its own: Too few people: 27 labelled windows"
    )
    cohorts, _ = there_is(settings, "city/subject_id=*")
    assert cohorts == ["city/subject_id=alone-p0"], "of one person, sessions are held out"
    assert there_is(settings, "city/phone_model=Few", force=True)[0] == [], "force makes no data"
    with pytest.raises(SettingsError, match="not by 'brand'"):
        there_is(settings, "city/brand=*")


def test_shards_are_the_days_of_a_fleet_with_windows_that_the_model_was_not_fed(place: Place, tmp_path: Path) -> None:
    settings = place.settings()
    version = place.publish(with_days(of_people("old", windows(people=2, each=2)), 3), cohort="city")

    def days(*cohorts: str) -> list[tuple[str, str]]:
        found = work.shards(settings, cohorts, version=version, labels_version=-1)
        assert {(shard["lake_version"], shard["labels_version"]) for shard in found} == {(version, -1)}
        return [(shard["fleet"], shard["day"]) for shard in found]

    old = [("city", f"1970-01-0{day}") for day in (1, 2, 3)]
    assert days("city") == days("city", "city/phone_model=made") == old
    scoring.embed_days(settings, cohort="city", lake_version=version, progress=no_progress)
    assert days("city") == old[-1:], "nothing is missing: one shard, so that Airflow has something to map over"
    version = place.publish(with_days(of_people("new", windows(people=1, each=1)), 2), cohort="city")
    assert days("city") == old[:2]
    with pytest.raises(DataError, match="No window of nowhere at lake version"):
        days("nowhere")
    assert days("target", "city") == [("target", "1970-01-01"), *old[:2]]
    learn(settings, work.pin(settings, "city"))
    another = shutil.copytree(settings.original_folder, tmp_path / "another")
    (another / CONFIG).write_text(json.dumps({**read_config(another), "digest": "another"}), encoding="utf-8")
    settings.original_folder.unlink()
    settings.original_folder.symlink_to(another)
    assert days("city") == old, "what was learned from is new to another model"


def test_the_model_of_a_cohort_has_a_name_of_its_own(place: Place) -> None:
    settings = place.settings('[retrain]\ncohorts = ["target", "berlin"]')
    usual = settings.registry.model_name
    assert steps.model_name(settings, "target") == steps.model_name(settings) == usual
    names = {
        steps.model_name(settings, each)
        for each in ("berlin", "a/b", "a:b", "target/phone_model=a/b", "target/phone_model=a.b")
    }
    assert len(names) == 5
    assert not any(character in name for name in names for character in "/:")
