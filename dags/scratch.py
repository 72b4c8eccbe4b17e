"""Room for what tasks write on their way: a folder a run, removed at its end, with what tasks that were killed have left there."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

from dags.settings import Settings


def folder(settings: Settings, name: str) -> Path:
    """The folder of a run; every name has one of its own.

    Args:
        settings: of this installation.
        name: of the run, as Airflow calls it.
    """
    digest = hashlib.blake2b(name.encode(), digest_size=4).hexdigest()
    readable = re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:60]
    return settings.home / "scratch" / f"{readable}-{digest}"


def make(settings: Settings, name: str) -> Path:
    """Make it, if it is not there."""
    place = folder(settings, name)
    place.mkdir(parents=True, exist_ok=True)
    return place


def clear(settings: Settings, name: str) -> int:
    """Remove it, if it is there; returns the bytes that were in it."""
    place = folder(settings, name)
    size = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
    if place.exists():
        shutil.rmtree(place)
    return size
