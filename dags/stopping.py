"""SIGTERM ends a command by an exception, so that what is under way ends as it should: an MLflow run that nobody ends stays RUNNING."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType

_SOON_S = 0.05


def stop_by_exception() -> None:
    """From now on SIGTERM raises :class:`SystemExit` in the main thread, once: the end must not be interrupted.

    Where an exception goes nowhere (a finaliser, a weak reference's callback) it is raised again a moment later, or nothing but SIGKILL
    would end the process.
    """
    sys.unraisablehook = _again_if_lost
    signal.signal(signal.SIGTERM, told_to_stop)


def told_to_stop(number: int, _frame: FrameType | None) -> None:
    """The handler."""
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def _again_if_lost(lost: sys.UnraisableHookArgs) -> None:
    if not isinstance(lost.exc_value, SystemExit) or lost.exc_value.code != 128 + signal.SIGTERM:
        sys.__unraisablehook__(lost)
        return
    signal.signal(signal.SIGTERM, told_to_stop)
    # Not now: this, too, is a place where exceptions go nowhere.
    again = threading.Timer(_SOON_S, os.kill, (os.getpid(), signal.SIGTERM))
    again.daemon = True
    again.start()
