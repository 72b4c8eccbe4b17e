"""The demo as a process: all of it, small, and what is left when it is interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.broker, pytest.mark.airflow, pytest.mark.slow]

SMALL = {
    "SENSORLOOP_ORIGINAL__ARCHITECTURE": "resnet18",
    "SENSORLOOP_ORIGINAL__EPOCHS": "1",
    "SENSORLOOP_FINETUNE__TRAINABLE": "block",
    "SENSORLOOP_FINETUNE__EPOCHS": "1",
    "SENSORLOOP_FINETUNE__VALIDATION_FOLDS": "2",
}


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts ``sensorloop demo --once``; what it says is in ``demo.log``."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        command = (sys.executable, "-m", "sensorloop", "demo", "--once", "--size", "0.1")
        environ = {**os.environ, **SMALL, "SENSORLOOP_HOME": str(tmp_path / "home")}
        with (tmp_path / "demo.log").open("wb") as log:
            started.append(subprocess.Popen(command, env=environ, stderr=log, stdout=log, start_new_session=True))
        return started[-1]

    yield start
    for each in started:
        if each.poll() is None:
            each.kill()
            each.wait()


def left_behind(home: Path) -> list[str]:
    """Command lines of the processes that work in a folder."""
    found = []
    for each in psutil.process_iter():
        try:
            if any(str(home) in text for text in (each.cwd(), *each.cmdline(), *each.environ().values())):
                found.append(" ".join(each.cmdline())[:200])
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
    return found


def wait_for(log: Path, text: str, process: subprocess.Popen[bytes], *, timeout_s: float = 240) -> None:
    """Return when the log has it."""
    deadline = time.monotonic() + timeout_s
    while text not in log.read_text(errors="replace"):
        assert process.poll() is None, log.read_text(errors="replace")[-3000:]
        assert time.monotonic() < deadline, f"no {text!r} in\n{log.read_text(errors='replace')[-3000:]}"
        time.sleep(0.1)  # polling a real process


@pytest.mark.timeout(1000)
def test_all_of_it_and_nothing_is_left(demo: Callable[[], subprocess.Popen[bytes]], tmp_path: Path) -> None:
    process = demo()
    assert process.wait(900) == 0, (tmp_path / "demo.log").read_text(errors="replace")[-3000:]
    found = json.loads((tmp_path / "home" / "demo" / "summary.json").read_text(encoding="utf-8"))
    assert found["samples"]["sent"] > 100_000
    assert (found["samples"]["lost"], found["samples"]["doubled"]) == (0, 0)
    assert found["windows"].keys() == {"source", "target"}
    assert found["arms"].keys() == {"filterloss", "plain", "oversampling", "undersampling"}
    for arm in found["arms"].values():
        assert arm.keys() == {"accuracy", "macro_f1", "recovery_ratio"}
    assert isinstance(found["verdict"]["passed"], bool)
    assert found["verdict"]["reasons"]
    assert (found["champion"]["version"] is not None) == found["verdict"]["passed"]
    assert found["seconds"].keys() == {"fleets", "broker", "ingestion", "mlflow", "original", "airflow", "retrain"}
    assert left_behind(tmp_path / "home") == []
    # What it says to type works without any of the services.
    told = (tmp_path / "demo.log").read_text(encoding="utf-8").split("\nLabels ")[1].splitlines()[0]
    shown = subprocess.run(("bash", "-c", told), capture_output=True, text=True, check=True)
    assert json.loads(shown.stdout)["run_key"] in shown.stderr


@pytest.mark.parametrize(
    ("moment", "how"),
    [
        ("sensorloop replay", signal.SIGINT),  # the broker is up
        ("sensorloop train original", signal.SIGTERM),  # and MLflow, and a command that trains
        ("6. Airflow", signal.SIGKILL),  # and Airflow is starting; nobody is there to stop anything
    ],
)
def test_an_interruption_leaves_no_process(
    demo: Callable[[], subprocess.Popen[bytes]], tmp_path: Path, moment: str, how: signal.Signals
) -> None:
    process = demo()
    wait_for(tmp_path / "demo.log", moment, process)
    assert left_behind(tmp_path / "home")
    process.send_signal(how)
    assert process.wait(60) != 0
    deadline = time.monotonic() + 30  # what is killed cannot clean up: the services notice, and end by themselves
    while how is signal.SIGKILL and left_behind(tmp_path / "home") and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left_behind(tmp_path / "home") == []
