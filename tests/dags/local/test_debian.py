"""PostgreSQL and Redis from packages: what is said where they are missing, and that a database is made where they are."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from dags.errors import DagError
from dags.local import debian

SCRIPT = Path(debian.__file__).parents[2] / "docker" / "postgres" / "databases.sh"


def test_what_is_missing_is_said_with_the_line_to_type(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(debian, "_PLACES", str(tmp_path))
    with pytest.raises(
        DagError, match=r"redis-server, redis-cli.* is not here\. Type: sudo apt-get install postgresql redis-server"
    ):
        debian.find()


def test_the_newest_of_several_postgresqls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for version in ("9", "15", "17"):
        folder = tmp_path / "postgresql" / version / "bin"
        folder.mkdir(parents=True)
        for name in ("initdb", "postgres"):
            (folder / name).touch(mode=0o755)
    for name in ("redis-server", "redis-cli", "psql", "pg_isready"):
        (tmp_path / name).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(debian, "_PLACES", str(tmp_path / "postgresql"))
    found = debian.find()
    assert found.postgres == tmp_path / "postgresql" / "17" / "bin"
    assert (found.user == "") == (os.geteuid() != 0), "PostgreSQL refuses to be root"


def test_a_folder_that_cannot_be_entered_is_said(tmp_path: Path) -> None:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("Only root has this problem.")
    password = tmp_path / "password"
    password.write_text("secret", encoding="utf-8")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    programs = debian.Programs(postgres=Path("/usr/bin"), user="nobody")
    with pytest.raises(
        DagError, match=r"refuses to run as root, and its user 'nobody' cannot get into .*SENSORLOOP_HOME"
    ):
        debian.make_database(programs, closed / "data", password=password, options="")
    assert not (closed / "data.password").exists()
