"""Published data sets as recordings.

    report = import_dataset("hapt", Path("HAPT Data Set"), Path("recordings/hapt"), cohort="target")

A module a format; ``docs/data.md`` has the layouts, the decisions and the recording's schema. The same input gives the
same files, byte for byte.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType

from streaming.errors import ImporterError
from streaming.importers.dataset import (
    Findings,
    Format,
    ImportOptions,
    ImportReport,
    Refusal,
    Segment,
    Session,
)
from streaming.importers.hapt import HAPT
from streaming.importers.motionsense import MOTIONSENSE
from streaming.importers.qrowd import QROWD
from streaming.importers.shl2018 import SHL2018
from streaming.importers.tmd import TMD
from streaming.recording import Recording, Samples, write_recording
from streaming.sensors import SENSORS

__all__ = ["FORMATS", "Format", "ImportOptions", "ImportReport", "Refusal", "import_dataset"]

FORMATS = MappingProxyType({one.name: one for one in (SHL2018, MOTIONSENSE, HAPT, TMD, QROWD)})
"""Every format that can be imported, by name."""

_NS_A_MINUTE = 60 * 10**9


def import_dataset(
    format_name: str,
    source: Path,
    dest: Path,
    *,
    cohort: str,
    options: ImportOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ImportReport:
    """Turn a published data set into recordings, ``dest/<subject_id>/<session_id>.parquet``.

    A line or a file that cannot be used is refused and the rest is imported; every recording is written whole or not at
    all, so an import that was interrupted is repeated by calling this again.

    Args:
        format_name: one of :data:`FORMATS`.
        source: folder of the unpacked data set, or one above it.
        dest: folder for the recordings; made if it is not there, files of the same name are replaced.
        cohort: goes into every recording: ``source``, ``target``, …
        options: what to take; everything by default.
        progress: called with (sessions done, sessions in all), first with 0 done.

    Raises:
        ImporterError: the format or an option is unknown, the folder has another layout than expected, or nothing in
            it could be used.
        RecordingError: a recording cannot be written.
    """
    chosen = options or ImportOptions()
    one = _format(format_name)
    _check(chosen)
    findings = Findings()
    sessions = _choose(one.sessions(source, chosen, findings), chosen)
    subjects: set[str] = set()
    minutes: defaultdict[str, float] = defaultdict(float)
    written = samples = 0
    for done, session in enumerate(sessions):
        if progress:
            progress(done, len(sessions))
        for recording in _recordings(one, session, cohort, chosen, findings):
            write_recording(dest / recording.subject_id / f"{recording.session_id}.parquet", recording)
            written += 1
            samples += recording.size
            subjects.add(recording.subject_id)
            minutes[str(recording.scene)] += (recording.end_ns - recording.start_ns) / _NS_A_MINUTE
    if not written:
        said = "; ".join(f"{refusal.file}: {refusal.reason}" for refusal in findings.refused[:3])
        msg = f"{source}: no recording of {one.name} could be made: {said or 'it has none of the sensors asked for'}"
        raise ImporterError(msg)
    if progress:
        progress(len(sessions), len(sessions))
    return ImportReport(
        written=written,
        samples=samples,
        sessions=len(sessions),
        subjects=tuple(sorted(subjects)),
        minutes=MappingProxyType(dict(sorted(minutes.items()))),
        refused=tuple(findings.refused),
        notes=MappingProxyType(dict(sorted(findings.notes.items()))),
    )


def _format(name: str) -> Format:
    if name in FORMATS:
        return FORMATS[name]
    near = get_close_matches(name, FORMATS, n=1, cutoff=0.5)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    msg = f"unknown format '{name}'; known: {', '.join(FORMATS)}{hint}"
    raise ImporterError(msg)


def _check(options: ImportOptions) -> None:
    for name in ("every_subject", "limit", "blocks"):
        value = getattr(options, name)
        if value is not None and value < 1:
            msg = f"{name} must be at least 1, it is {value}"
            raise ImporterError(msg)
    for sensor in options.sensors or ():
        if sensor not in SENSORS:
            msg = f"sensors: unknown sensor '{sensor}'; known: {', '.join(SENSORS)}"
            raise ImporterError(msg)


def _choose(sessions: list[Session], options: ImportOptions) -> list[Session]:
    """The sessions to read; they keep the times that they have among all."""
    by_subject: dict[str, list[Session]] = {}
    for session in sessions:
        by_subject.setdefault(session.subject, []).append(session)
    chosen: list[Session] = []
    for subject in sorted(by_subject)[:: options.every_subject]:
        own = by_subject[subject]
        count = min(len(own), options.limit or len(own))
        chosen.extend(own[index * len(own) // count] for index in range(count))
    return chosen


def _recordings(
    one: Format, session: Session, cohort: str, options: ImportOptions, findings: Findings
) -> Iterator[Recording]:
    try:
        for segment in session.read(findings):
            samples = _kept(session, segment, options)
            if not samples:
                findings.note("stretches without a usable sample of a sensor that was asked for")
                continue
            subject_id = f"{one.name}-{session.subject}"
            yield Recording(
                device_id=f"{subject_id}-phone",
                subject_id=subject_id,
                session_id=segment.name,
                phone_model=one.phone_model,
                position=one.position,
                cohort=cohort,
                scene=segment.scene,
                samples=samples,
            )
    except ImporterError as error:
        findings.refuse_file(session.file, str(error))


def _kept(session: Session, segment: Segment, options: ImportOptions) -> dict[str, Samples]:
    return {
        name: Samples(session.start_ns + time_ns, values)
        for name, (time_ns, values) in segment.samples.items()
        if len(time_ns) and (options.sensors is None or name in options.sensors)
    }
