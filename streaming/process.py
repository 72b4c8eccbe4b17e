"""A service process on this machine: started, waited for, found again, and ended with everything it started.

The protocol of :func:`start`, and the failure each step prevents:

1. The process leads a session of its own, so that Ctrl-C at the terminal reaches us and not it, and so that its whole
   family can be told from the others.
2. Its pid goes into the pid file *with the moment it was created*: a pid alone may by then belong to a stranger.
3. It is waited for until it answers; one that ends before is an error with the last lines of its log.
4. Whatever interrupts the waiting ends it.
5. With ``die_with_parent`` a guard (:mod:`streaming.guard`) stands between: were we killed, it would end the service.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType

import psutil

from streaming import guard
from streaming.errors import ServiceError

_POLL_S = 0.1
_SAME_MOMENT_S = 0.05
_GUARD_EXTRA_S = 5.0
"""What a guard gets beyond the grace, to end what the service left behind."""

_children: dict[int, subprocess.Popen[bytes]] = {}
"""Those that this process started, by pid: only we can collect their exit code."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """A process to run in the background."""

    name: str
    """What messages call it."""
    argv: tuple[str, ...]
    """The command, never through a shell."""
    log: Path
    """Where its stdout and stderr go. The log of the run before is kept as ``<log>.1``."""
    pid_file: Path
    """Where :func:`find` and :func:`stop` will look for it."""
    env: Mapping[str, str] | None = None
    """Its whole environment; None for ours."""
    cwd: Path | None = None
    """Its working directory; None for ours."""
    grace: timedelta = timedelta(seconds=15)
    """Between SIGTERM and SIGKILL. A broker closes its log files in 1 to 3 s, on a busy machine in ten."""
    die_with_parent: bool = False
    """Whether it ends when the process that started it does, however that happens."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Record:
    """A pid file's content."""

    pid: int
    created: float
    """See :func:`_created`."""
    grace_s: float
    guarded: bool

    def __post_init__(self) -> None:
        numbers = (self.pid, self.created, self.grace_s)
        if not isinstance(self.pid, int) or not all(
            isinstance(number, int | float) and number >= 0 for number in numbers
        ):
            msg = "not a record of ours"
            raise ValueError(msg)


def find(pid_file: Path) -> psutil.Process | None:
    """The process that a pid file stands for.

    Returns:
        The process; None without a pid file, with a damaged one, or if that process has ended, even if its pid is in use
        again.
    """
    record = _read(pid_file)
    return None if record is None else _running(record)


def start(service: Service, *, ready: Callable[[], bool], timeout: timedelta) -> bool:
    """Start a service and wait until it is ready.

    Args:
        service: what to start.
        ready: whether it answers; asked ten times a second.
        timeout: how long to wait for that.

    Returns:
        True if it was started, False if it was running already (``ready`` is not asked then).

    Raises:
        ServiceError: it could not be started, ended, or was not ready in time; it does not run any more then.
    """
    if find(service.pid_file) is not None:
        return False
    child = _spawn(service)
    process = psutil.Process(child.pid)
    record = _Record(
        pid=child.pid,
        created=_created(process),
        grace_s=service.grace.total_seconds(),
        guarded=service.die_with_parent,
    )
    try:
        _write(service.pid_file, json.dumps(dataclasses.asdict(record)))
        _wait_ready(service, child, ready, timeout)
    except BaseException:
        # Also when it has ended by itself: what it started may not have.
        _end(process, grace_s=_grace_s(record))
        service.pid_file.unlink(missing_ok=True)
        raise
    return True


def stop(pid_file: Path) -> bool:
    """End a service and all it started: SIGTERM, the service's grace, SIGKILL.

    Returns:
        Whether it was running; either way its pid file is gone afterwards.
    """
    record = _read(pid_file)
    process = None if record is None else _running(record)
    if record is not None and process is not None:
        _end(process, grace_s=_grace_s(record))
    pid_file.unlink(missing_ok=True)
    return process is not None


def family(process: psutil.Process) -> list[psutil.Process]:
    """A service's process and all that it started, as far as they still run."""
    return [member for member in (process, *guard.descendants(process)) if guard.alive(member)]


def memory_bytes(process: psutil.Process) -> int:
    """Resident memory of a service with all it started, in bytes."""
    total = 0
    for member in family(process):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += member.memory_info().rss
    return total


def log_tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log, for a message; says so if there are none. Frames of Java's stack traces are left out."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 16_384))
            text = file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        text = ""
    last = [line for line in text.rstrip().splitlines() if not line.startswith("\tat ")][-lines:]
    return "\n".join(f"  {line}" for line in last) if last else "  (it wrote nothing)"


@contextlib.contextmanager
def exclusive(lock: Path, *, waits: Callable[[str], None] = lambda _: None) -> Iterator[None]:
    """Hold a lock file; whoever else wants it, in this process or another, waits. It is freed even if we are killed.

    Args:
        lock: the file, in a folder that all who want it share; it says who has it.
        waits: told who has it, if we have to wait.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            waits(file.read() or "another process")
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}, since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC")
        file.flush()
        yield


class Stack(ExitStack):
    """What runs now, to be ended in reverse order. Made by :func:`stack`."""

    def start(self, service: Service, *, ready: Callable[[], bool], timeout: timedelta) -> bool:
        """As :func:`start`; what was started here is stopped at the end, what was running already is left alone."""
        started = start(service, ready=ready, timeout=timeout)
        if started:
            self.callback(stop, service.pid_file)
        return started


@contextlib.contextmanager
def stack() -> Iterator[Stack]:
    """Services that end together, the last one first, however the block is left.

    SIGTERM and SIGHUP leave it like an exception (:class:`SystemExit`, 128 + the signal's number), as Ctrl-C does
    (:class:`KeyboardInterrupt`). While services are being ended a signal has to wait, so that none is forgotten.
    In a thread other than the main one signals are left as they are.
    """
    signals = _Signals()
    with signals.handled(), Stack() as services:
        try:
            yield services
        finally:
            signals.hold()
    signals.release()


class _Signals:
    """Turns signals into exceptions, or keeps them for later."""

    _NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self._holding = False
        self._held: int | None = None

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._receive) for number in self._NUMBERS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def hold(self) -> None:
        self._holding = True

    def release(self) -> None:
        """Let the signal that came meanwhile, if any, have its way."""
        if self._held is not None:
            self._raise(self._held)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self._holding:
            self._held = number
        else:
            self._raise(number)

    @staticmethod
    def _raise(number: int) -> None:
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)


def _spawn(service: Service) -> subprocess.Popen[bytes]:
    argv = list(service.argv)
    if service.die_with_parent:
        program = (sys.executable, "-P", guard.__file__, str(os.getpid()), str(service.grace.total_seconds()), "--")
        argv = [*program, *argv]
    service.log.parent.mkdir(parents=True, exist_ok=True)
    service.pid_file.parent.mkdir(parents=True, exist_ok=True)
    if service.log.exists():
        service.log.replace(service.log.with_name(f"{service.log.name}.1"))
    with service.log.open("wb") as log:
        try:
            child = subprocess.Popen(
                argv,
                env=None if service.env is None else dict(service.env),
                cwd=service.cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            msg = f"{service.name} cannot be started: {error}"
            raise ServiceError(msg) from error
    _children[child.pid] = child
    return child


def _wait_ready(
    service: Service, child: subprocess.Popen[bytes], ready: Callable[[], bool], timeout: timedelta
) -> None:
    deadline = time.monotonic() + timeout.total_seconds()
    while True:
        is_ready = ready()
        # Looked at after the answer: with our process dead it was somebody else who answered.
        if child.poll() is not None:
            how = f"signal {-child.returncode}" if child.returncode < 0 else f"exit code {child.returncode}"
            msg = (
                f"{service.name} ended ({how}) before it was ready. The end of {service.log}:\n{log_tail(service.log)}"
            )
            raise ServiceError(msg)
        if is_ready:
            return
        if time.monotonic() >= deadline:
            msg = (
                f"{service.name} (pid {child.pid}) was not ready after {timeout.total_seconds():g} s and has been ended. "
                f"The end of {service.log}:\n{log_tail(service.log)}"
            )
            raise ServiceError(msg)
        time.sleep(_POLL_S)


def _grace_s(record: _Record) -> float:
    return record.grace_s + (_GUARD_EXTRA_S if record.guarded else 0.0)


def _end(process: psutil.Process, *, grace_s: float) -> None:
    """End a process, then what it leaves behind: who was its descendant or in its session when we began, and since."""
    known = guard.descendants(process)
    with contextlib.suppress(psutil.NoSuchProcess):
        process.terminate()
    guard.wait_gone([process], grace_s, reap=_reap)
    guard.end_all(lambda: [process, *known, *guard.descendants(process)], reap=_reap)
    _reap()


def _reap() -> None:
    for pid, child in list(_children.items()):
        if child.poll() is not None:
            _children.pop(pid, None)


def _created(process: psutil.Process) -> float:
    """When it was created, as a figure that setting the machine's clock does not change (on Linux: since boot), in s."""
    return process.create_time() - (psutil.boot_time() if sys.platform == "linux" else 0.0)


def _running(record: _Record) -> psutil.Process | None:
    _reap()
    try:
        process = psutil.Process(record.pid)
        same = abs(_created(process) - record.created) < _SAME_MOMENT_S
    except psutil.NoSuchProcess:
        return None
    return process if same and guard.alive(process) else None


def _read(pid_file: Path) -> _Record | None:
    try:
        return _Record(**json.loads(pid_file.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _write(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
