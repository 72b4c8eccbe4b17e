"""Services: real processes, started, found and ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streaming import guard, process
from streaming.errors import ServiceError
from streaming.process import Service, Stack

SOON = timedelta(seconds=20)

ROOT = Path(__file__).parents[2]

TREE = """
import os, pathlib, signal, subprocess, sys
level, folder, stubborn = int(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3:]
if level and stubborn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if level < 2:
    subprocess.Popen([sys.executable, __file__, str(level + 1), *sys.argv[2:]], start_new_session="away" in stubborn)
(folder / f"{level}.part").write_text(str(os.getpid()))
(folder / f"{level}.part").rename(folder / f"{level}.pid")
if level == 1 and "orphan" in stubborn:
    os._exit(0)
signal.pause()
"""
"""A service that starts a child that starts a grandchild; each writes its pid, then waits to be ended."""


class Tree:
    """That service, in a folder."""

    def __init__(self, folder: Path, *, stubborn: tuple[str, ...] = ()) -> None:
        self._folder = folder
        self._script = folder / "tree.py"
        self._script.write_text(TREE, encoding="utf-8")
        self._stubborn = stubborn

    def service(self, *, die_with_parent: bool = False, grace: timedelta = SOON) -> Service:
        return service(
            self._folder,
            (sys.executable, str(self._script), "0", str(self._folder), *self._stubborn),
            die_with_parent=die_with_parent,
            grace=grace,
        )

    def complete(self) -> bool:
        return all((self._folder / f"{level}.pid").exists() for level in range(3))

    def members(self) -> list[psutil.Process]:
        """Those that run now."""
        found = []
        for level in range(3):
            try:
                found.append(psutil.Process(int((self._folder / f"{level}.pid").read_text(encoding="utf-8"))))
            except psutil.NoSuchProcess:
                continue
        return [member for member in found if guard.alive(member)]


def service(folder: Path, argv: tuple[str, ...], *, die_with_parent: bool = False, grace: timedelta = SOON) -> Service:
    return Service(
        name="The test's service",
        argv=argv,
        log=folder / "service.log",
        pid_file=folder / "service.pid",
        die_with_parent=die_with_parent,
        grace=grace,
    )


def script(folder: Path, code: str) -> Service:
    return service(folder, (sys.executable, "-c", code))


@pytest.fixture(autouse=True)
def _leftovers_get_little_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_LEFTOVER_S", 0.2)


@pytest.fixture
def services() -> Iterator[Stack]:
    """Whatever is started in it is ended, should the test fail."""
    with process.stack() as stack:
        yield stack


WAITING = "import signal; signal.pause()"


def test_a_service_is_found_until_it_is_stopped(services: Stack, tmp_path: Path) -> None:
    waiting = script(tmp_path, f"print('ready', flush=True); {WAITING}")
    assert process.find(waiting.pid_file) is None
    assert services.start(waiting, ready=lambda: waiting.log.read_text() == "ready\n", timeout=SOON)
    found = process.find(waiting.pid_file)
    assert found is not None
    assert process.memory_bytes(found) > 1 << 20
    assert os.getsid(found.pid) == found.pid != os.getsid(0)
    assert process.stop(waiting.pid_file)
    assert not guard.alive(found)
    assert process.find(waiting.pid_file) is None
    assert not process.stop(waiting.pid_file)


def test_starting_twice_leaves_the_first(tmp_path: Path) -> None:
    waiting = script(tmp_path, WAITING)
    with process.stack() as services:
        assert services.start(waiting, ready=lambda: True, timeout=SOON)
        first = process.find(waiting.pid_file)
        with process.stack() as others:
            assert not others.start(waiting, ready=lambda: pytest.fail("asked"), timeout=SOON)
        assert first is not None
        assert process.find(waiting.pid_file) == first
    assert process.find(waiting.pid_file) is None


def test_environment_and_folder_are_the_service_s_own(tmp_path: Path) -> None:
    code = "import os; print(os.environ.get('PLACE'), os.environ.get('HOME'), os.getcwd(), flush=True)"
    (tmp_path / "cwd").mkdir()
    printing = Service(
        name="Printer",
        argv=(sys.executable, "-c", f"{code}; {WAITING}"),
        log=tmp_path / "logs" / "printer.log",
        pid_file=tmp_path / "run" / "printer.pid",
        env={"PLACE": "here"},
        cwd=tmp_path / "cwd",
    )
    with process.stack() as services:
        services.start(printing, ready=lambda: printing.log.read_text().endswith("\n"), timeout=SOON)
    assert printing.log.read_text() == f"here None {tmp_path / 'cwd'}\n"


def test_the_log_of_the_run_before_is_kept(services: Stack, tmp_path: Path) -> None:
    for word in ("first", "second", "third"):
        talking = script(tmp_path, f"print('{word}', flush=True); {WAITING}")
        services.start(talking, ready=lambda log=talking.log: log.read_text().endswith("\n"), timeout=SOON)
        process.stop(talking.pid_file)
    assert (tmp_path / "service.log").read_text() == "third\n"
    assert (tmp_path / "service.log.1").read_text() == "second\n"


@pytest.mark.parametrize("die_with_parent", [False, True])
def test_one_that_ends_at_once_says_why(tmp_path: Path, die_with_parent: bool) -> None:
    code = (
        "import sys; print('\\n'.join(f'line {n}' for n in range(99))); print('no disk', file=sys.stderr); sys.exit(7)"
    )
    failing = service(tmp_path, (sys.executable, "-u", "-c", code), die_with_parent=die_with_parent)
    with pytest.raises(
        ServiceError, match=r"(?s)ended \(exit code 7\) before .*service\.log:.*line 98\n  no disk$"
    ) as caught:
        process.start(failing, ready=lambda: False, timeout=SOON)
    assert "line 80" not in str(caught.value)
    assert not failing.pid_file.exists()


def test_an_answer_from_somebody_else_does_not_count(tmp_path: Path) -> None:
    failing = script(tmp_path, "raise SystemExit(3)")
    answered: list[bool] = []

    def ready() -> bool:
        child = [*process._children.values()][-1]
        answered.append(child.wait() == 3)
        return True

    with pytest.raises(ServiceError, match="exit code 3"):
        process.start(failing, ready=ready, timeout=SOON)
    assert answered == [True]


def test_one_killed_by_a_signal_says_which(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match=r"ended \(signal 9\).*\n  \(it wrote nothing\)"):
        process.start(script(tmp_path, "import os; os.kill(os.getpid(), 9)"), ready=lambda: False, timeout=SOON)


def test_one_that_never_gets_ready_is_ended(tmp_path: Path) -> None:
    seen: list[psutil.Process] = []

    def ready() -> bool:
        found = process.find(tmp_path / "service.pid")
        assert found is not None
        seen.append(found)
        return False

    with pytest.raises(ServiceError, match=r"not ready after 0\.3 s and has been ended"):
        process.start(script(tmp_path, WAITING), ready=ready, timeout=timedelta(seconds=0.3))
    assert seen
    assert not guard.alive(seen[0])


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match=r"cannot be started: .*no-such-program"):
        process.start(service(tmp_path, ("no-such-program",)), ready=lambda: False, timeout=SOON)


def test_an_interrupted_start_leaves_nothing_behind(tmp_path: Path) -> None:
    tree = Tree(tmp_path)

    def ready() -> bool:
        if tree.complete():
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        process.start(tree.service(), ready=ready, timeout=SOON)
    assert tree.members() == []
    assert not (tmp_path / "service.pid").exists()


@pytest.mark.parametrize("stubborn", [(), ("ignores",), ("ignores", "orphan")])
def test_stop_ends_the_whole_tree(services: Stack, tmp_path: Path, stubborn: tuple[str, ...]) -> None:
    tree = Tree(tmp_path, stubborn=stubborn)
    services.start(tree.service(), ready=tree.complete, timeout=SOON)
    running = len(tree.members())
    assert running >= 2
    assert process.stop(tmp_path / "service.pid")
    assert tree.members() == []


def test_one_that_ignores_sigterm_is_killed_after_its_grace(services: Stack, tmp_path: Path) -> None:
    code = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); {WAITING}"
    deaf = service(tmp_path, (sys.executable, "-c", code), grace=timedelta(seconds=0.2))
    services.start(deaf, ready=lambda: deaf.log.read_text() == "deaf\n", timeout=SOON)
    found = process.find(deaf.pid_file)
    assert process.stop(deaf.pid_file)
    assert found is not None
    assert not guard.alive(found)


def test_what_a_dead_service_left_behind_is_ended_when_its_start_fails(tmp_path: Path) -> None:
    tree = Tree(tmp_path)

    def ready() -> bool:
        if tree.complete():
            tree.members()[0].kill()
        return False

    with pytest.raises(ServiceError, match="signal 9"):
        process.start(tree.service(), ready=ready, timeout=SOON)
    assert tree.members() == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process adopt its descendants")
def test_a_guarded_service_cannot_lose_a_child_of_another_session(services: Stack, tmp_path: Path) -> None:
    tree = Tree(tmp_path, stubborn=("away", "orphan"))
    services.start(tree.service(die_with_parent=True), ready=tree.complete, timeout=SOON)
    assert len(tree.members()) == 2
    assert process.stop(tmp_path / "service.pid")
    assert tree.members() == []


PARENT = """
import sys
from datetime import timedelta
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from streaming import process
folder = Path(sys.argv[2])
service = process.Service(name="S", argv=tuple(sys.argv[3:]), log=folder / "service.log", pid_file=folder / "service.pid",
                          die_with_parent=True)
with process.stack() as services:
    services.callback(lambda: (folder / "unwound").touch())
    services.start(service, ready=lambda: (folder / "2.pid").exists(), timeout=timedelta(seconds=20))
    print("started", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("number", "code", "unwound"),
    [(signal.SIGKILL, -9, False), (signal.SIGTERM, 143, True), (signal.SIGHUP, 129, True)],
)
def test_a_service_dies_with_its_parent(tmp_path: Path, number: signal.Signals, code: int, unwound: bool) -> None:
    tree = Tree(tmp_path, stubborn=("ignores",))
    command = (sys.executable, "-c", PARENT, str(ROOT), str(tmp_path), *tree.service().argv)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"started\n"
        family = tree.members()
        assert len(family) == 3
        parent.send_signal(number)
        assert parent.wait(30) == code
    assert guard.wait_gone(family, 30, reap=lambda: None)
    assert (tmp_path / "unwound").exists() == unwound


@settings(deadline=None)
@given(since=st.floats(min_value=-1e9, max_value=1e9).filter(lambda since: abs(since) > 0.1), guarded=st.booleans())
def test_a_recycled_pid_is_nobody_s(since: float, guarded: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        pid_file = Path(folder) / "service.pid"
        created = process._created(psutil.Process()) + since
        pid_file.write_text(
            json.dumps({"pid": os.getpid(), "created": created, "grace_s": 0.0, "guarded": guarded}), encoding="utf-8"
        )
        assert process.find(pid_file) is None
        # It would end the tests.
        assert not process.stop(pid_file)
        assert not pid_file.exists()


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["pid", "created", "grace_s"]), inner),
    max_leaves=5,
)

_RECORD = st.fixed_dictionaries(dict.fromkeys(("pid", "created", "grace_s", "guarded"), _JSON))


@settings(deadline=None)
@given(
    content=st.binary(max_size=60)
    | _JSON.map(lambda value: json.dumps(value).encode())
    | _RECORD.map(lambda r: json.dumps(r).encode())
)
def test_a_damaged_pid_file_is_nobody_s(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        pid_file = Path(folder) / "service.pid"
        pid_file.write_bytes(content)
        assert process.find(pid_file) is None
        assert not process.stop(pid_file)
        assert not pid_file.exists()


@settings(deadline=None)
@given(text=st.text(max_size=400), lines=st.integers(min_value=1, max_value=20))
def test_the_tail_of_a_log_is_its_last_lines(text: str, lines: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "a.log"
        log.write_text(f"{text}\nthe end\n\n", encoding="utf-8", errors="replace", newline="")
        tail = process.log_tail(log, lines)
        assert tail.endswith("  the end")
        assert tail.count("\n") < lines


def test_the_tail_leaves_out_java_s_frames(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text(
        "ERROR Exiting\njava.io.IOException: no disk\n\tat kafka.Kafka.main(Kafka.scala)\n", encoding="utf-8"
    )
    assert process.log_tail(log) == "  ERROR Exiting\n  java.io.IOException: no disk"
