"""Several consumers of one group on one machine, each a process: started, kept alive, and ended together.

1. Each runs under a guard (:mod:`streaming.guard`), so that none outlives us, however we end.
2. One that ends with an error is started again, after 1 s, then 2 s, 4 s, …; its partitions are the others' meanwhile.
3. One that ends with an error again and again as soon as it has started is an error of all: nothing is to be gained by going on.
4. Told to stop, all are told at the same time. What each says it has counted is added up; of one that was killed nothing is known.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import IO, Any

from streaming import guard
from streaming.backoff import Backoff
from streaming.errors import ServiceError

_POLL_S = 0.1
_EXTRA_S = 5.0
"""What a worker gets to end beyond the grace, before it is killed: it ends by itself within the grace."""
_QUICK = timedelta(seconds=10)
_QUICK_FAILURES = 5

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of all workers."""

    results: tuple[dict[str, Any], ...]
    """The last line of each worker's output, JSON."""
    restarts: int


@dataclass(slots=True)
class _Worker:
    number: int
    backoff: Backoff
    child: subprocess.Popen[str] | None = None
    started: datetime | None = None
    lines: list[str] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)
    quick_failures: int = 0
    finished: bool = False


def supervise(
    command: Callable[[int], Sequence[str]], count: int, *, stop: Callable[[], bool], say: Callable[[str], None],
    grace: timedelta, longest_retry: timedelta = timedelta(minutes=1),
) -> Outcome:  # fmt: skip
    """Run workers until all have ended well, or until told to stop.

    Args:
        command: worker's number, from 0 → what to run. Its last line of stdout is its result, an object of JSON.
        count: how many.
        stop: whether to stop; asked ten times a second.
        say: is given each line of their stderr, with the worker's number before it.
        grace: how long a worker takes to end after SIGTERM.
        longest_retry: longest pause before one is started again.

    Raises:
        ServiceError: a worker fails each time, as soon as it is started.
    """
    workers = [_Worker(number, Backoff(longest_retry)) for number in range(count)]
    results: list[dict[str, Any]] = []
    restarts = 0
    try:
        for worker in workers:
            _start(worker, command(worker.number), say, grace)
        while not stop() and not all(worker.finished for worker in workers):
            for worker in workers:
                now = datetime.now(UTC)
                if worker.finished:
                    continue
                if worker.child is None:
                    if not worker.backoff.waiting(now):
                        restarts += 1
                        _start(worker, command(worker.number), say, grace)
                elif worker.child.poll() is not None:
                    _ended(worker, results, now)
            time.sleep(_POLL_S)
    finally:
        _stop_all(workers, results, grace)
    return Outcome(results=tuple(results), restarts=restarts)


def _start(worker: _Worker, command: Sequence[str], say: Callable[[str], None], grace: timedelta) -> None:
    patience = grace.total_seconds() + _EXTRA_S
    guarded = (sys.executable, "-P", guard.__file__, str(os.getpid()), str(patience), "--", *command)
    child = subprocess.Popen(
        guarded, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
        start_new_session=True,  # Ctrl-C at the terminal is ours to pass on
    )  # fmt: skip
    worker.child, worker.started, worker.lines = child, datetime.now(UTC), []
    worker.threads = [
        threading.Thread(target=_read, args=(child.stdout, worker.lines.append), daemon=True),
        threading.Thread(target=_read, args=(child.stderr, lambda line: say(f"[{worker.number}] {line}")), daemon=True),
    ]
    for thread in worker.threads:
        thread.start()


def _read(stream: IO[str], each: Callable[[str], None]) -> None:
    with stream:
        for line in stream:
            if line.strip():
                each(line.rstrip())


def _ended(worker: _Worker, results: list[dict[str, Any]], now: datetime) -> None:
    code = _collect(worker, results)
    if code == 0:
        worker.finished = True
        return
    if worker.started is not None and now - worker.started < _QUICK:
        worker.quick_failures += 1
    else:
        worker.quick_failures = 0
        worker.backoff.succeeded()
    if worker.quick_failures >= _QUICK_FAILURES:
        msg = (
            f"Worker {worker.number} ended with {_named(code)} {worker.quick_failures} times in a row, as soon as it was started; "
            "its reason stands above. All are stopped."
        )
        raise ServiceError(msg)
    wait = worker.backoff.failed(now)
    _log.warning(
        "Worker %d ended with %s; it is started again in %g s.", worker.number, _named(code), wait.total_seconds()
    )


def _named(code: int) -> str:
    # The guard says 128 + n for a signal, as a shell does.
    number = -code if code < 0 else code - 128
    return signal.Signals(number).name if number in signal.Signals._value2member_map_ else f"exit code {code}"


def _collect(worker: _Worker, results: list[dict[str, Any]]) -> int:
    """Take the result of one that has ended; its exit code."""
    child = worker.child
    if child is None:
        return 0
    code = child.wait()
    for thread in worker.threads:
        thread.join(_EXTRA_S)
    worker.child = None
    if worker.lines and code == 0:
        results.append(dict(json.loads(worker.lines[-1])))
    return code


def _stop_all(workers: Sequence[_Worker], results: list[dict[str, Any]], grace: timedelta) -> None:
    running = [worker for worker in workers if worker.child is not None]
    for worker in running:
        if worker.child is not None:
            worker.child.terminate()
    deadline = time.monotonic() + grace.total_seconds() + 2 * _EXTRA_S
    for worker in running:
        if worker.child is None:
            continue
        try:
            worker.child.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.child.kill()  # and with the guard goes its worker
        _collect(worker, results)
