"""Named points of the commit protocols at which a test, or the bench of faults, stops the process.

::

    publish.files       the files are written and flushed; no version names them
    publish.checked     the table still is as its writer left it; the commit is next
    publish.committed   files and offsets are in the table; nobody was told yet
    compact.files       the merged files are written and flushed; the table still names the old ones
    compact.committed   the table names the merged files; the old ones are still there, for older versions
    vacuum.fenced       no commit can name a file of before any more; nothing is deleted yet
    vacuum.deleted      after each file

In normal operation nothing happens at them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


def _nothing(_: str) -> None:
    pass


_hooks: list[Callable[[str], None]] = [_nothing]


def reached(point: str) -> None:
    """Say that a point is reached."""
    _hooks[-1](point)


@contextmanager
def hooked(hook: Callable[[str], None]) -> Iterator[None]:
    """Within this, ``hook(point)`` is called at every point; it may kill the process, or raise."""
    _hooks.append(hook)
    try:
        yield
    finally:
        _hooks.remove(hook)
