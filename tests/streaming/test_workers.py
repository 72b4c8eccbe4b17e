"""Several workers as real processes."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from streaming.errors import ServiceError
from streaming.workers import Outcome, supervise

_WORKER = """
import json, pathlib, signal, sys, time
number, folder = int(sys.argv[1]), pathlib.Path(sys.argv[2])
runs = len(list(folder.glob(f"{number}-*")))
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
import os
(folder / f"{number}-{os.getpid()}").touch()
print(f"worker at work {runs}", file=sys.stderr, flush=True)
while not stopped and not (folder / "finish").exists():
    time.sleep(0.01)
print(json.dumps({"records": 10 + number}))
"""


def command(folder: Path) -> Callable[[int], list[str]]:
    return lambda number: [sys.executable, "-c", _WORKER, str(number), str(folder)]


def running(folder: Path, count: int) -> list[int]:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and len(list(folder.glob("[0-9]*-*"))) < count:
        time.sleep(0.02)
    return [int(path.name.split("-")[1]) for path in sorted(folder.glob("[0-9]*-*"))]


class Supervisor:
    def __init__(self, folder: Path, count: int) -> None:
        self.stopping, self.said = threading.Event(), list[str]()
        self.outcome: Outcome | None = None
        self.thread = threading.Thread(target=self._run, args=(folder, count))
        self.thread.start()

    def _run(self, folder: Path, count: int) -> None:
        self.outcome = supervise(
            command(folder), count, stop=self.stopping.is_set, say=self.said.append, grace=timedelta(seconds=5)
        )

    def end(self) -> Outcome:
        self.thread.join(30)
        assert self.outcome is not None
        return self.outcome


def test_all_are_told_to_stop_and_their_results_kept(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path, 3)
    assert len(running(tmp_path, 3)) == 3
    supervisor.stopping.set()
    outcome = supervisor.end()
    assert sorted(result["records"] for result in outcome.results) == [10, 11, 12]
    assert outcome.restarts == 0
    assert any(line.startswith("[2] worker at work") for line in supervisor.said)


def test_one_that_is_killed_is_started_again(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path, 2)
    pids = running(tmp_path, 2)
    os.kill(pids[0], signal.SIGKILL)
    assert len(running(tmp_path, 3)) == 3
    supervisor.stopping.set()
    outcome = supervisor.end()
    assert outcome.restarts == 1
    assert sorted(result["records"] for result in outcome.results) == [10, 11]
    assert not any(psutil.pid_exists(pid) for pid in pids)


def test_it_ends_when_all_have_ended_well(tmp_path: Path) -> None:
    (tmp_path / "finish").touch()
    supervisor = Supervisor(tmp_path, 2)
    assert sum(result["records"] for result in supervisor.end().results) == 21


def test_one_that_fails_each_time_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streaming.workers._QUICK_FAILURES", 2)
    with pytest.raises(ServiceError, match="Worker 0 ended with exit code 3 2 times in a row"):
        supervise(
            lambda _: [sys.executable, "-c", "raise SystemExit(3)"], 1, stop=lambda: False, say=lambda _: None,
            grace=timedelta(seconds=1),
        )  # fmt: skip
