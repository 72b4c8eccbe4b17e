"""Where a run takes place, as tags: commit, person, machine, packages."""

from __future__ import annotations

import getpass
import os
import platform
import socket
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path

_COMMIT = "mlflow.source.git.commit"
_BUILT_FROM, _CHANGED = "SENSORLOOP_COMMIT", "-dirty"
_PACKAGES = ("torch", "torchvision", "numpy", "mlflow", "deltalake")


def user() -> str:
    """Who runs this, by name; in a container whose user has none, by number (``uid 1234``)."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def environment(repository: Path | None = None) -> dict[str, str]:
    """Tags that say where a run took place: commit, person, machine, Python and the packages that decide its numbers.

    Args:
        repository: top folder of the code's git repository. None, or a folder that is not the top of one, leaves the commit
            out: an installed package may well lie inside of somebody else's repository. An image has neither git nor repository: there
            SENSORLOOP_COMMIT says what ``git describe --dirty`` said when it was built.
    """
    tags = {"python": platform.python_version(), "machine": f"{socket.gethostname()} ({platform.machine()})"}
    for package in _PACKAGES:
        try:
            tags[f"package.{package}"] = installed(package)
        except PackageNotFoundError:
            continue
    # What MLflow's pages call "Created by" and "Source"; the latter is also where they show the commit.
    tags |= {"mlflow.source.name": Path(sys.argv[0]).name or "python", "mlflow.source.type": "LOCAL"}
    tags["mlflow.user"] = user()
    if given := os.environ.get(_BUILT_FROM, ""):
        tags[_COMMIT] = given.removesuffix(_CHANGED)
        if given.endswith(_CHANGED):
            tags["git.uncommitted_changes"] = "true"
    elif repository is not None and _is_top(repository) and (commit := _git(repository, "rev-parse", "HEAD")):
        tags[_COMMIT] = commit
        if _git(repository, "status", "--porcelain", "--untracked-files=no"):
            tags["git.uncommitted_changes"] = "true"
    return tags


def _is_top(folder: Path) -> bool:
    top = _git(folder, "rev-parse", "--show-toplevel")
    return bool(top) and Path(top).resolve() == folder.resolve()


def _git(repository: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(repository), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
