from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from streaming.errors import RecordingError, SettingsError
from streaming.fleet import SCENES, FleetManifest, FleetSettings, read_manifest, simulate, source_fleet, target_fleet
from streaming.fleet.motion import GRAVITY, carried
from streaming.fleet.people import POSITIONS, Person, draw_person
from streaming.fleet.phones import MODELS, draw_phone, measure
from streaming.fleet.populations import AWAY, HOME, blend
from streaming.fleet.scenes import motion
from streaming.fleet.signals import GRID_HZ, bursts, knocks, low_pass, noise, resonance, slow, smooth, switched
from streaming.recording import read_recording, scan

START = 1_700_000_000_000_000_000
PERSON = Person(walk_hz=1.8, run_hz=2.8, cadence_hz=1.1, vigour=1.0, lameness=0.1, restlessness=1.0)
SMALL = FleetSettings(
    cohort="c", people=3, careful_people=1, per_scene=timedelta(seconds=12), session=timedelta(seconds=6),
    wrong_labels=0.25,
)  # fmt: skip


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FleetManifest]:
    folder = tmp_path_factory.mktemp("fleets") / "small"
    return folder, simulate(SMALL, folder)


def test_the_same_seed_gives_the_same_bytes(fleet: tuple[Path, FleetManifest], tmp_path: Path) -> None:
    simulate(SMALL, tmp_path / "again")
    assert digests(tmp_path / "again") == digests(fleet[0])


def test_another_seed_gives_other_people(fleet: tuple[Path, FleetManifest], tmp_path: Path) -> None:
    simulate(replace(SMALL, seed=2), tmp_path / "other")
    assert not set(digests(tmp_path / "other").values()) & set(digests(fleet[0]).values())


def test_the_manifest_says_what_is_there(fleet: tuple[Path, FleetManifest]) -> None:
    folder, manifest = fleet
    assert read_manifest(folder) == manifest
    found = {path.name: recording for path, recording in scan(folder)}
    assert set(found) == {session.file for session in manifest.sessions}
    for session in manifest.sessions:
        recording = found[session.file]
        assert not isinstance(recording, RecordingError), recording
        assert (recording.device_id, recording.session_id) == (session.device_id, session.session_id)
        assert (recording.subject_id, recording.position) == (session.subject_id, session.position)
        assert recording.scene == session.scene
        assert {name: len(s.time_ns) for name, s in recording.samples.items()} == dict(session.samples)
        assert (recording.end_ns - recording.start_ns) / 1e9 == pytest.approx(
            session.seconds, abs=0.2 * session.seconds
        )
        assert all((s.time_ns % 1000 == 0).all() for s in recording.samples.values())
    assert sum(manifest.samples.values()) == sum(r.size for r in found.values() if not isinstance(r, RecordingError))


def test_sessions_of_a_phone_follow_one_another(fleet: tuple[Path, FleetManifest]) -> None:
    folder, manifest = fleet
    for person in manifest.people:
        own = [read_recording(folder / s.file) for s in manifest.sessions if s.subject_id == person.subject_id]
        assert {recording.phone_model for recording in own} == {person.phone_model}
        ends = [recording.end_ns for recording in own]
        assert all(later.start_ns > end for end, later in zip(ends, own[1:], strict=False))
        true_start = own[0].start_ns - person.clock_offset_ns
        assert (
            timedelta(0) <= timedelta(microseconds=true_start // 1000) - _since_epoch(SMALL.start) < timedelta(hours=2)
        )


def _since_epoch(moment: datetime) -> timedelta:
    return timedelta(seconds=moment.timestamp())


def test_careful_people_cover_every_scene_rightly_and_the_others_do_not(tmp_path: Path) -> None:
    manifest = simulate(target_fleet(size=0.1), tmp_path / "target")
    careful = [session for session in manifest.sessions if session.careful]
    assert {session.subject_id for session in careful} == manifest.careful_subjects
    for subject in manifest.careful_subjects:
        assert {session.true_scene for session in careful if session.subject_id == subject} == set(SCENES)
    assert all(session.scene == session.true_scene for session in careful)
    others = [session for session in manifest.sessions if not session.careful]
    wrong = sum(session.scene != session.true_scene for session in others)
    assert wrong == round(0.2 * len(others))
    assert {session.true_scene for session in others} == set(SCENES)


def test_time_in_a_scene_follows_the_balance(tmp_path: Path) -> None:
    wanted = {"Still": 10.0, "Car": 5.0, "Run": 1.0}
    fleet_settings = FleetSettings(
        cohort="c", people=4, per_scene=timedelta(seconds=30), session=timedelta(seconds=10), scene_balance=wanted,
        sensors=("pressure",),
    )  # fmt: skip
    spent: Counter[str] = Counter()
    for session in simulate(fleet_settings, tmp_path / "fleet").sessions:
        spent[session.true_scene] += round(session.seconds)
    total = sum(spent.values())
    assert total == pytest.approx(4 * 8 * 30, rel=0.1)
    for scene, weight in wanted.items():
        assert spent[scene] / total == pytest.approx(weight / 16, rel=0.25)


def test_progress_is_told_and_an_older_fleet_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "fleet"
    simulate(replace(SMALL, people=4), folder)
    told: list[tuple[int, int]] = []
    manifest = simulate(SMALL, folder, progress=lambda done, total: told.append((done, total)))
    assert told == [(n + 1, len(manifest.sessions)) for n in range(len(manifest.sessions))]
    assert len(list(folder.glob("*.parquet"))) == len(manifest.sessions)
    assert [path.name for path in tmp_path.iterdir()] == ["fleet"]


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(RecordingError, match="no simulated fleet; choose an empty folder"):
        simulate(SMALL, tmp_path)
    assert (tmp_path / "thesis.txt").exists()


@pytest.mark.parametrize("content", ["", "{}", '{"people": [], "sessions": [{"file": "a"}]}', "[]"])
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "fleet.json").write_text(content)
    with pytest.raises(RecordingError, match=r"fleet\.json"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"people": 0}, {"careful_people": 13}, {"wrong_labels": 1.5}, {"shift": -0.1}, {"scene_balance": {}},
        {"scene_balance": {"Swim": 1.0}}, {"phone_models": ("Brick",)}, {"positions": ("nose",)}, {"sensors": ("taste",)},
        {"sensors": ()}, {"per_scene": timedelta(0)}, {"session": timedelta(0)}, {"dropouts_per_minute": -1.0},
        {"start": datetime(2024, 1, 1)}, {"days": 0}, {"seed": -1},  # noqa: DTZ001 - the missing time zone is the point
    ],
)  # fmt: skip
def test_settings_that_cannot_be(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        FleetSettings(cohort="c", **wrong)


def test_a_fleet_of_no_size_cannot_be() -> None:
    with pytest.raises(SettingsError, match="size = 0"):
        source_fleet(size=0)


def test_a_blend_lies_between_the_populations() -> None:
    assert blend(HOME, AWAY, 0.0) == HOME
    assert blend(HOME, AWAY, 1.0) == AWAY
    middle = blend(HOME, AWAY, 0.5)
    assert middle.positions == {"hips": 0.3, "torso": 0.2, "hand": 0.25, "bag": 0.25}
    assert middle.place.road == pytest.approx((HOME.place.road + AWAY.place.road) / 2)


# What phones do.


@cache
def ideal(scene: str, seconds: float, *, position: str = "hips", seed: int = 0) -> dict[str, NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    where = POSITIONS[position]
    done = motion(scene, person=PERSON, position=where, place=HOME.place, seconds=seconds, rng=rng)
    return dict(carried(done, person=PERSON, position=where, start_ns=START, rng=rng).signals)


@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize("seed", [0, 1])
def test_a_phone_keeps_its_rates_and_its_clock(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    phone = draw_phone(MODELS[name], 3600, rng)
    where = POSITIONS["hips"]
    done = motion("Walk", person=PERSON, position=where, place=HOME.place, seconds=20, rng=rng)
    truth = carried(done, person=PERSON, position=where, start_ns=START, rng=rng)
    sensors = ("accelerometer", "magnetometer", "pressure")
    recorded = measure(phone, truth, sensors=sensors, dropouts_per_minute=0, rng=rng)
    assert set(recorded) == {sensor for sensor in sensors if sensor in MODELS[name].sensors}
    assert abs(phone.clock_offset_ns) <= 3600 * 10**9
    for sensor, (time_ns, values) in recorded.items():
        rate = MODELS[name].sensors[sensor].rate_hz
        steps = np.diff(time_ns)
        assert len(time_ns) == pytest.approx(20 * rate, abs=1)
        assert steps.min() > 0
        assert steps.mean() == pytest.approx(1e9 / rate, rel=1e-2)
        assert (len(np.unique(steps)) == 1) == (MODELS[name].jitter == 0)
        assert abs(int(time_ns[0]) - phone.clock_offset_ns - START) < 2e9 / rate
        assert np.isfinite(values).all()
    size = np.linalg.norm(recorded["accelerometer"].values, axis=1)
    assert size.mean() == pytest.approx(GRAVITY * MODELS[name].gain, rel=0.15)


def test_drop_outs_leave_gaps() -> None:
    rng = np.random.default_rng(3)
    phone = draw_phone(MODELS["Aster 9"], 0, rng)
    where = POSITIONS["bag"]
    done = motion("Still", person=PERSON, position=where, place=HOME.place, seconds=120, rng=rng)
    truth = carried(done, person=PERSON, position=where, start_ns=START, rng=rng)
    gaps = {}
    for rate in (0, 6):
        recorded = measure(phone, truth, sensors=("accelerometer",), dropouts_per_minute=rate, rng=rng)
        gaps[rate] = np.diff(recorded["accelerometer"].time_ns) / 1e9
    assert gaps[0].max() < 0.011
    assert 0.05 < gaps[6].max() < 6
    assert (gaps[6] > 0.04).sum() >= 6


# What scenes are like.


def peak_hz(signal: NDArray[np.float64], low: float, high: float) -> float:
    spectrum = np.abs(np.fft.rfft((signal - signal.mean()) * np.hanning(len(signal))))
    frequencies = np.fft.rfftfreq(len(signal), 1 / GRID_HZ)
    spectrum[(frequencies < low) | (frequencies > high)] = 0
    return float(frequencies[np.argmax(spectrum)])


def size_of(signals: dict[str, NDArray[np.float64]], sensor: str) -> NDArray[np.float64]:
    return np.asarray(np.linalg.norm(signals[sensor], axis=1))


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("position", sorted(POSITIONS))
def test_every_scene_has_gravity_a_field_and_air(scene: str, position: str) -> None:
    signals = ideal(scene, 60, position=position)
    assert size_of(signals, "accelerometer").mean() == pytest.approx(GRAVITY, rel=0.25)
    assert 15 < size_of(signals, "magnetometer").mean() < 110
    assert 970 < signals["pressure"].mean() < 1060
    assert all(len(signal) == 60 * GRID_HZ and np.isfinite(signal).all() for signal in signals.values())


def test_an_unknown_scene_is_no_scene() -> None:
    with pytest.raises(KeyError):
        ideal("Swim", 10)


@pytest.mark.parametrize(("scene", "step_hz"), [("Walk", PERSON.walk_hz), ("Run", PERSON.run_hz)])
def test_steps_come_at_the_persons_own_rate(scene: str, step_hz: float) -> None:
    size = size_of(ideal(scene, 40, position="torso"), "accelerometer")
    assert peak_hz(size, 1.0, 4.0) == pytest.approx(step_hz, rel=0.12)


def test_a_thigh_turns_with_the_pedals() -> None:
    turning = ideal("Bike", 60)["gyroscope"]
    axis = turning[:, np.argmax(turning.std(axis=0))]
    assert peak_hz(axis, 0.5, 2.0) == pytest.approx(PERSON.cadence_hz, rel=0.2)


def strength(scene: str, sensor: str, low: float, high: float) -> float:
    """Median over sessions of the root mean square in a band, of the size of the vector."""
    found = []
    for seed in range(8):
        size = size_of(ideal(scene, 40, seed=seed, position="torso"), sensor)
        spectrum = np.fft.rfft(size - size.mean())
        frequencies = np.fft.rfftfreq(len(size), 1 / GRID_HZ)
        spectrum[(frequencies < low) | (frequencies > high)] = 0
        found.append(np.std(np.fft.irfft(spectrum)))
    return float(np.median(found))


def test_scenes_differ_as_they_do_in_life() -> None:
    shaking = {scene: strength(scene, "accelerometer", 0.5, 40) for scene in SCENES}
    assert shaking["Still"] < shaking["Train"] < shaking["Car"] < shaking["Bus"] < shaking["Walk"] < shaking["Run"]
    assert shaking["Run"] > 4
    assert shaking["Still"] < 0.15
    engine = {scene: strength(scene, "accelerometer", 18, 45) for scene in SCENES}
    assert engine["Bus"] > 2 * engine["Train"]
    current = {scene: strength(scene, "magnetometer", 0.1, 2) for scene in SCENES}
    assert current["Subway"] > 2 * current["Car"]
    assert current["Subway"] > 2 * current["Still"]
    railway = {scene: strength(scene, "magnetometer", 16, 17.5) for scene in SCENES}
    assert railway["Train"] > 5 * max(railway["Still"], railway["Car"], railway["Subway"])


def test_pressure_moves_in_a_subway_and_rests_in_a_chair() -> None:
    ranges = {s: np.median([np.ptp(ideal(s, 40, seed=n)["pressure"]) for n in range(8)]) for s in ("Still", "Subway")}
    assert ranges["Still"] < 0.05
    assert ranges["Subway"] > 0.4


def test_a_bag_takes_high_frequencies_away() -> None:
    def fine(position: str) -> float:
        return float(np.std(np.diff(size_of(ideal("Walk", 30, position=position), "accelerometer"))))

    assert fine("bag") < 0.7 * fine("hips")


def test_people_of_a_population_differ_within_bounds() -> None:
    people = [draw_person(AWAY.traits, np.random.default_rng(n)) for n in range(50)]
    rates = [person.walk_hz for person in people]
    mean, deviation = AWAY.traits.walk_hz
    assert len(set(rates)) == 50
    assert max(abs(rate - mean) for rate in rates) <= 2 * deviation


# The building blocks.


@settings(max_examples=25, deadline=None)
@given(st.integers(100, 3000), st.floats(0.5, 40), st.integers(0, 99))
def test_noise_has_unit_size_whatever_its_spectrum(half: int, hz: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    made = noise(rng, 2 * half, resonance(hz, 0.5), axes=64)
    assert made.shape == (2 * half, 64)
    assert np.sqrt((made**2).mean()) == pytest.approx(1.0, abs=0.25)


def test_blocks_keep_length_and_range() -> None:
    rng = np.random.default_rng(0)
    for envelope in (bursts(rng, 5000, 60, (0.5, 2.0)), switched(rng, 5000, 2.0, 1.0, 0.5), smooth(np.ones(5000), 1.0)):
        assert envelope.shape == (5000,)
        assert envelope.min() >= 0
        assert envelope.max() <= 1 + 1e-9
        assert envelope.max() > 0.5
    knock = knocks(np.array([100, 4999, 6000]), 5000, ring_hz=10, decay_s=0.1)
    assert knock[:100].max() == 0
    assert 0.5 < knock[100:200].max() <= 1
    both = noise(rng, 4000, slow(1.0), axes=2) + np.sin(2 * np.pi * 60 * np.arange(4000) / GRID_HZ)[:, None]
    assert np.std(np.diff(low_pass(both, 5.0), axis=0)) < 0.1 * np.std(np.diff(both, axis=0))


# The shift.


def features(folder: Path) -> tuple[NDArray[np.float64], NDArray[np.str_], NDArray[np.str_], NDArray[np.bool_]]:
    """A dozen figures of each 5 s: log strength of acceleration, rotation and field in bands."""
    edges = [0.3, 0.8, 1.4, 2.1, 3.2, 6, 12, 20, 40]
    frequencies = np.fft.rfftfreq(500, 0.01)
    rows, truth, labels, careful = [], [], [], []
    for session in read_manifest(folder).sessions:
        recording = read_recording(folder / session.file)
        grid = np.arange(recording.start_ns, recording.end_ns, 10_000_000)
        windows = []
        for sensor in ("accelerometer", "gyroscope", "magnetometer"):
            time_ns, values = recording.samples[sensor]
            size = np.linalg.norm([np.interp(grid, time_ns, axis) for axis in values.T], axis=0)
            cut = np.lib.stride_tricks.sliding_window_view(size, 500)[::250]
            power = np.abs(np.fft.rfft((cut - cut.mean(axis=1, keepdims=True)) * np.hanning(500), axis=1)) ** 2
            bands = [(frequencies >= low) & (frequencies < high) for low, high in pairwise(edges)]
            windows.append(np.log10(np.stack([power[:, band].mean(axis=1) for band in bands], axis=1) + 1e-4))
        rows.append(np.concatenate(windows, axis=1))
        truth += [session.true_scene] * len(rows[-1])
        labels += [session.scene] * len(rows[-1])
        careful += [session.careful] * len(rows[-1])
    return np.concatenate(rows), np.array(truth), np.array(labels), np.array(careful)


def test_the_target_is_hard_for_a_model_of_the_source_but_can_be_learned(tmp_path: Path) -> None:
    source, other = tmp_path / "source", tmp_path / "other"
    simulate(source_fleet(size=0.12), source)
    simulate(replace(source_fleet(size=0.08, seed=2), cohort="other"), other)
    target = tmp_path / "target"
    simulate(target_fleet(size=0.25), target)
    (x, y, _, _), (x_other, y_other, _, _), (x_target, y_target, _, held) = map(features, (source, other, target))

    def model() -> object:
        return make_pipeline(StandardScaler(), LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1))

    at_home = model().fit(x, y)
    home = at_home.score(x_other, y_other)
    away = at_home.score(x_target[held], y_target[held])
    learned = model().fit(x_target[~held], y_target[~held]).score(x_target[held], y_target[held])
    assert home > 0.8
    assert away < home - 0.15
    assert learned > away + 0.05
