"""A task's work: real commands, with every way to end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dags import commands
from dags.errors import CommandError, CommandFailed, CommandRefused, NothingToDo
from streaming import guard

ROOT = Path(__file__).parents[2]

FAMILY = """
import os, pathlib, subprocess, sys, time
folder = pathlib.Path(sys.argv[1])
if len(sys.argv) == 2:
    subprocess.Popen([sys.executable, __file__, str(folder), "child"], start_new_session=True)
name = "child" if len(sys.argv) > 2 else "command"
(folder / f"{name}.part").write_text(str(os.getpid()))
(folder / f"{name}.part").rename(folder / f"{name}.pid")
time.sleep(600)
"""
"""A command that starts a process in a session of its own; each writes its pid."""

TASK = """
import sys
from datetime import timedelta
from dags import commands
commands.run([sys.executable, *sys.argv[1:]], report=lambda line: print(line, flush=True), grace=timedelta(seconds=5))
"""


def unheard(_line: str) -> None:
    """Nobody listens."""


def python(code: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code, *arguments)


def run(code: str, *arguments: str, report: Callable[[str], None] = unheard) -> dict[str, Any]:
    return commands.run(python(code, *arguments), report=report, grace=timedelta(seconds=5))


def says(text: str, *, exit_code: int) -> str:
    return f"import sys; sys.stderr.write({text!r}); print('{{}}'); sys.exit({exit_code})"


def eventually(done: Callable[[], bool], timeout_s: float = 20.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.02)  # between two looks at other processes
    return True


def test_what_says_nothing_for_too_long_is_ended_and_may_be_tried_again() -> None:
    code = "import sys, time; print('begun', file=sys.stderr, flush=True); time.sleep(600)"
    heard: list[str] = []
    with pytest.raises(CommandFailed, match="had said nothing for 0:00:02") as failed:
        commands.run(python(code), report=heard.append, grace=timedelta(seconds=5), silence=timedelta(seconds=2))
    assert failed.value.retriable
    assert heard == ["begun"]


def test_what_says_something_now_and_then_may_take_long() -> None:
    code = "import sys, time\nfor at in range(30): print(at, file=sys.stderr, flush=True); time.sleep(0.2)\nprint('{}')"
    assert commands.run(python(code), report=unheard, silence=timedelta(seconds=4)) == {}


class Family:
    """The processes of FAMILY."""

    def __init__(self, folder: Path) -> None:
        self.script = folder / "family.py"
        self.script.write_text(FAMILY, encoding="utf-8")
        self._files = [folder / "command.pid", folder / "child.pid"]

    def complete(self) -> bool:
        return all(file.exists() for file in self._files)

    def members(self) -> list[psutil.Process]:
        """Those that run now; to be asked while they all run."""
        return [psutil.Process(int(file.read_text(encoding="utf-8"))) for file in self._files]


@contextmanager
def task(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A process that runs a command as a task does."""
    child = subprocess.Popen(
        python(TASK, *arguments), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with child:
        try:
            yield child
        finally:
            child.kill()


def test_the_last_line_of_stdout_is_the_answer() -> None:
    code = 'print(\'noise\'); print(\'{"not": "yet"}\'); print(\'{"lake_version": 12, "cohort": "Köln"}\'); print()'
    assert run(code) == {"lake_version": 12, "cohort": "Köln"}


def test_stdout_may_be_long() -> None:
    assert run("print('x' * 3_000_000); print('{\"windows\": 1}')") == {"windows": 1}


@pytest.mark.parametrize(
    ("exit_code", "kind", "retriable"),
    [
        (2, CommandRefused, False),
        (3, CommandRefused, False),
        (4, CommandFailed, True),
        (1, CommandFailed, True),
        (42, CommandFailed, True),
        (99, NothingToDo, False),
    ],
)
def test_every_exit_code_has_its_error(exit_code: int, kind: type[Exception], retriable: bool) -> None:
    sentence = "Scene 'Run' has no labelled window; 5 are needed, see [data] min_windows."
    with pytest.raises(kind) as caught:
        run(says(f"Loading…\nerror: {sentence}\n", exit_code=exit_code))
    assert type(caught.value) is kind
    assert str(caught.value) == sentence
    assert caught.value.retriable is retriable  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("stderr", "message"),
    [
        ("error: the reason\nException ignored in: <module 'threading'>\n", "the reason"),
        ("Traceback (most recent call last):\n  File …\nValueError: no such thing\n\n", "ValueError: no such thing"),
        ("╭─ Error ─────╮\n│ No such option: --polyc │\n╰─────────╯\n", "No such option: --polyc"),
        ("50 %\r75 %\rerror: gone", "gone"),
    ],
)
def test_the_message_is_what_the_command_says(stderr: str, message: str) -> None:
    with pytest.raises(CommandError, match=f"^{message}$"):
        run(says(stderr, exit_code=4))


@pytest.mark.parametrize(
    ("exit_code", "message"),
    [
        (4, "'python finetune' ended with exit code 4 and said nothing."),
        (3, "'python finetune' ended with exit code 3 and said nothing."),
        (99, "'python finetune' found nothing to do."),
    ],
)
def test_a_silent_command_has_a_message_too(tmp_path: Path, exit_code: int, message: str) -> None:
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\nexit {exit_code}\n", encoding="utf-8")
    program.chmod(0o755)
    with pytest.raises((CommandError, NothingToDo)) as caught:
        commands.run((str(program), "finetune", "--run-key", "k"), report=unheard)
    assert str(caught.value) == message


def test_a_killed_command_may_be_tried_again() -> None:
    with pytest.raises(CommandFailed, match="was killed by signal 9"):
        run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")


def test_a_program_that_is_missing_is_not_tried_again(tmp_path: Path) -> None:
    with pytest.raises(CommandRefused, match="sensorloop: No such file or directory"):
        commands.run((str(tmp_path / "sensorloop"), "promote"), report=unheard)


@pytest.mark.parametrize("answer", ["", "done", "[1, 2]", "12", '{"cut', "{'single': 1}"])
def test_an_answer_that_is_none_is_refused(answer: str) -> None:
    with pytest.raises(CommandRefused, match="the last line of its stdout is no JSON"):
        run(f"print({answer!r})")


def test_data_is_no_answer() -> None:
    with pytest.raises(CommandRefused, match="no JSON"):
        run("import json; print(json.dumps({'windows': list(range(50_000))}))")


def test_lines_are_reported_as_they_come(tmp_path: Path) -> None:
    """The command goes on only when its first line has been reported."""
    reported = tmp_path / "reported"
    code = """
import pathlib, sys, time
print("first", file=sys.stderr, flush=True)
while not pathlib.Path(sys.argv[1]).exists():
    time.sleep(0.01)
print("second", file=sys.stderr)
print("{}")
"""
    heard: list[str] = []

    def report(line: str) -> None:
        heard.append(line)
        reported.touch()

    assert run(code, str(reported), report=report) == {}
    assert heard == ["first", "second"]


def test_stdin_is_empty() -> None:
    assert run("import json, sys; print(json.dumps({'stdin': sys.stdin.read()}))") == {"stdin": ""}


def test_the_environment_is_inherited_or_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENSORLOOP_HOME", "/somewhere")
    code = "import json, os; print(json.dumps({'home': os.environ.get('SENSORLOOP_HOME')}))"
    assert run(code) == {"home": "/somewhere"}
    given_env = {**os.environ, "SENSORLOOP_HOME": "/elsewhere"}
    assert commands.run(python(code), report=unheard, env=given_env) == {"home": "/elsewhere"}


def test_what_a_command_leaves_behind_is_ended(tmp_path: Path) -> None:
    family = Family(tmp_path)
    code = """
import pathlib, subprocess, sys, time
subprocess.Popen([sys.executable, *sys.argv[1:]], start_new_session=True)
while not (pathlib.Path(sys.argv[2]) / "child.pid").exists():
    time.sleep(0.01)
print("{}")
"""
    assert run(code, str(family.script), str(tmp_path)) == {}
    assert not any(running(int((tmp_path / f"{n}.pid").read_text("utf-8"))) for n in ("command", "child"))


def running(pid: int) -> bool:
    """What is dead and only waits for its new parent, the system's first process, to take note of it does not run."""
    try:
        return guard.alive(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_the_command_dies_with_its_task(tmp_path: Path, number: signal.Signals) -> None:
    family = Family(tmp_path)
    with task(str(family.script), str(tmp_path)) as process:
        assert eventually(family.complete)
        members = family.members()
        process.send_signal(number)
        assert process.wait(20) == -number
        assert eventually(lambda: not any(guard.alive(member) for member in members))


def test_a_task_that_is_told_to_stop_waits_for_its_command(tmp_path: Path) -> None:
    """What the command says about its end is reported, and it has ended before the task has."""
    code = """
import pathlib, signal, sys, time
def stop(number, frame):
    for part in range(3):
        print("part", part, "x" * 40_000, file=sys.stderr)  # more than a pipe holds
    pathlib.Path(sys.argv[1]).write_text("checkpoint")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print("ready", file=sys.stderr, flush=True)
time.sleep(600)
"""
    checkpoint = tmp_path / "checkpoint"
    with task("-c", code, str(checkpoint)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        out, err = process.communicate(timeout=20)
    assert checkpoint.read_text(encoding="utf-8") == "checkpoint"
    assert [line[:6] for line in out.splitlines()] == ["part 0", "part 1", "part 2"]
    assert "Traceback" not in err
    assert process.returncode == -signal.SIGTERM


class TimeOut(Exception):
    """Like Airflow's: raised by a signal's handler, wherever we are."""


def test_a_time_out_ends_the_command(tmp_path: Path) -> None:
    family = Family(tmp_path)
    found: list[psutil.Process] = []

    def expire(_number: int, _frame: FrameType | None) -> None:
        if family.complete():
            found.extend(family.members())
            raise TimeOut
        signal.setitimer(signal.ITIMER_REAL, 0.05)

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(TimeOut):
            commands.run((sys.executable, str(family.script), str(tmp_path)), report=unheard)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(found) == 2
    assert not any(guard.alive(member) for member in found)


def test_an_error_in_the_report_ends_the_command(tmp_path: Path) -> None:
    def report(line: str) -> None:
        raise RuntimeError(line)

    code = "import os, sys, time; print(os.getpid(), file=sys.stderr, flush=True); time.sleep(600)"
    with pytest.raises(RuntimeError, match=r"^\d+$") as caught:
        run(code, report=report)
    assert not psutil.pid_exists(int(str(caught.value)))


def test_the_signals_are_as_they_were() -> None:
    before = signal.getsignal(signal.SIGTERM)
    run("print('{}')")
    with pytest.raises(CommandFailed):
        run("raise SystemExit(4)")
    assert signal.getsignal(signal.SIGTERM) is before


def test_it_works_in_a_thread() -> None:
    answers: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: answers.append(run("print('{\"windows\": 1}')")))
    thread.start()
    thread.join(30)
    assert answers == [{"windows": 1}]


@settings(deadline=None, max_examples=10)
@given(
    answer=st.dictionaries(
        st.text(max_size=5), st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20), max_size=3
    )
)
def test_any_small_object_comes_through(answer: dict[str, Any]) -> None:
    code = "import json, sys; print(json.dumps(eval(sys.argv[1])))"
    assert run(code, repr(answer).replace("\x00", "\\x00")) == answer
