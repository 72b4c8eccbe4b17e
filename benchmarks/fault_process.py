"""``sensorloop ingest`` as a process that is killed, stopped or lied to at a named moment.

Each is a real process with the command line's own loop, forked from a server that has the imports behind it and has never started a
thread: that saves the seconds that Python takes to import them, and nothing else. What is killed is as dead as any.
"""

from __future__ import annotations

import ctypes
import faulthandler
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from streaming.faults import hooked

_PRELOADED = [
    "benchmarks.fault_process", "sensorloop", "dags.local.ingesting", "dags.settings", "registry.errors", "training.errors", "polars",
    "deltalake", "pandas",
]  # fmt: skip
"""pandas: pyarrow imports it by itself as soon as it is there."""
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(_PRELOADED)
_PR_SET_PDEATHSIG = 1
REFUSED = 3
"""Exit code of a consumer that finds its partition taken over."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """What happens to the process by itself."""

    what: Literal["kill", "stop", "lose"]
    """SIGKILL, SIGSTOP; or a commit takes effect and its answer is an error."""
    point: str = ""
    """Named point of :mod:`streaming.faults` at which it is killed or stopped."""
    after: int = 0
    """How often the point is passed, or commits are answered, before."""


class Ingestion:
    """The process.

    Args:
        environ: its settings.
        home: its SENSORLOOP_HOME.
        arguments: of ``sensorloop ingest``.
        fault: what happens to it.
    """

    def __init__(self, environ: dict[str, str], home: Path, *arguments: str, fault: Fault | None = None) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self._log = home / f"{time.monotonic_ns()}.log"
        environ = environ | {"SENSORLOOP_HOME": str(home)}
        self._process = _context.Process(target=_run, args=(environ, home, self._log, arguments, fault), daemon=True)
        self._process.start()

    def said(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace") if self._log.exists() else ""

    def wait(self, timeout: float) -> int | None:
        """Its exit code, a negative signal; None if it still runs."""
        self._process.join(timeout)
        return self._process.exitcode

    def running(self) -> bool:
        return self._process.exitcode is None

    def signal(self, number: signal.Signals) -> None:
        if self._process.pid is not None and self.running():
            os.kill(self._process.pid, number)

    def stopped(self) -> bool:
        return self.running() and psutil.Process(self._process.pid).status() == psutil.STATUS_STOPPED

    def end(self) -> None:
        """Whatever it is doing."""
        self.signal(signal.SIGKILL)
        self.wait(30)


@contextmanager
def ended(*processes: Ingestion) -> Iterator[None]:
    """They are gone after this; if it failed, their logs say where they stood."""
    try:
        yield
    except Exception:
        for each in processes:
            each.signal(signal.SIGUSR1)  # what its threads are doing, into its log
        time.sleep(0.5)
        raise
    finally:
        for each in processes:
            each.end()


def _run(environ: dict[str, str], home: Path, log: Path, arguments: tuple[str, ...], fault: Fault | None) -> None:
    # The server ends with the bench; whoever it has forked must not go on alone.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    faulthandler.register(signal.SIGUSR1, file=out)
    os.chdir(home)
    os.environ.update(environ)
    import sensorloop  # noqa: PLC0415  # the server has it

    sys.argv = ["sensorloop", "ingest", *arguments]
    if fault is not None and fault.what == "lose":
        _lose_answer(fault.after)
    with hooked(_at(fault)):
        sensorloop.main()


def _at(fault: Fault | None) -> Callable[[str], None]:
    passed = 0

    def hook(point: str) -> None:
        nonlocal passed
        if fault is not None and point == fault.point:
            passed += 1
            if passed == fault.after + 1:
                os.kill(os.getpid(), signal.SIGKILL if fault.what == "kill" else signal.SIGSTOP)

    return hook


def _lose_answer(after: int) -> None:
    """One commit takes effect and raises, as where a disk or a store answers too late."""
    from streaming import delta  # noqa: PLC0415

    theirs, answered = delta._DeltaTable.create_write_transaction, 0  # noqa: SLF001  # below our seam, as a store is

    def lost(self: Any, *arguments: Any, **options: Any) -> None:
        nonlocal answered
        theirs(self, *arguments, **options)
        answered += 1
        if answered == after + 1:
            msg = "the answer was lost (this is the bench of faults)"
            raise OSError(msg)

    delta._DeltaTable.create_write_transaction = lost  # noqa: SLF001
