"""Where a run's numbers and pictures go: a seam. Training reports to a :class:`Tracker` and knows of no tracking server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from training.dataset import WindowSet

Progress = Callable[[int, int, str], None]
"""Told how far a piece of work is: steps done, steps in all, and what is being done."""


class RunLog(Protocol):
    """One run: what was set, what came out."""

    @property
    def run_id(self) -> str:
        """The tracker's name for this run."""
        ...

    def params(self, values: Mapping[str, str | float | bool]) -> None:
        """What was set; each name once."""
        ...

    def metrics(self, values: Mapping[str, float], *, step: int = 0) -> None:
        """What came out, at a step (an epoch); the same name at several steps is a curve. NaN says "undefined" and may be left out."""
        ...

    def tags(self, values: Mapping[str, str]) -> None:
        """Words to find the run by; a later value replaces an earlier one."""
        ...

    def text(self, text: str, name: str) -> None:
        """A text file called ``name`` (a relative path with ``/``)."""
        ...

    def json(self, value: Any, name: str) -> None:
        """A JSON file called ``name``."""
        ...

    def figure(self, figure: Figure, name: str) -> None:
        """A picture called ``name`` (``….png``)."""
        ...

    def file(self, path: Path, folder: str = "") -> None:
        """A copy of a file, in a folder of the run's."""
        ...

    def dataset(
        self,
        name: str,
        *,
        version: int | None,
        digest: str,
        windows: int,
        context: str,
        labels_version: int | None = None,
    ) -> None:
        """Windows of the lake's table ``name`` that the run saw, and what for: ``training``, ``holdout``.

        ``labels_version`` is that of the table with what was said later of them; None if there was none.
        """
        ...


class Tracker(Protocol):
    """Starts runs."""

    def run(
        self, name: str, *, parent: RunLog | None = None, tags: Mapping[str, str] | None = None
    ) -> AbstractContextManager[RunLog]:
        """A run that ends with the ``with`` block: as finished, or as failed if an exception leaves it."""
        ...


class NullRun:
    """A run that nobody looks at."""

    run_id = ""

    def params(self, values: Mapping[str, str | float | bool]) -> None:
        """Nothing."""

    def metrics(self, values: Mapping[str, float], *, step: int = 0) -> None:
        """Nothing."""

    def tags(self, values: Mapping[str, str]) -> None:
        """Nothing."""

    def text(self, text: str, name: str) -> None:
        """Nothing."""

    def json(self, value: Any, name: str) -> None:
        """Nothing."""

    def figure(self, figure: Figure, name: str) -> None:
        """Nothing."""

    def file(self, path: Path, folder: str = "") -> None:
        """Nothing."""

    def dataset(
        self,
        name: str,
        *,
        version: int | None,
        digest: str,
        windows: int,
        context: str,
        labels_version: int | None = None,
    ) -> None:
        """Nothing."""


class NullTracker:
    """A tracker that nobody looks at."""

    @contextmanager
    def run(
        self, name: str, *, parent: RunLog | None = None, tags: Mapping[str, str] | None = None
    ) -> Iterator[RunLog]:
        """A :class:`NullRun`."""
        del name, parent, tags
        yield NullRun()


def log_data(run: RunLog, **seen: WindowSet) -> None:
    """Say which windows a run saw, each by what for: ``training``, ``holdout``, ``source``, ``target``."""
    for context, windows in seen.items():
        run.dataset(
            "windows", version=windows.version, labels_version=windows.said_later, digest=windows.digest(), windows=len(windows),
            context=context,
        )  # fmt: skip


def as_params(details: Mapping[str, Any]) -> dict[str, str | float | bool]:
    """What an arm has chosen, as parameters: lists and mappings as text."""
    return {name: str(value) if isinstance(value, (list, dict)) else value for name, value in details.items()}


def no_progress(done: int, total: int, text: str) -> None:
    """Nobody watches."""
    del done, total, text
