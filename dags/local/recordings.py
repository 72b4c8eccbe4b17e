"""Recordings, the way that phones' data goes: through Kafka, into a lake of their own, once."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dags import commands
from dags.errors import CommandRefused
from dags.settings import Settings, external_kafka
from dags.terminal import say, say_some
from dags.whole import whole
from streaming import broker
from training.errors import DataError

_DONE = "done.json"
_DEAD = "dead_letters_"


def is_lake(where: str) -> bool:
    """Whether it has a table of windows, or is said to be somewhere else than here."""
    return "://" in where or (Path(where) / "windows" / "_delta_log").is_dir()


def require_data(where: str) -> None:
    """Let a place with data pass, before anything that takes minutes.

    Raises:
        DataError: it is neither a lake nor a folder of recordings.
    """
    if not is_lake(where) and is_lake(inside := str(Path(where) / "lake")):
        msg = f"{where} is neither a lake nor a folder of recordings, but has a lake: did you mean {inside}?"
        raise DataError(msg)
    if "://" not in where and not Path(where).is_dir():
        what = "it is a file" if Path(where).is_file() else "there is no such folder"
        msg = f"{where} is neither a lake nor a folder of recordings: {what}."
        raise DataError(msg)
    if not is_lake(where) and next(Path(where).rglob("*.parquet"), None) is None:
        msg = (
            f"{where} is neither a lake nor a folder of recordings: 'sensorloop import' or 'simulate' makes recordings."
        )
        raise DataError(msg)


def through_kafka(settings: Settings, place: Path, recordings: Path) -> str:
    """A lake of these recordings alone; made once. What of them is not in it is said each time.

    Raises:
        DataError: there are no recordings.
        CommandRefused: one of the commands could not do its work; it has said why.
    """
    require_data(str(recordings))
    files = sorted(recordings.rglob("*.parquet"))
    # By content: a label that is put right leaves a file as long as it was.
    listed = [(str(file.relative_to(recordings)), _digest(file)) for file in files]
    cut = json.dumps([listed, asdict(settings.windows)], default=str)
    name = hashlib.blake2b(cut.encode(), digest_size=6).hexdigest()
    lake = place / "lakes" / name
    if (lake / _DONE).exists():
        done = json.loads((lake / _DONE).read_text(encoding="utf-8"))
        if "lost" not in done:  # made before it was counted
            done |= _held(settings, lake, recordings)
            _write(lake, done)
        say_some(_not_there(recordings, done))
        return str(lake)
    kafka = settings.kafka
    # Topics and a group of its own: what else is in this Kafka is not this lake's, and what an interrupted run has sent is read again.
    environ = {
        **os.environ, "SENSORLOOP_LAKE__URI": str(lake), "SENSORLOOP_INGEST__METRICS_PORT": "0",
        **{
            f"SENSORLOOP_KAFKA__{key.upper()}": f"{getattr(kafka, key)}.experiment-{name}"
            for key in ("group_id", "batches_topic", "labels_topic", "deadletter_topic")
        },
    }  # fmt: skip
    ours = external_kafka(settings) is None and broker.status(settings.home) is None
    try:
        if ours:
            broker.start(settings.broker, home=settings.home, die_with_parent=True)
        say(f"{recordings} goes through Kafka into the lake {lake}.")
        sent = _command(environ, "replay", str(recordings))
        ingested = _command(environ, "ingest", "--until-caught-up")
    finally:
        if ours:
            broker.stop(settings.home)
    done = {
        "recordings": str(recordings), **sent, **_held(settings, lake, recordings),
        **{reason: count for reason, count in ingested.items() if reason.startswith(_DEAD) and count},
    }  # fmt: skip
    _write(lake, done)
    say_some(_not_there(recordings, done))
    return str(lake)


def _write(lake: Path, done: Mapping[str, Any]) -> None:
    with whole(lake / _DONE) as partial:
        partial.write_text(json.dumps(done), encoding="utf-8")


def _held(settings: Settings, lake: Path, recordings: Path) -> dict[str, int]:
    """What of the recordings is in the lake."""
    from streaming.account import account_of

    refused: list[str] = []
    held = account_of([recordings], str(lake), hop_ns=settings.windows.hop_ns, refused=refused.append)
    return {"lost": held.lost, "doubled": held.doubled, "unused": held.unused, "refused": len(refused)}


def _not_there(recordings: Path, done: Mapping[str, Any]) -> list[str]:
    """What of the recordings is not in their lake, in sentences; of lakes that were made before this was noted, what is known."""
    found = []
    if done.get("refused"):
        files = "1 file was" if done["refused"] == 1 else f"{done['refused']} files were"
        found.append(f"{recordings}: {files} refused and left out; 'sensorloop replay' says why.")
    reasons = {name.removeprefix(_DEAD): count for name, count in done.items() if name.startswith(_DEAD)}
    if done.get("lost") or done.get("doubled") or reasons:
        told = ", ".join(f"{count:,} batches {reason.replace('_', ' ')}" for reason, count in reasons.items())
        ahead = " ([windows] max_ahead says how far ahead is believed)" if "far_future" in reasons else ""
        found.append(
            f"{recordings}: of {done['samples']:,} samples {done['lost']:,} are not in the lake, {done['doubled']:,} twice"
            + (f"; refused were {told}{ahead}." if told else ".")
        )
    if done.get("unused"):
        found.append(f"{recordings}: {done['unused']:,} samples are of sensors that [windows] sensors leaves out.")
    return found


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "blake2b").hexdigest()


def _command(environ: Mapping[str, str], *arguments: str) -> dict[str, Any]:
    try:
        return commands.run((sys.executable, "-m", "sensorloop", *arguments), report=say, env=environ)
    except CommandRefused as error:
        msg = f"'sensorloop {' '.join(arguments)}': {error}"
        raise CommandRefused(msg) from error
