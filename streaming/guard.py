"""Ends a process together with everything it started; as a program, ends it when its parent dies.

``python guard.py PARENT GRACE -- COMMAND…`` runs the command and

1. adopts what the command's own children leave behind (``PR_SET_CHILD_SUBREAPER``), so that nothing gets out of sight by
   forking twice or by opening a session of its own;
2. ends all of it when process PARENT is gone, when it is told to stop (SIGTERM, SIGINT, SIGHUP), or when the command has
   ended: SIGTERM, GRACE seconds, SIGKILL;
3. exits as the command did.

The parent is watched by its pid rather than by ``PR_SET_PDEATHSIG`` alone: that signal comes when the *thread* that forked
ends, which need not be the end of the process. Should the guard itself be killed, the command dies with it.
The file runs by its path, without the package, so that it starts in a tenth of a second and takes 15 MB.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from types import FrameType

import psutil

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_TOLD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_WATCH_S = 0.2
_POLL_S = 0.02
_LEFTOVER_S = 1.0
"""What a process that its own parent left behind gets between SIGTERM and SIGKILL."""


def alive(process: psutil.Process) -> bool:
    """Whether this very process (not another one with its pid) still runs; one that only waits to be reaped does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def descendants(root: psutil.Process) -> list[psutil.Process]:
    """What ``root`` started, directly or not, and, if it leads a session, whoever else is in it."""
    found: dict[int, psutil.Process] = {}
    with contextlib.suppress(psutil.NoSuchProcess):
        found.update((child.pid, child) for child in root.children(recursive=True))
    for pid in psutil.pids():
        if pid not in found and pid != root.pid:
            with contextlib.suppress(ProcessLookupError, PermissionError, psutil.NoSuchProcess):
                if os.getsid(pid) == root.pid:
                    found[pid] = psutil.Process(pid)
    return list(found.values())


def wait_gone(processes: Iterable[psutil.Process], timeout_s: float, *, reap: Callable[[], object]) -> bool:
    """Wait until none of them runs any more.

    Args:
        processes: whom to wait for.
        timeout_s: how long, in seconds.
        reap: called before each look; collects the exit codes of our own children.

    Returns:
        Whether they are all gone.
    """
    deadline = time.monotonic() + timeout_s
    left = list(processes)
    while True:
        reap()
        left = [process for process in left if alive(process)]
        if not left or time.monotonic() >= deadline:
            return not left
        time.sleep(_POLL_S)


def end_all(find: Callable[[], list[psutil.Process]], *, reap: Callable[[], object]) -> None:
    """End what ``find`` finds: SIGTERM, a moment, then SIGKILL until it finds nobody (they may still be forking)."""
    left = [process for process in find() if alive(process)]
    _send(signal.SIGTERM, left)
    wait_gone(left, _LEFTOVER_S, reap=reap)
    for _ in range(100):
        left = [process for process in find() if alive(process)]
        if not left:
            return
        _send(signal.SIGKILL, left)
        wait_gone(left, _LEFTOVER_S, reap=reap)


def _send(number: signal.Signals, processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _prctl(option: int, value: int) -> None:
    """Linux only; elsewhere the session alone tells what belongs together."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _spawn(command: Sequence[str]) -> int:
    """Fork and execute; the guard has one thread, which makes the code between the two safe."""
    guard = os.getpid()
    # A signal to the child must not be taken by the guard's own handlers, which the child still has after the fork.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _TOLD)
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return pid
    try:
        for number in _TOLD:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard:
            os._exit(1)
        os.execvp(command[0], list(command))  # noqa: S606 - no shell is wanted
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        sys.stderr.flush()
    os._exit(127)


def _run(parent: int, grace_s: float, command: Sequence[str]) -> int:
    told: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        told.append(number)

    for number in _TOLD:
        signal.signal(number, stop)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    child = psutil.Process(_spawn(command))
    codes: dict[int, int] = {}

    def reap() -> None:
        with contextlib.suppress(ChildProcessError):
            while (gone := os.waitpid(-1, os.WNOHANG))[0]:
                codes[gone[0]] = os.waitstatus_to_exitcode(gone[1])

    reap()
    while child.pid not in codes and not told and os.getppid() == parent:
        time.sleep(_WATCH_S)
        reap()
    _send(signal.SIGTERM, [child])
    wait_gone([child], grace_s, reap=reap)
    me = psutil.Process()
    end_all(lambda: descendants(me), reap=reap)
    # A process whose main thread has ended looks dead, but has no exit code before its other threads have ended too.
    deadline = time.monotonic() + _LEFTOVER_S
    while child.pid not in codes and time.monotonic() < deadline:
        time.sleep(_POLL_S)
        reap()
    return codes.get(child.pid, -signal.SIGKILL)


def main(arguments: Sequence[str]) -> None:
    """Run as a program; see the module."""
    parent, grace_s, _, *command = arguments
    code = _run(int(parent), float(grace_s), command)
    sys.exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main(sys.argv[1:])
