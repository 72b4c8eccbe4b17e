"""Services of a compose file as processes: their order, their health, their end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from dags.errors import DagError
from dags.local import compose
from dags.local.debian import Programs
from dags.local.here import Here
from dags.local.processes import Processes
from streaming import process

TEXT = """
x-: &x {image: "ours:1.0", build: .}
services:
  third:
    <<: *x
    command: [sh, -c, "test -f did && echo $NAME $$HOSTNAME >> order; exec sleep 600"]
    environment: {NAME: third}
    deploy: {replicas: 2}
    healthcheck: {test: [CMD, grep, -q, third, order]}
    depends_on: {second: {condition: service_completed_successfully}}
  second:
    <<: *x
    command: [sh, -c, "cat up && echo second >> order && $WORK"]
    restart: "no"
    depends_on: {first: {condition: service_healthy}}
  first:
    <<: *x
    command: [sh, -c, "echo first > order; $UP; exec sleep $LASTS"]
    healthcheck: {test: [CMD-SHELL, "test -f up"]}
"""


@pytest.fixture
def new(tmp_path: Path) -> Iterator[Callable[..., Processes]]:
    """``new(WORK=…, LASTS=…)``: the services above, ended at the end."""
    (tmp_path / "secrets").mkdir()
    made: list[Processes] = []

    def make(**variables: str) -> Processes:
        text = TEXT
        for name, value in {"WORK": "touch did", "UP": "touch up", "LASTS": "600", "NAME": "third"}.items():
            text = text.replace(f"${name}", variables.get(name, value))
        (tmp_path / "compose.yaml").write_text(text, encoding="utf-8")
        services = compose.read(tmp_path / "compose.yaml")
        here = Here(services, place=tmp_path)
        programs = Programs(postgres=tmp_path, user="")
        made.append(Processes(services=services, here=here, place=tmp_path, programs=programs, say=said.append))
        return made[-1]

    said: list[str] = []
    yield make
    for each in made:
        each.stop()


def test_each_waits_for_those_that_it_needs_and_all_end(new: Callable[..., Processes], tmp_path: Path) -> None:
    processes = new()
    processes.start(timedelta(seconds=60))
    lines = (tmp_path / "order").read_text(encoding="utf-8").splitlines()
    assert lines[:2] == ["first", "second"]
    assert {line.split()[0] for line in lines[2:]} == {"third"}
    assert processes.healthy == {"first", "third"}
    assert processes.done == {"second"}
    memory = processes.memory_bytes()
    assert memory.keys() == {"first", "third"}
    running = [process.find(path) for path in (tmp_path / "pids").glob("*.pid")]
    assert len([each for each in running if each is not None]) == 3, "third twice"
    processes.stop()
    assert not [each for each in running if each is not None and each.is_running()]
    assert processes.memory_bytes() == {}


def test_one_that_fails_is_named_with_what_it_said(new: Callable[..., Processes]) -> None:
    processes = new(WORK="echo no such bucket; exit 7")
    with pytest.raises(
        DagError, match=r"(?s)second failed with exit code 7\. The end of .*second\.log:\n.*no such bucket"
    ):
        processes.start(timedelta(seconds=60))


def test_one_that_ends_before_it_is_healthy_is_named(new: Callable[..., Processes]) -> None:
    processes = new(UP="echo no port; true", LASTS="0")
    with pytest.raises(DagError, match=r"(?s)first has ended\. The end of .*first\.log:\n.*no port"):
        processes.start(timedelta(seconds=60))


def test_one_that_was_healthy_and_ends_meanwhile_is_named(new: Callable[..., Processes]) -> None:
    processes = new(WORK="sleep 600", LASTS="0.5")
    with pytest.raises(DagError, match=r"first has ended\."):
        processes.start(timedelta(seconds=60))


def test_one_that_does_not_become_healthy_in_time_is_named(new: Callable[..., Processes]) -> None:
    processes = new(UP="true")
    with pytest.raises(DagError, match=r"(?s)After 0:00:01 these are not healthy: first, second, third\..*\nfirst:\n"):
        processes.start(timedelta(seconds=1))
