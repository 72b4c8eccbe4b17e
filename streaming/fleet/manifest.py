"""``fleet.json``, beside a fleet's recordings: who took part, and the truth about every session."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from streaming.errors import RecordingError

MANIFEST = "fleet.json"
"""Name of the file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FleetPerson:
    """One person and their phone."""

    subject_id: str
    """Who."""
    careful: bool
    """All labels of this person are right."""
    device_id: str
    """The phone."""
    phone_model: str
    """What kind of phone."""
    clock_offset_ns: int
    """The phone's clock minus the true time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FleetSession:
    """One session, as it was and as it was labelled."""

    file: str
    """Its recording, relative to the manifest."""
    device_id: str
    """The phone."""
    session_id: str
    """Names the session among those of its device."""
    subject_id: str
    """Who."""
    careful: bool
    """Labelled by a careful person."""
    position: str
    """Where the phone was carried."""
    true_scene: str
    """What was done."""
    scene: str
    """What the label says, in the recording and in Kafka."""
    seconds: float
    """Length."""
    samples: Mapping[str, int]
    """Sensor → samples recorded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FleetManifest:
    """What was simulated."""

    cohort: str
    """Which fleet."""
    seed: int
    """Its seed."""
    people: tuple[FleetPerson, ...]
    """Everybody."""
    sessions: tuple[FleetSession, ...]
    """Every session, in the order of person and time."""

    @property
    def samples(self) -> dict[str, int]:
        """Sensor → samples recorded in all sessions."""
        totals: dict[str, int] = {}
        for session in self.sessions:
            for sensor, count in session.samples.items():
                totals[sensor] = totals.get(sensor, 0) + count
        return totals

    @property
    def careful_subjects(self) -> frozenset[str]:
        """The people whose labels are all right: the fleet owner's holdout."""
        return frozenset(person.subject_id for person in self.people if person.careful)


def write_manifest(directory: Path, manifest: FleetManifest) -> None:
    """Write ``fleet.json`` into the folder of the recordings."""
    text = json.dumps(asdict(manifest), indent=1, ensure_ascii=False)
    (directory / MANIFEST).write_text(text + "\n", encoding="utf-8")


def read_manifest(directory: Path) -> FleetManifest:
    """Read ``fleet.json`` of a folder of recordings.

    Raises:
        RecordingError: it is missing, or is not what :func:`write_manifest` writes.
    """
    path = directory / MANIFEST
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        people = tuple(FleetPerson(**person) for person in content.pop("people"))
        sessions = tuple(FleetSession(**session) for session in content.pop("sessions"))
        return FleetManifest(people=people, sessions=sessions, **content)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        msg = f"{path}: not a readable account of a simulated fleet: {error!r}"
        raise RecordingError(msg) from error
