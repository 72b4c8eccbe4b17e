"""PostgreSQL and Redis from Debian's packages, for whoever has no containers."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dags.errors import DagError

_PLACES = "/usr/lib/postgresql"
_USERS = ("postgres", "nobody")
_TIMEOUT_S = 120


@dataclass(frozen=True, kw_only=True, slots=True)
class Programs:
    """Where the programs are."""

    postgres: Path
    """Folder with ``initdb`` and ``postgres``, which Debian has on nobody's PATH."""
    user: str
    """As whom PostgreSQL runs: it refuses to be root. Empty: as we do."""

    def as_user(self, *command: str) -> tuple[str, ...]:
        """The command, run as that user."""
        if not self.user:
            return command
        account = pwd.getpwnam(self.user)
        return (
            *("setpriv", "--reuid", str(account.pw_uid), "--regid", str(account.pw_gid), "--clear-groups", "--"),
            *command,
        )


def find() -> Programs:
    """The programs of this machine.

    Raises:
        DagError: some are missing; the message has the line to type.
    """
    found = sorted(Path(_PLACES).glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    onpath = shutil.which("initdb")
    folder = found[-1].parent if found else Path(onpath).parent if onpath else None
    missing = [name for name in ("redis-server", "redis-cli", "psql", "pg_isready") if shutil.which(name) is None]
    if folder is None or not (folder / "postgres").exists() or missing:
        msg = (
            f"Rehearsing needs PostgreSQL and Redis, and {', '.join(missing) or 'initdb'} is not here. "
            "Type: sudo apt-get install postgresql redis-server"
        )
        raise DagError(msg)
    return Programs(postgres=folder, user=_unprivileged() if os.geteuid() == 0 else "")


def make_database(programs: Programs, data: Path, *, password: Path, options: str) -> None:
    """Make PostgreSQL's data folder, whose administrator ``postgres`` has that password.

    Args:
        programs: where they are.
        data: the folder; it is emptied first, and given to the user that PostgreSQL runs as.
        password: file of the password.
        options: of ``initdb``, as one writes them in a shell.

    Raises:
        DagError: it cannot be made.
    """
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(parents=True)
    given = data.with_name(f"{data.name}.password")
    given.write_text(password.read_text(encoding="utf-8"), encoding="utf-8")
    try:
        if programs.user:
            for path in (data, given):
                shutil.chown(path, programs.user)
        given.chmod(0o600)
        if programs.user and subprocess.run(programs.as_user("test", "-w", str(data)), check=False).returncode:
            msg = (
                f"PostgreSQL refuses to run as root, and its user '{programs.user}' cannot get into {data}: choose another home with "
                "SENSORLOOP_HOME, below folders that everybody may enter."
            )
            raise DagError(msg)
        command = (
            *(str(programs.postgres / "initdb"), "--pgdata", str(data), "--username", "postgres", "--encoding", "UTF8"),
            *("--pwfile", str(given), *options.split()),
        )
        done = subprocess.run(
            programs.as_user(*command), capture_output=True, text=True, timeout=_TIMEOUT_S, check=False, cwd="/"
        )
    finally:
        given.unlink(missing_ok=True)
    if done.returncode:
        msg = f"PostgreSQL's data folder {data} cannot be made: {(done.stdout + done.stderr).strip()}"
        raise DagError(msg)


def run_script(script: Path, *, port: int, password: Path, environ: Mapping[str, str]) -> None:
    """Run a script that calls ``psql``, as PostgreSQL's image does when its data folder is new.

    Raises:
        DagError: it failed.
    """
    access = {"PGHOST": "127.0.0.1", "PGPORT": str(port), "PGPASSWORD": password.read_text(encoding="utf-8").strip()}
    done = subprocess.run(
        ("sh", str(script)), env={**environ, **access}, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
    )
    if done.returncode:
        msg = f"{script} failed with exit code {done.returncode}: {(done.stdout + done.stderr).strip()}"
        raise DagError(msg)


def _unprivileged() -> str:
    known = {account.pw_name for account in pwd.getpwall()}
    return next(name for name in _USERS if name in known)
