"""The guard as a program."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from streaming import guard


def run(*command: str, parent: int | None = None) -> subprocess.CompletedProcess[str]:
    arguments = (sys.executable, "-P", guard.__file__, str(parent or os.getpid()), "5", "--", *command)
    return subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(
    ("code", "expected"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -15 $$", 143)]
)
def test_it_ends_as_the_command_does(code: str, expected: int) -> None:
    assert run("sh", "-c", code).returncode == expected


def test_a_missing_command_is_named() -> None:
    done = run("no-such-program")
    assert done.returncode == 127
    assert done.stderr == "no-such-program: No such file or directory\n"


def test_with_its_parent_already_gone_it_ends_at_once() -> None:
    # Not its parent: as if it had died between starting the guard and the guard's first look.
    assert run(sys.executable, "-c", "import signal; signal.pause()", parent=1).returncode == 143
