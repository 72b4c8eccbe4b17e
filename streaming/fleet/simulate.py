"""A fleet's days: who did what when, how it was labelled, and what the phones recorded of it.

Every person, phone and session draws from a random generator of its own, named by the fleet's seed and its number, so that
one more session or sensor changes nothing elsewhere.
"""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path

import numpy as np

from streaming.errors import RecordingError
from streaming.fleet.manifest import MANIFEST, FleetManifest, FleetPerson, FleetSession, write_manifest
from streaming.fleet.motion import carried
from streaming.fleet.people import POSITIONS, Person, draw_person
from streaming.fleet.phones import MODELS, Phone, draw_phone, measure
from streaming.fleet.populations import AWAY, HOME, Population, blend
from streaming.fleet.scenes import SCENES, motion
from streaming.fleet.settings import FleetSettings
from streaming.recording import Recording, write_recording

_SECOND_NS = 1_000_000_000
_DAY_S = 86_400
_PAUSE_S = (120.0, 1500.0)
_FEWEST_PEOPLE = 3
_SHORTEST_S = 12.0


class _Draw(IntEnum):
    """What a random generator is for."""

    PERSON = 1
    PHONE = 2
    PLAN = 3
    LABELS = 4
    SESSION = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class _Session:
    """A session as planned."""

    person: int
    scene: str
    seconds: float
    label: str = ""
    start_ns: int = 0


def simulate(
    settings: FleetSettings, directory: Path, *, progress: Callable[[int, int], None] | None = None
) -> FleetManifest:
    """Write one recording per session, and ``fleet.json``; the folder appears when all of it is there.

    Args:
        settings: the fleet.
        directory: where to; a fleet that is there already is replaced.
        progress: called with the number of sessions written and their total.

    Raises:
        RecordingError: the folder holds something that is no simulated fleet, or cannot be written.
    """
    try:
        return _simulate(settings, directory, progress)
    except OSError as error:
        msg = f"{directory}: recordings cannot be written there: {error}. Name a folder that can be made or written."
        raise RecordingError(msg) from error


def _simulate(settings: FleetSettings, directory: Path, progress: Callable[[int, int], None] | None) -> FleetManifest:
    if directory.exists() and any(directory.iterdir()) and not (directory / MANIFEST).exists():
        msg = f"{directory}: holds files that are no simulated fleet; choose an empty folder"
        raise RecordingError(msg)
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    population = blend(HOME, AWAY, settings.shift)
    people = [draw_person(population.traits, _rng(settings, _Draw.PERSON, index)) for index in range(settings.people)]
    phones = _phones(settings, population)
    plan = _plan(settings)
    sessions = []
    for number, session in enumerate(plan):
        sessions.append(_record(settings, population, people, phones, session, number, partial))
        if progress is not None:
            progress(number + 1, len(plan))
    manifest = FleetManifest(
        cohort=settings.cohort,
        seed=settings.seed,
        people=tuple(
            FleetPerson(
                subject_id=_subject(settings, index),
                careful=index < settings.careful_people,
                device_id=_device(settings, index),
                phone_model=phone.model.name,
                clock_offset_ns=phone.clock_offset_ns,
            )
            for index, phone in enumerate(phones)
        ),
        sessions=tuple(sessions),
    )
    write_manifest(partial, manifest)
    shutil.rmtree(directory, ignore_errors=True)
    partial.rename(directory)
    return manifest


def _phones(settings: FleetSettings, population: Population) -> list[Phone]:
    """Each person's phone; shares are kept to as nearly as the number of people allows."""
    shares = dict.fromkeys(settings.phone_models, 1.0) or population.phone_models
    names = _spread(shares, settings.people, _rng(settings, _Draw.PHONE, settings.people))
    offset_s = settings.clock_offset.total_seconds()
    return [draw_phone(MODELS[name], offset_s, _rng(settings, _Draw.PHONE, index)) for index, name in enumerate(names)]


def _plan(settings: FleetSettings) -> list[_Session]:
    """Every session with its scene, label, time and length, by person and time."""
    careful = range(settings.careful_people)
    others = range(settings.careful_people, settings.people)
    rng = _rng(settings, _Draw.PLAN, 0)
    per_scene, usual = settings.per_scene.total_seconds(), settings.session.total_seconds()
    shortest = min(usual, _SHORTEST_S)  # of a small fleet's rare scenes, still some windows
    sessions = []
    for person in careful:
        for scene in SCENES:
            count = max(1, round(per_scene / usual))
            sessions += [_Session(person=person, scene=scene, seconds=max(shortest, per_scene / count))] * count
    weights = sum(settings.scene_balance.values())
    for scene, weight in settings.scene_balance.items():
        total = per_scene * len(SCENES) * len(others) * weight / weights
        # Of a rare scene, a few people have little each: a scene that one person has cannot be split by subject.
        count = max(min(_FEWEST_PEOPLE, len(others)), round(total / usual)) if total else 0
        turns = np.concatenate([rng.permutation(others) for _ in range(1 + count // max(1, len(others)))])
        seconds = max(shortest, total / max(1, count))
        sessions += [_Session(person=int(turns[turn]), scene=scene, seconds=seconds) for turn in range(count)]
    planned = []
    for person in range(settings.people):
        own = [session for session in sessions if session.person == person]
        planned += _timed(settings, [own[index] for index in rng.permutation(len(own))], rng)
    return _labelled(settings, planned)


def _timed(settings: FleetSettings, sessions: list[_Session], rng: np.random.Generator) -> list[_Session]:
    """One after the other, with pauses between, over the days; lengths vary by a quarter."""
    per_day = -(-len(sessions) // settings.days)
    begin_ns = round(settings.start.timestamp()) * _SECOND_NS
    timed: list[_Session] = []
    for index, session in enumerate(sessions):
        if index % per_day == 0:
            clock_s = index // per_day * _DAY_S + rng.uniform(0, 3600)
        seconds = float(max(1, round(session.seconds * rng.uniform(0.75, 1.25))))
        timed.append(replace(session, seconds=seconds, start_ns=begin_ns + round(clock_s * 1e6) * 1_000))
        clock_s += seconds + rng.uniform(*_PAUSE_S)
    return timed


def _labelled(settings: FleetSettings, sessions: list[_Session]) -> list[_Session]:
    """Right labels, but for the chosen share of the careless people's sessions."""
    rng = _rng(settings, _Draw.LABELS, 0)
    careless = [index for index, session in enumerate(sessions) if session.person >= settings.careful_people]
    wrong = rng.permutation(careless)[: round(settings.wrong_labels * len(careless))]
    labels = [session.scene for session in sessions]
    scenes = sorted(scene for scene, weight in settings.scene_balance.items() if weight > 0)
    for turn, index in enumerate(int(index) for index in wrong):
        session = sessions[index]
        before = sessions[index - 1] if index and sessions[index - 1].person == session.person else session
        forgotten = turn % 2 == 0 and before.scene != session.scene
        others = [scene for scene in scenes if scene != session.scene]
        labels[index] = before.scene if forgotten else str(rng.choice(others or [session.scene]))
    return [replace(session, label=label) for session, label in zip(sessions, labels, strict=True)]


def _record(
    settings: FleetSettings,
    population: Population,
    people: list[Person],
    phones: list[Phone],
    session: _Session,
    number: int,
    directory: Path,
) -> FleetSession:
    rng = _rng(settings, _Draw.SESSION, number)
    shares = dict.fromkeys(settings.positions, 1.0) or population.positions
    position = POSITIONS[str(rng.choice(list(shares), p=np.array(list(shares.values())) / sum(shares.values())))]
    person, phone = people[session.person], phones[session.person]
    done = motion(
        session.scene, person=person, position=position, place=population.place, seconds=session.seconds, rng=rng
    )
    truth = carried(done, person=person, position=position, start_ns=session.start_ns, rng=rng)
    recording = Recording(
        device_id=_device(settings, session.person),
        subject_id=_subject(settings, session.person),
        session_id=f"s{number:04d}",
        phone_model=phone.model.name,
        position=position.name,
        cohort=settings.cohort,
        scene=session.label,
        samples=measure(
            phone, truth, sensors=settings.sensors, dropouts_per_minute=settings.dropouts_per_minute, rng=rng
        ),
    )
    file = f"{recording.device_id}_{recording.session_id}.parquet"
    write_recording(directory / file, recording)
    return FleetSession(
        file=file,
        device_id=recording.device_id,
        session_id=recording.session_id,
        subject_id=recording.subject_id,
        careful=session.person < settings.careful_people,
        position=position.name,
        true_scene=session.scene,
        scene=session.label,
        seconds=session.seconds,
        samples={name: len(samples.time_ns) for name, samples in recording.samples.items()},
    )


def _spread(shares: Mapping[str, float], count: int, rng: np.random.Generator) -> list[str]:
    """``count`` names in these shares, in random order (largest remainders get what rounding leaves)."""
    names = list(shares)
    exact = np.array([shares[name] for name in names]) * count / sum(shares.values())
    numbers = np.floor(exact).astype(int)
    numbers[np.argsort(numbers - exact, kind="stable")[: count - numbers.sum()]] += 1
    return [names[index] for index in rng.permutation(np.repeat(np.arange(len(names)), numbers))]


def _rng(settings: FleetSettings, draw: _Draw, number: int) -> np.random.Generator:
    return np.random.default_rng([settings.seed, zlib.crc32(settings.cohort.encode()), int(draw), number])


def _subject(settings: FleetSettings, person: int) -> str:
    return f"{settings.cohort}-{settings.seed}-p{person:02d}"


def _device(settings: FleetSettings, person: int) -> str:
    return f"{settings.cohort}-{settings.seed}-d{person:02d}"
