"""Reading a compose file: what the rehearsal and the tests of docker/ rest on."""

from __future__ import annotations

from pathlib import Path

import pytest

from dags.errors import DagError
from dags.local.compose import read

TEXT = """
x-base: &base {image: "thing:${VERSION:-1.2}", user: "5:6", restart: unless-stopped}
services:
  a:
    <<: *base
    build: {context: ..}
    command: [run, "${MODE-plain}", "cost $$5", "id ${ID:?make one}"]
    environment: {N: 3, EMPTY: "${NOTHING:-}"}
    healthcheck: {test: [CMD-SHELL, 'test "$$N" = 3']}
    expose: ["80", "81"]
    ports: ["127.0.0.1:8080:80", "8081:81"]
    volumes: [data:/data, "./conf:/etc/conf:ro"]
    deploy: {replicas: "${REPLICAS:-2}"}
    depends_on: {b: {condition: service_healthy}}
  b: {<<: *base, restart: "no", healthcheck: {test: [CMD, ok]}, secrets: [key]}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "compose.yaml"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_what_it_says_of_a_service(file: Path) -> None:
    a = read(file, {"ID": "7", "MODE": ""})["a"]
    assert (a.image, a.user, a.built, a.once, a.replicas) == ("thing:1.2", "5:6", True, False, 2)
    assert a.command == ("run", "", "cost $5", "id 7")
    assert a.environment == {"N": "3", "EMPTY": ""}
    assert a.health == ("sh", "-c", 'test "$N" = 3')
    assert (a.ports, a.published) == ((80, 81), {8080: 80, 8081: 81})
    assert (a.volumes, a.files) == ({"/data": "data"}, {"/etc/conf": file.parent / "conf"})
    assert a.after == {"b": "service_healthy"}


def test_one_that_ends_by_itself(file: Path) -> None:
    b = read(file, {"ID": "7", "VERSION": "2.0"})["b"]
    assert (b.image, b.built, b.once, b.replicas) == ("thing:2.0", False, True, 1)
    assert (b.health, b.secrets, b.command) == (("ok",), ("key",), ())


def test_a_variable_without_which_nothing_starts(file: Path) -> None:
    for variables in ({}, {"ID": ""}):
        with pytest.raises(DagError, match="needs the variable ID: make one"):
            read(file, variables)
