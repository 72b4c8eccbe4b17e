"""A task's work: one command, run as a process of its own, and its answer.

A process of its own, because a training run must outlive neither its task nor take the worker with it, and because a
worker that never imports torch stays small. The protocol, and the failure each step prevents:

1. The command runs below a guard (:mod:`streaming.guard`) in a session of its own. Whatever happens to the task's process,
   ``kill -9`` included, the guard ends the command with everything it started: SIGTERM, the grace to end in, SIGKILL. An arm
   that is trained is kept and not trained again; the one under way goes on from its last checkpoint. Airflow's supervisor
   waits only five seconds before it kills a task; the grace does not depend on it.
2. Its stdin is empty: a command that asks for something fails instead of waiting for ever.
3. Its stderr is read line by line and reported as it comes: the task's log shows progress, and the pipe never fills up. It is
   also the heartbeat: a command that has said nothing for too long hangs, is ended, and may be tried again.
4. Its stdout goes to a file, not a pipe, for the same reason. The last line is the answer: one small JSON object, paths and
   numbers but no data, since it ends up in Airflow's database.
5. Its exit code says what came of it, see :data:`REFUSED`, :data:`USAGE` and :data:`NOTHING_TO_DO`; what its last line on
   stderr says after ``error: `` is the message.
6. However the waiting ends, by a time-out, an error or SIGTERM, the command is ended first. A task that is told to stop
   then dies of that signal, which Airflow understands (and retries, unless it was a person who stopped it).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import IO, Any

from dags.errors import CommandFailed, CommandRefused, NothingToDo
from streaming import guard

REFUSED = 3
"""Exit code: cannot be done as things are, trying again is useless."""
USAGE = 2
"""Exit code: the command line itself is wrong, which does not get better by itself either."""
NOTHING_TO_DO = 99
"""Exit code: there is no work; Airflow's own convention for 'skip'."""
PREFIX = "error: "
"""How the line on stderr begins that says why a command did not work."""

_NO_SUCH_PROGRAM = (126, 127)
_FRAME = " \t\r\n│╭╮╰╯─"
"""Blanks, and what wrong usage is framed with."""
_LARGEST_ANSWER = 65_536
"""In bytes. An answer longer than this is data, and fails."""
_GUARD_EXTRA_S = 5.0
"""What the guard gets beyond the grace, to end what the command left behind."""


class _Told(BaseException):
    """SIGTERM came while a command ran; a BaseException, so that no handler of errors takes it for one."""


def run(
    command: Sequence[str],
    *,
    report: Callable[[str], None],
    grace: timedelta = timedelta(seconds=30),
    silence: timedelta | None = None,
    env: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Run a command and wait for its answer; see the module.

    Args:
        command: program and arguments, never through a shell.
        report: called with each line of its stderr, without the line's end.
        grace: between SIGTERM and SIGKILL, should it have to be ended.
        silence: how long it may say nothing on stderr; None: for ever.
        env: its whole environment; None for ours.

    Returns:
        The JSON object that is the last line of its stdout.

    Raises:
        CommandRefused: it cannot be done as things are, or the command does not keep to the protocol.
        CommandFailed: any other failure: trying again may help.
        NothingToDo: there is no work.
    """
    with _told_to_stop(), tempfile.TemporaryFile() as stdout:
        ended = _wait(command, stdout=stdout, report=report, grace=grace, silence=silence, env=env)
        if ended.silent:
            msg = f"{_name(command)} had said nothing for {silence}, and was ended: it hung, or [retrain] silence is too short for it."
            raise CommandFailed(msg)
        return _answer(command, stdout, exit_code=ended.exit_code, message=ended.message)


@dataclass(kw_only=True, slots=True)
class _Ended:
    """How a command ended."""

    exit_code: int
    message: str
    """Why, in its own words: what follows the last ``error: `` on stderr, or else the last line that says something."""
    silent: bool
    """Whether it was ended because it had said nothing for too long."""


def _wait(
    command: Sequence[str],
    *,
    stdout: IO[bytes],
    report: Callable[[str], None],
    grace: timedelta,
    silence: timedelta | None,
    env: Mapping[str, str] | None,
) -> _Ended:
    guarded = (sys.executable, "-P", guard.__file__, str(os.getpid()), str(grace.total_seconds()), "--", *command)
    said, why = "", ""
    with subprocess.Popen(
        guarded,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env=None if env is None else dict(env),
        text=True,  # a progress bar's carriage returns end lines too
        encoding="utf-8",
        errors="replace",
    ) as child:
        heart = _Heart(child, silence)
        try:
            for line in child.stderr or ():
                heart.beat()
                report(line.rstrip("\n"))
                said = line.strip(_FRAME) or said
                why = line.removeprefix(PREFIX).strip() if line.startswith(PREFIX) else why
            exit_code = child.wait()
        finally:
            heart.stop()
            _end(child, report=report, timeout_s=grace.total_seconds() + _GUARD_EXTRA_S)
    return _Ended(exit_code=exit_code, message=why or said, silent=heart.silent)


class _Heart:
    """Tells a command to end that has said nothing for too long; its guard sees to it that it does."""

    def __init__(self, child: subprocess.Popen[str], silence: timedelta | None) -> None:
        self._child = child
        self._stopped = threading.Event()
        self.silent = False
        self.beat()
        if silence is not None:
            threading.Thread(target=self._listen, args=(silence.total_seconds(),), daemon=True).start()

    def beat(self) -> None:
        """It has said something."""
        self._heard = time.monotonic()

    def stop(self) -> None:
        """It has ended, or is being ended."""
        self._stopped.set()

    def _listen(self, silence_s: float) -> None:
        while not self._stopped.wait(self._heard + silence_s - time.monotonic()):
            if time.monotonic() - self._heard >= silence_s:
                self.silent = True
                self._child.terminate()
                return


def _end(child: subprocess.Popen[str], *, report: Callable[[str], None], timeout_s: float) -> None:
    if child.poll() is not None:
        return
    child.terminate()
    # What it says about its end belongs in the log as well; unread, it would block on a full pipe instead of ending.
    reader = threading.Thread(target=_report_all, args=(child.stderr or (), report), daemon=True)
    reader.start()
    try:
        child.wait(timeout_s)
    except subprocess.TimeoutExpired:
        child.kill()  # the command dies with its guard
    reader.join(_GUARD_EXTRA_S)


def _report_all(lines: Iterable[str], report: Callable[[str], None]) -> None:
    for line in lines:
        report(line.rstrip("\n"))


def _answer(command: Sequence[str], stdout: IO[bytes], *, exit_code: int, message: str) -> dict[str, Any]:
    if exit_code == NOTHING_TO_DO:
        raise NothingToDo(message or f"{_name(command)} found nothing to do.")
    if exit_code in {REFUSED, USAGE, *_NO_SUCH_PROGRAM}:
        raise CommandRefused(message or f"{_name(command)} ended with exit code {exit_code} and said nothing.")
    if exit_code != 0:
        how = f"was killed by signal {exit_code - 128}" if exit_code > 128 else f"ended with exit code {exit_code}"
        raise CommandFailed(message or f"{_name(command)} {how} and said nothing.")
    text = _last_line(stdout)
    try:
        answer = json.loads(text)
    except ValueError as error:
        msg = f"{_name(command)} ended well, but the last line of its stdout is no JSON: {text[:200]!r}"
        raise CommandRefused(msg) from error
    if not isinstance(answer, dict):
        msg = f"{_name(command)} ended well, but the last line of its stdout is no JSON object: {text[:200]!r}"
        raise CommandRefused(msg)
    return answer


def _last_line(stdout: IO[bytes]) -> str:
    size = stdout.seek(0, os.SEEK_END)
    stdout.seek(max(0, size - _LARGEST_ANSWER))
    lines = stdout.read().decode("utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


def _name(command: Sequence[str]) -> str:
    """A command as messages call it: program and subcommands, without its options."""
    words = itertools.takewhile(lambda word: not word.startswith("-"), command[1:])
    return f"'{' '.join((Path(command[0]).name, *words))}'"


@contextlib.contextmanager
def _told_to_stop() -> Iterator[None]:
    """Turn SIGTERM into an exception for as long as a command runs, then die of it.

    Outside the main thread signals cannot be handled; there the guard alone takes care of the command.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: the command is being ended
        raise _Told

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except _Told:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
        raise  # never: we are dead
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)
